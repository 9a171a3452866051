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
from cascade_jax.inference import generate, places
from cascade_jax.models import families
from cascade_jax.names import check_choice

NORMALIZATIONS = ("sum", "mean")


@flax.struct.dataclass
class Options:
    """The options of B rows, those of a row one after the other.

    Example: options "5 6 1" and "7 1" (1 is the end of sequence) in a row of W = 6:
    ``tokens = [5 6 1 7 1 0]``, ``numbers = [1 1 1 2 2 0]``.

    Attributes:
      tokens: ids; 0 is padding, at the end only.
      numbers: which option of its row a token belongs to, from 1; 0 at padding.
    """

    tokens: Int[Array, "B W"]
    numbers: Int[Array, "B W"]


@flax.struct.dataclass
class Ranking:
    """Likelihoods of the options of B rows, token by token as they stand in `Options`.

    Example: options "5 6 1" and "7 1" in a row of W = 6:
    ``scores = [-4.1 -4.1 -4.1 -0.3 -0.3 -inf]``, ``best = 1``.

    Attributes:
      log_probs: of each token, in nats; 0 at padding.
      entropies: of each whole next-token distribution there, in nats; 0 at padding.
      scores: log-likelihood of the option that a token belongs to, summed or per token; -inf at
        padding.
      best: index, from 0, of the option with the highest score, the lowest among equals; -1 for a
        row without options.
      top_log_probs: of each token, the N largest log-probs there, descending, be the option's token
        among them or not; 0 at padding. None without any (top_k = 0).
      top_ids: ids of their tokens, the lowest first among equals; 0 at padding.
    """

    log_probs: Float[Array, "B W"]
    entropies: Float[Array, "B W"]
    scores: Float[Array, "B W"]
    best: Int[Array, " B"]
    top_log_probs: Float[Array, "B W N"] | None = None
    top_ids: Int[Array, "B W N"] | None = None


@functools.lru_cache(maxsize=32)
def make_rank_fn(
    model: families.Model,
    normalize: str = "sum",
    top_k: int = 0,
    logits_at_once: int = places.LOGITS_AT_ONCE,
) -> Callable[[Mapping[str, Any], Int[Array, "B S"], Options], Ranking]:
    """A jitted `(params, inputs, options) -> Ranking`, compiled once for each pair of widths.

    The score of an option o is `sum_i log p(o_i | inputs, o_<i)`, or that divided by its length.
    All options of a row are read in one pass together with their input, which is read once. They
    don't see each other: their order, and which others there are, changes no score.

    Whole distributions are held for some places of all rows at a time; hidden states, of width D,
    for all of [B W].

    Args:
      model: an unbound module.
      normalize: "sum" scores by the whole log-likelihood, "mean" by the log-likelihood per token,
        which does not favour short options.
      top_k: how many of the largest log-probs are kept at each token.
      logits_at_once: the most logits held at a time, though at least those of one place of all
        rows.

    Returns:
      A function of the parameters, input tokens [B S] and `pack_options`' options [B W]. Its
      results are float32; an id past the vocabulary makes its option's score NaN.

    Raises:
      ValueError: normalize or top_k is not allowed; when called, the shapes do not fit.

    Reference: Brown et al. 2020, section 2.4; Wei et al. 2022 (FLAN), section 2.3.
    """
    check_choice("normalize", normalize, NORMALIZATIONS)
    vocab_size = model.config.vocab_size
    generate.check_top_k(top_k, vocab_size)

    @jax.jit
    def rank_fn(params, inputs, options):
        shapes = inputs.shape, options.tokens.shape, options.numbers.shape
        if {len(shape) for shape in shapes} != {2} or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                f"inputs, options and their numbers are {', '.join(map(str, shapes))}: expected "
                "[B S], [B W] and [B W]"
            )
        # An embedding that is NaN would reach other options, as NaN times a weight of 0 is NaN.
        read = jnp.where(options.tokens < vocab_size, options.tokens, PAD_ID)
        hidden = model.apply(
            {"params": params}, inputs, read, options.numbers, method="hidden_after"
        )
        fn = functools.partial(_measure, model, params, top_k)
        measured = places.measure(fn, hidden, options.tokens, vocab_size, logits_at_once)
        scores, best = _scores(measured[0], options.numbers, normalize)
        return Ranking(*measured[:2], scores, best, *measured[2:])

    return rank_fn


def _measure(model, params, top_k, hidden, tokens):
    """Log-probs of tokens, entropies there, and the largest log-probs with their ids."""
    logits = model.apply({"params": params}, hidden, method="unembed")
    log_p = numerics.log_probs(logits)
    # NaN for an id past the vocabulary
    log_probs = jnp.take_along_axis(log_p, tokens[..., None], axis=-1, mode="fill")[..., 0]
    top = generate.top_of(logits, log_p, top_k) if top_k else (None, None)
    return log_probs, numerics.entropy(log_p), *top


def _scores(log_probs, numbers, normalize):
    """The score of each token's option [B W], and the index of the best option [B]."""
    is_own = numbers[:, :, None] == numbers[:, None, :]
    # No product with a mask: NaN stays in its option.
    scores = jnp.sum(jnp.where(is_own, log_probs[:, None, :], 0.0), axis=-1)
    if normalize == "mean":
        scores = scores / jnp.sum(is_own, axis=-1, dtype=jnp.float32)
    scores = jnp.where(numbers > 0, scores, -jnp.inf)
    best = jnp.argmax(scores, axis=-1)[:, None]  # the first token of the first of the best
    return scores, jnp.take_along_axis(numbers, best, axis=-1)[:, 0].astype(jnp.int32) - 1


def pack_options(options: Sequence[Sequence[Sequence[int]]], width: int) -> Options:
    """The options of every row, one after the other.

    Args:
      options: of each row, for each option its ids with the end of sequence.
      width: W; the most tokens that the options of a row may have together.

    Raises:
      ValueError: if an option is empty, holds the id of padding or comes twice in its row, or if a
        row has no options or more tokens than `width`.
    """
    checks.whole_number("width", width, 1)
    tokens = np.full((len(options), width), PAD_ID, np.int32)
    numbers = np.zeros((len(options), width), np.int32)
    for i, row in enumerate(options):
        if not row:
            raise ValueError(f"row {i} has no options to rank")
        seen: dict[tuple[int, ...], int] = {}
        for k, option in enumerate(row):
            ids = tuple(int(token) for token in option)
            where = f"option {k} of row {i}"
            if not ids:
                raise ValueError(f"{where} is empty: expected at least the end of sequence")
            if PAD_ID in ids:
                raise ValueError(f"{where} is {list(ids)}: id {PAD_ID} is padding, not a token")
            if ids in seen:
                raise ValueError(f"{where} is the same as option {seen[ids]}: {list(ids)}")
            seen[ids] = k
        lengths = list(map(len, row))
        if sum(lengths) > width:
            raise ValueError(
                f"the options of row {i} have {sum(lengths)} tokens: expected at most {width}"
            )
        tokens[i, : sum(lengths)] = np.concatenate(list(map(np.asarray, row)))
        numbers[i, : sum(lengths)] = np.repeat(np.arange(1, len(row) + 1), lengths)
    return Options(tokens, numbers)
