"""budget.json: what every calibration of a run promised, and what it came to on the test split.

Beside each promise stand three cascades of the same cost on the same examples. The costs that they
reach are measured after the fact, which no user could: they say what a promise is worth, not what
could have been shipped. The oracle has the budget itself, and hindsight.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Int

from cascade_jax.calibration import baselines
from cascade_jax.calibration.passes import evaluate_all
from cascade_jax.calibration.pool import TOKEN, Evaluation, Pool, Thresholds
from cascade_jax.calibration.splits import Splits
from cascade_jax.deferral.guarantees import budget_file, risks, search
from cascade_jax.deferral.guarantees.learn_then_test import Calibration
from cascade_jax.parallel import hosts
from cascade_jax.text_table import columns

SCHEMA_VERSION = 1
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
      found: by alpha.
    """

    splits: Splits
    searched: search.Search
    tested: Sequence[Thresholds]
    found: Mapping[float, Calibration]


def describe(config: Any, pool: Pool, repeats: Sequence[Repeat], objective: str) -> dict[str, Any]:
    """The content of budget.json.

    Args:
      config: a CalibrateConfig.
      pool: what was calibrated on.
      repeats: of all calibrations; the first is told in full.
      objective: name of the metric that counts.
    """
    others = _Others(config, pool, repeats, objective)
    shown = {"desc": "compares", "unit": "certificate", "disable": not hosts.is_first()}
    each = list(itertools.product(sorted(config.alphas), enumerate(repeats)))
    runs = [
        _run(pool, repeat, number, alpha, others)
        for alpha, (number, repeat) in tqdm.tqdm(each, **shown)
    ]
    return _finite(
        {
            "schema_version": SCHEMA_VERSION,
            "name": pool.name,
            "level": pool.level,
            "promise": config.promise,
            "uncertainty": pool.uncertainty,
            "delta": config.delta,
            "quality_drop": config.quality_drop,
            "procedure": config.procedure,
            "bound": config.bound,
            "sizes": {name: len(rows) for name, rows in vars(repeats[0].splits).items()},
            "max_length": pool.max_length,
            "metrics": list(pool.metrics),
            "objective": objective,
            "alphas": sorted(config.alphas),
            "repeats": len(repeats),
            "candidates": _candidates(pool, repeats[0]),
            "runs": runs,
            "ends": {
                "student": baselines.at(others.never),
                "teacher": baselines.at(others.always),
            },
            "deferred_by_position": _by_position(pool, repeats[0], max(config.alphas)),
        }
    )


def _candidates(pool: Pool, repeat: Repeat) -> list[dict[str, Any]]:
    """All that was evaluated, in the order of the search."""
    splits, volumes = repeat.splits, repeat.searched.hypervolumes()
    nothing = baselines.point(math.nan, dict.fromkeys(pool.metrics, math.nan))
    tested, told, spent = set(repeat.tested), [], 0.0
    for order, evaluation in enumerate(repeat.searched.evaluations):
        thresholds = evaluation.thresholds
        both = [baselines.at(pool.evaluate(thresholds, splits.first)), nothing]
        if thresholds in tested:
            both[1] = baselines.at(pool.evaluate(thresholds, splits.second))
        spent += evaluation.cost
        told.append(
            {
                "thresholds": list(thresholds),
                "order": order,
                "answers": spent,
                "cost": [each["cost"] for each in both],
                "quality": {name: [e["quality"][name] for e in both] for name in pool.metrics},
                "hypervolume": float(volumes[order]),
            }
        )
    return told


def _run(pool: Pool, repeat: Repeat, number: int, alpha: float, others: "_Others") -> dict:
    """What one calibration promised at one alpha, and what it came to."""
    found, splits = repeat.found[alpha], repeat.splits
    index = {told.thresholds: i for i, told in enumerate(repeat.searched.evaluations)}
    place = [index[candidate.thresholds] for candidate in found.candidates]
    run: dict[str, Any] = {
        "alpha": alpha,
        "repeat": number,
        "thresholds": None if found.thresholds is None else list(found.thresholds),
        "certified": found.chosen is not None,
        "accepted": sorted(place[i] for i in found.accepted),
    }
    if number == 0:
        run["p_values"] = _p_values(found, place, len(index))
    if found.thresholds is None:
        return run | {"calibration": None, "test": None, "baselines": None}
    chosen = pool.evaluate(found.thresholds, splits.test)
    test = baselines.at(chosen)
    flops = None if chosen.flops is None else float(np.mean(chosen.flops))
    return run | {
        "calibration": baselines.at(pool.evaluate(found.thresholds, splits.second)),
        "test": test | {"flops": flops, "worse": others.worse(chosen, splits.test)},
        "baselines": others.beside(repeat, test["cost"], alpha),
    }


def _p_values(found: Calibration, place: Sequence[int], count: int) -> dict[str, list]:
    """By candidate, in the order of the search; None where a split has none."""
    first: list[float | None] = [None] * count
    second = list(first)
    both = found.settings.procedure == risks.PARETO_TESTING
    for i, candidate in zip(place, found.candidates, strict=True):
        first[i] = candidate.first_p if both else None
        second[i] = candidate.second_p if both else candidate.first_p
    return {"first": first, "second": second}


class _Others:
    """Other cascades on the examples that are tested on.

    Attributes:
      never, always: each model alone.
    """

    def __init__(self, config: Any, pool: Pool, repeats: Sequence[Repeat], objective: str):
        self._pool, self._objective = pool, objective
        self._is_wanted, self._promises_cost = config.baselines, config.promise == "cost"
        # Of all repeats' test splits, and of all examples where there is no other split.
        self._rows = np.arange(len(pool.ids)) if pool.test_rows is None else pool.test_rows
        self._ends = [(end,) * pool.thresholds for end in (math.inf, -math.inf)]
        self.never, self.always = (pool.evaluate(end, self._rows) for end in self._ends)
        tested = np.unique(np.concatenate([repeat.splits.test for repeat in repeats]))
        most = max(config.alphas) if self._promises_cost else 1.0
        self._shares = []
        for share in RANDOM_SHARES if self._is_wanted and pool.level == TOKEN else ():
            self._shares.append(share)
            if np.mean(pool.evaluate_random(share, tested).cost) > most:
                break

    def worse(self, chosen: Evaluation, rows: Int[np.ndarray, " R"]) -> float:
        """By how much its answers are worse than the large model's own, on average."""
        always, name = self._pool.evaluate(self._ends[1], rows), self._objective
        return float(np.mean(always.quality[name] - chosen.quality[name]))

    def beside(self, repeat: Repeat, cost: float, alpha: float) -> dict[str, Any] | None:
        """Points at a cost; the oracle's has the budget, or the cost where quality is promised."""
        if not self._is_wanted:
            return None
        pool, rows = self._pool, repeat.splits.test
        never, always = ends = [pool.evaluate(end, rows) for end in self._ends]
        random = [pool.evaluate_random(share, rows) for share in self._shares]
        told = sorted(told.thresholds for told in repeat.searched.evaluations)
        some = np.unique(
            np.linspace(0, len(told) - 1, min(len(told), _ORACLE_THRESHOLDS)).astype(int)
        )
        tried = evaluate_all(pool.evaluate, [told[i] for i in some], rows)
        within = alpha if self._promises_cost else cost
        by_chance = "random_tokens" if pool.level == TOKEN else "random_answers"
        return {
            by_chance: baselines.between([*ends, *random], cost),
            "whole_answers": baselines.whole_answers(never, always, cost),
            "oracle": baselines.oracle([*ends, *tried], within, self._objective),
        }


def _by_position(pool: Pool, repeat: Repeat, alpha: float) -> list[float | None]:
    """Share of the test split's tokens at each position that the large model wrote."""
    thresholds: Thresholds | None = repeat.found[alpha].thresholds
    found = None if thresholds is None else pool.evaluate(thresholds, repeat.splits.test)
    if found is None or found.is_deferred is None or found.lengths is None:
        return []
    there = np.arange(pool.max_length) < found.lengths[:, None]
    counts, deferred = there.sum(axis=0), found.is_deferred.sum(axis=0)
    return [float(d / n) if n else None for d, n in zip(deferred, counts, strict=True)]


def _finite(value: Any) -> Any:
    """JSON values with texts for infinite numbers, null for NaN."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


# ------------------------------------------------------------------ what is printed


def format_table(budget: Mapping[str, Any]) -> str:
    """By alpha: how often it was certified and kept, what it cost, and what else that buys."""
    found = budget_file.from_json(budget)
    metric, by_chance = found.objective, f"random_{found.level}s"
    names = [by_chance, "whole_answers", "oracle"]
    shown = [name.replace("_", " ") for name in names]
    rows = [["alpha", "certified", "kept", "cost", metric, *shown]]
    for at in found.over_alphas():
        runs = [run for run in found.runs if run.alpha == at.alpha]
        tested = [run for run in runs if run.test is not None]
        row = [f"{at.alpha:g}", f"{sum(run.certified for run in runs)} of {found.repeats}"]
        row.append(f"{sum(map(found.is_within, tested))} of {len(tested)}" if tested else "–")
        means = [at.cost.mean, at.quality[metric].mean]
        means += [at.baselines.get(name, {}).get(metric, math.nan) for name in names]
        rows.append(row + ["–" if math.isnan(mean) else f"{mean:.4f}" for mean in means])
    lines = columns(rows, right=range(len(rows[0])))
    lines.insert(1, "-" * len(lines[0]))
    alone = " and ".join(
        f"{end.quality[metric]:.4f} at cost {end.cost:.3f} ({what})"
        for end, what in (
            (found.student, "small model alone"),
            (found.teacher, "large model alone"),
        )
    )
    sizes = budget["sizes"]
    title = (
        f"{found.name}, level {found.level!r}, {found.uncertainty}: {metric} is {alone}. Splits "
        f"of {sizes['first']} and {sizes['second']} examples, tested on {sizes['test']}; delta = "
        f"{found.delta:g}"
    )
    return "\n".join([title, "", *lines])
