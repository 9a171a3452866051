"""What a run starts from, if not from fresh parameters."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import PyTree

from cascade_jax.models import families, shallow
from cascade_jax.training import checkpoints, run_folder
from cascade_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class FromRun:
    """The parameters of another run of the same model, trained or imported.

    Gatekeeper's second stage starts from the student of its first, for example.

    Attributes:
      run: its name in the same output folder, or its folder.
      checkpoint: "best" or "last".
    """

    run: str
    checkpoint: str = "best"

    def __post_init__(self):
        _check_choice(self.checkpoint)

    def check(self, model: families.ModelConfig) -> None:
        """Any model may start so; its shapes are compared when the checkpoint is read."""

    def source(self, model: families.ModelConfig) -> families.ModelConfig:
        """The config of the model that is read."""
        return model

    def fit(self, params: PyTree, model: families.ModelConfig) -> PyTree:
        """Parameters of the run's model, from those that were read."""
        return params


@dataclasses.dataclass(frozen=True)
class FromLayers:
    """Some layers of a deeper model, and all its other parameters.

    Attributes:
      run: the deeper model's run: its name in the same output folder, or its folder.
      model: its config.
      layers: which layers of its decoder, counted from 0; None for evenly spaced ones.
      encoder_layers: likewise of a T5's encoder.
      checkpoint: "best" or "last".
    """

    run: str
    model: families.ModelConfig
    layers: Sequence[int] | None = None
    encoder_layers: Sequence[int] | None = None
    checkpoint: str = "best"

    def __post_init__(self):
        _check_choice(self.checkpoint)

    def check(self, model: families.ModelConfig) -> None:
        """Refuses a model of other widths, before anything is read."""
        shapes = nn.unbox(families.parameter_shapes(self.model))

        def choose():
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return self.fit(zeros, model)

        jax.eval_shape(choose)

    def source(self, model: families.ModelConfig) -> families.ModelConfig:
        """The config of the model that is read."""
        return self.model

    def fit(self, params: PyTree, model: families.ModelConfig) -> PyTree:
        """Parameters of the run's model, from those that were read."""
        return shallow.choose_layers(params, model, self.model, self.layers, self.encoder_layers)


Start = FromRun | FromLayers


def _check_choice(checkpoint: str) -> None:
    if checkpoint not in checkpoints.CHOICES:
        raise ValueError(f"checkpoint {checkpoint!r} is not in {checkpoints.CHOICES}")


def parameters(
    start: Start,
    name: str,
    model: families.ModelConfig,
    output_dir: Path,
    mesh: Mesh,
    fingerprint: str,
) -> PyTree:
    """The parameters that a run starts from, on the mesh.

    Args:
      start: where they are.
      name: of the run, for messages.
      model: its model.
      output_dir: where runs are by name.
      mesh: the device mesh.
      fingerprint: of the run's vocabulary.

    Raises:
      ValueError: the other run has another vocabulary or model, or is not there.
    """
    folder = run_folder.resolve(output_dir, start.run)
    if not checkpoints.has_checkpoint(folder):
        raise checkpoints.CheckpointError(
            f"run {name!r} starts from {folder}, which has no checkpoint; train or import it first"
        )
    run_folder.check_same_vocabulary(name, fingerprint, folder)
    step = checkpoints.chosen_step(folder, start.checkpoint)
    source = start.source(model)
    abstract = state_lib.abstract_parameters(families.build(source), mesh)
    checkpoints.check_fits(folder, step, abstract)
    run_folder.check_same_model(name, source, folder)
    found = start.fit(checkpoints.load_parameters(folder, step, abstract), model)
    wanted = state_lib.abstract_parameters(families.build(model), mesh)
    return jax.tree.map(lambda leaf, place: jax.device_put(leaf, place.sharding), found, wanted)
