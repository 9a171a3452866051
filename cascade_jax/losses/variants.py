"""The loss variants: frozen settings, called on logits, giving sums to be divided once.

A variant never divides. It returns `LossSums`, which add up over microbatches and shards; the
training step divides the gradient of `loss_sum` by the total `count` once, so the result is that
of one big batch whatever the split.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cascade_jax import metrics, numerics
from cascade_jax.losses import alpha, terms

NORMALIZERS = ("tokens", "kept")


@flax.struct.dataclass
class LossSums:
    """Sums over the tokens of one microbatch.

    Attributes:
      loss_sum: sum of the per-token losses, weights applied.
      count: what the loss is divided by in the end; 0 gives loss and gradient 0.
      metrics: each metric as a Ratio, keyed by the constants of `cascade_jax.metrics`.
    """

    loss_sum: Float[Array, ""]
    count: Float[Array, ""]
    metrics: dict[str, metrics.Ratio]


@dataclasses.dataclass(frozen=True)
class Loss:
    """`alpha * (w * ce + (1 - w) * soft)` per target token; the variants below fix its switches.

    Attributes:
      label_weight: w, the weight of the hard label, in [0, 1] (others often weigh the soft term).
      alpha_rule: a rule of `losses/alpha.py`, or None when every token counts.
      normalizer: "tokens" divides by all counted target tokens, "kept" by those alpha keeps.

    Reference: CAT, equations 2, 3, 7 and 8. The papers do not state the normaliser.
    """

    label_weight: float = 1.0
    alpha_rule: str | None = None
    normalizer: str = "tokens"

    def __post_init__(self):
        if not 0.0 <= self.label_weight <= 1.0:
            raise ValueError(f"label_weight {self.label_weight} is not in [0, 1]")
        if self.alpha_rule is not None and self.alpha_rule not in alpha.RULES:
            raise ValueError(f"alpha_rule {self.alpha_rule!r} is not None or in {alpha.RULES}")
        if self.normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer {self.normalizer!r} is not one of {NORMALIZERS}")

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss itself depends on the teacher (its metrics may show it all the same)."""
        return self.label_weight < 1.0 or self.alpha_rule in ("either", "teacher")

    def __call__(
        self,
        student_logits: Float[Array, "*n V"],
        teacher_logits: Float[Array, "*n V"] | None,
        targets: Int[Array, "*n"],
        weights: Float[Array, "*n"],
    ) -> LossSums:
        """Loss sums and metrics of one microbatch.

        Args:
          student_logits: raw logits, any floating dtype.
          teacher_logits: the frozen teacher's logits on the same tokens; None for no teacher.
          targets: labels.
          weights: 1 for a counted target token, 0 for padding, whose logits may be anything.

        Raises:
          ValueError: if the variant needs a teacher and there is none.
        """
        if teacher_logits is None and self.needs_teacher:
            raise ValueError(f"{type(self).__name__} needs the teacher's logits, and got None")
        counted = weights > 0
        # Padding may hold NaN: replace the inputs, or the gradient of `where` would be NaN too.
        student_logits = jnp.where(counted[..., None], student_logits, 0)
        ce = terms.cross_entropy(student_logits, targets)
        student_ok = terms.is_correct(student_logits, targets)
        teacher_ok = None
        per_token = self.label_weight * ce
        if teacher_logits is not None:
            teacher_logits = jnp.where(counted[..., None], teacher_logits, 0)
            teacher_ok = terms.is_correct(teacher_logits, targets)
            if self.label_weight < 1.0:
                soft = terms.soft_cross_entropy(student_logits, teacher_logits)
                per_token = per_token + (1.0 - self.label_weight) * soft
        kept = jnp.ones_like(weights)
        if self.alpha_rule is not None:
            # A rule that does not look at the teacher gets a mask that adds nothing.
            other_ok = jnp.zeros_like(student_ok) if teacher_ok is None else teacher_ok
            kept = alpha.token_mask(self.alpha_rule, student_ok, other_ok)
        loss_sum = numerics.masked_sum(per_token, weights * kept)
        tokens = jnp.sum(weights)
        count = tokens if self.normalizer == "tokens" else jnp.sum(weights * kept)

        def share(values):
            return metrics.Ratio(numerics.masked_sum(values, weights), tokens)

        found = {
            metrics.LOSS: metrics.Ratio(loss_sum, count),
            metrics.CROSS_ENTROPY: share(ce),
            metrics.STUDENT_ACCURACY: share(student_ok.astype(jnp.float32)),
            metrics.KEPT: share(kept),
        }
        if teacher_ok is not None:
            found[metrics.TEACHER_ACCURACY] = share(teacher_ok.astype(jnp.float32))
            found[metrics.RIGHT_BOTH] = share(student_ok & teacher_ok)
            found[metrics.RIGHT_STUDENT_ONLY] = share(student_ok & ~teacher_ok)
            found[metrics.RIGHT_TEACHER_ONLY] = share(teacher_ok & ~student_ok)
        return LossSums(loss_sum, count, found)


@dataclasses.dataclass(frozen=True)
class Xent(Loss):
    """Cross-entropy with the label. Reference: CAT, equation 2."""


@dataclasses.dataclass(frozen=True)
class Dist(Loss):
    """Distillation, `w * ce + (1 - w) * soft`. Reference: CAT, equation 3 (w = 0.5)."""

    label_weight: float = 0.5


@dataclasses.dataclass(frozen=True)
class CATXent(Loss):
    """Cascade-aware cross-entropy, `alpha * ce`. Reference: CAT, equations 7 (w = 1) and 8."""

    alpha_rule: str | None = "either"


@dataclasses.dataclass(frozen=True)
class CATDist(Loss):
    """Cascade-aware distillation. Reference: CAT, equations 7 and 8 (w = 0.5)."""

    label_weight: float = 0.5
    alpha_rule: str | None = "either"
