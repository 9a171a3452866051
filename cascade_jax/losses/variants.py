"""The loss variants: frozen settings that say what each token's loss is made of.

Every variant is `hard * ce + soft * divergence + uniform * kl_uniform + kept * z_loss * log(Z)^2`
per token; its `coefficients` are constants for the gradient. The plain head (`plain.py`) computes
that from logits and leaves the gradient to JAX; the fused head (`fused.py`) computes it from hidden
states with the gradients in closed form. Both give `LossSums`, which are divided once.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cascade_jax.losses import alpha, plain, schedules, teachers
from cascade_jax.losses.schedules import Scheduled
from cascade_jax.losses.sums import LossSums
from cascade_jax.names import check_choice

NORMALIZERS = ("tokens", "kept")
DIVERGENCES = ("cross_entropy", "forward_kl", "reverse_kl", "jensen_shannon")
DIRECTIONS = ("to_uniform", "from_uniform")
LABELS = ("data", "teacher")


class Coefficients(NamedTuple):
    """Of each token, float32; a term that the variant does not have is None.

    Attributes:
      kept: alpha, 0 or 1.
      hard, soft, uniform: of the terms in the head of this file; alpha, w or a, and T^2 are
        applied, the weights of tokens are not.
    """

    kept: Float[Array, "*n"]
    hard: Float[Array, "*n"]
    soft: Float[Array, "*n"] | None = None
    uniform: Float[Array, "*n"] | None = None


@dataclasses.dataclass(frozen=True)
class Loss:
    """What all variants have in common; use one of those below.

    Attributes:
      normalizer: "tokens" divides by all counted target tokens, "kept" by those alpha keeps. The
        papers do not state it.
      label_smoothing: in [0, 1); see `terms.cross_entropy`.
      z_loss: at least 0; see `terms.cross_entropy`. It counts once on each kept token.
    """

    normalizer: str = "tokens"
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    alpha_rule: ClassVar[str | None] = None  # a rule of alpha.py; None keeps every token
    labels: ClassVar[str] = "data"  # what the hard label is; Gatekeeper has a choice

    def __post_init__(self):
        check_choice("normalizer", self.normalizer, NORMALIZERS)
        for name, high in (("label_smoothing", 1.0), ("z_loss", float("inf"))):
            schedules.check_fixed(name, getattr(self, name))
            schedules.check_range(name, getattr(self, name), 0.0, high)
        if self.label_smoothing == 1.0:
            raise ValueError("label_smoothing 1.0 is not in [0.0, 1.0)")

    @property
    def teacher_need(self) -> str:
        """What the loss must know of the teacher, from the least to the most.

        "nothing", "correctness" (is its argmax the label?), "most likely token", "distribution".
        """
        return "correctness" if self.alpha_rule in ("either", "teacher") else "nothing"

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss itself depends on the teacher (its metrics may show it all the same)."""
        return self.teacher_need != "nothing"

    def kept(
        self, student_ok: Bool[Array, "*n"], teacher_ok: Bool[Array, "*n"] | None
    ) -> Float[Array, "*n"]:
        """alpha of each token."""
        if self.alpha_rule is None:
            return jnp.ones(student_ok.shape, jnp.float32)
        # A rule that does not look at the teacher gets a mask that adds nothing.
        teacher_ok = jnp.zeros_like(student_ok) if teacher_ok is None else teacher_ok
        return alpha.token_mask(self.alpha_rule, student_ok, teacher_ok)

    def coefficients(
        self,
        student_ok: Bool[Array, "*n"],
        teacher_ok: Bool[Array, "*n"] | None,
        step: Int[Array, ""] | None,
    ) -> Coefficients:
        """Coefficients of the tokens, from who is right and the step of the schedules."""
        kept = self.kept(student_ok, teacher_ok)
        return Coefficients(kept, kept)

    def __call__(
        self,
        student_logits: Float[Array, "*n V"],
        teacher: teachers.Teacher | None,
        targets: Int[Array, "*n"],
        weights: Float[Array, "*n"],
        *,
        step: Int[Array, ""] | None = None,
        every_metric: bool = True,
    ) -> LossSums:
        """Loss sums and metrics of one microbatch by the plain head.

        Args:
          student_logits: raw logits, any floating dtype.
          teacher: the frozen teacher's logits on the same tokens, or facts of `teachers.py`; None
            for no teacher.
          targets: labels.
          weights: 1 for a counted target token, 0 for padding, whose logits may be anything; other
            numbers above 0 weigh the token's loss.
          step: for schedules.
          every_metric: also those that the loss has no need for and that cost time.

        Raises:
          ValueError: if shapes, dtypes or vocabularies do not fit, a counted target is outside the
            vocabulary, or the teacher's form lacks what the variant needs.
        """
        return plain.loss_sums(
            self, student_logits, teacher, targets, weights, step=step, every_metric=every_metric
        )


@dataclasses.dataclass(frozen=True)
class Xent(Loss):
    """Cross-entropy with the label, `ce`. Reference: CAT, equation 2."""


@dataclasses.dataclass(frozen=True)
class Dist(Loss):
    """Distillation, `w * ce + (1 - w) * T^2 * D(p_L, p_S; T)`.

    Attributes:
      label_weight: w, the weight of the hard label, in [0, 1], or a schedule (others often weigh
        the soft term).
      temperature: T above 0, or a schedule; it divides the logits of both models in the soft term,
        and the factor T^2 keeps the size of its gradient.
      divergence: D. "cross_entropy" is the papers'; "forward_kl" is it less the teacher's entropy,
        with the same gradient; "reverse_kl"; "jensen_shannon" with `beta`.
      beta: in (0, 1), of "jensen_shannon".

    Reference: CAT, equation 3 (w = 0.5, T = 1); Hinton et al. 2015 for T; Agarwal et al. 2024 for
    the divergences.
    """

    label_weight: Scheduled = 0.5
    temperature: Scheduled = 1.0
    divergence: str = "cross_entropy"
    beta: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        schedules.check_range("label_weight", self.label_weight, 0.0, 1.0)
        schedules.check_range("temperature", self.temperature, 0.0, float("inf"), open_low=True)
        check_choice("divergence", self.divergence, DIVERGENCES)
        if not isinstance(self.beta, int | float) or not 0.0 < self.beta < 1.0:
            raise ValueError(
                f"beta {self.beta!r} is not in (0, 1); its ends are divergence='forward_kl' and "
                "'reverse_kl'"
            )

    @property
    def teacher_need(self) -> str:
        return super().teacher_need if self.label_weight == 1.0 else "distribution"

    def coefficients(self, student_ok, teacher_ok, step) -> Coefficients:
        kept = self.kept(student_ok, teacher_ok)
        if self.label_weight == 1.0:
            return Coefficients(kept, kept)
        w = schedules.value_at(self.label_weight, step)
        temperature = schedules.value_at(self.temperature, step)
        return Coefficients(kept, kept * w, kept * ((1.0 - w) * temperature * temperature))


@dataclasses.dataclass(frozen=True)
class CATXent(Xent):
    """`alpha * ce`, alpha: either model is right. Reference: CAT, equations 7 (w = 1) and 8."""

    alpha_rule: ClassVar[str | None] = "either"


@dataclasses.dataclass(frozen=True)
class CATXentL(Xent):
    """`alpha * ce`, alpha: the large model is right. Reference: CAT, equation 11."""

    alpha_rule: ClassVar[str | None] = "teacher"


@dataclasses.dataclass(frozen=True)
class CATXentS(Xent):
    """`alpha * ce`, alpha: the small model is right. Reference: CAT, equation 12."""

    alpha_rule: ClassVar[str | None] = "student"


@dataclasses.dataclass(frozen=True)
class CATDist(Dist):
    """alpha times Dist's loss, alpha: either model is right. Reference: CAT, equations 7 and 8."""

    alpha_rule: ClassVar[str | None] = "either"


@dataclasses.dataclass(frozen=True)
class CATDistL(Dist):
    """alpha times Dist's loss, alpha: the large model is right. Reference: CAT, equation 13."""

    alpha_rule: ClassVar[str | None] = "teacher"


@dataclasses.dataclass(frozen=True)
class CATDistS(Dist):
    """alpha times Dist's loss, alpha: the small model is right. Reference: CAT, equation 14."""

    alpha_rule: ClassVar[str | None] = "student"


@dataclasses.dataclass(frozen=True)
class Gatekeeper(Loss):
    """Confident where right, uniform where wrong: `a * ok * ce + (1 - a) * (1 - ok) * KL`.

    ok: no token has a larger student logit than the label.

    Attributes:
      correct_weight: a (the paper's alpha) in [0, 1], or a schedule; near 1 it keeps the task's
        quality, near 0 it lowers the confidence of wrong answers.
      direction: of the KL: "to_uniform" is KL(p_S || U) = log V - H(p_S), "from_uniform" is
        KL(U || p_S).
      labels: "data", or "teacher" for the teacher's most likely token (of several, the smallest id)
        in the place of the label.

    Reference: Gatekeeper, its loss for tokens; the direction of the KL is not certain there.
    """

    correct_weight: Scheduled = 0.5
    direction: str = "to_uniform"
    labels: str = "data"

    def __post_init__(self):
        super().__post_init__()
        schedules.check_range("correct_weight", self.correct_weight, 0.0, 1.0)
        check_choice("direction", self.direction, DIRECTIONS)
        check_choice("labels", self.labels, LABELS)

    @property
    def teacher_need(self) -> str:
        return "most likely token" if self.labels == "teacher" else "nothing"

    def coefficients(self, student_ok, teacher_ok, step) -> Coefficients:
        a = schedules.value_at(self.correct_weight, step)
        right = student_ok.astype(jnp.float32)
        kept = self.kept(student_ok, teacher_ok)
        return Coefficients(kept, right * a, uniform=(1.0 - right) * (1.0 - a))
