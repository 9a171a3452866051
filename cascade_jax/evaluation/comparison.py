"""Whether one cascade is better than another on the same examples, and how sure that is."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax.evaluation import bootstrap, curves


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference in quality, its paired bootstrap interval, and a p-value.

    Attributes:
      value: of the second minus the first; above 0 = the second is better.
      low, high: 95 % percentile interval.
      p_value: two-sided, of there being no difference (`bootstrap.p_value`); at least 1 / (B + 1).
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One cascade against another: quality at each reference rate and cost, and in area.

    Attributes:
      first: name of the one that is compared with.
      at_rate, at_cost: one for each reference; NaN at a cost below a small model's own.
      area: under quality over the deferral rate.
    """

    first: str
    at_rate: tuple[Difference, ...]
    at_cost: tuple[Difference, ...]
    area: Difference


def compare_resamples(
    first_name: str,
    pair: tuple[curves.Curve, curves.Curve],
    resamples: tuple[bootstrap.Resamples | None, bootstrap.Resamples | None],
    rates: Sequence[float],
    costs: Sequence[float],
) -> Comparison:
    """The second of a pair against the first, from curves and paired resamples.

    Args:
      first_name: what the first is called.
      pair: curves of both.
      resamples: of both, by the same draws, at the same rates and costs; None for no intervals.
      rates, costs: where the two are read off.
    """
    first, other = resamples

    def drawn(field):
        return None if first is None else (getattr(other, field) - getattr(first, field)).T

    def differences(read, points, field) -> tuple[Difference, ...]:
        values = [read(pair[1], point) - read(pair[0], point) for point in points]
        resampled = [None] * len(points) if first is None else drawn(field)
        return tuple(map(difference, values, resampled))

    return Comparison(
        first=first_name,
        at_rate=differences(curves.quality_at_rate, rates, "quality_at_rate"),
        at_cost=differences(curves.quality_at_cost, costs, "quality_at_cost"),
        area=difference(curves.area(pair[1]) - curves.area(pair[0]), drawn("area")),
    )


def difference(value: float, values: Float[np.ndarray, " B"] | None) -> Difference:
    """A difference with what its paired resamples say of it, if there are any."""
    if values is None:
        return Difference(value)
    return Difference(value, *bootstrap.interval(values), bootstrap.p_value(value, values))
