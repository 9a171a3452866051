"""Model FLOPs of a step and the peak FLOPs of the chips, for the model FLOPs utilisation."""

from collections.abc import Sequence

import jax

from cascade_jax.chips import CHIPS
from cascade_jax.models import flops
from cascade_jax.training.experiment import TrainRun

# JAX's device_kind -> the name in the table of chips.
_NAMES = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def step_flops(run: TrainRun) -> int:
    """Model FLOPs of one step: the student's training, the teacher's forward pass.

    Whole rows count, as they are computed; what is computed again in the backward pass does not.
    """
    data = run.data
    lengths = data.input_length, data.target_length
    example = flops.training_flops(run.model, *lengths)
    if run.live_teacher is not None:
        example += flops.forward_flops(run.live_teacher, *lengths)
    return data.batch_size * example


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Peak bf16 FLOPs a second of all devices; None if one is not in the table of chips."""
    names = [_NAMES.get(device.device_kind) for device in devices]
    return None if None in names else sum(CHIPS[name].flops for name in names)
