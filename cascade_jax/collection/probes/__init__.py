"""Probes: what `cascade-jax collect` measures of answers for scores, each with what it costs.

A gin file finds every probe here: `PROBES = [@probes.SelfCertainty()]`.
"""

from cascade_jax.collection.probes.base import PassProbe, Probe, Seen
from cascade_jax.collection.probes.pass_probes import (
    PreviousAttention,
    Relevance,
    SelfAttention,
    SelfCertainty,
    States,
)
from cascade_jax.collection.probes.probe_pass import check, measure
from cascade_jax.collection.probes.sample_states import SampleStates
from cascade_jax.collection.probes.surface_forms import SurfaceForms

__all__ = [
    "PassProbe", "PreviousAttention", "Probe", "Relevance", "SampleStates", "Seen",
    "SelfAttention", "SelfCertainty", "States", "SurfaceForms", "check", "measure",
]  # fmt: skip
