"""Similarity of every two samples of an example: each pair of different texts is asked once."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.checks import shown
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import name_of
from cascade_jax.deferral.scores.samples.similarity import Similarity

_ROUNDING = 1e-6  # beyond [0, 1], and between both ways round


def matrices(
    answers: AnswerTokens,
    similarity: Similarity,
    rows: Int[np.ndarray, " m"],
    at: Int[np.ndarray, "m n"],
) -> Float[np.ndarray, "m n n"]:
    """Similarity of every two samples of each example: symmetric, 1 where texts are equal.

    Args:
      answers: with samples.
      similarity: asked once for each pair of different texts, whatever scores ask for it.
      rows, at: a block of `SampledAnswers.blocks`.

    Raises:
      ValueError: a value that is no number in [0, 1] or differs the other way round; names the
        similarity, both texts and the example.
    """
    _, numbers, _ = answers.samples.numbers
    first, second = np.broadcast_arrays(numbers[at][:, :, None], numbers[at][:, None, :])
    return _values(answers, similarity, rows, first, second)


def to_greedy(
    answers: AnswerTokens,
    similarity: Similarity,
    rows: Int[np.ndarray, " m"],
    at: Int[np.ndarray, "m n"],
) -> Float[np.ndarray, "m n"]:
    """Similarity of the greedy answer and every sample; see `matrices`."""
    _, numbers, greedy = answers.samples.numbers
    first, second = np.broadcast_arrays(greedy[rows][:, None], numbers[at])
    return _values(answers, similarity, rows, first, second)


def _values(answers, similarity, rows, first, second) -> Float[np.ndarray, "m ..."]:
    """Similarity of texts by their numbers."""
    texts, known = answers.samples.numbers[0], answers.samples.similarities
    known = known.setdefault(similarity, {})
    low, high = np.minimum(first, second), np.maximum(first, second)
    pairs, places, inverse = np.unique(
        low * len(texts) + high, return_index=True, return_inverse=True
    )
    per_row = first.size // max(1, len(rows))
    new = {}  # row of an example where each pair is
    for pair, place in zip(pairs.tolist(), places.tolist(), strict=True):
        if pair not in known:
            new[pair] = int(rows[place // per_row])
    asked = {pair: [texts[k] for k in divmod(pair, len(texts))] for pair in new}
    known |= {pair: 1.0 for pair, (a, b) in asked.items() if a == b}
    asked = {pair: (a, b) for pair, (a, b) in asked.items() if a != b}
    for pair, values in zip(asked, _both_ways(similarity, list(asked.values())), strict=True):
        try:
            known[pair] = _checked(*values)
        except ValueError as error:
            a, b = map(shown, asked[pair])
            raise ValueError(
                f"similarity {name_of(similarity)!r} of {a} and {b}, answers to "
                f"{answers.describe(new[pair])}, is {error}"
            ) from None
    return np.array([known[pair] for pair in pairs.tolist()])[inverse.reshape(first.shape)]


def _both_ways(
    similarity: Similarity, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[Any, Any]]:
    """What a similarity gives for each pair, and for the same turned round."""

    def asked(several: Sequence[tuple[str, str]]) -> Iterator[Any]:
        if not several or not hasattr(similarity, "many"):
            return itertools.starmap(similarity, several)
        values = list(similarity.many(several))
        if len(values) != len(several):
            name = name_of(similarity)
            raise ValueError(f"similarity {name!r} gave {len(values)} for {len(several)} pairs")
        return iter(values)

    if getattr(similarity, "is_symmetric", False):
        return ((value, value) for value in asked(pairs))
    return zip(asked(pairs), asked([(b, a) for a, b in pairs]), strict=True)


def _checked(value: Any, turned: Any) -> float:
    """The mean of both; a ValueError says what they are and must be."""
    for number in (value, turned):
        try:
            is_allowed = -_ROUNDING <= float(number) <= 1 + _ROUNDING
        except (TypeError, ValueError):
            is_allowed = False
        if not is_allowed:
            raise ValueError(f"{shown(number)}; must be a number in [0, 1]")
    value, turned = float(value), float(turned)
    if abs(value - turned) > _ROUNDING:
        raise ValueError(
            f"{value:g}, and {turned:g} the other way round; must be the same, the mean of both say"
        )
    return min(max((value + turned) / 2, 0.0), 1.0)
