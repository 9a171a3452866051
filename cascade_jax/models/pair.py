"""The two models of a cascade."""

import dataclasses

from cascade_jax.models.families import ModelConfig


@dataclasses.dataclass(frozen=True)
class ModelPair:
    """A student (small, trained) and a teacher (large, frozen) that share one vocabulary.

    Raises:
      ValueError: if the vocabularies differ in size, so that no per-token loss can compare them.
    """

    student: ModelConfig
    teacher: ModelConfig

    def __post_init__(self):
        if self.student.vocab_size != self.teacher.vocab_size:
            raise ValueError(
                f"student and teacher must share one vocabulary: student.vocab_size = "
                f"{self.student.vocab_size}, teacher.vocab_size = {self.teacher.vocab_size}"
            )
