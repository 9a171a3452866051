"""Ratio, the (sum, count) form of every metric, and the names of the metrics."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from cascade_jax import numerics

# Means over the counted target tokens of the global batch, unless stated otherwise.
LOSS = "loss"  # over what the loss's normaliser counts
CROSS_ENTROPY = "cross_entropy"  # nats, student against the label, for every loss variant
STUDENT_ACCURACY = "student_token_accuracy"
TEACHER_ACCURACY = "teacher_token_accuracy"
TEACHER_KL = "teacher_kl"  # KL(p_L || p_S) in nats at temperature 1, over the whole vocabulary
ENTROPY_RIGHT = "student_entropy_right"  # nats, mean over tokens that the student gets right
ENTROPY_WRONG = "student_entropy_wrong"
KEPT = "kept"  # share of tokens with alpha = 1
# Under the "either" rule these three add up to KEPT: who keeps the token.
RIGHT_BOTH = "right_both"
RIGHT_STUDENT_ONLY = "right_student_only"
RIGHT_TEACHER_ONLY = "right_teacher_only"
# exp(CROSS_ENTROPY), once the sums are merged.
PERPLEXITY = "perplexity"
# Per step.
GRADIENT_NORM = "gradient_norm"
LEARNING_RATE = "learning_rate"
TARGET_TOKENS = "target_tokens"
TOKENS_PER_SECOND = "target_tokens_per_second"
# Where the time goes, of the steps since the last line; see `training/clock.py`.
STEP_SECONDS = "step_seconds"  # a step, waiting for its data included
DATA_WAIT_SECONDS = "data_wait_seconds"  # a step's waiting for data
EVALUATION_SECONDS = "evaluation_seconds"  # in all
CHECKPOINT_SECONDS = "checkpoint_seconds"  # in all; the rest of a save is in the background
PRODUCTIVE_SECONDS = "productive_seconds"  # of all steps that count, since the run began
GOODPUT = "goodput"  # these as a share of the time since the run began
MODEL_FLOPS_PER_SECOND = "model_flops_per_second"  # of all devices
MODEL_FLOPS_UTILISATION = "model_flops_utilisation"  # as a share of what the chips can do


@flax.struct.dataclass
class Ratio:
    """A metric as (sum, count), so that shards, microbatches and steps merge exactly.

    Example: ``Ratio(3.0, 2.0).merge(Ratio(1.0, 2.0)).value() == 1.0``
    """

    numerator: Float[Array, ""]
    denominator: Float[Array, ""]

    def merge(self, other: "Ratio") -> "Ratio":
        return Ratio(self.numerator + other.numerator, self.denominator + other.denominator)

    def value(self) -> Float[Array, ""]:
        """numerator / denominator; 0 if nothing was counted, which `denominator` shows."""
        return numerics.safe_ratio(jnp.asarray(self.numerator), jnp.asarray(self.denominator))
