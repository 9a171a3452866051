"""budget.json: what `cascade-jax calibrate` found for each budget α, read and checked.

The file holds thresholds that were tried (candidates), and for each α and each repeat on fresh
splits what was certified, what it cost on the test split, and what other ways to spend as much
give. A number that is not known is null; infinite ones are the texts "inf" and "-inf".
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cascade_jax.deferral.guarantees.json_field import Field, FieldError

SCHEMA_VERSION = 1
TOKEN, ANSWER = "token", "answer"
LEVELS = (TOKEN, ANSWER)
COST, QUALITY = "cost", "quality"
PROMISES = (COST, QUALITY)
_UNCERTAINTIES = {"log_prob": "−log p of the small model's token", "entropy": "entropy (nats)"}


@dataclasses.dataclass(frozen=True)
class Point:
    """Means over a split.

    Attributes:
      cost: share of deferred tokens (of max_length), or of deferred answers.
      quality: by metric.
      flops: per example; NaN if not known.
      worse: by how much the objective is below that of the large model's own answers; NaN likewise.
    """

    cost: float
    quality: Mapping[str, float]
    flops: float = math.nan
    worse: float = math.nan


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Thresholds that were tried, in repeat 0 for the largest α.

    Attributes:
      thresholds: one, or one for each block of positions.
      order: when they were tried, from 0.
      cost: means on the first and on the second calibration split; NaN where not measured.
      quality: the same by metric.
      hypervolume: of all that were tried until then; NaN if not known.
      answers: decoded of each example of the first split until then, on average; NaN likewise.
    """

    thresholds: tuple[float, ...]
    order: int
    cost: tuple[float, float]
    quality: Mapping[str, tuple[float, float]]
    hypervolume: float
    answers: float = math.nan


@dataclasses.dataclass(frozen=True)
class Run:
    """One α in one repeat.

    Attributes:
      alpha: the budget, a limit of the mean cost (or of what quality is lost).
      repeat: number of the repeat; each has splits of its own.
      thresholds: chosen, or if nothing was certified the fallback's; None if no policy is known.
      certified: whether the thresholds are.
      accepted: indices of the candidates (of this repeat) that are certified.
      p_values: of the candidates, on the first and the second split; None but in repeat 0.
      calibration: means on the second calibration split; None without a policy.
      test: means on the test split; None without a policy.
      baselines: by name, other ways that cost as much, on the test split.
    """

    alpha: float
    repeat: int
    thresholds: tuple[float, ...] | None
    certified: bool
    accepted: tuple[int, ...]
    p_values: tuple[tuple[float, ...], tuple[float, ...]] | None
    calibration: Point | None
    test: Point | None
    baselines: Mapping[str, Point]


@dataclasses.dataclass(frozen=True)
class Spread:
    """A figure over the repeats; NaN where none has it."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class AtAlpha:
    """All repeats of one α, on their test splits.

    Attributes:
      alpha: the budget.
      risk: spread of what α is a limit of: the cost, or the quality lost.
      cost: spread of the mean cost.
      quality: spreads by metric.
      baselines: by name and metric, means of quality.
      share_within: of the repeats with a policy, in how many the test split is within all limits.
      share_certified: in how many thresholds were certified; in the others the fallback is meant.
    """

    alpha: float
    risk: Spread
    cost: Spread
    quality: Mapping[str, Spread]
    baselines: Mapping[str, Mapping[str, float]]
    share_within: float
    share_certified: float


@dataclasses.dataclass(frozen=True)
class Budget:
    """A whole budget file; fields are those of the file.

    Attributes:
      name: of the student.
      level: "token" or "answer".
      promise: what α limits: "cost", or "quality", what is lost against the large model.
      quality_drop: with "cost", a limit of what is lost beside; None for none.
      uncertainty: what is compared with a threshold.
      delta: each certificate breaks its promise with this chance at most.
      max_length: tokens of an answer, by which costs of deferred tokens are divided.
      metrics: of quality, higher is better.
      objective: the one that thresholds were chosen by.
      alphas: budgets, ascending.
      repeats: number of repeats of each α.
      candidates, runs: see there.
      student, teacher: each model alone.
      deferred_by_position: share of the tokens at each position that are deferred (largest α,
        repeat 0, test split).
      source: the file.
      bound: of the p-values, see `deferral/guarantees/bounds.py`; "" if the file does not say.
    """

    name: str
    level: str
    promise: str
    quality_drop: float | None
    uncertainty: str
    delta: float
    max_length: int
    metrics: tuple[str, ...]
    objective: str
    alphas: tuple[float, ...]
    repeats: int
    candidates: tuple[Candidate, ...]
    runs: tuple[Run, ...]
    student: Point
    teacher: Point
    deferred_by_position: tuple[float, ...]
    source: str = ""
    bound: str = ""

    @property
    def first_run(self) -> Run:
        """Repeat 0 of the largest α, which the candidates are of."""
        return next(r for r in self.runs if r.repeat == 0 and r.alpha == self.alphas[-1])

    @property
    def cost_label(self) -> str:
        """What a cost is, in words."""
        if self.level == TOKEN:
            return f"deferred tokens, share of {self.max_length}"
        return "deferred answers, share of all"

    @property
    def risk_label(self) -> str:
        """What α limits, in words."""
        if self.promise == COST:
            return f"mean cost ({self.cost_label})"
        return f"mean {self.objective} lost against the large model"

    def risk_of(self, point: Point) -> float:
        """What α limits."""
        return point.cost if self.promise == COST else point.worse

    def is_within(self, run: Run) -> bool:
        """Whether a run's test split is within all limits."""
        if run.test is None:
            return False
        drop = math.inf if self.quality_drop is None else self.quality_drop
        return self.risk_of(run.test) <= run.alpha and not run.test.worse > drop

    @property
    def uncertainty_label(self) -> str:
        """What is compared with a threshold, in words."""
        return uncertainty_label(self.uncertainty)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that some run has."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.baselines))

    def over_alphas(self) -> tuple[AtAlpha, ...]:
        """Every α with the spread over its repeats."""
        return tuple(self._at(alpha) for alpha in self.alphas)

    def _at(self, alpha: float) -> AtAlpha:
        everything = [run for run in self.runs if run.alpha == alpha]
        runs = [run for run in everything if run.test is not None]

        def mean(name: str, metric: str) -> float:
            found = [r.baselines[name].quality[metric] for r in runs if name in r.baselines]
            return float(np.mean(found)) if found else math.nan

        return AtAlpha(
            alpha=alpha,
            risk=_spread([self.risk_of(run.test) for run in runs]),
            cost=_spread([run.test.cost for run in runs]),
            quality={m: _spread([run.test.quality[m] for run in runs]) for m in self.metrics},
            baselines={n: {m: mean(n, m) for m in self.metrics} for n in self.baselines},
            share_within=_spread([float(self.is_within(run)) for run in runs]).mean,
            share_certified=float(np.mean([run.certified for run in everything])),
        )


def uncertainty_label(name: str) -> str:
    """An uncertainty of tokens in words."""
    return _UNCERTAINTIES.get(name, name.replace("_", " "))


def _spread(values: list[float]) -> Spread:
    if not values:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def read(path: str | os.PathLike) -> Budget:
    """Reads and checks a budget file.

    Raises:
      FileNotFoundError: no such file.
      FieldError: not such a file, another schema version, a field that is missing or has a value
        that is not allowed; the message names file and field.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such budget file; `cascade-jax calibrate` writes it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FieldError(f"{path} is not a budget file: not JSON ({error})") from None
    return from_json(value, str(path))


def from_json(value: Any, source: str = "budget") -> Budget:
    """Checks what a budget file holds.

    Args:
      value: JSON values.
      source: the file, for messages.

    Raises:
      FieldError: see `read`.
    """
    if isinstance(value, dict) and "schema" in value and "thresholds" in value:
        raise FieldError(f"{source} is a certificate (POLICY), not the budget.json beside it")
    top = Field(value, source, "")
    version = top.at("schema_version")
    if version.value != SCHEMA_VERSION:
        raise version.fail(f"{SCHEMA_VERSION}, the version that this program reads")
    metrics = tuple(top.at("metrics").each(Field.text, at_least=1))
    alphas = tuple(sorted(set(top.at("alphas").each(_limit, at_least=1))))
    repeats = top.at("repeats").whole(1)
    candidates = tuple(top.at("candidates").each(lambda field: _candidate(field, metrics)))
    ends = top.at("ends")
    budget = Budget(
        name=top.at("name").text(),
        level=top.at("level").one_of(LEVELS),
        promise=top.at("promise").one_of(PROMISES) if "promise" in top.keys() else COST,
        quality_drop=_known(top.at("quality_drop"), _limit)
        if "quality_drop" in top.keys()
        else None,
        uncertainty=top.at("uncertainty").text(),
        delta=top.at("delta").share(),
        max_length=top.at("max_length").whole(1),
        metrics=metrics,
        objective=top.at("objective").one_of(metrics),
        alphas=alphas,
        repeats=repeats,
        candidates=candidates,
        runs=tuple(top.at("runs").each(lambda field: _run(field, metrics, alphas, repeats))),
        student=_point(ends.at("student"), metrics),
        teacher=_point(ends.at("teacher"), metrics),
        deferred_by_position=tuple(top.at("deferred_by_position").each(Field.number)),
        source=source,
        bound=top.at("bound").text() if "bound" in top.keys() else "",
    )
    _check_runs(budget, top.at("runs"))
    return budget


def _check_runs(budget: Budget, field: Field) -> None:
    """Every α has every repeat once, and the first run fits the candidates."""
    wanted = {(alpha, repeat) for alpha in budget.alphas for repeat in range(budget.repeats)}
    found = [(run.alpha, run.repeat) for run in budget.runs]
    if missing := sorted(wanted - set(found)):
        raise FieldError(
            f"{budget.source}: runs lack alpha = {missing[0][0]:g}, repeat = {missing[0][1]} "
            f"({len(missing)} such)"
        )
    if len(found) > len(wanted):
        twice = next(key for key in found if found.count(key) > 1)
        raise FieldError(
            f"{budget.source}: runs have alpha = {twice[0]:g}, repeat = {twice[1]} twice"
        )
    first, count = budget.first_run, len(budget.candidates)
    at = field.at(budget.runs.index(first))
    if any(index >= count for index in first.accepted):
        raise at.at("accepted").fail(f"indices of the {count} candidates")
    for name, values in zip(("first", "second"), first.p_values or (), strict=False):
        if len(values) != count:
            raise FieldError(
                f"{budget.source}: {at.at('p_values').at(name).where} has {len(values)} values, "
                f"candidates {count}"
            )


def _limit(field: Field) -> float:
    if not -1 < field.number() < 1:
        raise field.fail("a number between -1 and 1")
    return field.number()


def _known(field: Field, read_fn: Callable[[Field], Any]) -> Any:
    """What is read where there is a value; else None."""
    return None if field.value is None else read_fn(field)


def _candidate(field: Field, metrics: tuple[str, ...]) -> Candidate:
    quality = field.at("quality")
    return Candidate(
        thresholds=tuple(field.at("thresholds").each(Field.number, at_least=1)),
        order=field.at("order").whole(0),
        cost=field.at("cost").pair(),
        quality={metric: quality.at(metric).pair() for metric in metrics},
        hypervolume=field.at("hypervolume").number(),
        answers=field.at("answers").number() if "answers" in field.value else math.nan,
    )


def _run(field: Field, metrics: tuple[str, ...], alphas: tuple[float, ...], repeats: int) -> Run:
    thresholds, p_values = field.at("thresholds"), None
    if field.value.get("p_values") is not None:
        both = field.at("p_values")
        p_values = tuple(tuple(both.at(n).each(Field.number)) for n in ("first", "second"))
    if _limit(field.at("alpha")) not in alphas:
        raise field.at("alpha").fail(f"one of the alphas, {', '.join(map(str, alphas))}")
    if field.at("repeat").whole(0) >= repeats:
        raise field.at("repeat").fail(f"below the number of repeats, {repeats}")
    others = field.at("baselines")
    names = [] if others.value is None else others.keys()
    run = Run(
        alpha=field.at("alpha").number(),
        repeat=field.at("repeat").whole(0),
        thresholds=_known(thresholds, lambda at: tuple(at.each(Field.number, at_least=1))),
        certified=field.at("certified").truth(),
        accepted=tuple(field.at("accepted").each(lambda index: index.whole(0))),
        p_values=p_values,
        baselines={name: _point(others.at(name), metrics) for name in names},
        calibration=_known(field.at("calibration"), lambda at: _point(at, metrics)),
        test=_known(field.at("test"), lambda at: _point(at, metrics)),
    )
    if run.test is not None and not math.isfinite(run.test.cost):
        raise field.at("test").at("cost").fail("a finite number")
    for name in ("thresholds", "test"):
        if run.certified and getattr(run, name) is None:
            raise field.at(name).fail("known, as the run is certified")
    return run


def _point(field: Field, metrics: tuple[str, ...]) -> Point:
    quality = field.at("quality")
    return Point(
        cost=field.at("cost").number(),
        quality={metric: quality.at(metric).number() for metric in metrics},
        **{n: field.at(n).number() for n in ("flops", "worse") if n in field.value},
    )
