"""The settings of `cascade-jax calibrate`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from cascade_jax import checks
from cascade_jax.calibration.answer_pool import RecordsSource
from cascade_jax.calibration.pool import Pool
from cascade_jax.calibration.token_pool import LiveSource
from cascade_jax.deferral.guarantees import bounds, risks
from cascade_jax.deferral.guarantees.budget_runs import COST, PROMISES, QUALITY
from cascade_jax.deferral.guarantees.risks import CalibrationSettings, Risk
from cascade_jax.deferral.policy import LEVELS, TOKEN
from cascade_jax.names import check_choice

BAYESIAN, GRID = "bayesian", "grid"
SEARCHES = (BAYESIAN, GRID)
MOST_CANDIDATES = 4096
_MOST_REPEATS = 10_000
_RANGES = {
    "iterations": (5, checks.LARGEST), "grid_size": (2, 100_000), "repeats": (1, _MOST_REPEATS),
    "first_size": (1, checks.LARGEST), "second_size": (1, checks.LARGEST),
    "test_size": (1, checks.LARGEST), "seed": (0, checks.LARGEST - _MOST_REPEATS),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """The promise, its examples, and how thresholds are searched and tested.

    Attributes:
      live: models and examples for level "token".
      records: the table for level "answer"; its file is by default the one that `collect` writes
        for the student and split of `live`.
      level: "token" or "answer": what is deferred.
      promise: "cost": the mean cost is at most alpha, with the best quality. "quality": answers are
        on average at most alpha worse than the large model's, at the least cost.
      alphas: the limits, a certificate each.
      delta: the chance that a promise does not hold, at most.
      quality_drop: with "cost": a second promise, as alpha is with "quality"; None for none.
      objective: name of the metric to optimise, or not to lose; None for the first.
      search: "bayesian" or "grid": which thresholds are evaluated.
      iterations: of the Bayesian search: the most answers that are decoded per example, on average.
      grid_size: thresholds to choose among; with several blocks, of each.
      procedure, bound: see `deferral/guarantees/risks.py`.
      first_size, second_size: examples of the two calibration splits.
      test_size: examples to test the promise on; None for all that the calibration leaves.
      repeats: number of calibrations, each with splits of its own; the first gives certificates.
      baselines: whether other cascades of the same cost are measured too.
      seed: of splits and search.
      hang_seconds: a calibration without progress for this long is ended; None to wait for ever.
      output_dir: of certificates and budget.json; None for
        `<experiment_dir>/calibration/<student>`, with `_answers` for that level and `_quality` for
        that promise.
    """

    live: LiveSource
    records: RecordsSource = RecordsSource()
    level: str = TOKEN
    promise: str = COST
    alphas: Sequence[float] | float = (0.05, 0.1, 0.2)
    delta: float = 0.1
    quality_drop: float | None = None
    objective: str | None = None
    search: str = BAYESIAN
    iterations: int = 25
    grid_size: int = 100
    procedure: str = risks.PARETO_TESTING
    bound: str = bounds.WSR
    first_size: int = 200
    second_size: int = 200
    test_size: int | None = None
    repeats: int = 1
    baselines: bool = True
    seed: int = 0
    hang_seconds: float | None = 1800.0
    output_dir: str | None = None

    def __post_init__(self):
        for name, choices in (("level", LEVELS), ("promise", PROMISES), ("search", SEARCHES)):
            check_choice(name, getattr(self, name), choices)
        for name, (least, most) in _RANGES.items():
            checks.whole_number(name, getattr(self, name), least, name == "test_size", most)
        checks.true_or_false("baselines", self.baselines)
        if self.iterations > self.num_candidates and self.search == BAYESIAN:
            among = f"with {self.num_candidates} thresholds to choose among; raise grid_size"
            raise ValueError(f"iterations is {self.iterations}, {among}")
        if self.bound == bounds.BINOMIAL and (self.level == TOKEN or self.promise == QUALITY):
            raise ValueError(
                f"the bound {self.bound!r} is for losses of 0 or 1: a cost at level 'answer'; give "
                f"{bounds.WSR!r} or {bounds.HOEFFDING_BENTKUS!r}"
            )
        checks.positive("hang_seconds", self.hang_seconds, optional=True)
        self._check_limits()
        if self.objective is not None:
            check_choice("objective", self.objective, self.metrics)
        if self.output_dir is None:
            cascade = self.live.cascade
            name = Path(cascade.students[0]).name + "_answers" * (self.level != TOKEN)
            name += "_quality" * (self.promise == QUALITY)
            folder = Path(cascade.experiment_dir) / "calibration" / name
            object.__setattr__(self, "output_dir", str(folder))

    def _check_limits(self) -> None:
        alphas = self.alphas
        is_list = isinstance(alphas, list | tuple) and len(alphas) > 0
        if not is_list or not all(map(checks.is_number, alphas)) or len({*alphas}) < len(alphas):
            shown = checks.shown(alphas)
            raise ValueError(f"ALPHAS are {shown}; must be a list of different numbers, not empty")
        lower = 0.0 if self.promise == COST else -1.0
        limits = [("ALPHAS holds", alpha, lower) for alpha in alphas]
        if self.promise == COST and self.quality_drop is not None:
            limits.append(("quality_drop is", self.quality_drop, -1.0))
        for label, limit, least in limits:
            try:
                bounds.check_limit(limit, least, 1.0)
            except ValueError as error:
                raise ValueError(f"{label} {checks.shown(limit)}: {error}") from None
        for alpha in alphas:
            self.settings(alpha)  # refuses what it can not use

    @property
    def metrics(self) -> Sequence[str]:
        """Names of the qualities that are measured at this level."""
        return self.live.metrics if self.level == TOKEN else ("quality",)

    @property
    def counted(self) -> str:
        """Name of the metric to optimise, or not to lose."""
        return self.objective or self.metrics[0]

    @property
    def num_candidates(self) -> int:
        """Thresholds, or combinations of them, to choose among."""
        blocks = self.live.num_blocks if self.level == TOKEN else 1
        return min(self.grid_size**blocks, MOST_CANDIDATES)

    def settings(self, alpha: float) -> CalibrationSettings:
        """Risks and procedure at a limit."""
        length = self.live.cascade.data.target_length if self.level == TOKEN else 1
        unit = f"deferred tokens / {length}" if self.level == TOKEN else "share of deferred answers"
        cost = Risk(unit, alpha) if self.promise == COST else None
        drop = alpha if self.promise == QUALITY else self.quality_drop
        limited = [cost] if cost else []
        if drop is not None:
            # With a limit on cost too, no policy keeps both trivially: see its `fallback`.
            name = f"loss of {self.counted} against the large model"
            limited.append(Risk(name, drop, -1.0, 1.0, risks.ALWAYS_DEFER))
        return CalibrationSettings(
            limited, self.delta, self.procedure, self.bound, tokens_per_sequence=length
        )

    def open(self, before_batch: Callable[[bool], None] = lambda may_compile: None) -> Pool:
        """The calibration set of the level; `before_batch`: see `questions.Questions`."""
        if self.level == TOKEN:
            return self.live.open(before_batch)
        live, source = self.live, self.records
        splits = {"records_file": live.split, "test_records_file": live.test_split}
        for name, split in splits.items():
            if getattr(source, name) is None and split is not None:
                file = live.cascade.records_file(live.cascade.students[0], split)
                source = dataclasses.replace(source, **{name: file})
        return source.open()
