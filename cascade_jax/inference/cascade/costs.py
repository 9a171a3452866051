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
    """FLOPs that live decoding spent, by the closed forms of `models/flops.py`.

    Args:
      generation: what was decoded.
      student, teacher: configs of the models.
      input_lengths: tokens of each row's input.
    """
    inputs = np.asarray(input_lengths).tolist()
    own = np.asarray(generation.student_tokens).tolist()
    read = np.asarray(generation.teacher_tokens).tolist()
    deferred = np.asarray(generation.deferred).tolist()
    rows = list(zip(inputs, own, read, deferred, strict=True))
    has_read = int(generation.calls) > 0
    return CascadeFlops(
        student=np.array([flops.live_flops(student, size, n, n) for size, n, _, _ in rows]),
        teacher=np.array(
            [
                flops.live_flops(teacher, size, n, calls) if calls else 0
                for size, _, n, calls in rows
            ]
        ),
        unused=np.array(
            [
                flops.prefill_flops(teacher, size) if has_read and not calls else 0
                for size, _, _, calls in rows
            ]
        ),
    )
