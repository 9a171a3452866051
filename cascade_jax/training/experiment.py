"""What a training experiment is made of: its runs, each with models, data, loss and optimizer."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cascade_jax import checks
from cascade_jax.data import pipeline
from cascade_jax.losses import variants
from cascade_jax.models import families, pair
from cascade_jax.models.lora import Lora
from cascade_jax.names import check_choice, did_you_mean
from cascade_jax.parallel import rules as rules_lib
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints
from cascade_jax.runs import start as start_lib
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor

_TAKEN = (".", "..", "records", "report", "calibration")  # of the output folder
_MOST_LETTERS = 200


def _is_name(name: object) -> bool:
    is_text = isinstance(name, str) and 0 < len(name) <= _MOST_LETTERS and name == name.strip()
    return is_text and name.isprintable() and not {"/", "\\"} & {*name} and name not in _TAKEN


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
      teacher_cache: a folder that `cascade-jax cache-teacher` has made: what the teacher says is
        looked up there, and the teacher itself is not loaded.
      start: where the first parameters are, see `runs/start.py`; None for fresh ones.
      lora: trains and saves low-rank additions to these parameters and leaves them as they are;
        None trains them all.
      rules, teacher_rules: how the trained model and its teacher are split over the mesh: a name or
        a table, see `parallel/rules.py`.
      microbatches: into how many parts a batch is cut to save memory; the result is the same.
      head: "fused", or "plain" for whole logits; see `training/step.py`.
      chunk_tokens: tokens at a time in the fused head; None for a default.
      seed: of the initial parameters and of dropout.
      eval_split: the held-out split; None for no evaluation.
      eval_batches: at most so many batches of it.
      log_every, eval_every, checkpoint_every: steps between two; the last step does all three.
        Evaluation is also done at every checkpoint, since that is what the best one is chosen by.
      keep_last, keep_best: how many checkpoints stay.
      skip_bad_batches: so many batches whose loss or gradient is not finite are left out and
        written to skipped.jsonl; the next one ends the run, as does the first where it is None.
      hang_seconds: a run without progress for so long is ended; None to wait for ever.
      profile_steps: (first, last) are recorded in the folder `profile`; None for no trace.
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
    teacher_cache: str | None = None
    start: start_lib.Start | None = None
    lora: Lora | None = None
    rules: str | rules_lib.Table = rules_lib.DEFAULT
    teacher_rules: str | rules_lib.Table = rules_lib.DEFAULT
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
    skip_bad_batches: int | None = None
    hang_seconds: float | None = 1800.0
    profile_steps: Sequence[int] | None = None

    def __post_init__(self):
        for field in ("rules", "teacher_rules"):
            rules_lib.table(getattr(self, field))
        label = f"run {self.name!r}: "
        counts = ("steps", "microbatches", "eval_batches", "log_every", "eval_every")
        for field in (*counts, "checkpoint_every", "keep_last"):
            checks.whole_number(label + field, getattr(self, field), 1)
        checks.whole_number(f"{label}keep_best", self.keep_best, 0)
        checks.whole_number(f"{label}seed", self.seed, -checks.LARGEST)
        for field in ("chunk_tokens", "skip_bad_batches"):
            checks.whole_number(label + field, getattr(self, field), 1, optional=True)
        checks.positive(f"{label}hang_seconds", self.hang_seconds, optional=True, most=1e9)
        span = self.profile_steps
        is_pair = isinstance(span, list | tuple) and len(span) == 2
        is_pair = is_pair and all(type(step) is int for step in span) and 1 <= span[0] <= span[1]
        allowed = "(first, last), steps counted from 1, or None"
        checks.require(span is None or is_pair, f"{label}profile_steps", span, allowed)
        check_choice(f"{label}head", self.head, step_lib.HEADS)
        allowed = (
            f"one folder name of 1 to {_MOST_LETTERS} characters that can be printed, without / "
            f"and \\ and without spaces at its ends, but not one of {_TAKEN}"
        )
        checks.require(_is_name(self.name), "run name", self.name, allowed)
        if self.data.batch_size % self.microbatches:
            raise ValueError(
                f"{label}batch_size {self.data.batch_size} does not divide by microbatches "
                f"{self.microbatches}"
            )
        for model in filter(None, (self.model, self.teacher)):
            families.check_reads(model, self.data.architecture, self.data.pack)
            if self.data.renders_chats:
                families.check_reads_chats(model)
        if self.start is not None:
            self.start.check(self.model)
        if self.lora is not None:
            self.lora.check(self.model)
            if self.start is None:
                raise ValueError(
                    f"{label}LoRA adds to parameters that are there already; give start, e.g. "
                    "start.FromRun"
                )
        self._check_teacher(label)

    def _check_teacher(self, label: str) -> None:
        if (self.teacher is None) != (self.teacher_run is None):
            raise ValueError(
                f"{label}give both teacher and teacher_run or neither; teacher_run is "
                f"{self.teacher_run!r}"
            )
        if self.teacher_cache is not None and self.teacher is None:
            raise ValueError(
                f"{label}teacher_cache is {self.teacher_cache!r} and there is no teacher; give "
                "both, or neither"
            )
        if self.teacher is not None:
            pair.ModelPair(student=self.model, teacher=self.teacher)
        elif self.loss.needs_teacher:
            raise ValueError(
                f"{label}{type(self.loss).__name__} needs a teacher; give teacher and teacher_run, "
                "or use variants.Xent"
            )

    @property
    def live_teacher(self) -> families.ModelConfig | None:
        """The teacher, if it is to run beside the student."""
        return self.teacher if self.teacher_cache is None else None

    @property
    def rule_tables(self) -> list[str | rules_lib.Table]:
        """How the models that the run holds are split: the student, and a live teacher."""
        return [self.rules] if self.live_teacher is None else [self.rules, self.teacher_rules]


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
        is_path = bool(self.output_dir) and isinstance(self.output_dir, str)
        checks.require(is_path, "output_dir", self.output_dir, "the path of a folder")
        names = [run.name for run in self.runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"runs have the same name: {twice}; names must differ")
        unknown = sorted(set(self._selected_names()) - set(names))
        if unknown:
            hint = did_you_mean(unknown[0], names)
            raise ValueError(
                f"only={self.only!r}: no run named {unknown}; the runs are {names}{hint}"
            )

    def _selected_names(self) -> Sequence[str]:
        if self.only is None:
            return [run.name for run in self.runs]
        return [self.only] if isinstance(self.only, str) else self.only

    @property
    def run_folders(self) -> list[str]:
        """Folders of the runs to do, but for finished ones, in which nothing is written."""
        folders = {run.name: Path(self.output_dir) / run.name for run in self.selected()}
        return [
            str(folders[run.name])
            for run in self.selected()
            if not checkpoints.is_finished(folders[run.name], run.steps)
        ]

    def selected(self) -> list[TrainRun]:
        """The runs to do."""
        return [run for run in self.runs if run.name in self._selected_names()]
