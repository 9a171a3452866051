"""Scores of the tokens' probabilities and of whole distributions: some need more than log-probs.

Every mean is over the tokens of the answer, EOS included, and p_i = exp(l_i) is the probability of
its i-th token. A score of p is written so that it is higher where the model is less sure.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import Score

_Scores = Float[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True)
class ArithmeticMean(Score):
    """Minus the mean probability of the answer's tokens.

    ``r(x) = -(1/N) * sum_i p_i``, from -1 (sure) to 0.

    One very unlikely token counts by at most 1/N here, and without limit in the average.

    Example: probabilities ``[0.5 0.9]`` give -0.7. One token: minus its probability.

    Reference: Park et al. 2025, Visualizing Uncertainty in Translation Tasks.
    """

    name: ClassVar[str] = "arithmetic mean"

    def _values(self, answers: AnswerTokens) -> _Scores:
        return -_mean_probability(answers)


@dataclasses.dataclass(frozen=True)
class MaxSoftmax(Score):
    """One minus the mean of the largest probability at each position.

    ``r(x) = 1 - (1/N) * sum_i max_v p(v | x, y_<i)``, in [0, 1].

    The largest probability is the first of the top log-probs where they are kept. Else it is that
    of the token itself, which is the same for greedy answers, and too small for others (the options
    of rank classification): there it is one plus the arithmetic mean's score.

    Example: largest probabilities ``[0.5 0.9]`` give 0.3. One token: one minus its largest.

    Reference: Hendrycks and Gimpel 2017; Gatekeeper, equation 7, as a mean over tokens.
    """

    name: ClassVar[str] = "max-softmax"

    def column_of(self, answers: AnswerTokens) -> str:
        return "top_log_probs" if answers.top_k else "log_probs"

    def _values(self, answers: AnswerTokens) -> _Scores:
        if not answers.top_k:
            return 1.0 - _mean_probability(answers)
        largest = answers.top_log_probs[:, 0]
        return 1.0 - _mean(answers, lambda tokens: np.exp(largest[tokens].astype(np.float64)))


@dataclasses.dataclass(frozen=True)
class Kurtosis(Score):
    """Minus the excess kurtosis of the probabilities of the answer's tokens.

    ``r(x) = 3 - m_4 / m_2^2``, ``m_k = (1/N) * sum_i (p_i - mean p)^k``; at most 2.

    It tells apart answers that are unsure everywhere (flat: high) from those with a few odd tokens
    (heavy tails: low), and does not see how sure the tokens are: a score to compare with, no rule.
    Where all probabilities are equal, as in an answer of one token, kurtosis is 0 / 0, and the
    score is 0, that of a normal distribution.

    Example: probabilities ``[0.1 0.9 0.1 0.9]`` have m_2 = 0.16, m_4 = 0.0256, and give 2;
    ``[0.9 0.9 0.9 0.1]`` have m_2 = 0.12, m_4 = 0.0336, and give 0.667.

    Reference: Park et al. 2025, Visualizing Uncertainty in Translation Tasks; theirs is of each
    position's distribution, which is `TopKurtosis`.
    """

    name: ClassVar[str] = "kurtosis"

    def _values(self, answers: AnswerTokens) -> _Scores:
        offsets, result = answers.offsets, np.empty(answers.num_examples)
        for rows in segments.blocks(offsets):
            lengths = answers.lengths[rows]
            starts = offsets[rows] - offsets[rows.start]
            block = answers.log_probs[offsets[rows.start] : offsets[rows.stop]].astype(np.float64)
            # Kurtosis does not change with the scale; probabilities near 0 would underflow.
            values = np.exp(block - np.repeat(np.maximum.reduceat(block, starts), lengths))
            mean = np.add.reduceat(values, starts) / lengths
            square = (values - np.repeat(mean, lengths)) ** 2
            second = np.add.reduceat(square, starts) / lengths
            fourth = np.add.reduceat(square**2, starts) / lengths
            result[rows] = -_excess_kurtosis(mean, second, fourth)
        return result


@dataclasses.dataclass(frozen=True)
class _TopKScore(Score):
    """Base of scores of the K largest log-probs at each position.

    Attributes:
      k: how many of the kept log-probs are used.
      least: smallest k.
    """

    k: int = 10
    column: ClassVar[str] = "top_log_probs"
    least: ClassVar[int] = 1

    def __post_init__(self):
        checks.whole_number("k", self.k, self.least)

    @property
    def least_k(self) -> int:
        return self.k


@dataclasses.dataclass(frozen=True)
class TopKurtosis(_TopKScore):
    """Minus the mean, over the tokens, of the excess kurtosis of the K largest probabilities there.

    ``r(x) = (1/N) * sum_i (3 - m_4,i / m_2,i^2)``, m_k,i the k-th central moment of the K values.

    A peak on one token has heavy tails: high kurtosis, low score. The paper takes the whole
    vocabulary; records hold the K largest. Where these are all equal the score is 0.

    Example: K = 4 and probabilities ``[0.9 0.1 0 0]`` at one token: mean 0.25, m_2 = 0.1425, m_4 =
    0.0467 and a score of 0.700; ``[0.4 0.4 0.1 0.1]`` gives 2.

    Attributes:
      k: how many of the kept ones are used, 4 at least.

    Reference: Park et al. 2025, Visualizing Uncertainty in Translation Tasks, metric 3.
    """

    least: ClassVar[int] = 4

    @property
    def name(self) -> str:
        return f"top-{self.k} kurtosis"

    def _values(self, answers: AnswerTokens) -> _Scores:
        top = answers.top_log_probs

        def kurtosis(tokens: slice):
            # Upright, so that each moment adds whole rows; the scale does not matter to kurtosis.
            block = np.ascontiguousarray(top[tokens, : self.k].T, dtype=np.float64)
            values = np.exp(block - np.max(block, axis=0))
            mean = np.mean(values, axis=0)
            square = (values - mean) ** 2
            return -_excess_kurtosis(mean, np.mean(square, axis=0), np.mean(square**2, axis=0))

        return _mean(answers, kurtosis, self.k)


@dataclasses.dataclass(frozen=True)
class Entropy(Score):
    """Mean entropy of the distributions that the tokens were chosen from.

    ``r(x) = (1/N) * sum_i H_i``, ``H_i = -sum_v p_v log p_v`` over the vocabulary; nats, >= 0.

    Gatekeeper's confidence is the negative predictive entropy; this is it with the sign turned.

    Example: entropies ``[0.2 0.6]`` give 0.4. One token: its entropy.

    Reference: Gatekeeper, equation 8.
    """

    name: ClassVar[str] = "entropy"
    column: ClassVar[str] = "entropies"

    def _values(self, answers: AnswerTokens) -> _Scores:
        return _mean(answers, lambda tokens: answers.entropies[tokens])


@dataclasses.dataclass(frozen=True)
class Margin(Score):
    """One minus the mean distance between the two largest probabilities.

    ``r(x) = 1 - (1/N) * sum_i (p_(1),i - p_(2),i)``, in [0, 1].

    Example: largest two ``[0.9 0.05]`` and ``[0.5 0.4]`` give 1 - (0.85 + 0.1) / 2 = 0.525.

    Reference: Scheffer et al. 2001, Active Hidden Markov Models (margin of the top two).
    """

    name: ClassVar[str] = "margin"
    column: ClassVar[str] = "top_log_probs"
    least_k: ClassVar[int] = 2

    def _values(self, answers: AnswerTokens) -> _Scores:
        top = answers.top_log_probs

        def distance(tokens: slice):
            largest = np.exp(top[tokens, :2].astype(np.float64))
            return largest[:, 0] - largest[:, 1]

        return 1.0 - _mean(answers, distance, 2)


@dataclasses.dataclass(frozen=True)
class EntropyProductionRate(_TopKScore):
    """Entropy per token that the K likeliest tokens of each position give.

    ``r(x) = (1/N) * sum_i sum_{k <= K} -p_(k),i log p_(k),i``; nats per token, >= 0.

    The other tokens count nothing and the K are not rescaled, so that it is at most the mean
    entropy: the part that an interface of ten log-probs per token reveals.

    Example: K = 2, one token with ``[0.5 0.25]``: 0.3466 + 0.3466 = 0.6931.

    Attributes:
      k: how many of the kept log-probs are used; the paper's 10.

    Reference: Moslonka et al. 2025, Learned Hallucination Detection in Black-Box LLMs using
    Token-level Entropy Production Rate.
    """

    @property
    def name(self) -> str:
        return "entropy production rate" + f" (top {self.k})" * (self.k != 10)

    def _values(self, answers: AnswerTokens) -> _Scores:
        top = answers.top_log_probs

        def entropy(tokens: slice):
            block = top[tokens, : self.k].astype(np.float64)
            return -np.einsum("tk,tk->t", np.exp(block), block)

        return _mean(answers, entropy, self.k)


def _mean(answers: AnswerTokens, values_fn, width: int = 1) -> _Scores:
    """Mean over the tokens of each answer; `values_fn` reads `width` values per token."""
    size = (1 << 18) // width
    return segments.sums(answers.offsets, values_fn, size) / answers.lengths


def _mean_probability(answers: AnswerTokens) -> _Scores:
    return _mean(answers, lambda tokens: np.exp(answers.log_probs[tokens].astype(np.float64)))


def _excess_kurtosis(
    mean: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], fourth: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """``m_4 / m_2^2 - 3``; 0 where the second moment is nothing but rounding."""
    is_flat = second <= (np.finfo(mean.dtype).eps * mean) ** 2
    return np.where(is_flat, 0.0, fourth / np.where(is_flat, 1.0, second) ** 2 - 3.0)
