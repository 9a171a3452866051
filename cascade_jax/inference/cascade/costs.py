"""FLOPs of live decoding, by model and row."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Int

from cascade_jax.inference.cascade.decode import CascadeGeneration
from cascade_jax.models import flops
from cascade_jax.models.families import ModelConfig


@dataclasses.dataclass(frozen=True)
class CascadeFlops:
    """Matmuls of live decoding, for each row; the padding of chunks is apart (`computed_tokens`).

    Attributes:
      student: of the small model.
      teacher: of the large model, for the rows that it served.
      unused: of the large model's reading of inputs that none of their row's tokens were deferred
        for: it reads the whole batch when the first row defers.
    """

    student: np.ndarray
    teacher: np.ndarray
    unused: np.ndarray


def cascade_flops(
    generation: CascadeGeneration,
    student: ModelConfig,
    teacher: ModelConfig,
    input_lengths: Sequence[int] | Int[Array, " B"],
) -> CascadeFlops:
    """FLOPs that live decoding spent, by the closed forms of `models/flops.py`."""
    counts = generation.student_tokens, generation.teacher_tokens, generation.deferred
    columns = (np.asarray(column).tolist() for column in (input_lengths, *counts))
    has_read = int(generation.calls) > 0
    spent = []
    for size, own, read, deferred in zip(*columns, strict=True):
        large = flops.live_flops(teacher, size, read, deferred) if deferred else 0
        unused = flops.prefill_flops(teacher, size) if has_read and not deferred else 0
        spent.append((flops.live_flops(student, size, own, own), large, unused))
    return CascadeFlops(*np.array(spent).reshape(-1, 3).T)
