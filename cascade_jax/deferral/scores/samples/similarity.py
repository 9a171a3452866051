"""Similarity of two answers, in [0, 1]: what scores of sampled answers compare them by.

A similarity is any function of two texts that gives the same number both ways round; a frozen
dataclass where it has settings. It is called once for each pair of different texts: equal texts are
alike (1) without being asked, two empty ones too.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.checks import require, shown
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import name_of

_ROUNDING = 1e-6  # beyond [0, 1], and between both ways round


@runtime_checkable
class Similarity(Protocol):
    """How alike two texts are, from 0 to 1; ours say `is_symmetric` and are asked one way only."""

    def __call__(self, first: str, second: str) -> float: ...


@dataclasses.dataclass(frozen=True)
class ExactMatch:
    """1 if both texts are the same once they are normalised, else 0.

    Example: " yes" and "yes" give 1; "yes" and "Yes" give 0, and 1 with ``normalize=str.lower``.

    Attributes:
      normalize: text -> text; outer white space is cut off by default, as the metric accuracy does.
        A task's own is right where it has one: `short_answers.normalize_squad`, or what takes the
        number out of a worked answer.
    """

    normalize: Callable[[str], str] = str.strip
    name: ClassVar[str] = "exact match"
    is_symmetric: ClassVar[bool] = True

    def __call__(self, first: str, second: str) -> float:
        return float(self.normalize(first) == self.normalize(second))


def lower_words(text: str) -> list[str]:
    """Lower-cased words, which white space parts."""
    return text.lower().split()


@dataclasses.dataclass(frozen=True)
class Jaccard:
    """Share of the different words of both texts that both have.

    ``|A & B| / |A | B|``; 1 for two texts without words.

    Example: "a b c" and "a b d" give 2 / 4.

    Attributes:
      words: text -> words.

    Reference: Lin, Trivedi and Sun 2023, Generating with Confidence; 0 in their code for two texts
    without words.
    """

    words: Callable[[str], Sequence[str]] = lower_words
    name: ClassVar[str] = "Jaccard"
    is_symmetric: ClassVar[bool] = True

    def __call__(self, first: str, second: str) -> float:
        a, b = (_word_set(self.words, text) for text in (first, second))
        union = len(a | b)
        return len(a & b) / union if union else 1.0


@dataclasses.dataclass(frozen=True)
class RougeL:
    """ROUGE-L F1: twice the longest common subsequence of words, over the words of both texts.

    ``2 LCS(a, b) / (|a| + |b|)``; 1 for two texts without words, 0 for one.

    Example: "a dog ran off" and "a cat ran" have "a ran" in common: 2 * 2 / 7.

    Attributes:
      words: text -> words, in order. Words are not cut to their stems, in no language.

    Reference: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries; the
    subsequence by bits of one integer, Hyyrö 2004, Bit-parallel LCS-length computation revisited.
    """

    words: Callable[[str], Sequence[str]] = lower_words
    name: ClassVar[str] = "ROUGE-L"
    is_symmetric: ClassVar[bool] = True

    def __call__(self, first: str, second: str) -> float:
        (a, places), (b, _) = (_word_places(self.words, text) for text in (first, second))
        if not a or not b:
            return float(not a and not b)
        # Bit i is 0 where the subsequence can end one longer at word i of a than before it.
        mask = bits = (1 << len(a)) - 1
        for word in b:
            common = bits & places.get(word, 0)
            bits = ((bits + common) | (bits - common)) & mask
        return 2.0 * (len(a) - bits.bit_count()) / (len(a) + len(b))


@functools.lru_cache(1 << 16)
def _word_set(words: Callable, text: str) -> frozenset[str]:
    return frozenset(words(text))


@functools.lru_cache(1 << 14)
def _word_places(words: Callable, text: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The words, and for each the places where it stands, as bits."""
    listed, places = tuple(words(text)), {}
    for i, word in enumerate(listed):
        places[word] = places.get(word, 0) | 1 << i
    return listed, places


# ------------------------------------------------------------------ of many samples


def check(name: str, similarity: Any) -> None:
    """Refuses what is no similarity: a setting of scores."""
    is_one = callable(similarity) and not isinstance(similarity, type)
    try:
        hash(similarity)  # values are kept by it
    except TypeError:
        is_one = False
    allowed = "a function of two texts, or a frozen dataclass such as RougeL(), with its brackets"
    require(is_one, name, similarity, allowed)


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
    """Similarity of texts by their numbers, each pair of different ones computed once."""
    texts, known = answers.samples.numbers[0], answers.samples.similarities
    known = known.setdefault(similarity, {})
    low, high = np.minimum(first, second), np.maximum(first, second)
    pairs, places, inverse = np.unique(
        low * len(texts) + high, return_index=True, return_inverse=True
    )
    per_row = first.size // max(1, len(rows))
    values = np.ones(len(pairs))
    for i, pair in enumerate(pairs.tolist()):
        a, b = divmod(pair, len(texts))
        if a == b:
            continue
        value = known.get(pair)
        if value is None:
            row = int(rows[places[i] // per_row])
            value = known[pair] = _checked(similarity, texts[a], texts[b], answers, row)
        values[i] = value
    return values[inverse.reshape(first.shape)]


def _checked(
    similarity: Similarity, first: str, second: str, answers: AnswerTokens, row: int
) -> float:
    """What a similarity gives for two texts, both ways round, if it is allowed."""
    value = back = similarity(first, second)
    if not getattr(similarity, "is_symmetric", False):
        back = similarity(second, first)
    for number in (value, back):
        try:
            is_allowed = -_ROUNDING <= float(number) <= 1 + _ROUNDING
        except (TypeError, ValueError):
            is_allowed = False
        if not is_allowed:
            raise ValueError(
                f"{_named(similarity, first, second, answers, row)} is {shown(number)}; must be a "
                "number in [0, 1]"
            )
    value, back = float(value), float(back)
    if abs(value - back) > _ROUNDING:
        raise ValueError(
            f"{_named(similarity, first, second, answers, row)} is {value:g}, and {back:g} the "
            "other way round; must be the same, the mean of both say"
        )
    return min(max((value + back) / 2, 0.0), 1.0)


def _named(similarity: Similarity, first: str, second: str, answers: AnswerTokens, row: int) -> str:
    texts = f"{shown(first)} and {shown(second)}"
    return f"similarity {name_of(similarity)!r} of {texts}, answers to {answers.describe(row)},"
