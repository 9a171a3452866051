"""Does a study's runs one after the other, beside other machines that do the same.

Each run is trained, answers the splits, and gets its table without text; then `done.json` stands in
its folder of `<output_dir>/study`, and nobody does it again. A machine takes the first run that is
neither finished nor in the hands of another one, which the lock of that folder says
(`runs/folder_lock.py`). What a machine leaves behind, another one goes on with: training from its
newest checkpoint, answers from the first table that is missing.
"""

import functools
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from cascade_jax.collection import collect as collect_lib
from cascade_jax.collection.collect import CollectConfig
from cascade_jax.data.pipeline import Example, OpenMixture
from cascade_jax.deferral.scores import DeferralScore
from cascade_jax.evaluation.fit_router import FitRouterConfig, fit_router
from cascade_jax.parallel import hosts
from cascade_jax.records import run_table
from cascade_jax.runs.folder_lock import FolderInUseError, FolderLock
from cascade_jax.study import progress
from cascade_jax.study.design import StudyConfig, StudyRun
from cascade_jax.training import run as run_lib
from cascade_jax.training.programs import Programs
from cascade_jax.training.step_loop import NonFiniteLossError

_POLL_SECONDS = 5.0


class FailedRunsError(FloatingPointError):
    """Runs of a study that can not be finished."""


def check(config: StudyConfig) -> None:
    """Refuses what can be refused of any size before the first run starts; writes nothing.

    Raises:
      ValueError: mesh, batch, vocabulary, a run that a size starts from, the teacher cache or a run
        folder does not fit; or this process is one of many hosts.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"a study takes one process on each machine, and this is one of {jax.process_count()} "
            "that run together; start it without --processes: each machine takes runs of its own"
        )
    mesh = config.collect.cascade.mesh.build()
    for size in config.sizes:
        runs = [run for run in config.selected() if run.size.name == size.name]
        if runs:
            run_lib.check(Programs(runs[0].train_run, mesh), Path(config.output_dir))


def run(config: StudyConfig, poll_seconds: float = _POLL_SECONDS) -> None:
    """Does what is open until all is finished, and says how far it is before each run.

    Args:
      config: the study.
      poll_seconds: between two looks at runs that other machines are at work on.

    Raises:
      FailedRunsError: runs whose loss became NaN or infinite, all of them, when all others are
        finished. Delete their failed.json to try again.
      ValueError: see `training/run.py`, `collection/collect.py`, `records/run_table.py`.
      hosts.Stopped: asked to; what was done is saved.
    """
    mesh, runs = config.collect.cascade.mesh.build(), config.selected()
    read, waiting = _Examples(), ""
    with hosts.StopSignal() as stop:
        while open_runs := [run for run in runs if _is_open(config, run)]:
            if stop.asked():
                raise hosts.Stopped(progress.summary(config, runs))
            in_use = _do_first(config, open_runs, mesh, stop, read)
            if in_use is None:
                waiting = ""
                continue
            if in_use != waiting:
                print(f"waiting for other machines: {in_use}", flush=True)
                waiting = in_use
            time.sleep(poll_seconds)
    print(progress.summary(config, runs), flush=True)
    failed = {run.name: failure for run in runs if (failure := _failure(config, run))}
    if failed:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise FailedRunsError(f"{len(failed)} runs can not be finished: {listed}")


def _is_open(config: StudyConfig, run: StudyRun) -> bool:
    return progress.done(config, run) is None and _failure(config, run) is None


def _failure(config: StudyConfig, run: StudyRun) -> str | None:
    """Why a run can not be finished: itself, or the one that it starts from."""
    own = progress.failure(config, run)
    if own is not None or run.first is None:
        return own and own.reason
    first = next(other for other in config.runs if other.name == run.first)
    theirs = progress.failure(config, first)
    return theirs and f"it starts from {run.first}"


class _Examples:
    """Examples of splits, read once: TensorFlow keeps the graph of each reading for good."""

    def __init__(self):
        self._kept: dict[tuple, list[Example]] = {}

    def __call__(self, config: CollectConfig, mixture: OpenMixture) -> list[Example]:
        key = (config.data, config.split, config.limit)
        if key not in self._kept:
            self._kept[key] = collect_lib.read_examples(config, mixture)
        return self._kept[key]


def _do_first(
    config: StudyConfig,
    runs: Sequence[StudyRun],
    mesh: Mesh,
    stop: hosts.StopSignal,
    read: _Examples,
) -> str | None:
    """Does the first run that nobody else works on; says who does, if there is none."""
    names = {run.name for run in runs}
    reasons = []
    for run in runs:
        if run.first in names:
            reasons.append(f"{run.name} starts from {run.first}, which is not finished")
            continue
        try:
            with FolderLock(progress.folder_of(config, run)) as lock:
                if not _is_open(config, run):  # finished by another one before the lock was free
                    return None
                print(f"{run.name}; {progress.summary(config, config.selected())}", flush=True)
                _do(config, run, mesh, stop, lock.check, read)
                return None
        except FolderInUseError as error:
            reasons.append(str(error).partition(";")[0])
    return "; ".join(reasons)


def _do(
    config: StudyConfig,
    run: StudyRun,
    mesh: Mesh,
    stop: hosts.StopSignal,
    is_mine: Callable,
    read: _Examples,
) -> None:
    """All of one run."""
    _check_first(config, run)
    seconds = {}

    def timed(part: str, work: Callable[[], object]) -> None:
        start = time.monotonic()
        work()
        seconds[part] = round(time.monotonic() - start, 1)
        is_mine()
        if stop.asked():
            raise hosts.Stopped(f"{run.name}: asked to stop after {part}; that much is saved")

    train_run = run.train_run
    output_dir = Path(config.output_dir)
    try:
        timed("train", lambda: run_lib.train_one(train_run, output_dir, mesh, stop))
    except NonFiniteLossError as error:
        progress.write(config, run, progress.Failed(str(error)))
        print(f"{run.name} can not be finished: {error}", flush=True)
        return
    for split in config.splits:
        answers = config.collect_config(run, split)
        timed(split, functools.partial(collect_lib.collect, answers, read))
    timed("table", lambda: _write_table(config, run))
    progress.write(config, run, progress.Done(seconds, train_run.steps, socket.gethostname()))
    jax.clear_caches()  # each run has programs of its own


def _check_first(config: StudyConfig, run: StudyRun) -> None:
    """Refuses a second stage whose first one is not selected and not finished."""
    if run.first is None:
        return
    first = next(other for other in config.runs if other.name == run.first)
    if progress.done(config, first) is None:
        raise ValueError(
            f"{run.name} starts from {run.first}, which is not finished and not among the runs to "
            f"do ({', '.join(config.only)}); do it first"
        )


def _write_table(config: StudyConfig, run: StudyRun) -> None:
    """The table without text, with what the routers of the run say."""
    scores: dict[str, DeferralScore] = {}
    for name, router in run.loss.routers.items():
        file = Path(config.output_dir) / "routers" / f"{run.name}.{name}.npz"
        records_file = config.records_file(run, config.router_split)
        fitted = fit_router(FitRouterConfig(records_file, file, router, seed=run.seed))
        scores[name] = fitted.router
    run_table.write(
        config.records_file(run, config.tables_split),
        config.table_file(run),
        run.table_run(config.pair),
        scores,
    )
