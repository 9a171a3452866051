"""Loss weights that change over the training steps."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cascade_jax import checks


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    """A piecewise linear schedule through some points, constant after the last one.

    Example: ``PiecewiseLinear(steps=(0, 1000), values=(1.0, 0.5))`` is 0.75 at step 500.

    Raises:
      ValueError: if there are no points, or they do not pair up or increase.
    """

    steps: Sequence[int]  # increasing step numbers; before the first its value holds
    values: Sequence[float]  # one for each of them

    def __post_init__(self):
        # Tuples, so that a loss can be hashed whatever sequence a config file gave.
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "values", tuple(self.values))
        points = f"PiecewiseLinear has steps {self.steps} and values {self.values}"
        for number in (*self.steps, *self.values):
            if not checks.is_number(number):
                raise ValueError(f"{points}; {number!r} is not a finite number")
        if not self.steps or len(self.steps) != len(self.values):
            raise ValueError(f"{points}; there must be one value for each of at least one step")
        if any(b <= a for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps {self.steps} of PiecewiseLinear must increase")

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The value at a step, in float32."""
        return jnp.interp(*(jnp.asarray(x, jnp.float32) for x in (step, self.steps, self.values)))


Scheduled = float | PiecewiseLinear


def value_at(setting: Scheduled, step: Int[Array, ""] | None) -> float | Float[Array, ""]:
    """The value of a setting at a step; a fixed one needs no step."""
    if not isinstance(setting, PiecewiseLinear):
        return setting
    if step is None:
        raise ValueError(f"{setting} needs the training step, and got None; give step=...")
    return setting(step)


def check_fixed(name: str, setting: Scheduled) -> None:
    """Refuses a schedule for a setting that cannot have one."""
    if isinstance(setting, PiecewiseLinear):
        raise ValueError(f"{name} {setting} must be a number; it cannot follow a schedule")


def check_range(name: str, setting: Scheduled, low: float, high: float, *, open_low=False) -> None:
    """Refuses a setting, or a schedule with a value, outside [low, high] (or (low, high])."""
    values = setting.values if isinstance(setting, PiecewiseLinear) else (setting,)
    for value in values:
        if not checks.is_number(value) or not low <= value <= high or (open_low and value == low):
            bracket = "(" if open_low else "["
            above = f"{high}]" if math.isfinite(high) else "inf)"
            raise ValueError(f"{name} {checks.shown(setting)} is not in {bracket}{low}, {above}")
