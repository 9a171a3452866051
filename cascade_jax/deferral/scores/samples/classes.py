"""Scores of classes of samples that say the same: semantic entropy, and the number of classes."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from cascade_jax import checks
from cascade_jax.deferral.scores.samples.base import SimilarityScore
from cascade_jax.names import check_choice

MEAN, NORMALIZED = "mean", "normalized"


def classes(is_alike: Bool[np.ndarray, "m n n"]) -> Int[np.ndarray, "m n"]:
    """Class of each sample: connected components, each named by its first sample.

    The order of the samples does not matter, also where a is like b and b like c, but a not like c:
    all three are then one class.
    """
    reached = is_alike | np.eye(is_alike.shape[-1], dtype=bool)
    while True:  # each round doubles the length of the paths
        longer = np.matmul(reached, reached)
        if np.array_equal(longer, reached):
            return np.argmax(reached, axis=-1)
        reached = longer


@dataclasses.dataclass(frozen=True)
class ClassScore(SimilarityScore):
    """Base of scores of classes of samples.

    Attributes:
      similarity: of two texts.
      alike: from which similarity on two samples are of one class; in (0, 1].
    """

    alike: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        checks.positive("alike", self.alike, most=1.0)

    def _classes(self, answers, rows, at) -> Int[np.ndarray, "m n"]:
        return classes(self._matrices(answers, rows, at) >= self.alike)

    def _same_class(self, answers, rows, at) -> Bool[np.ndarray, "m n n"]:
        labels = self._classes(answers, rows, at)
        return labels[:, :, None] == labels[:, None, :]


@dataclasses.dataclass(frozen=True)
class NumSet(ClassScore):
    """Number of classes of samples: of different answers, by the usual exact match.

    ``r(x) = |C|``, from 1 to n.

    Example: samples "a", "a", "b" give 2.

    Attributes:
      similarity, alike: see `ClassScore`.

    Reference: Lin, Trivedi and Sun 2023, Generating with Confidence.
    """

    label: ClassVar[str] = "NumSet"

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        labels = self._classes(answers, rows, at)
        return np.sum(labels == np.arange(at.shape[1]), axis=1).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class DiscreteSemanticEntropy(ClassScore):
    """Entropy of the classes by how many samples each has; needs no log-probs.

    ``r(x) = -sum_c (n_c / n) * log(n_c / n)``, in nats, from 0 to log n.

    Example: samples "a", "a", "b": -(2/3) log(2/3) - (1/3) log(1/3) = 0.6365.

    Attributes:
      similarity, alike: see `ClassScore`.

    Reference: Farquhar et al. 2024, Detecting hallucinations in large language models using
    semantic entropy (the discrete one).
    """

    label: ClassVar[str] = "discrete semantic entropy"

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        share = np.mean(self._same_class(answers, rows, at), axis=2)
        return -np.mean(np.log(share), axis=1)


@dataclasses.dataclass(frozen=True)
class SemanticEntropy(ClassScore):
    """Entropy of the classes by the samples' probabilities.

    ``mean``: ``r(x) = -(1/n) * sum_k log(sum_{j in class of k} p_j)``, p not rescaled; in nats, of
    either sign, as samples drawn twice count twice.
    ``normalized``: ``r(x) = -sum_c P_c log P_c``, ``P_c = sum_{j in c} p_j / sum_j p_j``; in
    nats, from 0 to log n.

    Example: samples "a", "a", "b" of p = 0.2, 0.2, 0.1: mean -(2 log 0.4 + log 0.1) / 3 = 1.3784;
    normalized, of P = 0.8 and 0.2, 0.5004.

    Attributes:
      similarity, alike: see `ClassScore`.
      form: "mean" or "normalized".
      per_token: whether p is the geometric mean of a sample's token probabilities instead.

    Reference: mean: Kuhn, Gal and Farquhar 2023, Semantic Uncertainty, as lm-polygraph 0.7.0
    estimates it; normalized: the code of Farquhar et al. 2024.
    """

    form: str = MEAN
    per_token: bool = False
    label: ClassVar[str] = "semantic entropy"
    needs: ClassVar[tuple[str, ...]] = ("log_probs",)

    def __post_init__(self):
        super().__post_init__()
        check_choice("form", self.form, (MEAN, NORMALIZED))
        checks.true_or_false("per_token", self.per_token)

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        log_p = answers.samples.log_likelihoods[at]
        if self.per_token:
            log_p = log_p / answers.samples.lengths[at]
        is_same = self._same_class(answers, rows, at)
        if self.form == MEAN:
            mass = special.logsumexp(log_p[:, None, :], axis=2, b=is_same)
            return -np.mean(mass, axis=1)
        log_p = log_p - special.logsumexp(log_p, axis=1, keepdims=True)
        mass = special.logsumexp(log_p[:, None, :], axis=2, b=is_same)
        return np.maximum(-np.sum(np.exp(log_p) * mass, axis=1), 0.0)
