"""A model of an experiment with the checkpoint that it answers from."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from cascade_jax.deferral.guarantees.certificate import ModelIdentity
from cascade_jax.models import families
from cascade_jax.names import did_you_mean
from cascade_jax.runs import checkpoints, parameters, run_folder


class SavedModel:
    """A run's model at one of its checkpoints; reads no array before `load`.

    Attributes:
      name: of the run.
      config: of the model.
      folder: of the run.
      step: of the checkpoint.
      saved: when that was completed, which tells it from its successor of the same step.
    """

    def __init__(
        self, experiment_dir: str, name: str, model: families.ModelConfig, run: str, choice: str
    ):
        """Finds the checkpoint.

        Args:
          experiment_dir: where runs are by name.
          name: for messages and files.
          model: its config.
          run: name or folder of the run.
          choice: "best" or "last".

        Raises:
          CheckpointError: the run has no complete checkpoint.
        """
        self.name = Path(name).name
        self.config = model
        self.folder = run_folder.resolve(Path(experiment_dir), run)
        try:
            self.step = checkpoints.chosen_step(self.folder, choice)
        except checkpoints.CheckpointError as error:
            others = [path.parent.name for path in self.folder.parent.glob("*/checkpoints")]
            raise checkpoints.CheckpointError(
                f"{error}{did_you_mean(self.folder.name, others)}"
            ) from None
        self.saved = checkpoints.saved_at(self.folder, self.step)

    def check(self, mesh: Mesh) -> None:
        """Refuses a checkpoint that is not this model's, before anything is decoded."""
        parameters.check(self.name, self.folder, self.step, self.config, mesh)

    def load(self, mesh: Mesh) -> Any:
        """Its parameters, on the mesh."""
        return parameters.load(self.folder, self.step, self.config, mesh)

    @property
    def identity(self) -> ModelIdentity:
        """Of this checkpoint alone, wherever its folder stands."""
        return ModelIdentity(run=self.folder.name, step=self.step, saved=self.saved)
