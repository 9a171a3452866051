"""Scores of the samples' likelihoods: entropy of whole answers, and SAR, which shares mass."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from cascade_jax import checks
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import name_of
from cascade_jax.deferral.scores.samples.base import SampleScore, SimilarityScore
from cascade_jax.deferral.scores.samples.similarity import RougeL, Similarity

# text and token ids [N] of an answer -> N weights of at least 0: how much each token matters.
Relevance = Callable[[str, Int[np.ndarray, " N"]], Float[np.ndarray, " N"]]


@dataclasses.dataclass(frozen=True)
class PredictiveEntropy(SampleScore):
    """Entropy of the whole answer, estimated by n samples of it.

    ``r(x) = -(1/n) * sum_k log p(s_k | x)``, in nats, at least 0; by each sample's own number of
    tokens with `per_token`.

    Example: two samples of log-prob -1 and -3 give 2; with 2 and 4 tokens and `per_token`, 0.625.

    Attributes:
      per_token: whether each log-prob is divided by its sample's length, EOS included.

    Reference: Kuhn, Gal and Farquhar 2023, Semantic Uncertainty; with `per_token`,
    Malinin and Gales 2021, Uncertainty Estimation in Autoregressive Structured Prediction.
    """

    per_token: bool = False
    label: ClassVar[str] = "predictive entropy"
    needs: ClassVar[tuple[str, ...]] = ("log_probs",)

    def __post_init__(self):
        checks.true_or_false("per_token", self.per_token)

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        values = answers.samples.log_likelihoods[at]
        if self.per_token:
            values = values / answers.samples.lengths[at]
        return -np.mean(values, axis=1)


@dataclasses.dataclass(frozen=True)
class SentSAR(SimilarityScore):
    """Predictive entropy where each sample is as likely as it and what is like it are together.

    ``r(x) = -(1/n) * sum_k log(p_k + (1/t) * sum_{j != k} g_kj p_j)``, ``p_k = p(s_k | x)``, g
    the similarity; in nats, of either sign.

    It is computed from logarithms, so that it is finite where every p is below all numbers.

    Example: two samples of p = 0.5 each and g = 0: log 2 = 0.6931; equal ones, t = 0.001: -log(0.5
    + 500) = -6.2156.

    Attributes:
      similarity: g.
      t: temperature; the smaller, the more similar samples count.

    Reference: Duan et al. 2023, Shifting Attention to Relevance (SAR).
    """

    similarity: Similarity = RougeL()
    t: float = 0.001
    label: ClassVar[str] = "SentSAR"
    needs: ClassVar[tuple[str, ...]] = ("log_probs",)

    def __post_init__(self):
        super().__post_init__()
        checks.positive("t", self.t)

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        weights = self._matrices(answers, rows, at) / self.t
        places = np.arange(at.shape[1])
        weights[:, places, places] = 1.0
        log_p = self._log_p(answers, at)[:, None, :]
        return -np.mean(special.logsumexp(log_p, axis=2, b=weights), axis=1)

    def _log_p(self, answers: AnswerTokens, at) -> Float[np.ndarray, "m n"]:
        return answers.samples.log_likelihoods[at]


@dataclasses.dataclass(frozen=True)
class SAR(SentSAR):
    """SentSAR of the relevant tokens: p_k is that of a sample's tokens, weighed by relevance.

    ``log p_k = sum_i R_i l_i / sum_i R_i`` over the tokens of sample k, then as `SentSAR`. Without
    a relevance, or where all weights of a sample are 0, every token weighs the same: l's mean.

    Example: one sample with log-probs ``[-1 -3]``: 2; with weights ``[1 0]``: 1.

    Attributes:
      similarity, t: see `SentSAR`.
      relevance: function of a sample's text and token ids that gives a weight of at least 0 for
        each token; None for equal weights. The paper's is 1 - g of the text with and without it.

    Reference: Duan et al. 2023, Shifting Attention to Relevance (SAR).
    """

    relevance: Relevance | None = None
    label: ClassVar[str] = "SAR"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("log_probs",) if self.relevance is None else ("log_probs", "tokens")

    def __post_init__(self):
        super().__post_init__()
        is_one = self.relevance is None or callable(self.relevance)
        checks.require(is_one, "relevance", self.relevance, "a function of a text and token ids")

    def _log_p(self, answers: AnswerTokens, at) -> Float[np.ndarray, "m n"]:
        samples = answers.samples
        if self.relevance is None:
            return samples.log_likelihoods[at] / samples.lengths[at]
        values = [self._weighed(answers, sample) for sample in at.ravel().tolist()]
        return np.reshape(values, at.shape)

    def _weighed(self, answers: AnswerTokens, sample: int) -> float:
        """Mean log-prob of a sample's tokens, weighed by their relevance."""
        samples = answers.samples
        span = slice(*samples.token_offsets[sample : sample + 2])
        log_probs = samples.log_probs[span].astype(np.float64)
        weights = np.asarray(
            self.relevance(samples.texts[sample], samples.tokens[span]), np.float64
        )
        is_allowed = weights.shape == log_probs.shape
        if not (is_allowed and np.all(np.isfinite(weights)) and np.all(weights >= 0)):
            raise ValueError(
                f"relevance {name_of(self.relevance)!r} of {checks.shown(samples.texts[sample])}, "
                f"an answer to {answers.describe(samples.example_of(sample))}, is "
                f"{checks.shown(weights.tolist())}; must be {len(log_probs)} finite numbers of at "
                "least 0, one for each token"
            )
        if not weights.any():
            return float(np.mean(log_probs))
        return float(log_probs @ (weights / weights.max()) / np.sum(weights / weights.max()))
