"""Summaries of cascades side by side: one Panel per mixture or task, one row per cascade."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Real

from cascade_jax.deferral.scores import Average
from cascade_jax.evaluation import bootstrap, curves, equal_cost
from cascade_jax.evaluation import score_costs as score_costs_lib
from cascade_jax.evaluation.cascades import Cascade, Lines, curve_of, lines_of
from cascade_jax.evaluation.comparison import (
    Comparison,
    Difference,
    compare_resamples,
    difference,
)
from cascade_jax.evaluation.costs import CostModel, Parameters
from cascade_jax.evaluation.results import (
    CascadeSummary,
    Estimate,
    OwnCost,
    Panel,
    References,
    ScoreSummary,
)
from cascade_jax.evaluation.separation import ranking, separation

REFERENCE_RATES = (0.25, 0.5, 0.75)
BASELINE = Average.name  # what scores that cost something are compared with
_SCORE_POINTS = 401
_PARAMETERS = Parameters()
Scores = Mapping[str, Real[np.ndarray, " n"]]


def references(cascades: Mapping[str, Cascade]) -> References:
    """The reference points at which all cascades are read."""
    students, teachers = zip(*(cascade.ends() for cascade in cascades.values()), strict=True)
    best_student, teacher = max(students), max(teachers)
    most_expensive, teacher_cost = map(
        max, zip(*(c.mean_costs for c in cascades.values()), strict=True)
    )
    return References(
        rates=REFERENCE_RATES,
        costs=tuple(most_expensive + rate * teacher_cost for rate in REFERENCE_RATES),
        qualities={"halfway": (best_student + teacher) / 2, "99 % of large": 0.99 * teacher},
    )


def compare(
    title: str,
    metric: str,
    cascades: Mapping[str, Cascade],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    cost: CostModel = _PARAMETERS,
    scores: Mapping[str, Scores] | None = None,
    score_costs: Mapping[str, score_costs_lib.ByScore] | None = None,
) -> Panel:
    """Curves and summaries of cascades on one set of examples.

    Args:
      title, metric: see `Panel`.
      cascades: by name; rows of all stand for the same examples in the same order.
      bootstrap_samples: resamples for the intervals, the same draws for every cascade; 0 = none.
      seed: of the draws.
      cost: what the costs of the cascades are; only its label and unit are used.
      scores: more scores of each cascade, by its name and theirs.
      score_costs: what they spend, likewise, `BASELINE` among them; None where all are free.

    Raises:
      ValueError: if there is no cascade, they hold different numbers of examples, or only some have
        statistics.
    """
    _check_comparable(cascades)
    points = references(cascades)
    costs = score_costs or {}
    by_own = _by_own_cost(cascades, scores or {}, costs)
    resampled = _resample(by_own, points, bootstrap_samples, seed, bool(score_costs))
    lines, summaries, comparisons, by_score = {}, {}, {}, {}
    first = next(iter(cascades))
    for (name, cascade), resamples in zip(cascades.items(), resampled, strict=True):
        lines[name] = lines_of(cascade)
        pair, both = (lines[first].curve, lines[name].curve), (resampled[0][0], resamples[0])
        comparison = compare_resamples(first, pair, both, points.rates, points.costs)
        summaries[name] = _summarize(cascade, lines[name], points, resamples[0], comparison)
        if name != first:
            comparisons[name] = comparison
        if len(resamples) > 1:
            names, others = scores[name], resamples[1:]
            by_score[name] = _scores(by_own[name], lines[name], names, others, costs.get(name))
    return Panel(
        title=title,
        metric=metric,
        references=points,
        curves={name: line.curve for name, line in lines.items()},
        oracles={name: line.oracle for name, line in lines.items()},
        summaries=summaries,
        randoms={name: line.random for name, line in lines.items()},
        is_corpus=cascades[first].statistics is not None,
        cost_label=cost.label,
        cost_unit=cost.unit,
        num_inputs=cascades[first].num_inputs,
        comparisons=comparisons,
        scores=by_score,
    )


def _check_comparable(cascades: Mapping[str, Cascade]) -> None:
    sizes = {name: len(cascade.score) for name, cascade in cascades.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"cascades side by side need the same examples, got {sizes}")
    if len({cascade.statistics is None for cascade in cascades.values()}) != 1:
        raise ValueError("cascades side by side need statistics all of them, or none")


def _by_own_cost(
    cascades: Mapping[str, Cascade],
    scores: Mapping[str, Scores],
    costs: Mapping[str, score_costs_lib.ByScore],
) -> dict[str, list[Cascade]]:
    """Each cascade, and the same by each of its other scores, with what that spends."""
    result = {}
    for name, cascade in cascades.items():
        result[name] = [cascade]
        for score, values in scores.get(name, {}).items():
            own = costs[name][score] if name in costs else score_costs_lib.FREE
            changed = {"score": values, "score_cost": own.cost, "saved_cost": own.saved}
            result[name].append(dataclasses.replace(cascade, **changed))
    return result


def _resample(
    by_own: Mapping[str, Sequence[Cascade]],
    points: References,
    samples: int,
    seed: int,
    equal: bool,
):
    """Resamples of each cascade by each of its scores; None in place of each without any."""
    cascades = list(by_own.values())
    first = cascades[0][0]
    has_one_input = first.num_inputs == 1 < len(first.score)  # all resamples would be alike
    if samples == 0 or has_one_input:
        return [[None] * len(several) for several in cascades]
    orders = [(several[0], [each.score for each in several]) for several in cascades]
    own = [[(each.score_cost, each.saving) for each in several] for several in cascades]
    at = {"score_costs": own, "equal_costs": equal}
    at |= {"rates": points.rates, "costs": points.costs, "qualities": points.qualities.values()}
    return bootstrap.resample_all(orders, **at, samples=samples, seed=seed)


def _estimate(value: float, values: Float[np.ndarray, " B"] | None) -> Estimate:
    return Estimate(value) if values is None else Estimate(value, *bootstrap.interval(values))


def _summarize(
    cascade: Cascade,
    lines: Lines,
    points: References,
    resamples: bootstrap.Resamples | None,
    against_first: Comparison,
) -> CascadeSummary:
    """All figures of one cascade."""
    curve, difference = lines.curve, against_first.area
    ends = curve.student_quality, curve.teacher_quality

    def estimate(value: float, field: str, column: int | slice = slice(None)) -> Estimate:
        return _estimate(value, resamples and getattr(resamples, field)[..., column])

    def at_references(read, field: str, where: Collection[float]) -> tuple[Estimate, ...]:
        return tuple(estimate(read(curve, at), field, column) for column, at in enumerate(where))

    labels, qualities = points.qualities.keys(), points.qualities.values()
    rate_at = at_references(curves.rate_at_quality, "rate_at_quality", qualities)
    cost_at = at_references(curves.cost_at_quality, "cost_at_quality", qualities)
    return CascadeSummary(
        num_examples=len(cascade.score),
        student_quality=estimate(ends[0], "student_quality"),
        teacher_quality=estimate(ends[1], "teacher_quality"),
        area_minus_first=Estimate(difference.value, difference.low, difference.high),
        random_area=lines.random_area,
        ideal_area=lines.ideal_area,
        oracle_area=curves.area(lines.oracle),
        **_areas(curve, lines, resamples),
        quality_at_rate=at_references(curves.quality_at_rate, "quality_at_rate", points.rates),
        quality_at_cost=at_references(curves.quality_at_cost, "quality_at_cost", points.costs),
        rate_at_quality=dict(zip(labels, rate_at, strict=True)),
        cost_at_quality=dict(zip(labels, cost_at, strict=True)),
        separation=separation(cascade),
        student_better_share=float(np.mean(cascade.student_quality > cascade.teacher_quality)),
    )


def _areas(
    curve: curves.Curve, lines: Lines, resamples: bootstrap.Resamples | None
) -> dict[str, Estimate]:
    """Area, and both deferral performances."""
    area = curves.area(curve)
    bests = {"ideal": lines.ideal_area, "oracle": curves.area(lines.oracle)}
    areas = {"area": _estimate(area, resamples and resamples.area)}
    for name, best in bests.items():
        value = curves.deferral_performance(area, lines.random_area, best)
        values = resamples and resamples.deferral_performance(name)
        areas[f"s_d_{name}"] = _estimate(value, values)
    return areas


def _scores(
    by_own: Sequence[Cascade],
    lines: Lines,
    names: Iterable[str],
    resamples: Sequence[bootstrap.Resamples | None],
    costs: score_costs_lib.ByScore | None,
) -> dict[str, ScoreSummary]:
    """The cascade by each of several scores, which follow the main one."""
    summaries = {}
    for name, cascade, score_resamples in zip(names, by_own[1:], resamples, strict=True):
        curve = curve_of(cascade)
        summaries[name] = ScoreSummary(
            **_areas(curve, lines, score_resamples),
            ranking=ranking(cascade.score, cascade.student_quality, cascade.is_binary),
            curve=curve.thin(_SCORE_POINTS),
        )
    return _own_costs(by_own, summaries, costs, resamples) if costs else summaries


def _own_costs(
    by_own: Sequence[Cascade],
    summaries: Mapping[str, ScoreSummary],
    costs: score_costs_lib.ByScore,
    resamples: Sequence[bootstrap.Resamples | None],
) -> dict[str, ScoreSummary]:
    """The summaries of several scores with what they spend themselves."""
    cascades = dict(zip(summaries, by_own[1:], strict=True))
    of_score = dict(zip(summaries, resamples, strict=True))
    first = by_own[0]
    ends = curves.mean_cost(first.student_cost), curves.mean_cost(first.teacher_cost)
    average = curve_of(cascades[BASELINE])

    def area(curve: curves.Curve) -> float:
        return float(equal_cost.area(curve.quality, curve.cost, *ends))

    result = {}
    for name, summary in summaries.items():
        own = OwnCost(costs[name].mean_flops, Estimate(math.nan), Difference(math.nan))
        if not costs[name].unknown:
            curve, drawn, base = curve_of(cascades[name]), of_score[name], of_score[BASELINE]
            values = drawn and drawn.equal_cost_area
            paired = None if drawn is None else values - base.equal_cost_area
            own = OwnCost(
                own.flops,
                _estimate(area(curve), values),
                difference(area(curve) - area(average), paired),
                *equal_cost.pays_between(curve, average, *ends),
            )
        result[name] = dataclasses.replace(summary, own_cost=own)
    return result
