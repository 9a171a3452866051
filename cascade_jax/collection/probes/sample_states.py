"""How far apart the hidden states of sampled answers lie."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from cascade_jax import checks
from cascade_jax.collection.probes.base import STATES, PassProbe, Probe, Seen, check_layers
from cascade_jax.models.config import ModelConfig
from cascade_jax.models.probe import LAST


@dataclasses.dataclass(frozen=True)
class SampleStates(Probe):
    """Eigenvalues of the covariance of n sampled answers' hidden states, for `scores.EigenScore`.

    A sample's state h is that after a layer, at the place that predicts its last token. Their
    matrix is ``C_jk = sum_d (h_j - mean h_j)_d (h_k - mean h_k)_d``, the means over the D numbers
    of a state. Its eigenvalues, as many as samples, are all that the score needs of n * D numbers.
    Every sample is read once more.

    Attributes:
      layer: counted from 0, of a T5 of its decoder; None for ``n // 2`` of n.

    Reference: Chen et al. 2024, INSIDE: LLMs' Internal States Retain the Power of Hallucination
    Detection.
    """

    layer: int | None = None
    columns: ClassVar[tuple[str, ...]] = ("sample_state_eigenvalues", "sample_state_flops")

    def check(self, config: ModelConfig, top_k: int, samples: int) -> None:
        check_layers("SampleStates.layer", () if self.layer is None else (self.layer,), config)
        checks.require(samples >= 2, "SAMPLES", samples, "2 or more for SampleStates")


@dataclasses.dataclass(frozen=True)
class LastState(PassProbe):
    """The hidden state after a layer at the place that predicts an answer's last token.

    Attributes:
      layer: as in `SampleStates`.
    """

    layer: int | None = None
    columns: ClassVar[tuple[str, ...]] = ("last_state",)  # not of records
    reads: ClassVar[tuple[str, ...]] = (STATES,)

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        count = len(seen.states)
        layer = count // 2 if self.layer is None else self.layer
        return {"last_state": seen.states[layer, :, LAST]}


def eigenvalues(states: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
    """Those of C, rising, at least 0."""
    states = states.astype(np.float64)
    centred = states - states.mean(axis=1, keepdims=True)
    return np.maximum(np.linalg.eigvalsh(centred @ centred.T), 0.0)
