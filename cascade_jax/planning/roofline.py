"""The least time that a step can take on a chip, and which of its rates sets it."""

import dataclasses
from collections.abc import Sequence

from cascade_jax.chips import Chip
from cascade_jax.models import flops
from cascade_jax.models.families import ModelConfig
from cascade_jax.planning.hlo_walk import Collective
from cascade_jax.training.experiment import TrainRun

NETWORK_AXIS = "dcn_data"


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource is busy if nothing else ever waits; they may all overlap."""

    compute: float  # matmuls at the peak rate
    memory: float  # reads and writes of HBM
    interconnect: float  # exchanges inside a slice, over all links of a chip at once
    network: float  # exchanges between slices

    @property
    def seconds(self) -> float:
        """The longest of the four; no step is faster."""
        return max(dataclasses.astuple(self))

    @property
    def bound(self) -> str:
        """The name of the longest."""
        return max(dataclasses.asdict(self).items(), key=lambda pair: pair[1])[0]


def roofline(
    step_flops: float, moved: float, exchanges: Sequence[Collective], chip: Chip
) -> Roofline:
    """The bound for what one chip does in a step."""
    between = sum(each.bytes for each in exchanges if NETWORK_AXIS in each.axes)
    inside = sum(each.bytes for each in exchanges if NETWORK_AXIS not in each.axes)
    return Roofline(
        step_flops / chip.flops,
        moved / chip.memory_rate,
        inside / chip.link_rate,
        between / chip.network_rate,
    )


def recomputed_flops(run: TrainRun) -> float:
    """What `remat = "full"` adds: the student's layers once more, without the logits."""
    if run.model.remat != "full":
        return 0.0
    lengths = run.data.input_length, run.data.target_length
    logits = 2 * run.model.embed_dim * run.model.vocab_size * run.data.target_length
    return float(flops.forward_flops(run.model, *lengths) - logits) * run.data.batch_size


def answer_flops(model: ModelConfig, input_length: int, answer_length: int) -> float:
    """FLOPs of one answer in a batch: every token attends to all places of the cache."""
    token = flops.decode_flops(model, input_length, answer_length - 1)
    return float(flops.prefill_flops(model, input_length) + answer_length * token)
