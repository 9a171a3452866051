"""Deferral curves: quality and cost of a cascade at every deferral rate, and the lines around them.

Conventions: a score is higher where there is more reason to defer; an example is deferred iff its
score > tau, compared as `deferral/policy.py` does; the small model is always paid; costs are those
of `costs.py`, one number for all examples or one for each.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from cascade_jax import checks
from cascade_jax.deferral import policy

# Below this a difference between two mean qualities is rounding, and ratios of it mean nothing.
_NO_DIFFERENCE = 1e-12
# Corpus figures of K summed statistics, many at once: `Bleu().scores`.
ScoresFn = Callable[[np.ndarray], np.ndarray]
# Of one model: the same for all examples, or one for each.
Cost = float | int | Real[np.ndarray, " n"]
Means = float | Float[np.ndarray, " B"]  # of one sample, or of each resample


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A cascade of n examples with k = 0..n of them deferred, those with the highest scores first.

    Where scores are tied no threshold separates them: the values are then the expectation over a
    random order among the tied, which is linear inside such a group.

    Example: scores [0.9 0.1], student quality [0 1], teacher quality [1 1]: ``rate = [0 0.5 1]``,
    ``quality = [0.5 1 1]``, ``thresholds = [0.9 0.1 -inf]``.

    Attributes:
      rate: share deferred, k / n.
      quality: mean quality of the cascade, = a1 + a2.
      cost: mean over the examples, C_S + rate * C_L; where the teacher's answers cost differently,
        those of the deferred, and then no longer linear in the rate.
      thresholds: the highest score that is kept, as it is compared; -inf for k = n. It defers
        exactly k examples where `is_realised`, else only those above the tied group.
      a1: part of the quality that the student's kept answers give: their sum over n, falling to 0.
      a2: part that the teacher's answers to deferred examples give. Both are NaN for a corpus
        metric, which is no sum of parts.
      is_realised: True where some threshold defers exactly k examples.
    """

    rate: Float[np.ndarray, " n_plus_1"]
    quality: Float[np.ndarray, " n_plus_1"]
    cost: Float[np.ndarray, " n_plus_1"]
    thresholds: Float[np.ndarray, " n_plus_1"]
    a1: Float[np.ndarray, " n_plus_1"]
    a2: Float[np.ndarray, " n_plus_1"]
    is_realised: Bool[np.ndarray, " n_plus_1"]

    @property
    def student_quality(self) -> float:
        return float(self.quality[0])

    @property
    def teacher_quality(self) -> float:
        return float(self.quality[-1])

    def thin(self, max_points: int) -> "Curve":
        """At most `max_points` points at even distances, both ends among them."""
        checks.whole_number("max_points", max_points, 2)
        last = len(self.rate) - 1
        kept = np.unique(np.round(np.linspace(0, last, min(max_points, last + 1))).astype(int))
        fields = dataclasses.fields(self)
        return Curve(**{field.name: getattr(self, field.name)[kept] for field in fields})


def deferral_order(
    score: Real[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " groups"]]:
    """Examples, the first deferred first, and how many are deferred after each tied group.

    Scores are tied where `policy.comparable` makes them equal.

    Example: scores [1 3 3] give the order [1 2 0] and the group ends [2 3].

    Raises:
      ValueError: if there is no example, or a score is NaN or no finite float32.
    """
    compared = policy.comparable(score)
    if compared.size == 0:
        raise ValueError("a curve needs at least one example, got none")
    bad = np.flatnonzero(~np.isfinite(compared))
    if len(bad):
        raise ValueError(
            f"the deferral score of row {bad[0]} is {score[bad[0]]} ({len(bad)} such): scores must "
            "be finite as float32, NaN is never 'certain'"
        )
    order = np.argsort(-compared)
    ordered = compared[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(compared))
    if len(ends) < len(compared):  # rows of a tied group in their order, whatever the processor
        order = np.argsort(-compared, kind="stable")
    return order, ends


def deferral_curve(
    score: Real[np.ndarray, " n"],
    student_quality: Real[np.ndarray, " n"],
    teacher_quality: Real[np.ndarray, " n"],
    student_cost: Cost,
    teacher_cost: Cost,
) -> Curve:
    """Quality and cost at every deferral rate.

    ``quality(tau) = E[M_S * 1[r <= tau]] + E[M_L * 1[r > tau]]``,
    ``cost(tau) = E[C_S] + E[C_L * 1[r > tau]]``.

    Args:
      score: one per example, higher = defer first.
      student_quality, teacher_quality: per-example quality of both answers, higher is better.
      student_cost, teacher_cost: of each model's answers, 0 or more.

    Raises:
      ValueError: if there is no example, a score or quality is not finite, or lengths differ.

    Reference: Cascade-Aware Training of Language Models, equations 4, 6 and 9 (there r >= tau).
    """
    order, ends = deferral_order(score)
    n = len(order)
    costs = student_cost, teacher_cost
    _check_costs(*costs, n)
    for name, values in (("student", student_quality), ("teacher", teacher_quality)):
        if len(values) != n:
            raise ValueError(f"{n} scores, but {len(values)} values of {name} quality")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name} quality must be finite")
    student = summed_along(student_quality, order, ends)
    teacher = summed_along(teacher_quality, order, ends)
    a1, a2 = (student[-1] - student) / n, teacher / n
    return Curve(quality=a1 + a2, a1=a1, a2=a2, **_axes(score, order, ends, costs))


def summed_along(
    values: Real[np.ndarray, " n"], order: Int[np.ndarray, " n"], ends: Int[np.ndarray, " groups"]
) -> Float[np.ndarray, " n_plus_1"]:
    """Sums over the first k of an order, linear inside a tied group: means over all its orders."""
    sums = np.append(0.0, np.cumsum(np.asarray(values, dtype=np.float64)[order]))
    if len(ends) == len(order):
        return sums
    nodes = np.append(0, ends)
    return np.interp(np.arange(len(sums)), nodes, sums[nodes])


def _axes(
    score: Real[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    ends: Int[np.ndarray, " groups"],
    costs: tuple[Cost, Cost],
) -> dict[str, np.ndarray]:
    """What a curve has beside its quality: rates, costs, thresholds, and which are realised."""
    n = len(order)
    rate = np.arange(n + 1) / n
    student, teacher = costs
    if is_one_cost(teacher):
        cost = mean_cost(student) + rate * mean_cost(teacher)
    else:
        cost = mean_cost(student) + summed_along(teacher, order, ends) / n
    is_realised = np.zeros(n + 1, bool)
    is_realised[0] = is_realised[ends] = True
    thresholds = np.append(policy.comparable(score)[order].astype(np.float64), -np.inf)
    return {"rate": rate, "cost": cost, "thresholds": thresholds, "is_realised": is_realised}


def _check_costs(student: Cost, teacher: Cost, n: int) -> None:
    for name, cost in (("student", student), ("teacher", teacher)):
        if np.ndim(cost) and len(cost) != n:
            raise ValueError(f"{n} scores, but {len(cost)} values of {name} cost")
        if not (np.all(np.isfinite(cost)) and np.all(np.asarray(cost) >= 0)):
            raise ValueError(f"{name} cost must be finite and 0 or more")


def is_one_cost(cost: Cost) -> bool:
    """Whether all examples cost the same."""
    return np.ndim(cost) == 0 or bool(np.all(cost == cost[0]))


def mean_cost(cost: Cost) -> float:
    """The mean; exactly the one value where all are the same."""
    return float(np.ravel(cost)[0] if is_one_cost(cost) else np.mean(cost))


def added(cost: Cost, more: Cost) -> Cost:
    """The sum; the first as it is where nothing is added."""
    return cost if np.ndim(more) == 0 and more == 0 else np.add(cost, more)


def corpus_curve(
    score: Real[np.ndarray, " n"],
    student_statistics: Int[np.ndarray, "n K"],
    teacher_statistics: Int[np.ndarray, "n K"],
    scores_fn: ScoresFn,
    student_cost: Cost,
    teacher_cost: Cost,
) -> Curve:
    """A corpus metric, such as BLEU, of the cascade's answers at every deferral rate.

    Exact at every realised point: statistics are added along the deferral order,
    ``sum_i S_i + sum_{i deferred} (T_i - S_i)``, and scored. Where scores are tied no threshold
    separates them, and the curve is straight between the realised points on both sides, which is
    not quite the expectation over their orders.

    Args:
      score, student_cost, teacher_cost: as in `deferral_curve`.
      student_statistics, teacher_statistics: additive counts of both answers.
      scores_fn: corpus figures of sums [points, K].

    Raises:
      ValueError: if there is no example, a score is not finite, or lengths differ.
    """
    order, ends = deferral_order(score)
    n = len(order)
    _check_costs(student_cost, teacher_cost, n)
    for name, counts in (("student", student_statistics), ("teacher", teacher_statistics)):
        if len(counts) != n:
            raise ValueError(f"{n} scores, but {len(counts)} rows of {name} statistics")
    nodes = np.append(0, ends)
    gained = np.cumsum((teacher_statistics - student_statistics)[order], axis=0)[ends - 1]
    base = np.sum(student_statistics, axis=0)
    at_nodes = scores_fn(np.vstack([base, base + gained]))
    return Curve(
        quality=np.interp(np.arange(n + 1), nodes, at_nodes),
        a1=np.full(n + 1, np.nan),
        a2=np.full(n + 1, np.nan),
        **_axes(score, order, ends, (student_cost, teacher_cost)),
    )


def corpus_gain(
    student_statistics: Int[np.ndarray, "n K"],
    teacher_statistics: Int[np.ndarray, "n K"],
    scores_fn: ScoresFn,
) -> Float[np.ndarray, " n"]:
    """What deferring each example adds to a corpus metric, to first order.

    ``sum_k dscore/dsum_k * (T_ik - S_ik)``, with the slopes at the middle between both models'
    sums. By the gain of each answer's own figure, sentence BLEU say, short answers would come
    first, which hardly change the corpus figure.
    """
    sums = np.sum(student_statistics, axis=0), np.sum(teacher_statistics, axis=0)
    middle = (sums[0] + sums[1]) / 2
    step = np.diag(np.minimum(0.5, middle))  # no sum below 0
    width = 2 * np.diag(step)
    rise = scores_fn(middle + step) - scores_fn(middle - step)
    slopes = np.where(width > 0, rise / np.where(width > 0, width, 1.0), 0.0)
    return (teacher_statistics - student_statistics) @ slopes


def corpus_random(
    rate: Float[np.ndarray, " points"],
    student_sums: Real[np.ndarray, "*rows K"],
    teacher_sums: Real[np.ndarray, "*rows K"],
    scores_fn: ScoresFn,
) -> Float[np.ndarray, "*rows points"]:
    """A corpus metric of deferring at random: the figure of the expected statistics.

    ``score((1 - r) * S + r * T)``, where S and T are the sums of all examples. Nearly what random
    draws have on average, and more nearly so the more examples there are; for a mean it is
    `random_quality`. Not quite straight where the two models write at different lengths.
    """
    share = rate[:, None]
    return scores_fn((1 - share) * student_sums[..., None, :] + share * teacher_sums[..., None, :])


def random_quality(
    rate: Float[np.ndarray, " points"], student_quality: float, teacher_quality: float
) -> Float[np.ndarray, " points"]:
    """Expected quality of deferring at random, ``p_s + r * (p_l - p_s)``.

    Reference: Gatekeeper, the random line of its deferral-performance metric.
    """
    return student_quality + rate * (teacher_quality - student_quality)


def ideal_quality(
    rate: Float[np.ndarray, " points"], student_quality: float, teacher_quality: float
) -> Float[np.ndarray, " points"]:
    """Quality of deferring the student's errors first, if the teacher has right what it has right.

    ``p_s + r / (1 - p_s) * (p_l - p_s)`` for ``r <= 1 - p_s``, else ``p_l``. Meant for 0/1 quality.
    Where the teacher errs on examples that the student has right, the oracle lies above it.

    Reference: Gatekeeper, the ideal line of its deferral-performance metric.
    """
    error = 1.0 - student_quality
    if error <= 0:
        return np.where(rate > 0, teacher_quality, student_quality)
    return student_quality + np.minimum(rate / error, 1.0) * (teacher_quality - student_quality)


def random_area(student_quality: Means, teacher_quality: Means) -> Means:
    """Area under `random_quality` over rates 0 to 1."""
    return (student_quality + teacher_quality) / 2


def ideal_area(student_quality: Means, teacher_quality: Means) -> Means:
    """Area under `ideal_quality` over rates 0 to 1: a trapezoid up to 1 - p_s, then level."""
    error = 1.0 - student_quality
    return error * (student_quality + teacher_quality) / 2 + (1.0 - error) * teacher_quality


def area(curve: Curve) -> float:
    """Area under quality over the deferral rate: the mean quality at a rate drawn evenly."""
    return float(np.trapezoid(curve.quality, curve.rate))


def deferral_performance(area: float, random_area: float, best_area: float) -> float:
    """``s_d = (area - random) / (best - random)``: 0 is a random score, 1 the best line.

    The best area is `ideal_area`, or the oracle's; only with the second is s_d at most 1. NaN where
    the best line is not above the random one (there is nothing to gain).

    Reference: Gatekeeper, deferral performance s_d.
    """
    room = best_area - random_area
    return (area - random_area) / room if room > _NO_DIFFERENCE else math.nan


def quality_at_rate(curve: Curve, rate: float) -> float:
    """Quality at a deferral rate in [0, 1], linear between two points."""
    checks.require(0 <= rate <= 1, "rate", rate, "in [0, 1]")
    return float(np.interp(rate, curve.rate, curve.quality))


def quality_at_cost(curve: Curve, cost: float) -> float:
    """Quality when at most `cost` is spent on average, deferring as much as that allows.

    NaN below the small model's cost; above the cost of deferring all, the quality of that.
    """
    if cost < curve.cost[0]:
        return math.nan
    return float(np.interp(cost, curve.cost, curve.quality))


def rate_at_quality(curve: Curve, quality: float) -> float:
    """Smallest deferral rate with at least a quality, linear between points; NaN if none has it."""
    reached = curve.quality >= quality - _NO_DIFFERENCE
    if not reached.any():
        return math.nan
    k = int(np.argmax(reached))
    if k == 0:
        return 0.0
    below, above = curve.quality[k - 1], curve.quality[k]
    share = min((quality - below) / (above - below), 1.0)
    return float(curve.rate[k - 1] + share * (curve.rate[k] - curve.rate[k - 1]))


def cost_at_quality(curve: Curve, quality: float) -> float:
    """Smallest cost with at least a quality; NaN if none has it."""
    return float(np.interp(rate_at_quality(curve, quality), curve.rate, curve.cost))
