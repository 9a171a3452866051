"""One training run: what it reads, where it starts, and its steps."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from cascade_jax.data import pipeline
from cascade_jax.models import families
from cascade_jax.parallel import hosts, rules
from cascade_jax.runs import checkpoints, parameters, run_folder
from cascade_jax.runs import state as state_lib
from cascade_jax.runs.folder_lock import FolderLock
from cascade_jax.teacher_cache import batches as taught_batches
from cascade_jax.teacher_cache import identity as teacher_cache_identity
from cascade_jax.training import programs
from cascade_jax.training.step_loop import StepLoop

if TYPE_CHECKING:
    from cascade_jax.training.experiment import TrainRun

_READ = (
    *("vocabulary_fingerprint", "data_fingerprints"),
    *("teacher_saved", "teacher_cache_fingerprint"),
)


def check(run: "TrainRun", output_dir: Path, mesh: Mesh) -> tuple[pipeline.OpenMixture, dict]:
    """Refuses what can be refused before anything is written.

    Returns:
      The run's open mixture and its config as JSON values, when both fit mesh and folder.

    Raises:
      ValueError: if the mesh, batch, vocabulary or run folder does not fit.
    """
    programs.check_batch_size(run, mesh)
    state_lib.abstract_parameters(families.build(run.model), mesh, run.lora, run.rules)
    if run.live_teacher is not None:
        state_lib.abstract_parameters(families.build(run.teacher), mesh, table=run.teacher_rules)
    mixture = pipeline.open_mixture(run.data)
    run_folder.check_vocabulary(run.name, run.model.vocab_size, mixture)
    splits = {"train", run.eval_split} - {None}
    identity = {
        "vocabulary_fingerprint": mixture.fingerprint,
        "data_fingerprints": {split: mixture.data_fingerprints(split) for split in sorted(splits)},
        "teacher_saved": None,
        "teacher_cache_fingerprint": None,
    }
    if run.teacher_cache is not None:
        cached = teacher_cache_identity.check_run(run, output_dir, mixture)
        identity["teacher_saved"] = cached["teacher"]["saved_at"]
        identity["teacher_cache_fingerprint"] = teacher_cache_identity.digest(cached)
    elif run.teacher is not None:
        teacher = run_folder.resolve(output_dir, run.teacher_run)
        identity["teacher_saved"] = parameters.saved_at(teacher, run.teacher_checkpoint)
    if run.lora is not None:
        identity |= parameters.base_identity(run.name, run.start, output_dir)
    return mixture, run_folder.check(output_dir / run.name, run, identity)


def train_one(
    run: "TrainRun", output_dir: Path, mesh: Mesh, stop: hosts.StopSignal | None = None
) -> state_lib.TrainState:
    """Trains one model to the end, from the newest complete checkpoint if there is one.

    Args:
      run: what to do.
      output_dir: the run's folder is `output_dir/run.name`.
      mesh: the device mesh.
      stop: asks whether to stop; None for never.

    Returns:
      The final state.

    Raises:
      ValueError: if the mesh, batch, vocabulary, run folder or a checkpoint does not fit, or
        another run writes to the folder.
      NonFiniteLossError: names the steps; the last good checkpoint stays.
      hosts.Stopped: asked to; what was done is saved.
    """
    ############################ The run folder ############################
    folder = output_dir / run.name
    mixture, config = check(run, output_dir, mesh)
    hosts.assert_equal_across_hosts(
        f"data or teachers of run {run.name!r}", {key: config[key] for key in _READ}
    )
    with FolderLock(folder, hosts.is_first()) as lock:
        return _train(run, output_dir, mesh, stop or hosts.StopSignal(), lock, mixture, config)


def _train(run, output_dir, mesh, stop, lock, mixture, config) -> state_lib.TrainState:
    """`train_one` in a folder that is ours."""
    folder = output_dir / run.name

    ############################ Start or resume ############################
    student = families.build(run.model)
    abstract = state_lib.abstract_state(student, run.optimizer.build(), mesh, run.lora, run.rules)
    parameter_key, dropout_key = jax.random.split(jax.random.key(run.seed))
    where = run.name, run.model, output_dir, mesh, mixture.fingerprint, run.rules
    store = checkpoints.CheckpointStore(folder, run.keep_last, run.keep_best)
    with contextlib.closing(store):
        first_step = store.last_step() or 0
        if first_step:
            state, position = store.restore(
                first_step, abstract, run.data.hosts_read == pipeline.ALL_ROWS
            )
        else:
            optimizer = run.optimizer.build()
            state = state_lib.initialize(student, optimizer, parameter_key, abstract, run.lora)
            position = None
            if run.start is not None and run.lora is None:
                state = state.replace(params=parameters.first_parameters(run.start, *where))
        if first_step >= run.steps:
            hosts.print_once(f"{run.name}: already trained to step {first_step}, nothing to do")
            return state
        if first_step:
            hosts.print_once(f"{run.name}: resuming from step {first_step} of {run.steps}")

        ############################ Teacher, data, steps ############################
        frozen = None
        if run.live_teacher is not None:
            _, frozen = load_teacher(run, output_dir, mesh, mixture.fingerprint)
        if run.lora is not None:
            frozen = parameters.first_parameters(run.start, *where, is_base=True), frozen
        batches, held_out = _open_data(run, mesh, mixture)
        if position is not None:
            try:
                batches.set_state(position)
            except ValueError as error:
                place = f"checkpoint {store.folder / str(first_step)}"
                raise checkpoints.CheckpointError(f"{place}: {error}") from error
        if hosts.is_first():  # all of it fits: a refused start leaves no config.json
            run_folder.claim(folder, config)
        loop = StepLoop(run, folder, config, store, frozen, dropout_key, stop, lock)
        return loop.run(state, first_step, batches, held_out, abstract, mesh)


def _open_data(run: "TrainRun", mesh: Mesh, mixture: pipeline.OpenMixture):
    """Training batches from the first on, and the held-out batches."""
    if run.teacher_cache is not None:
        return taught_batches.open_batches(run, mixture, mesh)
    sharding = rules.batch_sharding(mesh)
    batches = pipeline.train_batches(run.data, sharding)
    if run.eval_split is None:
        return batches, []
    return batches, list(
        pipeline.eval_batches(run.data, sharding, run.eval_split, run.eval_batches)
    )


def load_teacher(run: Any, output_dir: Path, mesh: Mesh, fingerprint: str):
    """The teacher and its parameters; they are never updated.

    Args:
      run: a TrainRun, or another config with `name` and the same settings of a teacher.
      output_dir: where runs are by name.
      mesh: the device mesh.
      fingerprint: of the vocabulary of the data.

    Raises:
      ValueError: it is not there, not at its end, or another model or vocabulary.
    """
    teacher = families.build(run.teacher)
    folder = run_folder.resolve(output_dir, run.teacher_run)
    if not checkpoints.has_checkpoint(folder):
        raise checkpoints.CheckpointError(
            f"run {run.name!r} needs its teacher in {folder}, which is not trained yet; train it "
            "first"
        )
    run_folder.check_same_vocabulary(run.name, fingerprint, folder)
    checkpoints.check_finished(run.name, folder)
    step = checkpoints.chosen_step(folder, run.teacher_checkpoint)
    parameters.check(run.name, folder, step, run.teacher, mesh)
    loaded = parameters.load(folder, step, run.teacher, mesh, run.teacher_rules)
    return teacher, state_lib.frozen(teacher, loaded)
