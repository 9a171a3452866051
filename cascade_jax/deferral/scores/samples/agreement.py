"""How far samples differ from the answer that counts."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.scores.samples import pairwise
from cascade_jax.deferral.scores.samples.base import SimilarityScore


@dataclasses.dataclass(frozen=True)
class Disagreement(SimilarityScore):
    """Share of the samples that are not the greedy answer: 1 - their agreement with it.

    ``r(x) = 1 - (1/n) * sum_k g(y, s_k)``, y the greedy answer; in [0, 1].

    Example: the answer "a" and samples "a", "a", "b": 1/3.

    Attributes:
      similarity: g; 1 for the same text after normalising, else 0.

    Reference: Yue et al. 2024, Large Language Model Cascades with Mixture of Thoughts
    Representations for Cost-efficient Reasoning; agreement there is with the most frequent answer.
    """

    label: ClassVar[str] = "disagreement"
    needs: ClassVar[tuple[str, ...]] = ("greedy",)

    def _block(self, answers, rows, at) -> Float[np.ndarray, " m"]:
        alike = pairwise.to_greedy(answers, self.similarity, rows, at)
        return 1.0 - np.mean(alike, axis=1)
