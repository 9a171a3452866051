"""Figures of runs, on their examples and in bootstrap draws of them: what claims compare.

All runs of a study have the same examples, and one set of draws serves all, so that differences are
paired and what seeds share can be told from what they do not. Inputs are drawn with all their
examples, task by task, as every task's test set has its own size.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int, UInt8

from cascade_jax.deferral.guarantees import splits
from cascade_jax.evaluation import bootstrap, curves, overlap, reliability
from cascade_jax.evaluation.claims import claim
from cascade_jax.evaluation.claims.tables import RunTable, Study
from cascade_jax.evaluation.confusion import is_right
from cascade_jax.names import check_choice

RATES = (0.25, 0.5, 0.75)  # of deferral, whose costs and levels of quality are compared
_ACCURACY = "accuracy"
_NO_DIFFERENCE = 1e-12
_NODES = 200  # of a curve in a draw; that of the examples themselves is exact
_OfDraws = Float[np.ndarray, " B"]
_Values = Float[np.ndarray, " B_plus_1"]  # on the examples, then in each of B draws


@dataclasses.dataclass(frozen=True, eq=False)
class SampledCurve:
    """A deferral curve in each of several draws of the examples; straight between nodes.

    Attributes:
      rate: share deferred.
      quality: of the cascade.
      kept: A1, the part of it that comes from answers of the small model.
    """

    rate: Float[np.ndarray, "B nodes"]
    quality: Float[np.ndarray, "B nodes"]
    kept: Float[np.ndarray, "B nodes"]


def area(curve: SampledCurve) -> _OfDraws:
    """Under quality over the deferral rate."""
    return np.trapezoid(curve.quality, curve.rate, axis=1)


def area_of_kept(curve: SampledCurve) -> _OfDraws:
    """Under A1 over the deferral rate."""
    return np.trapezoid(curve.kept, curve.rate, axis=1)


def kept_over_deferred(curve: SampledCurve) -> _OfDraws:
    """Area of A1 minus area of A2: what more of a gain lies in A1."""
    return 2 * area_of_kept(curve) - area(curve)


def quality_at_cost(curve: SampledCurve) -> _OfDraws:
    """Mean quality at the costs of deferring 25, 50 and 75 %, the same for students of one size."""
    return bootstrap.read_off(RATES, curve.rate, curve.quality).mean(axis=1)


def small_model(curve: SampledCurve) -> _OfDraws:
    """Quality of the small model alone."""
    return curve.quality[:, 0]


def deferral_performance(curve: SampledCurve) -> _OfDraws:
    """s_d, under the ideal line. Reference: Gatekeeper, equation 10."""
    ends = curve.quality[:, 0], curve.quality[:, -1]
    random, ideal = curves.random_area(*ends), curves.ideal_area(*ends)
    triples = zip(area(curve), random, ideal, strict=True)
    return np.array([curves.deferral_performance(*triple) for triple in triples])


def cost_saved(second: SampledCurve, first: SampledCurve, costs: tuple[float, float]) -> _OfDraws:
    """Share of the first's cost that the second saves at equal quality, on average over levels.

    The levels lie 25, 50 and 75 % of the way from the first's small model alone to the large model.
    NaN where the large model is not the better one.
    """
    small, large = first.quality[:, 0], first.quality[:, -1]
    levels = [small + share * (large - small) for share in RATES]
    spent = []
    for curve in (first, second):
        cost = costs[0] + costs[1] * curve.rate
        spent.append(bootstrap.first_reaching(curve.rate, curve.quality, cost, levels)[1])
    with np.errstate(invalid="ignore"):  # inf: a level that is never reached
        saved = np.mean(1 - spent[1] / spent[0], axis=1)
    return np.where((large > small + _NO_DIFFERENCE) & np.isfinite(saved), saved, math.nan)


# By name: a figure of one curve; of a pair of curves; of a run's budgets alone.
OF_CURVES: Mapping[str, Callable[[SampledCurve], _OfDraws]] = {
    "area": area,
    "area of A1": area_of_kept,
    "area of A1 − area of A2": kept_over_deferred,
    "quality at cost": quality_at_cost,
    "small model": small_model,
    "s_d": deferral_performance,
}
COST_SAVED, OVERLAP = "cost saved at quality", "s_o"
OF_BUDGETS = {
    "tokens − whole answers": "whole_answers",
    "tokens − random tokens": "random_tokens",
    "kept − promised": "",
}
FIGURES = (*OF_CURVES, COST_SAVED, OVERLAP, *OF_BUDGETS)


class Sampled:
    """Figures of the runs of a study, each computed once.

    Args:
      study: the runs.
      samples: B.
      seed: of the draws.
    """

    def __init__(self, study: Study, samples: int, seed: int = 0):
        self.study, self._seed = study, seed
        self._tasks = study.rows_by_task()
        self._counts = self._drawn(samples)
        self._known: dict[tuple[object, ...], _Values] = {}
        self.curves = functools.lru_cache(maxsize=4)(self._curves)

    def _drawn(self, samples: int) -> UInt8[np.ndarray, "n B_plus_1"]:
        """How often each example is drawn: once, then as often as its input in its task."""
        inputs = self.study.first.inputs
        counts = np.ones((len(inputs), 1 + samples), np.uint8)
        seeds = np.random.SeedSequence(self._seed).generate_state(len(self._tasks))
        for seed, rows in zip(seeds, self._tasks.values(), strict=True):
            numbers = splits.text_numbers(inputs[rows])
            drawn = bootstrap.draws(int(numbers.max()) + 1, samples, int(seed))
            counts[rows, 1:] = np.concatenate([*drawn], axis=1)[numbers]
        return counts

    @functools.cached_property
    def places(self) -> dict[str, list[Int[np.ndarray, " rows"]]]:
        """Sets of rows by place: one, or one for each task; none where there is no such task."""
        metrics, everything = self.study.first.metric, np.arange(len(self._counts))
        large = np.mean([t.table.teacher_quality for t in self.study.tables.values()], axis=0)
        ranked = sorted(self._tasks.values(), key=lambda rows: -float(np.mean(large[rows])))
        half = len(ranked) // 2
        named = {claim.CLASSES: metrics == _ACCURACY, claim.WRITTEN: metrics != _ACCURACY}
        return {
            claim.POOL: [everything],
            claim.TASKS: ranked,
            claim.EASY: ranked[:half],
            claim.HARD: ranked[len(ranked) - half :],
            **{
                name: [np.flatnonzero(is_in)] if is_in.any() else []
                for name, is_in in named.items()
            },
        }

    def value(self, figure: str, entry: RunTable, score: str, on: str) -> _Values:
        """A figure of one run; of several sets of rows, their mean."""
        check_choice("figure", figure, (*OF_CURVES, OVERLAP))
        key = (figure, entry.run, score, on)
        if key not in self._known:
            values = [
                self._overlap(entry, rows)
                if figure == OVERLAP
                else _joined(OF_CURVES[figure], self.curves(entry, score, on, number))
                for number, rows in enumerate(self.places[on])
            ]
            self._known[key] = np.mean(values, axis=0)
        return self._known[key]

    def saved(self, second: tuple[RunTable, str], first: tuple[RunTable, str], on: str) -> _Values:
        """`cost_saved` of two runs, each by its score, whose tokens cost the same."""
        costs = second[0].costs
        values = [
            _joined(
                functools.partial(cost_saved, costs=costs),
                self.curves(*second, on, number),
                self.curves(*first, on, number),
            )
            for number in range(len(self.places[on]))
        ]
        return np.mean(values, axis=0)

    def _curves(
        self, entry: RunTable, score: str, on: str, number: int
    ) -> tuple[SampledCurve, SampledCurve]:
        """On the examples, and in the draws."""
        rows, table = self.places[on][number], entry.table
        order, ends = curves.deferral_order(self._score(entry, score)[rows])
        student = table.student_quality[rows]
        columns = np.stack([np.ones(len(rows)), table.teacher_quality[rows] - student, student])
        counts = self._counts[rows]
        pieces = ((counts[:, :1], ends), (counts[:, 1:], bootstrap.thinned(ends, _NODES)))
        return tuple(sampled_curve(drawn, columns, order, nodes) for drawn, nodes in pieces)

    @functools.lru_cache(maxsize=64)  # noqa: B019 one study, as long as it lives
    def _score(self, entry: RunTable, score: str) -> np.ndarray:
        return entry.score(score)

    def _overlap(self, entry: RunTable, rows: Int[np.ndarray, " rows"]) -> _Values:
        """s_o of right answers (a quality of at least 0.5) and wrong ones."""
        confidence = reliability.confidence_of(entry.table.student)[rows]
        right = is_right(entry.table.student_quality[rows])
        return overlap.resampled(confidence, right, self._counts[rows])


def sampled_curve(
    counts: UInt8[np.ndarray, "n B"],
    columns: Float[np.ndarray, "3 n"],
    order: Int[np.ndarray, " n"],
    nodes: Int[np.ndarray, " nodes"],
) -> SampledCurve:
    """The curve in each of several draws.

    Args:
      counts: how often each example is drawn.
      columns: ones, what the large model gains on each example, and the small one's quality.
      order: of the examples, the first deferred first.
      nodes: how many are deferred at each point of the curve but the first.
    """
    sums = np.zeros((len(nodes) + 1, len(columns), counts.shape[1]))
    drawn, weights = counts[order], columns[:, order]
    if len(nodes) == len(order):
        sums[1:] = weights.T[:, :, None] * drawn[:, None, :]
    else:
        for place, (start, end) in enumerate(itertools.pairwise([0, *nodes]), 1):
            sums[place] = weights[:, start:end] @ drawn[start:end].astype(np.float64)
    rate, gained, lost = np.moveaxis(np.cumsum(sums, axis=0), 1, 0) / counts.sum(axis=0)
    small = columns[2] @ counts.astype(np.float64) / counts.sum(axis=0)
    return SampledCurve(rate.T, (small + gained).T, (small - lost).T)


def _joined(figure_fn: Callable[..., _OfDraws], *pairs: tuple[SampledCurve, ...]) -> _Values:
    """A figure of one or two curves, on the examples and then in the draws."""
    return np.concatenate([figure_fn(*curves_of) for curves_of in zip(*pairs, strict=True)])


def budget_figure(figure: str, entry: RunTable) -> float:
    """A figure of a run's budgets: the mean over those that have it; NaN if none does."""
    values = []
    for budget in entry.budgets:
        tested = [run for run in budget.runs if run.certified and run.test is not None]
        baseline = OF_BUDGETS[figure]
        if not baseline:
            values += [float(budget.is_within(run)) - (1 - budget.delta) for run in tested]
        elif budget.level == "token":
            values += [
                run.test.quality[budget.objective]
                - run.baselines[baseline].quality[budget.objective]
                for run in tested
                if baseline in (run.baselines or ())
            ]
    return float(np.mean(values)) if values else math.nan
