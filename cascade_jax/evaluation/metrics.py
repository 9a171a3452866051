"""Summaries of cascades laid side by side: one Panel per mixture or task, one row per cascade."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from cascade_jax.evaluation import bootstrap, curves
from cascade_jax.evaluation.cascades import Cascade, Lines, lines_of, resample

REFERENCE_RATES = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval; NaN = undefined or never reached, inf = an open end."""

    value: float
    low: float = math.nan
    high: float = math.nan


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

    For a corpus metric there is no ideal line, so its area and s_d are NaN, and the oracle, which
    defers the largest gains first (`curves.corpus_gain`), is a good order but no strict bound.
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
      metric: name of the per-example quality, or of the corpus metric; several are joined by ", ".
      references: where the curves were read off.
      curves, oracles, summaries: by cascade name, in the order given.
      randoms: quality of random deferral at the rates of each curve.
      is_corpus: whether quality is a corpus metric rather than a mean over examples.
    """

    title: str
    metric: str
    references: References
    curves: dict[str, curves.Curve]
    oracles: dict[str, curves.Curve]
    summaries: dict[str, CascadeSummary]
    randoms: dict[str, Float[np.ndarray, " n_plus_1"]]
    is_corpus: bool = False

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
    students, teachers = zip(*(cascade.ends() for cascade in cascades.values()), strict=True)
    best_student, teacher = max(students), max(teachers)
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
      metric: name of the per-example quality, or of the corpus metric.
      cascades: by name; rows of all stand for the same examples in the same order.
      bootstrap_samples: resamples for the intervals, the same draws for every cascade.
      seed: of the draws.

    Raises:
      ValueError: if there is no cascade, they hold different numbers of examples, or only some have
        statistics.
    """
    sizes = {name: len(cascade.score) for name, cascade in cascades.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"cascades side by side need the same examples, got {sizes}")
    if len({cascade.statistics is None for cascade in cascades.values()}) != 1:
        raise ValueError("cascades side by side need statistics all of them, or none")
    points = references(cascades)
    lines, summaries = {}, {}
    first: bootstrap.Resamples | None = None
    for name, cascade in cascades.items():
        lines[name] = lines_of(cascade)
        resamples = _resample(cascade, points, bootstrap_samples, seed)
        first = first or resamples
        first_area = curves.area(next(iter(lines.values())).curve)
        difference = Estimate(
            curves.area(lines[name].curve) - first_area,
            *bootstrap.interval(resamples.area - first.area),
        )
        summaries[name] = _summarize(cascade, lines[name], points, resamples, difference)
    return Panel(
        title=title,
        metric=metric,
        references=points,
        curves={name: line.curve for name, line in lines.items()},
        oracles={name: line.oracle for name, line in lines.items()},
        summaries=summaries,
        randoms={name: line.random for name, line in lines.items()},
        is_corpus=next(iter(cascades.values())).statistics is not None,
    )


def _resample(cascade: Cascade, points: References, samples: int, seed: int) -> bootstrap.Resamples:
    """Resamples read off at the rates, then at the costs, and at the qualities."""
    student_cost, teacher_cost = cascade.costs
    cost_rates = [min((cost - student_cost) / teacher_cost, 1.0) for cost in points.costs]
    return resample(
        cascade,
        rates=(*points.rates, *cost_rates),
        qualities=tuple(points.qualities.values()),
        samples=samples,
        seed=seed,
    )


def _summarize(
    cascade: Cascade,
    lines: Lines,
    points: References,
    resamples: bootstrap.Resamples,
    area_minus_first: Estimate,
) -> CascadeSummary:
    """All figures of one cascade."""
    curve = lines.curve
    ends = curve.student_quality, curve.teacher_quality
    areas = curves.area(curve), lines.random_area
    oracle_area = curves.area(lines.oracle)

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
        ideal_area=lines.ideal_area,
        oracle_area=oracle_area,
        s_d_ideal=estimate(
            curves.deferral_performance(*areas, lines.ideal_area),
            resamples.deferral_performance("ideal"),
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


@dataclasses.dataclass(frozen=True)
class Figure:
    """One metric of one task over the whole split.

    Attributes:
      task, metric: names.
      decoding: how the answers were made; "" if the records do not say.
      teacher: of the large model alone; NaN if not known.
      students: of each small model alone, by cascade name; NaN if not known.
      cascades: of each cascade at REFERENCE_RATES; empty where the metric is neither a mean over
        examples nor additive, so that a mixture of answers has none that records could tell.
    """

    task: str
    metric: str
    decoding: str
    teacher: float
    students: dict[str, float]
    cascades: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that `evaluate` found out, as the report and the table show it.

    Attributes:
      pooled: all examples as one set, one threshold for all tasks, every example weighing the same:
        means of per-example quality.
      tasks: each task by itself, with its own deferral rates; by its corpus metric if it has one.
      sources: the records files, in the order of the cascades.
      score: the deferral score, as text.
      bootstrap_samples, seed: of the intervals.
      per_example: the tasks with a corpus metric once more, by means of per-example quality.
      figures: every metric of every task over the whole split.
      notes: what the reader must know beside.
    """

    pooled: Panel
    tasks: dict[str, Panel]
    sources: tuple[Source, ...]
    score: str
    bootstrap_samples: int
    seed: int
    per_example: dict[str, Panel] = dataclasses.field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shows_tasks(self) -> bool:
        """Whether a task by itself says more than the pool."""
        return len(self.tasks) > 1 or any(panel.is_corpus for panel in self.tasks.values())

    def macro(self) -> dict[str, dict[str, float]]:
        """By cascade, means over the tasks' panels in which every task weighs the same."""
        result = {}
        for name in self.pooled.summaries:
            rows = [panel.summaries[name] for panel in self.tasks.values()]
            result[name] = {
                field: float(np.mean([getattr(row, field).value for row in rows]))
                for field in ("student_quality", "teacher_quality", "area")
            }
        return result
