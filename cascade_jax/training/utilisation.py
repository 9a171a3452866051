"""Model FLOPs of a step, and what the chips could do: together the model FLOPs utilisation."""

from collections.abc import Sequence
from typing import Any

import jax

from cascade_jax.models import flops

# Peak bf16 FLOPs per second and device, by JAX's device_kind. Reference: the "System architecture"
# page of each chip in the Cloud TPU documentation.
_PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def step_flops(run: Any) -> int:
    """Model FLOPs of one step of a TrainRun: the student's training, the teacher's forward pass.

    Whole rows count, as they are computed; what is computed again in the backward pass does not.
    """
    data = run.data
    lengths = data.input_length, data.target_length
    found = flops.training_flops(run.model, *lengths)
    if run.teacher is not None:
        found += flops.forward_flops(run.teacher, *lengths)
    return data.batch_size * found


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """What the devices can do in a second, in bf16; None where one is not in the table."""
    peaks = [_PEAK.get(device.device_kind) for device in devices]
    return None if None in peaks else sum(peaks)
