"""One training run: what it reads, where it starts, and its steps; see `training/train.py`."""

import contextlib
import functools
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from cascade_jax.data import pipeline
from cascade_jax.parallel import hosts, rules
from cascade_jax.runs import checkpoint_errors, checkpoints, parameters, run_folder
from cascade_jax.runs.folder_lock import FolderLock
from cascade_jax.runs.state import Frozen, TrainState
from cascade_jax.teacher_cache import batches as cached_batches
from cascade_jax.teacher_cache import identity as cache_identity
from cascade_jax.training.experiment import TrainRun
from cascade_jax.training.programs import Programs
from cascade_jax.training.step_loop import StepLoop

_READ_BY_ALL_HOSTS = (
    *("vocabulary_fingerprint", "data_fingerprints"),
    *("teacher_saved", "teacher_cache_fingerprint"),
)


def check(programs: Programs, output_dir: Path) -> tuple[pipeline.OpenMixture, dict]:
    """Refuses what can be refused before anything is written.

    Returns:
      The run's open mixture and its config as JSON values.

    Raises:
      ValueError: if the mesh, batch, vocabulary or run folder does not fit.
    """
    programs.check()
    run = programs.run
    mixture = pipeline.open_mixture(run.data)
    _check_vocabulary(run, mixture)
    splits = {"train", run.eval_split} - {None}
    identity = {
        "vocabulary_fingerprint": mixture.fingerprint,
        "data_fingerprints": {split: mixture.data_fingerprints(split) for split in sorted(splits)},
        "teacher_saved": None,
        "teacher_cache_fingerprint": None,
    }
    if run.teacher_cache is not None:
        cached = cache_identity.check_run(run, output_dir, mixture)
        identity["teacher_saved"] = cached["teacher"]["saved_at"]
        identity["teacher_cache_fingerprint"] = cache_identity.digest(cached)
    elif run.teacher is not None:
        teacher = run_folder.resolve(output_dir, run.teacher_run)
        identity["teacher_saved"] = parameters.saved_at(teacher, run.teacher_checkpoint)
    if run.lora is not None:
        identity |= parameters.base_identity(run.name, run.start, output_dir)
    config = run_folder.describe(run) | identity
    run_folder.check(output_dir / run.name, config)
    return mixture, config


def _check_vocabulary(run: TrainRun, mixture: pipeline.OpenMixture) -> None:
    """Refuses an embedding smaller than the vocabulary."""
    if run.model.vocab_size < mixture.vocab_size:
        raise ValueError(
            f"run {run.name!r}: the model's vocab_size {run.model.vocab_size} is smaller than the "
            f"vocabulary of mixture {mixture.name!r}, which has {mixture.vocab_size} ids; give "
            f"the model a vocab_size of at least {mixture.vocab_size}"
        )


def train_one(
    run: TrainRun, output_dir: Path, mesh: Mesh, stop: hosts.StopSignal | None = None
) -> TrainState:
    """Trains one model to the end, from the newest complete checkpoint if there is one.

    Args:
      run: its folder is `output_dir/run.name`.
      output_dir: where runs are by name.
      mesh: the device mesh.
      stop: asks whether to stop; None for never.

    Raises:
      ValueError: if the mesh, batch, vocabulary, run folder or a checkpoint does not fit, or
        another run writes to the folder.
      NonFiniteLossError: names the steps; the last good checkpoint stays.
      hosts.Stopped: asked to; what was done is saved.
    """
    ############################ 2, 3. Checks, the folder's lock ############################
    folder, programs = output_dir / run.name, Programs(run, mesh)
    mixture, config = check(programs, output_dir)
    read = {key: config[key] for key in _READ_BY_ALL_HOSTS}
    hosts.assert_equal_across_hosts(f"data or teachers of run {run.name!r}", read)
    start_parameters = functools.partial(
        parameters.first_parameters, run.start, name=run.name, model=run.model, mesh=mesh,
        output_dir=output_dir, fingerprint=mixture.fingerprint, table=run.rules,
    )  # fmt: skip
    parameter_key, dropout_key = jax.random.split(jax.random.key(run.seed))
    is_finished = checkpoints.is_finished(folder, run.steps)  # is only read, e.g. on a DVD
    lock = FolderLock(folder, hosts.is_first() and not is_finished)
    with lock, _store(folder, run, is_finished) as store:
        ############################ 4. The state ############################
        first_step, position = store.last_step() or 0, None
        if first_step < run.steps:
            wait_for_step = programs.compile_ahead(dropout_key)
        if first_step:
            has_one_position = run.data.hosts_read == pipeline.ALL_ROWS
            state, position = store.restore(first_step, programs.abstract_state, has_one_position)
        else:
            state = programs.initialize(parameter_key)
            if run.start is not None and run.lora is None:
                state = state.replace(params=start_parameters())
        if first_step >= run.steps:
            hosts.print_once(f"{run.name}: already trained to step {first_step}, nothing to do")
            return state
        if first_step:
            hosts.print_once(f"{run.name}: resuming from step {first_step} of {run.steps}")
        ############################ 5. Teacher, LoRA's base ############################
        base = start_parameters(is_base=True) if run.lora else None
        frozen = _frozen(programs, output_dir, mixture.fingerprint, base)
        ############################ 6. Data ############################
        batches, held_out = _open_data(run, mesh, mixture)
        if position is not None:
            _go_to(batches, position, store.folder, first_step)
        if hosts.is_first():  # all of it fits: a refused start leaves no config.json
            run_folder.claim(folder, config)
        ############################ 7. Steps ############################
        stop = stop or hosts.StopSignal()
        wait_for_step()
        loop = StepLoop(programs, folder, config, store, frozen, dropout_key, stop, lock)
        return loop.run(state, first_step, batches, held_out)


def _go_to(batches, position: bytes, folder: Path, step: int) -> None:
    """Goes to the position in the data that a checkpoint holds."""
    with checkpoint_errors.reading(folder, step):
        try:
            batches.set_state(position)
        except ValueError as error:
            message = f"checkpoint {folder / str(step)}: {error}"
            raise checkpoints.CheckpointError(message) from error


def _store(folder: Path, run: TrainRun, read_only: bool):
    store = checkpoints.CheckpointStore(folder, run.keep_last, run.keep_best, read_only)
    return contextlib.closing(store)


def _frozen(programs: Programs, output_dir: Path, fingerprint: str, base) -> Frozen:
    teacher = _load_teacher(programs, output_dir, fingerprint)
    return Frozen(base, teacher, np.float32(programs.run.optimizer.learning_rate))


def _load_teacher(programs: Programs, output_dir: Path, fingerprint: str):
    """The parameters of a live teacher; None if there is none."""
    run = programs.run
    if programs.teacher is None:
        return None
    folder = run_folder.resolve(output_dir, run.teacher_run)
    return parameters.load_teacher(
        run.name, programs.teacher, folder, run.teacher_checkpoint, programs.mesh, fingerprint,
        run.teacher_rules,
    )  # fmt: skip


def _open_data(run: TrainRun, mesh: Mesh, mixture: pipeline.OpenMixture):
    """Training batches from the first on, and the held-out batches."""
    if run.teacher_cache is not None:
        return cached_batches.open_batches(run, mixture, mesh)
    sharding = rules.batch_sharding(mesh)
    batches = pipeline.train_batches(run.data, sharding)
    if run.eval_split is None:
        return batches, []
    held_out = pipeline.eval_batches(run.data, sharding, run.eval_split, run.eval_batches)
    return batches, list(held_out)
