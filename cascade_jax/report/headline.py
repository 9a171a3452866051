"""First sentences of a report: which small model to ship, at which threshold, how sure it is."""

import dataclasses
import math

import numpy as np

from cascade_jax.evaluation.curves import Curve
from cascade_jax.evaluation.results import Panel
from cascade_jax.report.metrics_json import MAX_POINTS
from cascade_jax.report.numbers import cost_text, threshold_text
from cascade_jax.text_table import number, percent

_NEARLY = "99 % of large"  # the label of the reference quality that a recommendation aims at
_NEAR = percent(0.99)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A cascade at the first threshold that reaches 99 % of the large model's quality.

    `threshold`: defer iff the score is above it; -inf = always. `rate` is the share deferred;
    `quality` and `cost` are the cascade's there, those of the teacher the large model's alone.
    """

    name: str
    threshold: float
    rate: float
    quality: float
    cost: float
    teacher_quality: float
    teacher_cost: float

    @property
    def share_of_cost(self) -> float:
        """Cost over that of the large model alone; NaN where that costs nothing."""
        return self.cost / self.teacher_cost if self.teacher_cost else math.nan

    @property
    def pays(self) -> bool:
        """Whether it costs less than the large model alone."""
        return self.cost < self.teacher_cost


def best(panel: Panel) -> str:
    """The cascade with the largest area, the first of equals."""
    return max(panel.summaries, key=lambda name: panel.summaries[name].area.value)


def choose(panel: Panel, name: str | None = None) -> Choice:
    """The smallest deferral rate of a threshold that reaches 99 % of the large model's quality.

    The next point of metrics.json takes its place, so that it can be found there and on the page,
    unless ties leave none near. `name` is one of the panel's cascades; None = the best.
    """
    name = name or best(panel)
    target = panel.references.qualities[_NEARLY] - 1e-12

    def first(curve: Curve) -> int:
        reached = curve.is_realised & (curve.quality >= target)
        return int(np.argmax(reached)) if reached.any() else len(curve.rate) - 1

    curve, thin = panel.curves[name], panel.curves[name].thin(MAX_POINTS)
    k = first(curve)
    if thin.rate[first(thin)] - curve.rate[k] <= 1 / (MAX_POINTS - 1):
        curve, k = thin, first(thin)
    return Choice(
        name=name,
        threshold=float(curve.thresholds[k]),
        rate=float(curve.rate[k]),
        quality=float(curve.quality[k]),
        cost=float(curve.cost[k]),
        teacher_quality=curve.teacher_quality,
        teacher_cost=float(curve.cost[-1] - curve.cost[0]),
    )


def recommendation(panel: Panel) -> str:
    """The one sentence: the cascade of the largest area, and its threshold."""
    choice = choose(panel)
    qualities = f"{number(choice.quality)} of {number(choice.teacher_quality)}"
    if choice.rate == 0:
        return (
            f"Ship {choice.name} alone: it already has {_NEAR} of the large model's quality "
            f"({qualities}) without deferring, at {cost_text(panel, choice.cost)}."
        )
    share = percent(choice.share_of_cost)
    if not choice.pays:
        return (
            f"No cascade pays for {_NEAR} of the large model's quality: the best, "
            f"{choice.name}, must defer {percent(choice.rate)} for it, which costs {share} of what "
            "the large model alone costs."
        )
    return (
        f"Ship {choice.name} with τ = {threshold_text(choice.threshold)}: deferring "
        f"{percent(choice.rate)} of the examples it has {_NEAR} of the large model's quality "
        f"({qualities}) at {cost_text(panel, choice.cost)}, {share} of the large model's cost."
    )


def caution(panel: Panel) -> str:
    """How sure the choice is: the runner-up, whether intervals tell them apart, the cheapest."""
    name = best(panel)
    sentences = []
    others = {other: s.area.value for other, s in panel.summaries.items() if other != name}
    if others:
        runner = max(others, key=others.get)
        sentences.append(_lead(panel, name, runner))
        choices = {other: choose(panel, other) for other in panel.summaries}
        cheapest = min(choices.values(), key=lambda choice: choice.cost)
        if cheapest.cost < choices[name].cost:
            cost = cost_text(panel, cheapest.cost)
            sentences.append(
                f"At the least cost the {_NEAR} are reached by {cheapest.name} ({cost})."
            )
    sentences.append(
        "The threshold is read off these same examples, so on new ones the share deferred and the "
        "quality will vary about these figures."
    )
    return " ".join(sentences)


def _lead(panel: Panel, name: str, runner: str) -> str:
    """The difference in area to the runner-up; paired with the first cascade where it can be."""
    ours, other = panel.summaries[name], panel.summaries[runner]
    areas = f"{number(ours.area.value)} against {number(other.area.value)} of {runner}"
    largest = f"Its area under the curve is the largest, {areas}"
    first = next(iter(panel.summaries))
    if first in (name, runner):
        paired = ours.area_minus_first if first == runner else other.area_minus_first
        sign = 1 if first == runner else -1
        low, high = sorted((sign * paired.low, sign * paired.high))
        told_apart = low > 0
        how = f"the 95 % interval of the difference, {number(low)} to {number(high)}, leaves out 0"
    else:
        low, told_apart = ours.area.low, ours.area.low > other.area.high
        how = "their intervals do not overlap"
    if math.isnan(low):
        return f"{largest}; how sure that is was not computed."
    if told_apart:
        return f"{largest}; {how}."
    return f"{largest}, but the intervals do not tell the two apart: either may be the better one."
