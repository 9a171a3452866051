"""Scores of the graph of samples, whose edges are their similarities: no log-probs are needed.

W is the matrix of similarities, with ones on its diagonal, D = diag(W 1), and L = I - D^(-1/2) W
D^(-1/2) its normalised Laplacian.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy import special

from cascade_jax import checks
from cascade_jax.deferral.scores.samples.base import SimilarityScore
from cascade_jax.deferral.scores.samples.similarity import Jaccard, RougeL, Similarity


@dataclasses.dataclass(frozen=True)
class LexicalSimilarity(SimilarityScore):
    """Minus the mean similarity of two samples, by words.

    ``r(x) = -2 / (n (n - 1)) * sum_{j < k} g_jk``, from -1 (all equal) to 0; -1 for one sample.

    Example: four equal samples give -1, four without a common word 0.

    Attributes:
      similarity: g; ROUGE-L, as in the papers.

    Reference: Fomicheva et al. 2020, Unsupervised Quality Estimation for Neural Machine
    Translation; with ROUGE-L, Kuhn, Gal and Farquhar 2023, Semantic Uncertainty.
    """

    similarity: Similarity = RougeL()
    label: ClassVar[str] = "lexical similarity"

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        n = at.shape[1]
        if n == 1:
            return np.full(len(rows), -1.0)
        total = np.sum(self._matrices(answers, rows, at), axis=(1, 2)) - n
        return -total / (n * (n - 1))


@dataclasses.dataclass(frozen=True)
class Deg(SimilarityScore):
    """Degree: mean distance of two samples, those to themselves included.

    ``r(x) = 1 - (1/n^2) * sum_jk W_jk``, from 0 (all equal) to 1 - 1/n.

    Example: four equal samples give 0, four without a common word 0.75; "a b c", "a b d", "x y",
    "x y" 0.5625.

    Attributes:
      similarity: W.

    Reference: Lin, Trivedi and Sun 2023, Generating with Confidence.
    """

    similarity: Similarity = Jaccard()
    label: ClassVar[str] = "Deg"

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        return 1.0 - np.mean(self._matrices(answers, rows, at), axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class EigV(SimilarityScore):
    """Sum of eigenvalues of the Laplacian: a number of classes that need not be whole.

    ``r(x) = sum_k max(0, 1 - lambda_k(L))``, from 1 to n.

    Example: four equal samples give 1, four without a common word 4; "a b c", "a b d", "x y", "x y"
    7/3.

    Attributes:
      similarity: W.

    Reference: Lin, Trivedi and Sun 2023, Generating with Confidence.
    """

    similarity: Similarity = Jaccard()
    label: ClassVar[str] = "EigV"

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        affinity = _normalised(self._matrices(answers, rows, at))
        return np.sum(np.maximum(np.linalg.eigvalsh(affinity), 0.0), axis=1)


@dataclasses.dataclass(frozen=True)
class Ecc(SimilarityScore):
    """Eccentricity: how far samples lie from their centre, by the smooth eigenvectors of L.

    ``r(x) = || V - mean of V's rows ||_F``, V the eigenvectors of L with lambda < `below`; from 0
    to sqrt(n - 1).

    Example: four equal samples give 0, four without a common word sqrt(3); "a b c", "a b d", "x y",
    "x y" sqrt(2).

    Attributes:
      similarity: W.
      below: which eigenvalues count; the paper's 0.9.

    Reference: Lin, Trivedi and Sun 2023, Generating with Confidence.
    """

    similarity: Similarity = Jaccard()
    below: float = 0.9
    label: ClassVar[str] = "Ecc"

    def __post_init__(self):
        super().__post_init__()
        checks.positive("below", self.below, most=1.0)

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        affinity, vectors = np.linalg.eigh(_normalised(self._matrices(answers, rows, at)))
        centred = vectors - np.mean(vectors, axis=1, keepdims=True)
        is_smooth = 1.0 - affinity < self.below
        return np.sqrt(np.sum(centred**2 * is_smooth[:, None, :], axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class KernelLanguageEntropy(SimilarityScore):
    """Von Neumann entropy of the heat kernel of the samples' graph, as a share of the most.

    ``r(x) = -tr(K log K) / log n``, ``K = exp(-t * (D - A))`` rescaled to 1 / n on its diagonal,
    ``A = 2 W``, both directions of a pair added up; from 0 to 1. It falls with n also for equal
    samples, so that examples should have equally many; 0 for one sample.

    Example: two equal samples: K has 0.5 + 0.5 exp(-1.2) and 0.5 - 0.5 exp(-1.2), thus after the
    rescaling eigenvalues 0.7685 and 0.2315: 0.7806; without a common word 1.

    Attributes:
      similarity: W.
      t: time of the heat; the paper's 0.3.

    Reference: Nikitin et al. 2024, Kernel Language Entropy.
    """

    similarity: Similarity = RougeL()
    t: float = 0.3
    label: ClassVar[str] = "kernel language entropy"

    def __post_init__(self):
        super().__post_init__()
        checks.positive("t", self.t)

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        n = at.shape[1]
        if n == 1:
            return np.zeros(len(rows))
        weights = 2.0 * self._matrices(answers, rows, at)
        laplacian = np.eye(n) * np.sum(weights, axis=2)[:, :, None] - weights
        values, vectors = np.linalg.eigh(laplacian)
        kernel = (vectors * np.exp(-self.t * values)[:, None, :]) @ vectors.swapaxes(1, 2)
        scale = np.sqrt(np.diagonal(kernel, axis1=1, axis2=2))
        kernel /= n * scale[:, :, None] * scale[:, None, :]
        values = np.maximum(np.linalg.eigvalsh(kernel), 0.0)
        return np.sum(special.entr(values), axis=1) / np.log(n)


def _normalised(weights: Float[np.ndarray, "m n n"]) -> Float[np.ndarray, "m n n"]:
    """``D^(-1/2) W D^(-1/2)``, which is I - L; no degree is below the 1 of the diagonal."""
    scale = 1.0 / np.sqrt(np.sum(weights, axis=2))
    return scale[:, :, None] * weights * scale[:, None, :]
