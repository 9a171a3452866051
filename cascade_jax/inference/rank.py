"""Rank classification: the likelihood of every option of a row, and the likeliest as the answer."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cascade_jax import checks, numerics
from cascade_jax.batch import PAD_ID
from cascade_jax.inference import generate
from cascade_jax.models import families
from cascade_jax.names import check_choice

NORMALIZATIONS = ("sum", "mean")

# Through the decoder together: more of them share the keys and values of the encoder's output,
# fewer take less memory.
_OPTIONS_AT_ONCE = 8


@flax.struct.dataclass
class Ranking:
    """Likelihoods of the K options of B rows; a row may have fewer than K.

    Example: options "5 6 1" and "7 1" (1 is the end of sequence) in a row of K = 4 and L = 3:
    ``lengths = [3 2 0 0]``, ``scores = [-4.1 -0.3 -inf -inf]``, ``best = 1``.

    Attributes:
      log_probs: of each option's tokens, in nats; 0 at padding.
      entropies: of each whole next-token distribution there, in nats; 0 at padding.
      lengths: number of tokens, the end of sequence included; 0 where a row has no such option.
      scores: log-likelihood of the option, summed or per token; -inf where there is no option.
      best: index of the highest score, the lowest among equals; -1 for a row without options.
      top_log_probs: of each token of the best option, the N largest log-probs there, descending,
        be the option's token among them or not; 0 at padding. None without any (top_k = 0).
      top_ids: ids of their tokens, the lowest first among equals; 0 at padding.
    """

    log_probs: Float[Array, "B K L"]
    entropies: Float[Array, "B K L"]
    lengths: Int[Array, "B K"]
    scores: Float[Array, "B K"]
    best: Int[Array, " B"]
    top_log_probs: Float[Array, "B L N"] | None = None
    top_ids: Int[Array, "B L N"] | None = None


@functools.lru_cache(maxsize=32)
def make_rank_fn(
    model: families.Model, normalize: str = "sum", top_k: int = 0
) -> Callable[[Mapping[str, Any], Int[Array, "B S"], Int[Array, "B K L"]], Ranking]:
    """A jitted `(params, inputs, options) -> Ranking`, compiled once for each pair of shapes.

    The score of an option o is `sum_i log p(o_i | inputs, o_<i)`, or that divided by its length.
    An encoder-decoder encodes each input once. Options are independent of each other: their order,
    and which others there are, changes no score.

    Memory hardly grows with K: only the decoder's last hidden states [K B L D] are kept for all
    options, whole distributions [B L V] for one. T5 1.1 small with B = 8, S = 512 and L = 16 on
    a CPU take 185 MiB beside arguments for K = 4 and 240 MiB for K = 64, where all at once take 497
    and 8,072 MiB; K = 16 takes 1.3 s, all at once 2.8 s.

    Args:
      model: an unbound module.
      normalize: "sum" scores by the whole log-likelihood, "mean" by the log-likelihood per token,
        which does not favour short options.
      top_k: how many of the largest log-probs are kept at each token of the best option; 0 costs
        nothing, more cost the logits of one option more.

    Returns:
      A function of the parameters, input tokens [B S] and `option_batch`'s options [B K L]. Its
      results are float32; an id past the vocabulary makes its option's score NaN.

    Raises:
      ValueError: normalize or top_k is not allowed; when called, the shapes do not fit.

    Reference: Brown et al. 2020, section 2.4; Wei et al. 2022 (FLAN), section 2.3.
    """
    check_choice("normalize", normalize, NORMALIZATIONS)
    generate.check_top_k(top_k, model.config.vocab_size)

    @jax.jit
    def rank_fn(params, inputs, options):
        if options.ndim != 3 or inputs.ndim != 2 or len(options) != len(inputs):
            raise ValueError(
                f"options {options.shape} and inputs {inputs.shape}: expected [B K L] and [B S] "
                "with the same number of rows"
            )
        variables = {"params": params}
        log_probs, entropies, hidden = _by_option(model, variables, inputs, options)
        log_probs, entropies = jnp.swapaxes(log_probs, 0, 1), jnp.swapaxes(entropies, 0, 1)
        ranking = _ranking(options, log_probs, entropies, normalize)
        return _with_top(model, variables, options, hidden, ranking, top_k) if top_k else ranking

    return rank_fn


def _by_option(model, variables, inputs, options):
    """Log-probs of the options' tokens and entropies, both [K B L], and hidden states [K B L D]."""
    encoded = None
    if model.reads_input_once:
        encoded = model.apply(variables, inputs, method="encode")

    def hidden_after(option):
        return model.apply(variables, encoded, inputs, option, method="hidden_after")

    def measure(option_and_hidden):
        option, hidden = option_and_hidden
        log_p = numerics.log_probs(model.apply(variables, hidden, method="unembed"))
        of_tokens = jnp.take_along_axis(log_p, option[..., None], axis=-1)[..., 0]
        return of_tokens, numerics.entropy(log_p)

    by_option = jnp.swapaxes(options, 0, 1)
    at_once = min(_OPTIONS_AT_ONCE, len(by_option))
    hidden = jax.lax.map(hidden_after, by_option, batch_size=at_once)
    # One option at a time: whole distributions are the largest arrays here by far.
    return *jax.lax.map(measure, (by_option, hidden)), hidden


def _with_top(model, variables, options, hidden, ranking, top_k):
    """With the largest log-probs at the tokens of the best option."""
    rows, best = jnp.arange(len(options)), jnp.maximum(ranking.best, 0)
    logits = model.apply(variables, hidden[best, rows], method="unembed")
    log_probs, ids = generate.top_of(logits, numerics.log_probs(logits), top_k)
    is_token = (options[rows, best] != PAD_ID)[:, :, None]
    return ranking.replace(
        top_log_probs=jnp.where(is_token, log_probs, 0.0), top_ids=jnp.where(is_token, ids, 0)
    )


def _ranking(options, log_probs, entropies, normalize):
    is_token = options != PAD_ID
    lengths = jnp.sum(is_token, axis=-1, dtype=jnp.int32)
    log_probs = jnp.where(is_token, log_probs, 0.0)
    scores = jnp.sum(log_probs, axis=-1)
    if normalize == "mean":
        scores = numerics.safe_ratio(scores, lengths.astype(jnp.float32))
    scores = jnp.where(lengths > 0, scores, -jnp.inf)
    best = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    return Ranking(
        log_probs=log_probs,
        entropies=jnp.where(is_token, entropies, 0.0),
        lengths=lengths,
        scores=scores,
        best=jnp.where(jnp.any(lengths > 0, axis=-1), best, -1),
    )


def option_batch(
    options: Sequence[Sequence[Sequence[int]]], max_length: int, max_options: int | None = None
) -> Int[np.ndarray, "B K L"]:
    """Token ids of every option of every row as one array, 0 for padding and for absent options.

    Args:
      options: of each row, for each option its ids with the end of sequence.
      max_length: L; the most tokens that an option may have.
      max_options: K; None takes the most options of a row, rounded up to a power of two, so that
        batches with similar numbers of options share one compiled program.

    Raises:
      ValueError: if an option is empty, too long, holds the id of padding or comes twice in its
        row, or if a row has no options or more than max_options.
    """
    checks.whole_number("max_length", max_length, 1)
    most = max((len(row) for row in options), default=1)
    count = (1 << max(most - 1, 0).bit_length()) if max_options is None else max_options
    array = np.full((len(options), count, max_length), PAD_ID, np.int32)
    for i, row in enumerate(options):
        if not 1 <= len(row) <= count:
            raise ValueError(f"row {i} has {len(row)} options: expected 1 to {count}")
        seen: dict[tuple[int, ...], int] = {}
        for k, option in enumerate(row):
            ids = tuple(int(token) for token in option)
            where = f"option {k} of row {i}"
            if not ids:
                raise ValueError(f"{where} is empty: expected at least the end of sequence")
            if len(ids) > max_length:
                raise ValueError(f"{where} has {len(ids)} tokens: expected at most {max_length}")
            if PAD_ID in ids:
                raise ValueError(f"{where} is {list(ids)}: id {PAD_ID} is padding, not a token")
            if ids in seen:
                raise ValueError(f"{where} is the same as option {seen[ids]}: {list(ids)}")
            seen[ids] = k
            array[i, k, : len(ids)] = ids
    return array
