"""Training runs: what one is made of, and the loop.

`train(config)` does the runs of an experiment in order, a teacher first and then its students, say.
Started again with the same config it skips what is finished and goes on where it was interrupted.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from cascade_jax import metrics
from cascade_jax.data import pipeline
from cascade_jax.losses import variants
from cascade_jax.models import families, pair
from cascade_jax.models.lora import Lora
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.training import checkpoints, reporting, run_folder, saved
from cascade_jax.training import start as start_lib
from cascade_jax.training import state as state_lib
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor

_QUEUED = 3


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """One training run.

    Attributes:
      name: the run's sub-folder and its label in reports.
      model: the model that is trained (a student, or a teacher to be).
      data: mixture, lengths, batch size, vocabulary, seed of the order.
      loss: the loss variant.
      optimizer: e.g. Adafactor.
      steps: number of updates.
      teacher: config of the frozen teacher; None trains without one.
      teacher_run: where the teacher's parameters are: the name of another run of the same output
        folder, or the folder of a run.
      teacher_checkpoint: "best" or "last" of that run.
      start: where the first parameters are, see `training/start.py`; None for fresh ones.
      lora: trains and saves low-rank additions to these parameters and leaves them as they are;
        None trains them all.
      microbatches: into how many parts a batch is cut to save memory; the result is the same.
      head: "fused", or "plain" for whole logits; see `training/step.py`.
      chunk_tokens: tokens at a time in the fused head; None for a default.
      seed: of the initial parameters and of dropout.
      eval_split: the held-out split; None for no evaluation.
      eval_batches: at most so many batches of it.
      log_every, eval_every, checkpoint_every: steps between two; the last step does all three.
        Evaluation is also done at every checkpoint, since that is what the best one is chosen by.
      keep_last, keep_best: how many checkpoints stay.
    """

    name: str
    model: families.ModelConfig
    data: pipeline.DataConfig
    loss: variants.Loss
    optimizer: Adafactor
    steps: int
    teacher: families.ModelConfig | None = None
    teacher_run: str | None = None
    teacher_checkpoint: str = "best"
    start: start_lib.Start | None = None
    lora: Lora | None = None
    microbatches: int = 1
    head: str = "fused"
    chunk_tokens: int | None = None
    seed: int = 0
    eval_split: str | None = "validation"
    eval_batches: int = 16
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        counts = ("steps", "microbatches", "eval_batches", "log_every", "eval_every")
        for field in (*counts, "checkpoint_every", "keep_last"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"run {self.name!r}: {field} is {value!r}; must be an integer of at least 1"
                )
        if self.head not in step_lib.HEADS:
            raise ValueError(
                f"run {self.name!r}: head is {self.head!r}; must be one of {list(step_lib.HEADS)}"
            )
        if self.chunk_tokens is not None and (
            not isinstance(self.chunk_tokens, int) or self.chunk_tokens < 1
        ):
            raise ValueError(
                f"run {self.name!r}: chunk_tokens is {self.chunk_tokens!r}; must be an integer of "
                "at least 1, or None"
            )
        if not self.name or "/" in self.name:
            raise ValueError(f"run name {self.name!r} must be one folder name")
        if self.data.batch_size % self.microbatches:
            raise ValueError(
                f"run {self.name!r}: batch_size {self.data.batch_size} does not divide by "
                f"microbatches {self.microbatches}"
            )
        for model in (self.model, self.teacher):
            families.check_reads(model, self.data.architecture, self.data.pack)
        if self.start is not None:
            self.start.check(self.model)
        if self.lora is not None:
            self.lora.check(self.model)
            if self.start is None:
                raise ValueError(
                    f"run {self.name!r}: LoRA adds to parameters that are there already; give "
                    "start, e.g. start.FromRun"
                )
        if (self.teacher is None) != (self.teacher_run is None):
            raise ValueError(
                f"run {self.name!r}: give both teacher and teacher_run or neither; "
                f"teacher_run is {self.teacher_run!r}"
            )
        if self.teacher is not None:
            pair.ModelPair(student=self.model, teacher=self.teacher)
        elif self.loss.needs_teacher:
            raise ValueError(
                f"run {self.name!r}: {type(self.loss).__name__} needs a teacher; give teacher and "
                "teacher_run, or use variants.Xent"
            )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """An experiment: runs done one after the other.

    Attributes:
      runs: the runs, a teacher before its students.
      output_dir: each run has the sub-folder of its name.
      mesh: the device mesh.
      only: do just the runs of these names (one, or several), e.g. one per machine.
    """

    runs: Sequence[TrainRun]
    output_dir: str
    mesh: MeshConfig = MeshConfig()
    only: str | Sequence[str] | None = None

    def __post_init__(self):
        if not self.output_dir or not isinstance(self.output_dir, str):
            raise ValueError(f"output_dir is {self.output_dir!r}; must be the path of a folder")
        names = [run.name for run in self.runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"runs have the same name: {twice}; names must differ")
        unknown = sorted(set(self._wanted()) - set(names))
        if unknown:
            raise ValueError(f"only={self.only!r}: no run named {unknown}; the runs are {names}")

    def _wanted(self) -> Sequence[str]:
        if self.only is None:
            return [run.name for run in self.runs]
        return [self.only] if isinstance(self.only, str) else self.only

    @property
    def run_folders(self) -> list[str]:
        """Folders of the runs to do."""
        return [str(Path(self.output_dir) / run.name) for run in self.selected()]

    def selected(self) -> list[TrainRun]:
        """The runs to do."""
        return [run for run in self.runs if run.name in self._wanted()]


def check(config: TrainConfig) -> None:
    """Refuses what can be refused of any selected run before the first starts; writes nothing.

    Raises:
      ValueError: if the mesh, batch, vocabulary or a run folder does not fit.
    """
    mesh = config.mesh.build()
    for run in config.selected():
        _check_one(run, Path(config.output_dir), mesh)


def _check_one(run: TrainRun, output_dir: Path, mesh: Mesh) -> tuple[pipeline.OpenMixture, dict]:
    """The run's open mixture and its config as JSON values, when both fit mesh and folder."""
    size = run.data.batch_size // run.microbatches
    label = "batch_size" if run.microbatches == 1 else "batch_size / microbatches"
    rules.check_batch_size(f"run {run.name!r}: {label}", size, mesh)
    mixture = pipeline.open_mixture(run.data)
    run_folder.check_vocabulary(run.name, run.model.vocab_size, mixture)
    splits = {"train", run.eval_split} - {None}
    identity = {
        "vocabulary_fingerprint": mixture.fingerprint,
        "data_fingerprints": {split: mixture.data_fingerprints(split) for split in sorted(splits)},
        "teacher_saved": None,
    }
    if run.teacher is not None:
        teacher = run_folder.resolve(output_dir, run.teacher_run)
        identity["teacher_saved"] = saved.saved_at(teacher, run.teacher_checkpoint)
    if run.lora is not None:
        identity |= saved.base_identity(run.name, run.start, output_dir)
    return mixture, run_folder.check(output_dir / run.name, run, identity)


def train(config: TrainConfig) -> None:
    """Does the selected runs in order; finished ones are skipped.

    Raises:
      ValueError: if the mesh, batch, vocabulary, run folder or a checkpoint does not fit.
      NonFiniteLossError: see `train_one`.
    """
    mesh = config.mesh.build()
    for run in config.selected():
        train_one(run, Path(config.output_dir), mesh)


def train_one(run: TrainRun, output_dir: Path, mesh: Mesh) -> state_lib.TrainState:
    """Trains one model to the end, from the newest complete checkpoint if there is one.

    Args:
      run: what to do.
      output_dir: the run's folder is `output_dir/run.name`.
      mesh: the device mesh.

    Returns:
      The final state.

    Raises:
      ValueError: if the mesh, batch, vocabulary, run folder or a checkpoint does not fit.
      NonFiniteLossError: names the steps; the last good checkpoint stays.
    """
    ############################ The run folder ############################
    folder = output_dir / run.name
    mixture, config = _check_one(run, output_dir, mesh)

    ############################ Start or resume ############################
    student = families.build(run.model)
    abstract = state_lib.abstract_state(student, run.optimizer.build(), mesh, run.lora)
    parameter_key, dropout_key = jax.random.split(jax.random.key(run.seed))
    where = run.name, run.model, output_dir, mesh, mixture.fingerprint
    store = checkpoints.CheckpointStore(folder, run.keep_last, run.keep_best)
    with contextlib.closing(store):
        first_step = store.last_step() or 0
        if first_step:
            state, position = store.restore(first_step, abstract)
        else:
            optimizer = run.optimizer.build()
            state = state_lib.initialize(student, optimizer, parameter_key, abstract, run.lora)
            position = None
            if run.start is not None and run.lora is None:
                state = state.replace(params=saved.first_parameters(run.start, *where))
        if first_step >= run.steps:
            print(f"{run.name}: already trained to step {first_step}, nothing to do")
            return state
        if first_step:
            print(f"{run.name}: resuming from step {first_step} of {run.steps}")

        ############################ Teacher, data, steps ############################
        teacher, frozen = _load_teacher(run, output_dir, mesh, mixture.fingerprint)
        if run.lora is not None:
            frozen = saved.first_parameters(run.start, *where, is_base=True), frozen
        batches, held_out = _open_data(run, mesh, position)
        run_folder.claim(folder, config)  # all of it fits: a refused start leaves no config.json
        loss_fn = step_lib.make_loss_fn(
            student, teacher, run.loss, head=run.head, mesh=mesh, chunk_tokens=run.chunk_tokens
        )
        if run.lora is not None:
            loss_fn = run.lora.adapted(loss_fn)
        loop = _Loop(run, folder, config, store, frozen, dropout_key)
        return loop.run(state, first_step, batches, held_out, loss_fn, abstract, mesh)


def _open_data(run: TrainRun, mesh: Mesh, position: bytes | None):
    """Training batches from the saved position on, and the held-out batches."""
    sharding = rules.batch_sharding(mesh)
    batches = pipeline.train_batches(run.data, sharding)
    if position is not None:
        batches.set_state(position)
    if run.eval_split is None:
        return batches, []
    return batches, list(
        pipeline.eval_batches(run.data, sharding, run.eval_split, run.eval_batches)
    )


def _load_teacher(run: TrainRun, output_dir: Path, mesh: Mesh, fingerprint: str):
    """The teacher and its parameters; they are never updated."""
    if run.teacher is None:
        return None, None
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
    saved.check(run.name, folder, step, run.teacher, mesh)
    return teacher, saved.load(folder, step, run.teacher, mesh)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The loop of one run, with what stays the same through it."""

    run_config: TrainRun
    folder: Path
    config: dict
    store: checkpoints.CheckpointStore
    frozen: PyTree  # the teacher's parameters; with LoRA, those of the base and of the teacher
    dropout_key: PRNGKeyArray

    def run(self, state, first_step, batches, held_out, loss_fn, abstract, mesh):
        """Steps from `first_step` to the end, with logs, evaluations and checkpoints when due."""
        run = self.run_config
        train_step = step_lib.make_train_step(
            loss_fn,
            run.optimizer.build(),
            run.optimizer.learning_rate_schedule(),
            jax.tree.map(lambda leaf: leaf.sharding, abstract),
            mesh,
            run.microbatches,
        )
        eval_step = step_lib.make_eval_step(loss_fn, mesh)
        parameter_norm = jax.jit(optax.tree.norm, out_shardings=rules.replicated(mesh))
        reporter = reporting.Reporter(self.folder, run.name, first_step, run.steps)
        recent = []
        with contextlib.closing(reporter):
            for step in range(first_step + 1, run.steps + 1):
                batch = next(batches)
                state, found = train_step(state, self.frozen, batch, self.dropout_key)
                recent.append(found)
                # A few steps are queued ahead, no more: the progress bar shows what is done.
                jax.block_until_ready(recent[-_QUEUED:][0])
                reporter.advance()
                saves = step == run.steps or step % run.checkpoint_every == 0
                if saves or step % run.log_every == 0:
                    merged = reporting.merge(recent)
                    self._check_finite(step - len(recent) + 1, step, _must_be_finite(merged))
                    reporter.train(step, len(recent), merged)
                    recent = []
                if saves:
                    # The loss was that of the parameters before the update; those after it are
                    # saved. (Parameters that overflow when squared have no finite loss either.)
                    norm = float(parameter_norm(state.params))
                    self._check_finite(step, step, {"norm of the parameters": norm})
                measured = None
                if held_out and (saves or step % run.eval_every == 0):
                    models = state.params, self.frozen
                    found = [eval_step(*models, batch, state.step) for batch in held_out]
                    measured = reporting.merge(found)
                    label = f"{metrics.CROSS_ENTROPY} of split {run.eval_split!r}"
                    # It is missing when no held-out token counts: nothing then says it went wrong.
                    if metrics.CROSS_ENTROPY in measured:
                        self._check_finite(step, step, {label: measured[metrics.CROSS_ENTROPY]})
                    reporter.held_out(step, run.eval_split, measured)
                if saves:
                    self.store.save(step, state, batches.get_state(), self.config, measured)
            self.store.wait()
        return state

    def _check_finite(self, first: int, last: int, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            if math.isfinite(value):
                continue
            self.store.wait()
            good = self.store.last_step()
            kept = f"the checkpoint of step {good} stays" if good else "no checkpoint was written"
            raise NonFiniteLossError(
                f"run {self.run_config.name!r}: {key} is {value} somewhere in steps {first} to "
                f"{last}; {kept}. Lower the learning rate, or raise warmup_steps"
            )


def _must_be_finite(merged: dict[str, float]) -> dict[str, float]:
    """The figures that show whether a step went well.

    Where no token was counted or kept there is no loss, and the gradient is 0.
    """
    keys = (metrics.LOSS, metrics.GRADIENT_NORM)
    return {key: merged[key] for key in keys if key in merged}
