"""Trained models of a cascade, out of their run folders."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from cascade_jax import checks
from cascade_jax.data import pipeline
from cascade_jax.deferral.guarantees.certificate import ModelIdentity
from cascade_jax.models import families, pair
from cascade_jax.names import check_choice, did_you_mean
from cascade_jax.parallel import hosts
from cascade_jax.parallel import rules as rules_lib
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, parameters, run_folder


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """An unbound module with its parameters on a mesh.

    Attributes:
      name: for progress bars and messages.
      rules: how parameters and activations are split over the mesh, see `parallel/rules.py`.
    """

    name: str
    module: families.Model
    params: Any
    rules: rules_lib.Table = rules_lib.RULES


class SavedModel:
    """A run's model at one of its checkpoints; reads no array before `load`.

    Attributes:
      name, folder: of the run.
      config: of the model, from the run's config.json.
      rules: the run's own sharding rules; the default ones for an imported model.
      step: of the checkpoint.
      saved: when that was completed, which tells it from its successor of the same step.
    """

    def __init__(self, experiment_dir: str, run: str, checkpoint: str = "best"):
        """Finds the "best" or "last" checkpoint of a run, given by its name or its folder.

        Raises:
          CheckpointError: the run has no complete checkpoint.
          ValueError: its config.json has a model that this version does not know.
        """
        self.folder = run_folder.resolve(Path(experiment_dir), run)
        self.name = self.folder.name
        try:
            self.step = checkpoints.chosen_step(self.folder, checkpoint)
        except checkpoints.CheckpointError as error:
            if checkpoints.has_checkpoint(self.folder):
                raise
            others = [path.parent.name for path in self.folder.parent.glob("*/checkpoints")]
            raise checkpoints.CheckpointError(f"{error}{did_you_mean(self.name, others)}") from None
        self.saved = checkpoints.saved_at(self.folder, self.step)
        config = checkpoints.config_of(self.folder)
        self.config = run_folder.model_in(self.folder)
        try:
            self.rules = rules_lib.table(config.get("rules", rules_lib.DEFAULT))
        except ValueError as error:
            raise ValueError(f"{self.folder}/config.json: {error}") from error

    def check(self, mesh: Mesh) -> None:
        """Refuses a checkpoint that does not fit the model or the mesh; reads no array."""
        parameters.check(self.name, self.folder, self.step, self.config, mesh, self.rules)

    def load(self, mesh: Mesh) -> LoadedModel:
        """Reads its parameters onto the mesh."""
        params = parameters.load(self.folder, self.step, self.config, mesh, self.rules)
        return LoadedModel(self.name, families.build(self.config), params, self.rules)

    @property
    def unfinished(self) -> str:
        """What is to be said of a run that was not trained to its last step; "" of one that was."""
        last = checkpoints.chosen_step(self.folder, "last")
        steps = checkpoints.config_of(self.folder).get("steps", 0)
        if last >= steps:
            return ""
        used = f"; its checkpoint of step {self.step} is used" * (self.step != last)
        return (
            f"{self.name} is not finished: its last checkpoint is of step {last} of {steps}{used}"
        )

    @property
    def identity(self) -> ModelIdentity:
        """Identifies this checkpoint, wherever its folder is."""
        return ModelIdentity(run=self.folder.name, step=self.step, saved=self.saved)


@dataclasses.dataclass(frozen=True)
class CascadeRuns:
    """The trained runs that cascades are made of, and the data and mesh that they answer with.

    Attributes:
      experiment_dir: the output folder of `cascade-jax train`, where runs are by name.
      students: names or folders of the runs of small models; each is the first model of a cascade
        of its own.
      teachers: likewise of the larger models, in order of cost, to which all of these cascades
        defer. Exactly one so far.
      data: mixture, lengths and vocabulary; its batch_size is the rows computed at once.
      checkpoint: "best" or "last" of every run.
      mesh: the device mesh.
    """

    experiment_dir: str
    students: Sequence[str]
    teachers: Sequence[str]
    data: pipeline.DataConfig
    checkpoint: str = "best"
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        folder = self.experiment_dir
        is_path = bool(folder) and isinstance(folder, str)
        checks.require(is_path, "experiment_dir", folder, "the path of a folder")
        for name in ("students", "teachers"):
            runs = getattr(self, name)
            is_list = isinstance(runs, list | tuple) and all(isinstance(r, str) and r for r in runs)
            allowed = "a list of names or folders of runs"
            checks.require(is_list and len(runs) > 0, name, runs, allowed)
        checks.require(len(self.teachers) == 1, "teachers", self.teachers, "one run")
        check_choice("checkpoint", self.checkpoint, checkpoints.CHOICES)

    def records_file(self, student: str, split: str) -> Path:
        """The table of a student's cascade that `cascade-jax collect` writes."""
        return Path(self.experiment_dir) / "records" / split / f"{Path(student).name}.parquet"

    def saved(self, run: str) -> SavedModel:
        """The model of one of the runs."""
        return SavedModel(self.experiment_dir, run, self.checkpoint)

    def open(self) -> tuple[list[tuple[SavedModel, ...]], pipeline.OpenMixture, Mesh]:
        """Finds all checkpoints and opens the data; loads no parameter yet.

        Prints which runs are not trained to their last step.

        Returns:
          For each student the models of its cascade, in order of cost; the mixture; the mesh.

        Raises:
          CheckpointError: a run has no complete checkpoint.
          ValueError: mesh, batch, vocabularies or checkpoints do not fit each other; says which.
        """
        mesh, mixture = self.mesh.build(), pipeline.open_mixture(self.data)
        teachers = [self.saved(run) for run in self.teachers]
        students = [self.saved(run) for run in self.students]
        for model in (*teachers, *students):
            run_folder.check_same_vocabulary(model.name, mixture.fingerprint, model.folder)
            pair.ModelPair(student=model.config, teacher=teachers[-1].config)
            rules_lib.check_batch_size("batch_size", self.data.batch_size, mesh, model.rules)
            model.check(mesh)
            if model.unfinished:
                hosts.print_once(model.unfinished)
        return [(student, *teachers) for student in students], mixture, mesh
