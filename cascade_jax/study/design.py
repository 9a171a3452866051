"""What a study is made of: sizes of students, losses and seeds, each combination a run."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

from cascade_jax import checks
from cascade_jax.collection.collect import CollectConfig
from cascade_jax.deferral.routers import Router
from cascade_jax.losses import variants
from cascade_jax.names import check_choice, nearest_names
from cascade_jax.records import run_table
from cascade_jax.runs import start as start_lib
from cascade_jax.training.experiment import TrainRun
from cascade_jax.training.optimizers import Adafactor


@dataclasses.dataclass(frozen=True)
class StudyLoss:
    """One loss of a study.

    Attributes:
      name: in the runs' names and in tables, as a file of gin/losses is called.
      loss: the variant.
      seeds: the runs have the seeds 0 to `seeds - 1`.
      turn: losses of a smaller number are trained first, with all their seeds.
      after: the loss whose student of the same size and seed a run starts from, for a second stage;
        None for the start of the size.
      steps: number of updates; None for those of the size.
      routers: by name, learned routers that are fitted on the study's `router_split`; what they say
        of each example goes into the run's table.
    """

    name: str
    loss: variants.Loss
    seeds: int = 1
    turn: int = 0
    after: str | None = None
    steps: int | None = None
    routers: Mapping[str, Router] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        checks.require(isinstance(self.name, str) and self.name, "name", self.name, "a text")
        label = f"loss {self.name!r}: "
        checks.whole_number(f"{label}seeds", self.seeds, 1)
        checks.whole_number(f"{label}turn", self.turn, 0)
        checks.whole_number(f"{label}steps", self.steps, 1, optional=True)


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One run of a study: a size, a loss and a seed.

    Attributes:
      size: its settings but for the loss, the seed and what follows from these.
      loss, seed: see there.
    """

    size: TrainRun
    loss: StudyLoss
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and of its tables: "layers_6.cat_dist.seed_0"."""
        return self._name_of(self.loss.name)

    @property
    def first(self) -> str | None:
        """Name of the run that it starts from, if that is one of the study."""
        return None if self.loss.after is None else self._name_of(self.loss.after)

    def _name_of(self, loss: str) -> str:
        return f"{self.size.name}.{loss}.seed_{self.seed}"

    @property
    def train_run(self) -> TrainRun:
        """What is trained. The seed is that of dropout, fresh parameters and the data's order."""
        steps = self.loss.steps or self.size.steps
        start = self.size.start if self.first is None else start_lib.FromRun(self.first)
        return dataclasses.replace(
            self.size,
            name=self.name,
            loss=self.loss.loss,
            start=start,
            seed=self.seed,
            data=dataclasses.replace(self.size.data, seed=self.seed),
            steps=steps,
            optimizer=_shortened(self.size.optimizer, self.size.steps, steps),
        )

    def table_run(self, pair: str) -> run_table.Run:
        """What its table says it is of."""
        return run_table.Run(pair, self.size.name, self.loss.name, self.seed)


def _shortened(optimizer: Adafactor, before: int, steps: int) -> Adafactor:
    """The optimizer with a schedule that ends with the run, if it did before."""
    if optimizer.decay_steps != before:
        return optimizer
    return dataclasses.replace(optimizer, decay_steps=steps)


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A study: students of each size under each loss and seed, trained and made to answer.

    Attributes:
      pair: a name of the two models, for tables.
      output_dir: where runs are by name; all machines of a study share it.
      sizes: a run for each size of student, whose name is the size's. Its loss and seed are not
        read.
      losses: in the order in which they are trained.
      collect: how students answer; its students and split are not read.
      splits: which splits they answer.
      tables_split: of which each run gets a table without text.
      router_split: on which routers are fitted.
      tables_dir: where these tables go; None for `tables` in `output_dir`.
      only: patterns of names; just these runs are done.
    """

    pair: str
    output_dir: str
    sizes: Sequence[TrainRun]
    losses: Sequence[StudyLoss]
    collect: CollectConfig
    splits: Sequence[str] = ("calibration", "test")
    tables_split: str = "test"
    router_split: str = "calibration"
    tables_dir: str | None = None
    only: Sequence[str] = ("*",)

    def __post_init__(self):
        for field in ("sizes", "losses"):
            names = [part.name for part in getattr(self, field)]
            checks.require(names, field, names, "one or more")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field} have the same name: {twice}; names must differ")
        losses = {loss.name: loss for loss in self.losses}
        for loss in self.losses:
            if loss.after is not None:
                check_choice(f"loss {loss.name!r}: after", loss.after, losses)
                self._check_order(loss, losses[loss.after])
        check_choice("tables_split", self.tables_split, self.splits)
        if any(loss.routers for loss in self.losses):
            check_choice("router_split", self.router_split, self.splits)
        names = [run.name for run in self.runs]
        for pattern in self.only:
            if not fnmatch.filter(names, pattern):
                near = ", ".join(nearest_names(pattern, names))
                raise ValueError(f"only={pattern!r} is no run of the study; the nearest: {near}")

    def _check_order(self, loss: StudyLoss, first: StudyLoss) -> None:
        if first.after is not None or first.seeds < loss.seeds or first.turn > loss.turn:
            raise ValueError(
                f"loss {loss.name!r} comes after {first.name!r}, which must have as many seeds "
                f"({loss.seeds}), no later turn ({loss.turn}), and be after none; it has "
                f"{first.seeds}, {first.turn} and {first.after!r}"
            )

    @property
    def runs(self) -> list[StudyRun]:
        """All runs in the order in which they are done: by turn, then by seed, loss and size."""
        runs = [
            StudyRun(size, loss, seed)
            for loss in self.losses
            for size in self.sizes
            for seed in range(loss.seeds)
        ]
        return sorted(runs, key=lambda run: (run.loss.turn, run.seed))

    def selected(self) -> list[StudyRun]:
        """The runs to do."""
        return [run for run in self.runs if any(fnmatch.fnmatch(run.name, p) for p in self.only)]

    def collect_config(self, run: StudyRun, split: str) -> CollectConfig:
        """How a run's student answers a split."""
        cascade = dataclasses.replace(self.collect.cascade, students=[run.name])
        return dataclasses.replace(self.collect, cascade=cascade, split=split)

    def records_file(self, run: StudyRun, split: str) -> Path:
        """The records of a run's student on a split."""
        return self.collect.cascade.records_file(run.name, split)

    def table_file(self, run: StudyRun) -> Path:
        """The table without text of a run."""
        folder = self.tables_dir or Path(self.output_dir) / "tables"
        return Path(folder) / f"{run.name}.parquet"
