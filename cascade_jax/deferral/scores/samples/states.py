"""The score of the hidden states of sampled answers."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import checks
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.samples.base import SampleScore


@dataclasses.dataclass(frozen=True)
class EigenScore(SampleScore):
    """How many directions the samples' hidden states go: the log-volume that they span.

    ``r(x) = (1/n) * sum_k log(lambda_k + alpha)``, lambda_k the eigenvalues of the covariance of
    the n samples' states (`probes.SampleStates`). Equal samples have one that is not 0.

    Example: n = 2 and eigenvalues 0 and 4 give (log 0.001 + log 4.001) / 2 = -2.761.

    Attributes:
      alpha: added to the diagonal of the covariance, above 0; the paper's 0.001.

    Reference: Chen et al. 2024, INSIDE: LLMs' Internal States Retain the Power of Hallucination
    Detection, without its clipping of states.
    """

    alpha: float = 1e-3
    label: ClassVar[str] = "EigenScore"
    spends: ClassVar[tuple[str, ...]] = ("sample_flops", "sample_state_flops")

    def __post_init__(self):
        checks.positive("alpha", self.alpha)

    def lack(self, answers: AnswerTokens) -> str:
        """The error if there are no samples or no eigenvalues; "" otherwise."""
        if not answers.samples or answers.samples.state_eigenvalues is None:
            return (
                f"score {self.name!r} needs the column student_sample_state_eigenvalues, which is "
                "not there; `cascade-jax collect` with SAMPLES = 10 and PROBES = "
                "[@probes.SampleStates()] adds it"
            )
        return ""

    def _block(
        self, answers: AnswerTokens, rows: Int[np.ndarray, " m"], at: Int[np.ndarray, "m n"]
    ) -> Float[np.ndarray, " m"]:
        values = answers.samples.state_eigenvalues[at].astype(np.float64)
        is_bad = ~(np.isfinite(values) & (values >= 0))
        if is_bad.any():
            row = int(np.flatnonzero(is_bad.any(axis=1))[0])
            raise ValueError(
                f"{answers.describe(int(rows[row]))} has the eigenvalue {values[is_bad][0]} of its "
                "samples' states; must be finite and 0 or more"
            )
        return np.log(values + self.alpha).mean(axis=1)
