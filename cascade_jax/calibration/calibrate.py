"""From a split to thresholds with a certificate, by tokens or by whole answers."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from cascade_jax import files, json_file
from cascade_jax.calibration import splits as calibration_splits
from cascade_jax.calibration import summary
from cascade_jax.calibration.answer_pool import RecordsSource
from cascade_jax.calibration.passes import evaluate_all, run_search
from cascade_jax.calibration.pool import ANSWER, LEVELS, TOKEN, Pool, Thresholds, calibration_rows
from cascade_jax.calibration.summary import Repeat
from cascade_jax.calibration.token_pool import LiveSource
from cascade_jax.deferral.guarantees import (
    bounds,
    budget_file,
    certificate,
    learn_then_test,
    risks,
    search,
)
from cascade_jax.deferral.guarantees.losses import Measured
from cascade_jax.deferral.guarantees.risks import Risk, Settings
from cascade_jax.names import did_you_mean
from cascade_jax.parallel import hosts
from cascade_jax.report.plots import budget as plots_budget
from cascade_jax.runs import identity
from cascade_jax.runs.watch import Watch
from cascade_jax.runs.watchdog import check_hang_seconds

COST, QUALITY = "cost", "quality"
PROMISES = (COST, QUALITY)
BAYESIAN, GRID = "bayesian", "grid"
SEARCHES = (BAYESIAN, GRID)
_MOST_CANDIDATES = 4096
_FIRST_TESTED = 8  # thresholds on the second split; tests stop at the first that fails


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """What to promise, and on what it rests.

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
      objective: name of the metric that counts; None for the first.
      search: "bayesian" or "grid": which thresholds are evaluated.
      iterations: of the Bayesian search: at most so many answers are decoded of each example, on
        average, as so many evaluations of all of them would.
      grid_size: thresholds to choose among; with several blocks, of each.
      procedure, bound: see `deferral/guarantees/risks.py`.
      first_size, second_size: examples of the two calibration splits.
      test_size: examples to look at the promise on; None for all that the calibration leaves.
      repeats: so many times, each with splits of its own; the certificates are of the first.
      baselines: whether other cascades of the same cost are measured too.
      seed: of splits and search.
      hang_seconds: a calibration without progress for so long is ended; None to wait for ever.
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
            value = getattr(self, name)
            if value not in choices:
                hint = did_you_mean(value, choices)
                raise ValueError(f"{name} is {value!r}; must be one of {choices}{hint}")
        least = {"iterations": 5, "grid_size": 2, "repeats": 1}
        least |= {"first_size": 1, "second_size": 1, "test_size": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is None and name == "test_size":
                continue
            if type(value) is not int or value < smallest:
                why = ": one threshold leaves nothing to choose" if name == "grid_size" else ""
                raise ValueError(f"{name} is {value!r}; must be at least {smallest}{why}")
        if self.iterations > self.num_candidates and self.search == BAYESIAN:
            raise ValueError(
                f"iterations is {self.iterations}, with {self.num_candidates} thresholds to choose "
                "among; raise grid_size"
            )
        if self.bound == bounds.BINOMIAL and (self.level == TOKEN or self.promise == QUALITY):
            raise ValueError(
                f"the bound {self.bound!r} is for losses of 0 or 1: a cost at level 'answer'; give "
                f"{bounds.WSR!r} or {bounds.HOEFFDING_BENTKUS!r}"
            )
        check_hang_seconds(self.hang_seconds)
        alphas = self.alphas
        is_list = not isinstance(alphas, int | float | str) and len(alphas) > 0
        if not is_list or len({*alphas}) < len(alphas) or any(isinstance(a, str) for a in alphas):
            raise ValueError(f"alphas are {alphas!r}; must be a list of different numbers")
        lower = 0.0 if self.promise == COST else -1.0
        for alpha in alphas:
            try:
                bounds.check_limit(alpha, lower, 1.0)
            except ValueError as error:
                raise ValueError(f"ALPHAS holds {alpha!r}: {error}") from None
            self.settings(alpha)  # refuses what it can not use
        if self.objective is not None and self.objective not in self.metrics:
            hint = did_you_mean(self.objective, self.metrics)
            raise ValueError(f"objective {self.objective!r} is not in {list(self.metrics)}{hint}")
        if self.output_dir is None:
            live, ending = self.live, "" if self.level == TOKEN else "_answers"
            ending += "_quality" if self.promise == QUALITY else ""
            folder = Path(live.experiment_dir) / "calibration"
            folder /= Path(live.student_run).name + ending
            object.__setattr__(self, "output_dir", str(folder))

    @property
    def metrics(self) -> Sequence[str]:
        """What a pool of this level measures."""
        return self.live.metrics if self.level == TOKEN else ("quality",)

    @property
    def counted(self) -> str:
        """The metric that counts."""
        return self.objective or self.metrics[0]

    @property
    def num_candidates(self) -> int:
        """Thresholds, or combinations of them, to choose among."""
        blocks = self.live.num_blocks if self.level == TOKEN else 1
        return min(self.grid_size**blocks, _MOST_CANDIDATES)

    def settings(self, alpha: float) -> Settings:
        """What calibration is to keep at a limit."""
        length = self.live.data.target_length if self.level == TOKEN else 1
        unit = f"deferred tokens / {length}" if self.level == TOKEN else "share of deferred answers"
        cost = Risk(unit, alpha) if self.promise == COST else None
        drop = alpha if self.promise == QUALITY else self.quality_drop
        found = [cost] if cost else []
        if drop is not None:
            # With a limit on cost too, no policy keeps both trivially: Settings.fallback says so.
            name = f"loss of {self.counted} against the large model"
            found.append(Risk(name, drop, -1.0, 1.0, risks.ALWAYS_DEFER))
        return Settings(found, self.delta, self.procedure, self.bound, tokens_per_sequence=length)

    def open(self, before_batch: Callable[[bool], None] = lambda is_first: None) -> Pool:
        """The examples of the level; `before_batch`: see `answers.Questions`."""
        if self.level == TOKEN:
            return self.live.open(before_batch)
        live, source = self.live, self.records
        if source.records_file is None:
            folder = Path(live.experiment_dir) / "records" / live.split
            file = folder / f"{Path(live.student_run).name}.parquet"
            source = dataclasses.replace(source, records_file=file)
        if source.test_records_file is None and live.test_split is not None:
            folder = Path(live.experiment_dir) / "records" / live.test_split
            file = folder / f"{Path(live.student_run).name}.parquet"
            source = dataclasses.replace(source, test_records_file=file)
        return source.open()


def calibrate(config: CalibrateConfig) -> dict[str, Any]:
    """Writes a certificate for every alpha, and budget.json.

    What was decoded before is read from disk, so a run that was stopped goes on. Of many hosts,
    each decodes its part of every batch, all calibrate, and the first one writes.

    Returns:
      What budget.json holds.

    Raises:
      ValueError: too few examples, splits that overlap, models that do not fit, and what the
        sources raise; hosts that have different configs, code, data, checkpoints or answers.
      hosts.Stopped: asked to; what is decoded is kept.
    """
    described = identity.of_config(config)
    described.pop("records")  # a learned score holds arrays; what it is of is compared below
    hosts.agree("configs", described)
    hosts.agree("versions of the code", identity.of_code())
    for alpha in config.alphas:
        try:
            config.settings(alpha).check_enough(config.second_size, config.num_candidates, "second")
        except ValueError as error:
            raise ValueError(f"{error}; raise SECOND_SIZE") from None
    kept = "what is decoded is kept" if config.level == TOKEN else "nothing is lost"
    with Watch(
        "calibrate", config.hang_seconds, config.output_dir, lambda: kept, "the rest"
    ) as watch:
        pool = config.open(watch.before_batch)
        facts = json_file.to_values(pool.models) | json_file.to_values(pool.data)
        facts |= {"score": pool.uncertainty, "count": len(pool.ids)}
        hosts.agree("data or checkpoints", facts)
        repeats, objective = [], config.counted
        shown = {"desc": "calibrates", "unit": "repeat", "disable": not hosts.is_first()}
        with tqdm.tqdm(total=config.repeats, **shown) as bar:
            for number in range(config.repeats):
                watch.before("a repeat", may_compile=number == 0)  # models are loaded, too
                repeats.append(_repeat(config, pool, number, objective))
                if number == 0 and hosts.is_first():
                    _write_certificates(config, pool, repeats[0], objective)
                bar.update()
        watch.before("a summary")
        result = summary.describe(config, pool, repeats, objective)
        if hosts.is_first():
            path = Path(config.output_dir) / "budget.json"
            files.write_text(path, json.dumps(result, allow_nan=False) + "\n")
            plots_budget.write_pictures(budget_file.from_json(result, str(path)), config.output_dir)
        hosts.all_here("budget.json", hosts.WORK_SECONDS)
    return result


def _splits(config: CalibrateConfig, pool: Pool, repeat: int) -> calibration_splits.Splits:
    sizes = (config.first_size, config.second_size, config.test_size)
    rows = calibration_rows(pool)
    splits = calibration_splits.draw(rows, pool.test_rows, sizes, config.seed + repeat)
    ids, texts = np.asarray(pool.ids, object), np.asarray(pool.texts, object)
    parts = dataclasses.asdict(splits).items()
    calibration_splits.check_disjoint({name: (ids[rows], texts[rows]) for name, rows in parts})
    return splits


def _repeat(config: CalibrateConfig, pool: Pool, number: int, objective: str) -> Repeat:
    splits = _splits(config, pool, number)
    searched = _search(config, pool, splits.first, objective, number)
    measured = functools.partial(_measured, config, pool, splits, objective)
    # From the safest: the order of a fixed sequence.
    safest = (lambda t: -sum(t)) if config.promise == COST else sum
    tried = sorted((told.thresholds for told in searched.evaluations), key=safest)
    settings = {alpha: config.settings(alpha) for alpha in sorted(config.alphas)}
    first = measured("first", tried)
    proposals = {alpha: learn_then_test.propose(settings[alpha], first) for alpha in settings}
    if config.procedure != risks.PARETO_TESTING:
        # The first split has been searched: another procedure has the second alone. Fewer share δ:
        # what no other beats on the first, and the two safest, so that there is a choice.
        tested = {*next(iter(proposals.values())).to_test, *tried[:2]}
        second = measured("second", [each for each in tried if each in tested])
        found = {alpha: learn_then_test.calibrate(settings[alpha], second) for alpha in settings}
        return Repeat(splits, searched, second.thresholds, found)
    # Whole answers cost nothing, and are all measured, which makes whole pictures.
    second = measured("second", tried) if config.level == ANSWER else None
    tested = set()
    for proposal in proposals.values():
        while (wanted := learn_then_test.next_to_test(proposal, second)) is not None:
            # More each time: few answers would leave batches empty.
            start = proposal.to_test.index(wanted)
            end = start + max(_FIRST_TESTED, start // 2)
            tested.update(proposal.to_test[start:end])
            second = measured("second", [each for each in tried if each in tested])
    found = {alpha: learn_then_test.decide(proposals[alpha], second) for alpha in proposals}
    return Repeat(splits, searched, second.thresholds, found)


def _search(
    config: CalibrateConfig, pool: Pool, rows: np.ndarray, objective: str, repeat: int
) -> search.Search:
    """Evaluates thresholds on the first split."""
    values = pool.values(config.grid_size, rows)[:, None]
    if pool.thresholds > 1:
        values = search.several_thresholds(values, pool.thresholds, _MOST_CANDIDATES, config.seed)
    if config.search == GRID:
        found: search.Search = search.GridSearch(values)
    else:
        most = min(config.iterations, len(values))
        found = search.BayesianSearch(values, most, min(5, most), seed=config.seed + repeat)
    run_search(found, pool.evaluate, rows, objective)
    return found


def _measured(
    config: CalibrateConfig,
    pool: Pool,
    splits: calibration_splits.Splits,
    objective: str,
    name: str,
    thresholds: Sequence[Thresholds],
) -> Measured:
    """Losses on the first or the second split."""
    rows = getattr(splits, name)
    evaluated = evaluate_all(pool.evaluate, thresholds, rows)
    cost = np.stack([found.cost for found in evaluated])
    quality = np.stack([found.quality[objective] for found in evaluated])
    losses = {}
    for risk in config.settings(config.alphas[0]).risks:
        if risk.lower < 0:
            always = pool.evaluate((-np.inf,) * pool.thresholds, rows)
            losses[risk.name] = always.quality[objective] - quality
        else:
            losses[risk.name] = cost
    goal = 1.0 - quality if config.promise == COST else cost
    ids = np.asarray(pool.ids, object)[rows]
    return Measured(name, thresholds, losses, goal, ids.tolist())


def _write_certificates(
    config: CalibrateConfig, pool: Pool, repeat: Repeat, objective: str
) -> None:
    """One for every alpha, of the first repeat."""
    ids, texts = np.asarray(pool.ids, object), np.asarray(pool.texts, object)
    blocks = pool.thresholds
    for alpha, found in repeat.found.items():
        names = dataclasses.asdict(repeat.splits)
        written = certificate.from_calibration(
            found,
            level=config.level,
            score=pool.uncertainty,
            objective=objective if config.promise == COST else "cost",
            models=pool.models,
            data=dataclasses.replace(pool.data, metric=objective),
            splits={
                name: calibration_splits.fingerprint(ids[rows], texts[rows])
                for name, rows in names.items()
            },
            block_length=-(-pool.max_length // blocks) if config.level == TOKEN else None,
            searched=ids[repeat.splits.first].tolist(),
        )
        written.save(certificate_path(config.output_dir, alpha))
    own = {certificate_path(config.output_dir, alpha) for alpha in repeat.found}
    older = {*Path(config.output_dir).glob("certificate_*.json")} - own
    if older:
        names = ", ".join(sorted(path.name for path in older))
        print(f"{config.output_dir}: of an earlier calibration, and not of this one: {names}")


def certificate_path(output_dir: str, alpha: float) -> Path:
    """Where the certificate of a limit lies: certificate_0.05.json."""
    return Path(output_dir) / f"certificate_{alpha:g}.json"
