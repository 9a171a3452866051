"""Rank classification: the likelihood of every option of a row, and the likeliest as the answer."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cascade_jax import numerics
from cascade_jax.batch import PAD_ID
from cascade_jax.inference import generate, packing, places, rank_packing
from cascade_jax.models import families
from cascade_jax.models.packed_answers import PackedAnswers
from cascade_jax.models.slots import PackedInputs
from cascade_jax.names import check_choice

NORMALIZATIONS = ("sum", "mean")


@flax.struct.dataclass
class Ranking:
    """Likelihoods of options, token by token as they stand in `PackedAnswers`.

    Example: options "5 6 1" and "7 1" (1 is the end of sequence) in a row of W = 6:
    ``scores = [-4.1 -4.1 -4.1 -0.3 -0.3 -inf]``.

    Attributes:
      log_probs: of each token, in nats; 0 at padding.
      entropies: of each whole next-token distribution there, in nats; 0 at padding.
      scores: log-likelihood of the option that a token belongs to, summed or per token; -inf at
        padding.
      top_log_probs: of each token, the N largest log-probs there, descending, be the option's token
        among them or not; 0 at padding. None without any (top_k = 0).
      top_ids: ids of their tokens, the lowest first among equals; 0 at padding.
    """

    log_probs: Float[Array, "R W"]
    entropies: Float[Array, "R W"]
    scores: Float[Array, "R W"]
    top_log_probs: Float[Array, "R W N"] | None = None
    top_ids: Int[Array, "R W N"] | None = None


@functools.lru_cache(maxsize=32)
def make_rank_fn(
    model: families.Model,
    normalize: str = "sum",
    top_k: int = 0,
    logits_at_once: int = places.LOGITS_AT_ONCE // 2,
) -> Callable[[Mapping[str, Any], PackedInputs, PackedAnswers], Ranking]:
    """A jitted `(params, inputs, options) -> Ranking`, compiled once for each shape of rows.

    The score of an option o is `sum_i log p(o_i | inputs, o_<i)`, or that divided by its length.
    Several examples with all their options are in a row, and each input is read once. Options don't
    see each other: their order, and what else is in the row, changes no score.

    Whole distributions are held for some places of all rows at a time; hidden states, of width D,
    for all of [R W]. T5 1.1 small with R = 8 and S = 512 on a CPU takes 189 MiB beside arguments
    for W = 64 and 368 MiB for W = 1,024.

    Args:
      model: an unbound module.
      normalize: "sum" scores by the whole log-likelihood, "mean" by the log-likelihood per token,
        which does not favour short options.
      top_k: how many of the largest log-probs are kept at each token.
      logits_at_once: the most logits held at a time, though at least those of one place of all
        rows.

    Returns:
      A function of the parameters and what `pack` gives. Its results are float32; an id past the
      vocabulary makes its option's score NaN.

    Raises:
      ValueError: normalize or top_k is not allowed.

    Reference: Brown et al. 2020, section 2.4; Wei et al. 2022 (FLAN), section 2.3.
    """
    check_choice("normalize", normalize, NORMALIZATIONS)
    vocab_size = model.config.vocab_size
    generate.check_top_k(top_k, vocab_size)

    @jax.jit
    def rank_fn(params, inputs, options):
        hidden = model.apply({"params": params}, inputs, options, method="hidden_after")
        fn = functools.partial(_measure, model, params, top_k)
        measured = places.measure(fn, hidden, options.tokens, vocab_size, logits_at_once)
        scores = _scores(measured[0], options.numbers, normalize)
        return Ranking(*measured[:2], scores, *measured[2:])

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
    """The score of each token's option, [R W]."""
    is_own = numbers[:, :, None] == numbers[:, None, :]
    # No product with a mask: NaN stays in its option.
    scores = jnp.sum(jnp.where(is_own, log_probs[:, None, :], 0.0), axis=-1)
    if normalize == "mean":
        scores = scores / jnp.sum(is_own, axis=-1, dtype=jnp.float32)
    return jnp.where(numbers > 0, scores, -jnp.inf)


def pack(
    inputs: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    rows: rank_packing.Pass,
    start_places: int,
) -> tuple[PackedInputs, PackedAnswers]:
    """The arrays of a pass, as NumPy arrays.

    Args:
      inputs, options: ids of each example's input, and of each of its options with the end of
        sequence.
      rows: which examples go where.
      start_places: of the model's family.

    Raises:
      ValueError: see `check_options`.
    """
    members = [index for row in rows.rows for index in row]
    check_options({index: options[index] for index in members})
    tokens, numbers, segment_ids, input_ends = np.zeros((4, rows.size, rows.options), np.int32)
    places: list[tuple[int, int]] = []
    segment = number = 0  # no two examples or options of a pass have the same
    for row, indices in enumerate(rows.rows):
        offset = at = 0
        for index in indices:
            places.append((row, offset))
            offset += start_places + len(inputs[index])
            segment += 1
            for option in options[index]:
                number += 1
                own = slice(at, at + len(option))
                tokens[row, own], numbers[row, own], segment_ids[row, own] = option, number, segment
                input_ends[row, own] = max(offset - 1, 0)
                at += len(option)
    texts = [np.asarray(inputs[index], np.int32) for index in members]
    packed = packing.pack(texts, places, rows.size, rows.inputs, start_places)
    return packed, PackedAnswers(tokens, numbers, segment_ids, input_ends)


def option_places(
    options: Sequence[Sequence[Sequence[int]]], rows: rank_packing.Pass
) -> Iterator[tuple[int, int, list[int]]]:
    """Of each example of a pass its index, its packed row, and where its options begin there."""
    for row, indices in enumerate(rows.rows):
        at = 0
        for index in indices:
            ends = (at + np.cumsum([len(option) for option in options[index]])).tolist()
            yield index, row, [at, *ends[:-1]]
            at = ends[-1]


def check_options(options: Mapping[int, Sequence[Sequence[int]]]) -> None:
    """Refuses options that can't be ranked; keys are the numbers of their rows.

    Raises:
      ValueError: if an option is empty, holds the id of padding or comes twice in its row, or if a
        row has no options.
    """
    for i, row in options.items():
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
