"""From a split to thresholds with a certificate, by tokens or by whole answers."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cascade_jax import json_file
from cascade_jax.calibration import search, summary
from cascade_jax.calibration.config import GRID, MOST_CANDIDATES, CalibrateConfig
from cascade_jax.calibration.passes import evaluate_all, run_search
from cascade_jax.calibration.pool import Pool
from cascade_jax.calibration.summary import Repeat
from cascade_jax.deferral.guarantees import certificate, learn_then_test, risks, splits
from cascade_jax.deferral.guarantees.budget_file import Budget
from cascade_jax.deferral.guarantees.budget_runs import COST
from cascade_jax.deferral.guarantees.losses import CalibrationLosses
from cascade_jax.deferral.guarantees.splits import Splits
from cascade_jax.deferral.policy import ANSWER, TOKEN, Thresholds
from cascade_jax.parallel import hosts
from cascade_jax.progress import progress_bar
from cascade_jax.runs import identity
from cascade_jax.runs.watchdog import Watch

_FIRST_TESTED = 8  # thresholds on the second split; tests stop at the first that fails


def calibrate(config: CalibrateConfig) -> Budget:
    """Writes a certificate for every alpha, and budget.json.

    What was decoded before is read from disk, so a run that was stopped goes on. Of many hosts,
    each decodes its part of every batch, all calibrate, and the first one writes.

    Returns:
      The content of budget.json.

    Raises:
      ValueError: too few examples, splits that overlap, models that do not fit, and what the
        sources raise; hosts that have different configs, code, data, checkpoints or answers.
      hosts.Stopped: asked to; what is decoded is kept.
    """
    described = identity.config_identity(config)
    described.pop("records")  # a learned score holds arrays; models and data are compared below
    hosts.assert_equal_across_hosts("configs", described)
    hosts.assert_equal_across_hosts("versions of the code", identity.code_identity())
    for alpha in config.alphas:
        try:
            config.settings(alpha).check_enough(config.second_size, config.num_candidates, "second")
        except ValueError as error:
            raise ValueError(f"{error}; raise SECOND_SIZE") from None
    kept = "what is decoded is kept" if config.level == TOKEN else "nothing is lost"
    folder = config.output_dir
    with Watch("calibrate", config.hang_seconds, folder, lambda: kept, "the rest") as watch:
        pool = config.open(watch.before_batch)
        facts = json_file.to_values(pool.models) | json_file.to_values(pool.data)
        facts |= {"score": pool.uncertainty, "count": len(pool.ids)}
        hosts.assert_equal_across_hosts("data or checkpoints", facts)
        repeats: list[Repeat] = []
        shown = {"desc": "calibrates", "unit": "repeat", "disable": not hosts.is_first()}
        with progress_bar(total=config.repeats, **shown) as bar:
            for number in range(config.repeats):
                watch.before("a repeat", may_compile=number == 0)  # models are loaded, too
                repeats.append(_repeat(config, pool, number))
                if number == 0 and hosts.is_first():
                    _write_certificates(config, pool, repeats[0])
                bar.update()
        watch.before("a summary")
        budget = summary.summarise(config, pool, repeats)
        if hosts.is_first():
            budget.save(Path(config.output_dir) / "budget.json")
        hosts.barrier("budget.json", hosts.WORK_SECONDS)
    return budget


def _splits(config: CalibrateConfig, pool: Pool, repeat: int) -> Splits:
    sizes = (config.first_size, config.second_size, config.test_size)
    rows = np.arange(len(pool.ids))
    rows = rows if pool.test_rows is None else np.setdiff1d(rows, pool.test_rows)
    drawn = splits.draw(rows, pool.test_rows, sizes, config.seed + repeat)
    examples = {name: (pool.ids[rows], pool.texts[rows]) for name, rows in vars(drawn).items()}
    splits.check_examples_disjoint(examples)
    return drawn


def _repeat(config: CalibrateConfig, pool: Pool, number: int) -> Repeat:
    drawn = _splits(config, pool, number)
    searched = _search(config, pool, drawn.first, number)
    losses = functools.partial(_losses, config, pool, drawn)
    # From the safest: the order of a fixed sequence.
    safest = (lambda t: -sum(t)) if config.promise == COST else sum
    tried = sorted((trial.thresholds for trial in searched.trials), key=safest)
    settings = {alpha: config.settings(alpha) for alpha in sorted(config.alphas)}
    first = losses("first", tried)
    proposals = {alpha: learn_then_test.propose(settings[alpha], first) for alpha in settings}
    if config.procedure != risks.PARETO_TESTING:
        # The first split has been searched: another procedure has the second alone. Fewer share δ:
        # what no other beats on the first, and the two safest, so that there is a choice.
        tested = {*next(iter(proposals.values())).to_test, *tried[:2]}
        second = losses("second", [thresholds for thresholds in tried if thresholds in tested])
        chosen = {alpha: learn_then_test.calibrate(settings[alpha], second) for alpha in settings}
        return Repeat(drawn, searched, second.thresholds, chosen)
    # Whole answers cost nothing, and are all measured, which makes whole pictures.
    second = losses("second", tried) if config.level == ANSWER else None
    tested = set()
    for proposal in proposals.values():
        while (missing := learn_then_test.next_to_test(proposal, second)) is not None:
            # More each time: few answers would leave batches empty.
            start = proposal.to_test.index(missing)
            end = start + max(_FIRST_TESTED, start // 2)
            tested.update(proposal.to_test[start:end])
            second = losses("second", [thresholds for thresholds in tried if thresholds in tested])
    chosen = {alpha: learn_then_test.decide(proposals[alpha], second) for alpha in proposals}
    return Repeat(drawn, searched, second.thresholds, chosen)


def _search(config: CalibrateConfig, pool: Pool, rows: np.ndarray, repeat: int) -> search.Search:
    """Evaluates thresholds on the first split."""
    values = pool.values(config.grid_size, rows)[:, None]
    if pool.thresholds > 1:
        values = search.several_thresholds(values, pool.thresholds, MOST_CANDIDATES, config.seed)
    searched: search.Search = search.GridSearch(values)
    if config.search != GRID:
        most = min(config.iterations, len(values))
        searched = search.BayesianSearch(values, most, min(5, most), seed=config.seed + repeat)
    run_search(searched, pool.evaluate, rows, config.counted)
    return searched


def _losses(
    config: CalibrateConfig,
    pool: Pool,
    drawn: Splits,
    name: str,
    thresholds: Sequence[Thresholds],
) -> CalibrationLosses:
    """Losses on the first or the second split."""
    rows = getattr(drawn, name)
    evaluated = evaluate_all(pool.evaluate, thresholds, rows)
    cost = np.stack([answers.cost for answers in evaluated])
    quality = np.stack([answers.quality[config.counted] for answers in evaluated])
    losses = {}
    for risk in config.settings(config.alphas[0]).risks:
        if risk.lower < 0:
            always = pool.evaluate((-np.inf,) * pool.thresholds, rows)
            losses[risk.name] = always.quality[config.counted] - quality
        else:
            losses[risk.name] = cost
    goal = 1.0 - quality if config.promise == COST else cost
    return CalibrationLosses(name, thresholds, losses, goal, pool.ids[rows].tolist())


def _write_certificates(config: CalibrateConfig, pool: Pool, repeat: Repeat) -> None:
    """Writes a certificate for every alpha, from the first repeat."""
    ids, texts = pool.ids, pool.texts
    parts = vars(repeat.splits).items()
    for alpha, calibration in repeat.calibrations.items():
        written = certificate.from_calibration(
            calibration,
            level=config.level,
            score=pool.uncertainty,
            objective=config.counted if config.promise == COST else "cost",
            models=pool.models,
            data=dataclasses.replace(pool.data, metric=config.counted),
            splits={name: splits.fingerprint(ids[rows], texts[rows]) for name, rows in parts},
            block_length=-(-pool.max_length // pool.thresholds) if config.level == TOKEN else None,
            searched=ids[repeat.splits.first].tolist(),
        )
        written.save(certificate_path(config.output_dir, alpha))
    own = {certificate_path(config.output_dir, alpha) for alpha in repeat.calibrations}
    if older := {*Path(config.output_dir).glob("certificate_*.json")} - own:
        names = ", ".join(sorted(path.name for path in older))
        print(f"{config.output_dir}: of an earlier calibration, and not of this one: {names}")


def certificate_path(output_dir: str, alpha: float) -> Path:
    """Where the certificate of a limit lies: certificate_0.05.json."""
    name = f"{alpha:g}"  # the usual form, unless it is that of another limit too
    return Path(output_dir) / f"certificate_{name if float(name) == alpha else repr(alpha)}.json"
