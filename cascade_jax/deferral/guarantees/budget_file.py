"""budget.json: what `cascade-jax calibrate` certified for each budget α, and what it came to.

The file holds the thresholds that were tried (candidates), and for each α and each repeat on fresh
splits what was certified, what it cost on the test split, and what other ways to spend as much
give. A number that is not known is null; infinite ones are the texts "inf" and "-inf".
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from cascade_jax import json_file
from cascade_jax.deferral.guarantees import bounds, budget_runs, risks
from cascade_jax.deferral.guarantees.budget_runs import (
    COST,
    PROMISES,
    Ends,
    Limit,
    Point,
    Run,
    TriedThresholds,
)
from cascade_jax.deferral.policy import LEVELS, TOKEN
from cascade_jax.json_file import NumberOrNull
from cascade_jax.names import check_choice

SCHEMA_VERSION = 2  # files of version 1 may lack the digest
_Count = Annotated[int, Meta(ge=1, lt=1 << 31)]
_Text = Annotated[str, Meta(min_length=1)]
_UNCERTAINTIES = {"log_prob": "−log p of the small model's token", "entropy": "entropy (nats)"}


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
    """A calibration's results; the fields are those of budget.json.

    Attributes:
      name: of the student.
      level: "token" or "answer".
      uncertainty: what is compared with a threshold.
      delta: each certificate breaks its promise with this chance at most.
      max_length: tokens of an answer, by which costs of deferred tokens are divided.
      metrics: of quality, higher is better.
      objective: the one that thresholds were chosen by.
      alphas: budgets, ascending.
      repeats: number of repeats of each α.
      candidates, runs, ends: see there.
      deferred_by_position: share of the tokens at each position that are deferred (largest α,
        repeat 0, test split).
      promise: what α limits: "cost", or "quality", the quality lost against the large model.
      quality_drop: with "cost", a limit of the quality lost beside; None for none.
      procedure, bound: see `risks.CalibrationSettings`; "" if the file does not say.
      sizes: examples of each split by its name; empty likewise.
    """

    name: _Text
    level: str
    uncertainty: _Text
    delta: Annotated[float, Meta(gt=0, lt=1)]
    max_length: _Count
    metrics: Annotated[tuple[_Text, ...], Meta(min_length=1)]
    objective: str
    alphas: Annotated[tuple[Limit, ...], Meta(min_length=1)]
    repeats: _Count
    candidates: tuple[TriedThresholds, ...]
    runs: tuple[Run, ...]
    ends: Ends
    deferred_by_position: tuple[NumberOrNull, ...]
    promise: str = COST
    quality_drop: Limit | None = None
    procedure: str = ""
    bound: str = ""
    sizes: Mapping[str, _Count] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self):
        object.__setattr__(self, "alphas", tuple(sorted(set(self.alphas))))
        check_choice("level", self.level, LEVELS)
        check_choice("promise", self.promise, PROMISES)
        check_choice("objective", self.objective, self.metrics)
        budget_runs.check_runs(self.runs, self.alphas, self.repeats)
        several = [
            *(tried.thresholds for tried in self.candidates),
            *(r.thresholds for r in self.runs),
        ]
        numbers = {len(thresholds) for thresholds in several if thresholds is not None}
        if len(numbers) > 1 or (self.level != TOKEN and numbers - {1}):
            shown = " and ".join(map(str, sorted(numbers)))
            allowed = "the same everywhere, and 1 at level 'answer'"
            raise ValueError(f"candidates and runs have {shown} thresholds; must be {allowed}")
        self._check_points()
        self._check_rest()
        budget_runs.check_tried(self.candidates)
        for i, run in enumerate(self.runs):
            if run.repeat == 0:
                facts = self.candidates, self.delta, self.promise
                budget_runs.check_first_repeat(run, f"runs[{i}]", *facts)

    def _check_points(self) -> None:
        """Every point has every metric, and a cost that is a share."""
        points: dict[str, Any] = {f"ends.{name}": point for name, point in vars(self.ends).items()}
        points |= {f"candidates[{i}]": tried for i, tried in enumerate(self.candidates)}
        for i, run in enumerate(self.runs):
            points |= {f"runs[{i}].{name}": getattr(run, name) for name in ("calibration", "test")}
            points |= {f"runs[{i}].baselines.{n}": p for n, p in (run.baselines or {}).items()}
        for place, point in points.items():
            if point is None:
                continue
            if missing := set(self.metrics) - set(point.quality):
                raise ValueError(f"{place}.quality lacks {', '.join(sorted(missing))}")
            for cost in point.cost if isinstance(point.cost, tuple) else (point.cost,):
                if not (math.isnan(cost) or -1e-9 <= cost <= 1 + 1e-9):
                    raise ValueError(f"{place}.cost is {cost}, must be a share from 0 to 1")

    def _check_rest(self) -> None:
        """Choices that a file may leave out, and shares by position."""
        for name, choices in (("procedure", risks.PROCEDURES), ("bound", bounds.BOUNDS)):
            if getattr(self, name):
                check_choice(name, getattr(self, name), choices)
        shares = self.deferred_by_position
        if len(shares) not in (0, self.max_length):
            count = f"{len(shares)} values, must have max_length = {self.max_length} or none"
            raise ValueError(f"deferred_by_position has {count}")
        for i, share in enumerate(shares):
            if not (math.isnan(share) or 0 <= share <= 1):
                raise ValueError(f"deferred_by_position[{i}] is {share}, must be in [0, 1]")

    @property
    def first_run(self) -> Run:
        """Repeat 0 of the largest α, whose candidates the file has."""
        return next(r for r in self.runs if r.repeat == 0 and r.alpha == self.alphas[-1])

    @property
    def cost_label(self) -> str:
        """Meaning of a cost in words."""
        if self.level == TOKEN:
            return f"deferred tokens, share of {self.max_length}"
        return "deferred answers, share of all"

    @property
    def risk_label(self) -> str:
        """The quantity that α limits, in words."""
        if self.promise == COST:
            return f"mean cost ({self.cost_label})"
        return f"mean {self.objective} lost against the large model"

    def risk_of(self, point: Point) -> float:
        """The quantity that α limits."""
        return point.cost if self.promise == COST else point.worse

    def is_within(self, run: Run) -> bool:
        """Whether a run's test split is within all limits."""
        if run.test is None:
            return False
        drop = math.inf if self.quality_drop is None else self.quality_drop
        return self.risk_of(run.test) <= run.alpha and not run.test.worse > drop

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that some run has."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.baselines or ()))

    def over_alphas(self) -> tuple[AtAlpha, ...]:
        """Figures of every α over its repeats."""
        return tuple(self._at(alpha) for alpha in self.alphas)

    def _at(self, alpha: float) -> AtAlpha:
        everything = [run for run in self.runs if run.alpha == alpha]
        runs = [run for run in everything if run.test is not None]

        def mean(name: str, metric: str) -> float:
            points = [run.baselines[name] for run in runs if name in (run.baselines or ())]
            return float(np.mean([p.quality[metric] for p in points])) if points else math.nan

        return AtAlpha(
            alpha=alpha,
            risk=_spread([self.risk_of(run.test) for run in runs]),
            cost=_spread([run.test.cost for run in runs]),
            quality={m: _spread([run.test.quality[m] for run in runs]) for m in self.metrics},
            baselines={n: {m: mean(n, m) for m in self.metrics} for n in self.baselines},
            share_within=_spread([float(self.is_within(run)) for run in runs]).mean,
            share_certified=float(np.mean([run.certified for run in everything])),
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes budget.json, whole or not at all."""
        json_file.write(path, self, with_digest=True)


def uncertainty_label(name: str) -> str:
    """Name of an uncertainty of tokens in words."""
    return _UNCERTAINTIES.get(name, name.replace("_", " "))


def _spread(values: list[float]) -> Spread:
    if not values:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(np.mean(values)), float(np.min(values)), float(np.max(values)))


def load(path: str | os.PathLike) -> Budget:
    """Reads what `Budget.save` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or see `from_values`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such budget file; `cascade-jax calibrate` writes it")
    return from_values(json_file.read_values(path), os.fspath(path), is_file=True)


def from_values(values: Any, source: str = "budget", is_file: bool = False) -> Budget:
    """A budget from JSON values.

    Args:
      values: its fields.
      source: the file, for messages.
      is_file: whether they are the whole of a file, which has a digest from version 2 on.

    Raises:
      ValueError: another schema version, a field that is missing, unknown, or has a value that is
        not allowed; the message names file and field.
    """
    if isinstance(values, dict) and "schema" in values and "thresholds" in values:
        raise ValueError(f"{source} is a certificate (POLICY), not the budget.json beside it")
    version = values.get("schema_version") if isinstance(values, dict) else None
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        kind = f"a budget file of schema_version {SCHEMA_VERSION}"
        raise ValueError(f"{source}: not {kind}: it is {version!r}")
    has_digest = is_file and version == SCHEMA_VERSION
    fields = json_file.without_digest(values, source, has_digest)
    fields = fields | {"schema_version": SCHEMA_VERSION}
    return json_file.from_values(fields, Budget, source)
