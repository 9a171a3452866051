"""Model FLOPs of a step, and what the chips could do: together the model FLOPs utilisation."""

from collections.abc import Sequence
from typing import Any

import jax

from cascade_jax.chips import CHIPS
from cascade_jax.models import flops

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


def step_flops(run: Any) -> int:
    """Model FLOPs of one step of a TrainRun: the student's training, the teacher's forward pass.

    Whole rows count, as they are computed; what is computed again in the backward pass does not.
    """
    data = run.data
    lengths = data.input_length, data.target_length
    found = flops.training_flops(run.model, *lengths)
    if run.live_teacher is not None:
        found += flops.forward_flops(run.live_teacher, *lengths)
    return data.batch_size * found


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """What the devices can do in a second, in bf16; None where one is not in the table."""
    names = [_NAMES.get(device.device_kind) for device in devices]
    return None if None in names else sum(CHIPS[name].flops for name in names)
