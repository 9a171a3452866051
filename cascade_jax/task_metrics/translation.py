"""Corpus BLEU and chrF by sacrebleu, from per-example statistics that add up.

Neither is a mean over examples. But each is a function of sums of counts, so the figure of any
subset, such as what a cascade answers at some threshold, is the score of the summed statistics:

    metric = Bleu(tokenize="zh")
    student = metric.statistics(targets, student_answers)  # [N, K]
    teacher = metric.statistics(targets, teacher_answers)
    metric.score(np.where(is_deferred[:, None], teacher, student).sum(axis=0))  # corpus BLEU

`scores` does the same for many sums at once, such as those of all points of a curve. Values are
sacrebleu's divided by 100.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from cascade_jax.names import check_choice
from cascade_jax.task_metrics import quality, words
from cascade_jax.task_metrics.words import TOKENIZERS, tokenizer_of


def _ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """Their ratio, 0 where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), 0.0)


@functools.cache
def _sacrebleu_bleu(tokenize: str, lowercase: bool):
    import sacrebleu

    # effective_order is what a single sentence wants; it leaves the counts as they are.
    return sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True, force=True)


class CorpusMetric:
    """A figure of summed counts; subclasses define its names and the three private methods."""

    name: str  # of the corpus figure
    label: str  # as papers write it
    num_statistics: int  # K, the number of counts of one example

    def _counts(self, references: list[str], prediction: str) -> Sequence[int]:
        """The K counts of one example."""
        raise NotImplementedError

    def _score(self, sums: list[int]) -> float:
        """sacrebleu's score of summed counts, in per cent."""
        raise NotImplementedError

    def _scores(self, sums: Float[np.ndarray, "*points K"]) -> Float[np.ndarray, "*points"]:
        """The scores in [0, 1] of many sums, which may be fractions."""
        raise NotImplementedError

    def statistics(
        self, targets: Sequence[Any], predictions: Sequence[Any]
    ) -> Int[np.ndarray, "N K"]:
        """The counts of every example; a target is a text or a list of texts, a prediction a text.

        Raises:
          ValueError: unequal or empty lists, no reference, something that is not text.
          ImportError: the tokenizer's extra is not installed.
        """
        pairs = quality.text_pairs(targets, predictions)
        return np.array([self._counts(*pair) for pair in pairs], np.int64)

    def score(self, summed: Shaped[np.ndarray, "..."]) -> float:
        """The corpus figure in [0, 1] of the examples whose statistics were added up.

        Args:
          summed: K integers, the sum of rows of `statistics`.

        Raises:
          ValueError: another number of them, fractions, or negative ones.
        """
        counts, size = np.asarray(summed), self.num_statistics
        if counts.shape != (size,) or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise ValueError(
                f"summed statistics are {counts.dtype}{list(counts.shape)}; must be {size} "
                "integers of 0 or more: add the rows of statistics(...) up with .sum(axis=0)"
            )
        return min(self._score(counts.tolist()) / 100.0, 1.0)

    def scores(self, summed: Real[np.ndarray, "*points K"]) -> Float[np.ndarray, "*points"]:
        """`score` of many sums at once; they may be fractions, such as expected ones.

        Args:
          summed: sums of rows of `statistics`, one along the last axis.

        Raises:
          ValueError: not K numbers, or negative ones.
        """
        sums, size = np.asarray(summed, np.float64), self.num_statistics
        if sums.ndim < 1 or sums.shape[-1] != size or not np.all(sums >= 0):
            raise ValueError(
                f"summed statistics have shape {list(sums.shape)}; must end in {size} numbers of 0 "
                "or more: add the rows of statistics(...) up, or cumulate them"
            )
        return np.asarray(np.minimum(self._scores(sums), 1.0))

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return {self.name: self.score(self.statistics(targets, predictions).sum(axis=0))}


@dataclasses.dataclass(frozen=True)
class Bleu(CorpusMetric):
    """Corpus BLEU-4 with sacrebleu's defaults (exponential smoothing), in [0, 1].

    min(1, exp(1 - r / c)) * (p_1 p_2 p_3 p_4)^(1/4), with c words predicted, reference length r,
    and p_n the share of predicted n-grams that the references have.
    A corpus metric; each example by itself has its sentence BLEU (orders that a short sentence
    cannot have are left out), whose mean is not corpus BLEU.

    Example: target "the cat sat on it", prediction "the cat sat on": all n-grams are right, one
    word is missing: exp(1 - 5 / 4) = 0.7788. Its statistics are 4, 5, then right n-grams 4, 3, 2,
    1, then predicted n-grams 4, 3, 2, 1.

    Attributes:
      tokenize: one of TOKENIZERS; "ja-mecab" needs the extra ``cascade-jax[ja]``.
      lowercase: whether case is ignored.

    Reference: Papineni et al. 2002, "BLEU"; Post 2018, "A Call for Clarity in Reporting BLEU".
    """

    tokenize: str = "13a"
    lowercase: bool = False

    name = "bleu"
    label = "BLEU"
    num_statistics = 10

    def __post_init__(self):
        check_choice("tokenize", self.tokenize, TOKENIZERS)

    @classmethod
    def for_language(cls, language: str) -> "Bleu":
        """BLEU of translations into a language ("zh", "ja", "ru"), as `tokenizer_of` says."""
        return cls(tokenize=tokenizer_of(language))

    def check_installed(self) -> None:
        """Raises what the first use would: an ImportError if the tokenizer's extra is missing."""
        words.check_installed(self.tokenize)

    @property
    def words_by(self) -> str:
        """For `words.unread`."""
        return self.tokenize

    def _sentence(self, references: list[str], prediction: str) -> Any:
        self.check_installed()
        bleu = _sacrebleu_bleu(self.tokenize, self.lowercase)
        return bleu.sentence_score(prediction, references)

    def _counts(self, references: list[str], prediction: str) -> list[int]:
        """Words of it and of the nearest reference, right and predicted n-grams."""
        score = self._sentence(references, prediction)
        return [score.sys_len, score.ref_len, *score.counts, *score.totals]

    def _score(self, sums: list[int]) -> float:
        import sacrebleu

        words, reference, right, total = sums[0], sums[1], sums[2:6], sums[6:]
        compute = sacrebleu.BLEU.compute_bleu
        return compute(right, total, words, reference, smooth_method="exp").score

    def _scores(self, sums: Float[np.ndarray, "*points 10"]) -> Float[np.ndarray, "*points"]:
        words, reference, right, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:]
        # Each order without a match counts as half, a quarter, an eighth of one (exponential).
        halvings = np.cumsum(right == 0, axis=-1)
        precision = _ratio(np.where(right > 0, right, 0.5**halvings), total)
        brevity = np.exp(np.minimum(1.0 - reference / np.maximum(words, 1e-300), 0.0))
        is_zero = np.all(right == 0, axis=-1) | np.any(total == 0, axis=-1)
        log_mean = np.mean(np.log(np.where(precision > 0, precision, 1.0)), axis=-1)
        return np.where(is_zero, 0.0, brevity * np.exp(log_mean))

    def per_example(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Mean sentence BLEU."""
        scores = [self._sentence(*pair).score for pair in quality.text_pairs(targets, predictions)]
        return {"sentence_bleu": float(np.mean([min(score / 100.0, 1.0) for score in scores]))}


@dataclasses.dataclass(frozen=True)
class Chrf(CorpusMetric):
    """Corpus chrF2 (n-grams of 1 to 6 characters, recall counts double) by sacrebleu, in [0, 1].

    Needs no tokenizer, so it suits languages without spaces.
    A corpus metric; each example by itself has its sentence chrF, whose mean (`quality.chrf`) is
    not corpus chrF.

    Example: target "abc", prediction "abd". Characters: 3 predicted, 3 in the target, 2 right;
    pairs 2, 2, 1; triples 1, 1, 0: those nine numbers and nine zeros are its statistics; chrF =
    (2/3 + 1/2 + 0) / 3 = 0.3889.

    Attributes:
      word_order: n-grams of words that count beside; 2 is chrF++.

    Reference: Popovic 2015, "chrF"; Popovic 2017, "chrF++: words helping character n-grams".
    """

    word_order: int = 0

    def __post_init__(self):
        if self.word_order not in (0, 1, 2):
            raise ValueError(f"word_order is {self.word_order!r}; must be 0 (chrF), 1 or 2")

    @property
    def name(self) -> str:
        return f"corpus_{self._suffix}"

    @property
    def label(self) -> str:
        return "chrF" + "+" * self.word_order

    @property
    def words_by(self) -> str | None:
        """For `words.unread`: n-grams of words are of what white space parts."""
        return "none" if self.word_order else None

    @property
    def num_statistics(self) -> int:
        """Three counts for every order of n-grams."""
        return 3 * (6 + self.word_order)

    @property
    def _suffix(self) -> str:
        return "chrf" + "+" * self.word_order

    def _counts(self, references: list[str], prediction: str) -> list[int]:
        """By order, n-grams predicted, in the best reference, and in both."""
        chrf = quality.sacrebleu_chrf(self.word_order)
        # sacrebleu shows these counts to its own significance test only; the version is pinned.
        return chrf._extract_corpus_statistics([prediction], [[text] for text in references])[0]

    def _score(self, sums: list[int]) -> float:
        return quality.sacrebleu_chrf(self.word_order)._compute_score_from_stats(sums).score

    def _scores(self, sums: Float[np.ndarray, "*points K"]) -> Float[np.ndarray, "*points"]:
        predicted, reference, right = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
        # Orders that no text is long enough for are left out.
        is_there = (predicted > 0) & (reference > 0)
        orders = is_there.sum(axis=-1)
        precision = _ratio(np.sum(_ratio(right, predicted) * is_there, axis=-1), orders)
        recall = _ratio(np.sum(_ratio(right, reference) * is_there, axis=-1), orders)
        # F with recall counting double, so its square 4 times.
        return _ratio(5.0 * precision * recall, 4.0 * precision + recall)

    def per_example(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """Mean sentence chrF."""
        scores = [self.score(row) for row in self.statistics(targets, predictions)]
        return {f"sentence_{self._suffix}": float(np.mean(scores))}
