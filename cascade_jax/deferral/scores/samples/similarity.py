"""Similarity of two answers, in [0, 1]: what scores of sampled answers compare them by.

A similarity is any function of two texts that gives the same number both ways round; a frozen
dataclass where it has settings. It is called once for each pair of different texts: equal texts are
alike (1) without being asked, two empty ones too.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from cascade_jax.checks import require

_KEPT = 512  # texts whose words are kept: pairs of one example's are asked one after the other


@runtime_checkable
class Similarity(Protocol):
    """How alike two texts are, from 0 to 1.

    One that has `is_symmetric = True` is asked one way round only, and one that has a method
    ``many([(first, second), ...])`` is asked all pairs at once. One that runs a model says so by
    `is_model = True`: what scores by it cost is then not known.
    """

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
    is_symmetric: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return _named("exact match", self.normalize, str.strip)

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
    is_symmetric: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return _named("Jaccard", self.words, lower_words)

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
    is_symmetric: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return _named("ROUGE-L", self.words, lower_words)

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


def _named(name: str, setting: Callable, usual: Callable) -> str:
    """A similarity's name, with the function that it is not usually made with."""
    return name if setting is usual else f"{name} by {getattr(setting, '__name__', repr(setting))}"


@functools.lru_cache(_KEPT)
def _word_set(words: Callable, text: str) -> frozenset[str]:
    return frozenset(words(text))


@functools.lru_cache(_KEPT)
def _word_places(words: Callable, text: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The words, and for each the places where it stands, as bits."""
    listed, places = tuple(words(text)), {}
    for i, word in enumerate(listed):
        places[word] = places.get(word, 0) | 1 << i
    return listed, places


def check(name: str, similarity: Any) -> None:
    """Refuses what is no similarity: a setting of scores."""
    is_one = callable(similarity) and not isinstance(similarity, type)
    try:
        hash(similarity)  # values are kept by it
    except TypeError:
        is_one = False
    allowed = "a function of two texts, or a frozen dataclass such as RougeL(), with its brackets"
    require(is_one, name, similarity, allowed)
