"""An effect over few seeds and many examples: its interval and p-values.

Model: the effect on seed k is ``x_k = mu + s_k + e + w_k``, where s_k is the seed's, e is what all
seeds share because they are tested on the same examples, and w_k what an example does on one seed.
The estimate of mu is the mean over K seeds. Its variance has two parts, each with an estimate:

- between: ``V_1 = S^2 / K``, S^2 the variance of the x_k, so of s and w, with K - 1 degrees of
  freedom;
- shared: ``V_2``, of e: the mean covariance of two seeds' effects over bootstrap draws of examples,
  the same draws for all seeds, so that w drops out; not below 0.

The interval at confidence 1 - a is ``mean ± sqrt(t^2 V_1 + z^2 V_2)``, t the quantile 1 - a / 2 of
Student's distribution with K - 1 degrees of freedom, z the normal one's. Where one part is alone it
is exact, and between it covers a little more than it says. A percentile bootstrap over seeds draws
from a handful of values and covers far too little: tests/benchmarks/claims_coverage.py.

Reference: Graybill and Wang 1980, Confidence Intervals on Nonnegative Linear Combinations of
  Variances (the sum of squared half-widths); Davison and Hinkley 1997, section 3.8.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.95
_STEPS = 80  # of a bisection
_LARGEST_Z = 37.0  # beyond it a normal p-value is 0 in float64


@dataclasses.dataclass(frozen=True)
class Effect:
    """A mean over seeds; NaN where it is not known.

    Attributes:
      value: the mean.
      between: V_1; NaN of one seed.
      shared: V_2; with one seed, of all that its examples do, NaN where these are not known.
      seeds: K.
    """

    value: float
    between: float
    shared: float
    seeds: int

    @property
    def interval(self) -> tuple[float, float]:
        """At 95 %; of one seed that of its examples alone, which says nothing of other seeds."""
        tail = (1 - CONFIDENCE) / 2
        half = self._half_width(stats.norm.isf(tail))
        return self.value - half, self.value + half

    def p_above(self, limit: float = 0.0) -> float:
        """One-sided p-value of "the true effect is at most this"; NaN of one seed."""
        return self._p_value(self.value - limit)

    def p_below(self, limit: float = 0.0) -> float:
        """One-sided p-value of "the true effect is at least this"; NaN of one seed."""
        return self._p_value(limit - self.value)

    def _half_width(self, z: float) -> float:
        """Of an interval that a normal effect leaves on one side with the chance P(Z > z)."""
        if self.seeds < 2:
            return z * math.sqrt(self.shared)
        t = _student(z, self.seeds)
        return math.sqrt(t * t * self.between + z * z * self.shared)

    def _p_value(self, distance: float) -> float:
        """The chance of an effect so far above a limit, where the true one is the limit."""
        if self.seeds < 2 or math.isnan(distance) or math.isnan(self.between + self.shared):
            return math.nan
        low, high = 0.0, _LARGEST_Z
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if self._half_width(middle) < abs(distance):
                low = middle
            else:
                high = middle
        p = float(stats.norm.sf(high))
        return p if distance > 0 else 1 - p


@functools.cache
def _student(z: float, seeds: int) -> float:
    """The quantile of Student's distribution where the normal one is z."""
    return float(stats.t.isf(stats.norm.sf(z), seeds - 1))


def over_seeds(values: Sequence[Float[np.ndarray, " B_plus_1"]]) -> Effect:
    """The effect of all seeds.

    Args:
      values: of each seed, the effect on its examples and then in B bootstrap draws of them, the
        same draws for all seeds; B may be 0 where the examples are not known.
    """
    observed = np.array([of_seed[0] for of_seed in values])
    draws = np.array([of_seed[1:] for of_seed in values])
    count = len(values)
    if not count or not (np.all(np.isfinite(observed)) and np.all(np.isfinite(draws))):
        return Effect(math.nan, math.nan, math.nan, count)
    between = float(np.var(observed, ddof=1)) / count if count > 1 else math.nan
    shared = 0.0 if count > 1 else math.nan
    if draws.shape[1] > 1:
        covariance = np.atleast_2d(np.cov(draws))
        if count == 1:
            shared = float(covariance[0, 0])
        else:
            pairs = np.sum(covariance) - np.trace(covariance)
            shared = max(0.0, float(pairs) / (count * (count - 1)))
    return Effect(float(np.mean(observed)), between, shared, count)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm: a family of them keeps the level where each is compared with it.

    NaN, a hypothesis that was not tested, stays NaN and does not count.

    Example: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    order = sorted(known, key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
