"""Scores of the log-probs of an answer alone; higher = defer.

An answer's tokens are y_1..y_N with log-probs l_1..l_N in nats, of which the last is EOS.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import Score


@dataclasses.dataclass(frozen=True)
class Average(Score):
    """Length-normalised negative log-likelihood of the small model's own answer, EOS included.

    ``r(x) = -(1/N) * sum_i log p_S(y_S,i | x, y_S,<i)``, in nats per token, at least 0.

    Example: log-probs ``[-0.1 -0.3]`` give 0.2; a surer answer, ``[-0.1 -0.1]``, gives 0.1. One
    token: minus its log-prob.

    Reference: Cascade-Aware Training of Language Models, equation 5 (the best in figure 6).
    """

    name: ClassVar[str] = "average"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        return _negative_sums(answers) / answers.lengths


@dataclasses.dataclass(frozen=True)
class Sum(Score):
    """Negative log-likelihood of the small model's own answer: G-NLL of a greedy one.

    ``r(x) = -sum_i l_i``, in nats, at least 0.

    Every token adds to it, so long answers are deferred before short ones that are as sure per
    token: the length bias of Gupta et al., which the average does not have in this form.

    Example: log-probs ``[-0.1 -0.3]`` give 0.4; four times ``-0.1`` give the same.

    Reference: CAT, figure 6 (sum); Gupta et al. 2024, Chow-Sum; Aichberger et al. 2024, Rethinking
    Uncertainty Estimation in Natural Language Generation (G-NLL).
    """

    name: ClassVar[str] = "sum"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        return _negative_sums(answers)


@dataclasses.dataclass(frozen=True)
class Minimum(Score):
    """Minus the smallest log-prob of the answer: how unsure its least sure token is.

    ``r(x) = -min_i l_i``, in nats, at least 0; = quantile 0.

    Example: log-probs ``[-0.1 -0.3 -2.0]`` give 2.0. One token: minus its log-prob.

    Reference: CAT, figure 6 (minimum, ChowQuantile-0).
    """

    name: ClassVar[str] = "minimum"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        smallest = np.minimum.reduceat(answers.log_probs, answers.offsets[:-1])
        return -smallest.astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Maximum(Score):
    """Minus the largest log-prob of the answer: how unsure even its surest token is.

    ``r(x) = -max_i l_i``, in nats, at least 0; = quantile 1.

    Example: log-probs ``[-0.1 -0.3 -2.0]`` give 0.1. One token: minus its log-prob.

    Reference: CAT, figure 6 (maximum).
    """

    name: ClassVar[str] = "maximum"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        largest = np.maximum.reduceat(answers.log_probs, answers.offsets[:-1])
        return -largest.astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Quantile(Score):
    """Minus a quantile of the answer's log-probs (ChowQuantile).

    ``r(x) = -quantile_q(l_1..l_N)``, in nats, at least 0: linear between the sorted log-probs, of
    which quantile q is at position ``q * (N - 1)``. Low q looks at the least sure tokens.

    Example: q = 0.4 of ``[-0.1 -0.3 -2.0]``: position 0.8 from -2.0 up, -2.0 + 0.8 * 1.7 = -0.64;
    the score is 0.64. One token: minus its log-prob.

    Attributes:
      q: in [0, 1]; 0 is the minimum, 1 the maximum; 0, 0.4 and 0.8 in CAT.

    Reference: Gupta et al. 2024, Language Model Cascades: Token-level Uncertainty and Beyond,
    Chow-Quantile; CAT, figure 6.
    """

    q: float = 0.4

    def __post_init__(self):
        if not (checks.is_number(self.q) and 0 <= self.q <= 1):
            raise ValueError(f"a quantile lies in [0, 1], got {checks.shown(self.q)}")

    @property
    def name(self) -> str:
        return f"quantile {self.q:g}"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        return -segments.quantiles(answers.offsets, answers.log_probs, [self.q])[:, 0]


@dataclasses.dataclass(frozen=True)
class Perplexity(Score):
    """Perplexity of the answer under the model that wrote it.

    ``r(x) = exp(-(1/N) * sum_i l_i)``, at least 1. Orders examples as the average does.

    Example: log-probs ``[-0.1 -0.3]`` give exp(0.2) = 1.2214.

    Reference: Fomicheva et al. 2020, Unsupervised Quality Estimation for Neural Machine
    Translation.
    """

    name: ClassVar[str] = "perplexity"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        average = _negative_sums(answers) / answers.lengths
        largest = int(np.argmax(average))
        if average[largest] > np.log(np.finfo(np.float64).max):
            raise ValueError(
                f"{answers.describe(largest)} has {average[largest]:g} nats per token: its "
                "perplexity is beyond any number; score 'average' orders examples alike"
            )
        return np.exp(average)


@dataclasses.dataclass(frozen=True)
class GeometricMean(Score):
    """Minus the geometric mean of the answer's token probabilities.

    ``r(x) = -(prod_i p_i)^(1/N) = -exp((1/N) * sum_i l_i)``, from -1 (sure) to 0; minus one over
    perplexity. Orders examples as the average does.

    Example: log-probs ``[-0.1 -0.3]`` give -exp(-0.2) = -0.8187.

    Reference: Park et al. 2025, Visualizing Uncertainty in Translation Tasks, metric 1.
    """

    name: ClassVar[str] = "geometric mean"

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        return -np.exp(-_negative_sums(answers) / answers.lengths)


def _negative_sums(answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
    return -segments.sums(answers.offsets, lambda tokens: answers.log_probs[tokens])
