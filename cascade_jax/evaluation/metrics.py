"""Summaries of cascades laid side by side: one Panel per mixture or task, one row per cascade."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from cascade_jax.evaluation import bootstrap, curves

REFERENCE_RATES = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval; NaN = undefined or never reached, inf = an open end."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade:
    """What a summary needs of one cascade, for the n examples that all of them share."""

    score: Float[np.ndarray, " n"]
    student_quality: Float[np.ndarray, " n"]
    teacher_quality: Float[np.ndarray, " n"]
    student_flops_per_token: float
    teacher_flops_per_token: float

    def take(self, rows: np.ndarray) -> "Cascade":
        """The cascade on some of its examples."""
        return dataclasses.replace(
            self,
            score=self.score[rows],
            student_quality=self.student_quality[rows],
            teacher_quality=self.teacher_quality[rows],
        )


@dataclasses.dataclass(frozen=True)
class References:
    """Where curves are read off: the same points for all cascades of a panel.

    Attributes:
      rates: deferral rates.
      costs: FLOPs per token, the costs of those rates for the dearest student.
      qualities: by label: halfway from the best student to the teacher, and 99 % of the teacher.
    """

    rates: tuple[float, ...]
    costs: tuple[float, ...]
    qualities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class CascadeSummary:
    """The figures of one cascade.

    Attributes:
      num_examples: n.
      student_quality, teacher_quality: the two ends of the curve.
      area: under quality over the deferral rate.
      area_minus_first: area minus the first cascade's, with a paired interval.
      random_area, ideal_area, oracle_area: of the lines that the area is judged by.
      s_d_ideal, s_d_oracle: share of the room above random that the score wins.
      quality_at_rate, quality_at_cost: one for each reference.
      rate_at_quality, cost_at_quality: smallest that reach each reference quality, by label.
      auroc: chance that an error of the student has a higher score than a right answer; NaN for
        graded quality or without both kinds.
      student_better_share: share of examples where the small model is better than the large one
        (for 0/1 quality: small right, large wrong); the ideal line takes it to be 0.
    """

    num_examples: int
    student_quality: Estimate
    teacher_quality: Estimate
    area: Estimate
    area_minus_first: Estimate
    random_area: float
    ideal_area: float
    oracle_area: float
    s_d_ideal: Estimate
    s_d_oracle: Estimate
    quality_at_rate: tuple[Estimate, ...]
    quality_at_cost: tuple[Estimate, ...]
    rate_at_quality: dict[str, Estimate]
    cost_at_quality: dict[str, Estimate]
    auroc: float
    student_better_share: float


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """Cascades side by side on one set of examples: what one plot and one table show.

    Attributes:
      title: mixture or task.
      metric: name of the per-example quality; several are joined by ", ".
      references: where the curves were read off.
      curves, oracles, summaries: by cascade name, in the order given.
    """

    title: str
    metric: str
    references: References
    curves: dict[str, curves.Curve]
    oracles: dict[str, curves.Curve]
    summaries: dict[str, CascadeSummary]

    @property
    def num_examples(self) -> int:
        return next(iter(self.summaries.values())).num_examples


def auroc(score: Real[np.ndarray, " n"], is_error: Bool[np.ndarray, " n"]) -> float:
    """Chance that a random error has a higher score than a random right answer, ties counting half.

    Returns:
      NaN when there are only errors or only right answers.

    Reference: Gatekeeper, AUROC; computed as the Mann-Whitney statistic from mid-ranks.
    """
    errors = int(np.sum(is_error))
    rights = len(is_error) - errors
    if errors == 0 or rights == 0:
        return math.nan
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = float(np.sum(mid_ranks[group][is_error]))
    return (rank_sum - errors * (errors + 1) / 2) / (errors * rights)


def references(cascades: Mapping[str, Cascade]) -> References:
    """The reference points that all given cascades are read off at."""
    teacher = max(float(np.mean(c.teacher_quality)) for c in cascades.values())
    best_student = max(float(np.mean(c.student_quality)) for c in cascades.values())
    dearest = max(c.student_flops_per_token for c in cascades.values())
    teacher_cost = max(c.teacher_flops_per_token for c in cascades.values())
    return References(
        rates=REFERENCE_RATES,
        costs=tuple(dearest + rate * teacher_cost for rate in REFERENCE_RATES),
        qualities={"halfway": (best_student + teacher) / 2, "99 % of large": 0.99 * teacher},
    )


def compare(
    title: str,
    metric: str,
    cascades: Mapping[str, Cascade],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Panel:
    """Curves and summaries of cascades on one set of examples.

    Args:
      title: mixture or task.
      metric: name of the per-example quality.
      cascades: by name; rows of all stand for the same examples in the same order.
      bootstrap_samples: resamples for the intervals, the same draws for every cascade.
      seed: of the draws.

    Raises:
      ValueError: if there is no cascade, or they hold different numbers of examples.
    """
    sizes = {name: len(cascade.score) for name, cascade in cascades.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"cascades side by side need the same examples, got {sizes}")
    points = references(cascades)
    lines, oracles, summaries = {}, {}, {}
    first: bootstrap.Resamples | None = None
    for name, c in cascades.items():
        costs = c.student_flops_per_token, c.teacher_flops_per_token
        lines[name] = curves.deferral_curve(c.score, c.student_quality, c.teacher_quality, *costs)
        oracles[name] = curves.oracle_curve(c.student_quality, c.teacher_quality, *costs)
        cost_rates = [min((cost - costs[0]) / costs[1], 1.0) for cost in points.costs]
        resamples = bootstrap.resample(
            c.score,
            c.student_quality,
            c.teacher_quality,
            rates=(*points.rates, *cost_rates),
            qualities=tuple(points.qualities.values()),
            samples=bootstrap_samples,
            seed=seed,
        )
        first = first or resamples
        first_area = curves.area(next(iter(lines.values())))
        difference = Estimate(
            curves.area(lines[name]) - first_area,
            *bootstrap.interval(resamples.area - first.area),
        )
        summaries[name] = _summarize(c, lines[name], oracles[name], points, resamples, difference)
    return Panel(title, metric, points, lines, oracles, summaries)


def _summarize(
    cascade: Cascade,
    curve: curves.Curve,
    oracle: curves.Curve,
    points: References,
    resamples: bootstrap.Resamples,
    area_minus_first: Estimate,
) -> CascadeSummary:
    """All figures of one cascade."""
    ends = curve.student_quality, curve.teacher_quality
    areas = curves.area(curve), curves.random_area(*ends)
    ideal_area, oracle_area = curves.ideal_area(*ends), curves.area(oracle)

    def estimate(value: float, values: Float[np.ndarray, " B"]) -> Estimate:
        return Estimate(value, *bootstrap.interval(values))

    num_rates = len(points.rates)
    at_rate, at_cost = np.split(resamples.quality_at_rate, [num_rates], axis=1)
    rate_at, cost_at = {}, {}
    for column, (label, quality) in enumerate(points.qualities.items()):
        rates = resamples.rate_at_quality[:, column]
        costs = cascade.student_flops_per_token + rates * cascade.teacher_flops_per_token
        rate_at[label] = estimate(curves.rate_at_quality(curve, quality), rates)
        cost_at[label] = estimate(curves.cost_at_quality(curve, quality), costs)
    is_binary = bool(np.all(np.isin(cascade.student_quality, (0.0, 1.0))))
    return CascadeSummary(
        num_examples=len(cascade.score),
        student_quality=estimate(ends[0], resamples.student_quality),
        teacher_quality=estimate(ends[1], resamples.teacher_quality),
        area=estimate(areas[0], resamples.area),
        area_minus_first=area_minus_first,
        random_area=areas[1],
        ideal_area=ideal_area,
        oracle_area=oracle_area,
        s_d_ideal=estimate(
            curves.deferral_performance(*areas, ideal_area), resamples.deferral_performance("ideal")
        ),
        s_d_oracle=estimate(
            curves.deferral_performance(*areas, oracle_area),
            resamples.deferral_performance("oracle"),
        ),
        quality_at_rate=tuple(
            estimate(curves.quality_at_rate(curve, rate), at_rate[:, i])
            for i, rate in enumerate(points.rates)
        ),
        quality_at_cost=tuple(
            estimate(curves.quality_at_cost(curve, cost), at_cost[:, i])
            for i, cost in enumerate(points.costs)
        ),
        rate_at_quality=rate_at,
        cost_at_quality=cost_at,
        auroc=auroc(cascade.score, cascade.student_quality < 0.5) if is_binary else math.nan,
        student_better_share=float(np.mean(cascade.student_quality > cascade.teacher_quality)),
    )


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one cascade's figures come from."""

    name: str
    path: str
    metadata: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that `evaluate` found out, as the report and the table show it.

    Attributes:
      pooled: all examples as one set, one threshold for all tasks, every example weighing the same.
      tasks: each task by itself, with its own deferral rates.
      sources: the records files, in the order of the cascades.
      score: the deferral score, as text.
      bootstrap_samples, seed: of the intervals.
    """

    pooled: Panel
    tasks: dict[str, Panel]
    sources: tuple[Source, ...]
    score: str
    bootstrap_samples: int
    seed: int

    def macro(self) -> dict[str, dict[str, float]]:
        """By cascade, means over tasks in which every task weighs the same."""
        result = {}
        for name in self.pooled.summaries:
            rows = [panel.summaries[name] for panel in self.tasks.values()]
            result[name] = {
                field: float(np.mean([getattr(row, field).value for row in rows]))
                for field in ("student_quality", "teacher_quality", "area")
            }
        return result
