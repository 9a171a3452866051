"""Optimizers by name of the papers, built from optax."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from cascade_jax import checks
from cascade_jax.names import check_choice

SCHEDULES = ("constant", "linear", "cosine", "inverse_square_root")


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Adafactor with a warm-up, as in all 15 rows of the CAT paper's Table 1.

    Attributes:
      learning_rate: the peak. Updates are relative to each parameter's scale, so 1e-3 is a usual
        value for a model of any size.
      warmup_steps: linear ramp from 0 to the peak.
      schedule: what follows: "constant"; "linear" or "cosine" down to 0 at `decay_steps`;
        "inverse_square_root", peak * sqrt(warmup_steps / step) as in T5's pre-training.
      decay_steps: the step at which linear and cosine reach 0, warm-up included.
      weight_decay: decoupled, per step, not scaled by the learning rate (optax's convention).
      decay_rate: exponent of the second-moment decay (0.8 in the Adafactor paper).
      min_dim_size_to_factor: a matrix is factored only if both sides are at least this.
      multiply_by_parameter_scale: False makes the updates absolute, as LoRA needs, since one of its
        factors starts at 0.
    """

    learning_rate: float
    warmup_steps: int = 0
    schedule: str = "constant"
    decay_steps: int | None = None
    weight_decay: float | None = None
    decay_rate: float = 0.8
    min_dim_size_to_factor: int = 128
    multiply_by_parameter_scale: bool = True

    def __post_init__(self):
        checks.positive("learning_rate", self.learning_rate, most=100)  # 1 is a lot already
        checks.whole_number("warmup_steps", self.warmup_steps, 0)
        checks.whole_number("decay_steps", self.decay_steps, 1, optional=True)
        checks.whole_number("min_dim_size_to_factor", self.min_dim_size_to_factor, 1)
        checks.positive("decay_rate", self.decay_rate, most=1)
        checks.true_or_false("multiply_by_parameter_scale", self.multiply_by_parameter_scale)
        decay = self.weight_decay
        is_share = decay is None or (checks.is_number(decay) and 0 <= decay <= 1)
        checks.require(is_share, "weight_decay", decay, "a number from 0 to 1, or None")
        check_choice("schedule", self.schedule, SCHEDULES)
        decays = self.schedule in ("linear", "cosine")
        if decays and (self.decay_steps is None or self.decay_steps <= self.warmup_steps):
            raise ValueError(
                f"schedule {self.schedule!r} needs decay_steps above warmup_steps "
                f"({self.warmup_steps}); decay_steps is {self.decay_steps}. Train for more steps "
                "or lower warmup_steps (in the run files: WARMUP_STEPS)"
            )
        if self.schedule == "inverse_square_root" and self.warmup_steps == 0:
            raise ValueError("schedule 'inverse_square_root' needs warmup_steps of at least 1")

    def learning_rate_schedule(self, peak: Float[Array, ""] | None = None) -> optax.Schedule:
        """Learning rate as a function of the number of updates done.

        A peak that is an argument of a program stands for `learning_rate`: then runs that differ in
        it have one program.
        """
        peak, share = self.learning_rate if peak is None else peak, self._share_of_the_peak()
        return lambda step: peak * share(step)

    def _share_of_the_peak(self) -> optax.Schedule:
        peak, warmup = 1.0, self.warmup_steps
        if self.schedule == "constant":
            after = optax.constant_schedule(peak)
        elif self.schedule == "linear":
            after = optax.linear_schedule(peak, 0.0, self.decay_steps - warmup)
        elif self.schedule == "cosine":
            after = optax.cosine_decay_schedule(peak, self.decay_steps - warmup)
        else:
            # `step` counts from the end of the warm-up.
            def after(step):
                return peak * (warmup / jnp.maximum(step + warmup, warmup)) ** 0.5

        if warmup == 0:
            return after
        # The first update already moves: (step + 1) / warmup, the peak at step warmup - 1.
        ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
        return optax.join_schedules([ramp, after], [warmup])

    def build(self, peak: Float[Array, ""] | None = None) -> optax.GradientTransformation:
        """The optax transformation, clipped by update RMS 1; `peak` as in its schedule."""
        transforms = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dim_size_to_factor
            ),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_learning_rate(self.learning_rate_schedule(peak), flip_sign=False),
        ]
        if self.multiply_by_parameter_scale:
            transforms.append(_scale_by_parameter_rms(1e-3))
        if self.weight_decay is not None:
            transforms.append(optax.add_decayed_weights(self.weight_decay))
        return optax.chain(*transforms, optax.scale(-1.0))


def _scale_by_parameter_rms(least: float) -> optax.GradientTransformation:
    """`update * max(rms(parameter), least)`, as `optax.scale_by_param_block_rms`.

    That one can be differentiated at 0, for which it writes a copy of every parameter.
    """

    def scaled(update, parameter):
        return update * jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(parameter))), least)

    def update_fn(updates, state, params):
        return jax.tree.map(scaled, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)
