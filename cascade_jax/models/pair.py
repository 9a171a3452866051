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
        small, large = self.student.vocab_size, self.teacher.vocab_size
        if small != large:
            sizes = f"student.vocab_size = {small}, teacher.vocab_size = {large}"
            raise ValueError(f"student and teacher must share one vocabulary: {sizes}")
