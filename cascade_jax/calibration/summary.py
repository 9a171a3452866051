"""The results of a calibration: the promise of each repeat, and its result on the test split.

Beside each promise stand three cascades of the same cost on the same examples. The costs that they
reach are measured after the fact, which no user could: they say what a promise is worth, not what
could have been shipped. The oracle has the budget itself, and hindsight.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.calibration import baselines, search
from cascade_jax.calibration.config import CalibrateConfig
from cascade_jax.calibration.passes import evaluate_all
from cascade_jax.calibration.pool import CascadeAnswers, Pool
from cascade_jax.deferral.guarantees import budget_runs, risks
from cascade_jax.deferral.guarantees.budget_file import Budget
from cascade_jax.deferral.guarantees.budget_runs import COST, Point, PValues, Run
from cascade_jax.deferral.guarantees.learn_then_test import Calibration
from cascade_jax.deferral.guarantees.splits import Splits
from cascade_jax.deferral.policy import TOKEN, Thresholds
from cascade_jax.parallel import hosts
from cascade_jax.progress import progress_bar
from cascade_jax.text_table import NOT_MEASURED, Column, Table

_ORACLE_THRESHOLDS = 25  # of those that were tried, evenly spread
# Of the random baseline, as far up as costs go; the ends are the two models alone.
RANDOM_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75)


@dataclasses.dataclass(frozen=True, eq=False)
class Repeat:
    """One calibration.

    Attributes:
      splits: its own.
      searched: on the first split.
      tested: thresholds that were measured on the second.
      calibrations: by alpha.
    """

    splits: Splits
    searched: search.Search
    tested: Sequence[Thresholds]
    calibrations: Mapping[float, Calibration]


def summarise(config: CalibrateConfig, pool: Pool, repeats: Sequence[Repeat]) -> Budget:
    """The content of budget.json; of the first repeat, everything that was tried is listed."""
    others = _Baselines(config, pool, repeats)
    shown = {"desc": "compares", "unit": "certificate", "disable": not hosts.is_first()}
    pairs = list(itertools.product(sorted(config.alphas), enumerate(repeats)))
    pairs = progress_bar(pairs, **shown)
    runs = [_run(pool, repeat, number, alpha, others) for alpha, (number, repeat) in pairs]
    return Budget(
        name=pool.name,
        level=pool.level,
        promise=config.promise,
        uncertainty=pool.uncertainty,
        delta=config.delta,
        quality_drop=config.quality_drop,
        procedure=config.procedure,
        bound=config.bound,
        sizes={name: len(rows) for name, rows in vars(repeats[0].splits).items()},
        max_length=pool.max_length,
        metrics=tuple(pool.metrics),
        objective=config.counted,
        alphas=tuple(config.alphas),
        repeats=len(repeats),
        candidates=_candidates(pool, repeats[0]),
        runs=tuple(runs),
        ends=budget_runs.Ends(
            baselines.mean_point(others.never), baselines.mean_point(others.always)
        ),
        deferred_by_position=_by_position(pool, repeats[0], max(config.alphas)),
    )


def _candidates(pool: Pool, repeat: Repeat) -> tuple[budget_runs.TriedThresholds, ...]:
    """The evaluated thresholds, in the order of the search."""
    splits, volumes = repeat.splits, repeat.searched.hypervolumes()
    unknown = baselines.point(math.nan, dict.fromkeys(pool.metrics, math.nan))
    tested, candidates, spent = set(repeat.tested), [], 0.0
    for order, trial in enumerate(repeat.searched.trials):
        first, second = baselines.mean_point(pool.evaluate(trial.thresholds, splits.first)), unknown
        if trial.thresholds in tested:
            second = baselines.mean_point(pool.evaluate(trial.thresholds, splits.second))
        spent += trial.cost
        candidates.append(
            budget_runs.TriedThresholds(
                thresholds=trial.thresholds,
                order=order,
                answers=spent,
                cost=(first.cost, second.cost),
                quality={m: (first.quality[m], second.quality[m]) for m in pool.metrics},
                hypervolume=float(volumes[order]),
            )
        )
    return tuple(candidates)


def _run(pool: Pool, repeat: Repeat, number: int, alpha: float, others: "_Baselines") -> Run:
    """The promise of one calibration at one alpha, and its result on the test split."""
    calibration, splits = repeat.calibrations[alpha], repeat.splits
    index = {trial.thresholds: i for i, trial in enumerate(repeat.searched.trials)}
    place = [index[candidate.thresholds] for candidate in calibration.candidates]
    thresholds, measured = calibration.thresholds, {}
    if thresholds is not None:
        answers = pool.evaluate(thresholds, splits.test)
        test = budget_runs.Outcome(
            **vars(baselines.mean_point(answers)),
            flops=math.nan if answers.flops is None else float(np.mean(answers.flops)),
            worse=others.worse(answers, splits.test),
        )
        measured = {
            "calibration": baselines.mean_point(pool.evaluate(thresholds, splits.second)),
            "test": test,
            "baselines": others.beside(repeat, test.cost, alpha),
        }
    return Run(
        alpha=alpha,
        repeat=number,
        thresholds=thresholds,
        certified=calibration.chosen is not None,
        accepted=tuple(sorted(place[i] for i in calibration.accepted)),
        p_values=_p_values(calibration, place, len(index)) if number == 0 else None,
        **(dict.fromkeys(("calibration", "test", "baselines")) | measured),
    )


def _p_values(calibration: Calibration, place: Sequence[int], count: int) -> PValues:
    """P-values of the candidates, in the order of the search."""
    first, second = [math.nan] * count, [math.nan] * count
    has_two = calibration.settings.procedure == risks.PARETO_TESTING
    for i, candidate in zip(place, calibration.candidates, strict=True):
        (first if has_two else second)[i] = candidate.first_p
        if candidate.second_p is not None:
            second[i] = candidate.second_p
    return PValues(tuple(first), tuple(second))


class _Baselines:
    """Other cascades on the test examples.

    Attributes:
      never, always: each model alone.
    """

    def __init__(self, config: CalibrateConfig, pool: Pool, repeats: Sequence[Repeat]):
        self._pool, self._objective = pool, config.counted
        self._is_measured, self._promises_cost = config.baselines, config.promise == COST
        # Of all repeats' test splits, and of all examples where there is no other split.
        self._rows = np.arange(len(pool.ids)) if pool.test_rows is None else pool.test_rows
        self._ends = [(end,) * pool.thresholds for end in (math.inf, -math.inf)]
        self.never, self.always = (pool.evaluate(end, self._rows) for end in self._ends)
        tested = np.unique(np.concatenate([repeat.splits.test for repeat in repeats]))
        most = max(config.alphas) if self._promises_cost else 1.0
        self._shares = []
        for share in RANDOM_SHARES if self._is_measured and pool.level == TOKEN else ():
            self._shares.append(share)
            if np.mean(pool.evaluate_random(share, tested).cost) > most:
                break

    def worse(self, chosen: CascadeAnswers, rows: Int[np.ndarray, " R"]) -> float:
        """By how much its answers are worse than the large model's own, on average."""
        always, name = self._pool.evaluate(self._ends[1], rows), self._objective
        return float(np.mean(always.quality[name] - chosen.quality[name]))

    def beside(self, repeat: Repeat, cost: float, alpha: float) -> dict[str, Point] | None:
        """Points at a cost; the oracle's has the budget, or the cost where quality is promised."""
        if not self._is_measured:
            return None
        pool, rows = self._pool, repeat.splits.test
        never, always = ends = [pool.evaluate(end, rows) for end in self._ends]
        random = [pool.evaluate_random(share, rows) for share in self._shares]
        tried = sorted(trial.thresholds for trial in repeat.searched.trials)
        some = np.linspace(0, len(tried) - 1, min(len(tried), _ORACLE_THRESHOLDS)).astype(int)
        evaluated = evaluate_all(pool.evaluate, [tried[i] for i in np.unique(some)], rows)
        within = alpha if self._promises_cost else cost
        by_chance = "random_tokens" if pool.level == TOKEN else "random_answers"
        return {
            by_chance: baselines.between([*ends, *random], cost),
            "whole_answers": baselines.whole_answers(never, always, cost),
            "oracle": baselines.oracle([*ends, *evaluated], within, self._objective),
        }


def _by_position(pool: Pool, repeat: Repeat, alpha: float) -> tuple[float, ...]:
    """Share of the test split's tokens at each position that the large model wrote."""
    thresholds: Thresholds | None = repeat.calibrations[alpha].thresholds
    answers = None if thresholds is None else pool.evaluate(thresholds, repeat.splits.test)
    if answers is None or answers.is_deferred is None or answers.lengths is None:
        return ()
    is_written = np.arange(pool.max_length) < answers.lengths[:, None]
    counts, deferred = is_written.sum(axis=0), answers.is_deferred.sum(axis=0)
    return tuple(float(d / n) if n else math.nan for d, n in zip(deferred, counts, strict=True))


def table(budget: Budget) -> Table:
    """By alpha: how often it was certified and kept, what it cost, and what else that buys."""
    metric, rows, certified, kept = budget.objective, budget.over_alphas(), [], []
    for row in rows:
        runs = [run for run in budget.runs if run.alpha == row.alpha]
        tested = [run for run in runs if run.test is not None]
        certified.append(f"{sum(run.certified for run in runs)} of {budget.repeats}")
        within = sum(map(budget.is_within, tested))
        kept.append(f"{within} of {len(tested)}" if tested else NOT_MEASURED)
    means = {"cost": [row.cost.mean for row in rows]}
    means[metric] = [row.quality[metric].mean for row in rows]
    for name in (f"random_{budget.level}s", "whole_answers", "oracle"):
        values = [row.baselines.get(name, {}).get(metric, math.nan) for row in rows]
        means[name.replace("_", " ")] = values
    alone = " and ".join(
        f"{end.quality[metric]:.4f} at cost {end.cost:.3f} ({size} model alone)"
        for size, end in (("small", budget.ends.student), ("large", budget.ends.teacher))
    )
    sizes = budget.sizes
    title = (
        f"{budget.name}, level {budget.level!r}, {budget.uncertainty}: {metric} is {alone}. Splits "
        f"of {sizes['first']} and {sizes['second']} examples, tested on {sizes['test']}; delta = "
        f"{budget.delta:g}"
    )
    texts = {"alpha": [f"{row.alpha:g}" for row in rows], "certified": certified, "kept": kept}
    columns = [Column(head, cells, "{:.4f}".format) for head, cells in (texts | means).items()]
    return Table(title, columns)
