"""What a run starts from, if not from fresh parameters."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import PyTree

from cascade_jax.models import families, shallow
from cascade_jax.names import check_choice
from cascade_jax.runs import checkpoints, run_folder


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
        check_choice("checkpoint", self.checkpoint, checkpoints.CHOICES)

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
      layers: which layers of its decoder, counted from 0; None, or how many, for evenly spaced
        ones. `shallow.with_layers` makes the config of the run's own model.
      encoder_layers: likewise of a T5's encoder.
      checkpoint: "best" or "last".
    """

    run: str
    model: families.ModelConfig
    layers: int | Sequence[int] | None = None
    encoder_layers: int | Sequence[int] | None = None
    checkpoint: str = "best"

    def __post_init__(self):
        check_choice("checkpoint", self.checkpoint, checkpoints.CHOICES)

    def check(self, model: families.ModelConfig) -> None:
        """Refuses a model of other widths, before anything is read."""
        shapes = nn.unbox(families.parameter_shapes(self.model))

        jax.eval_shape(lambda params: self.fit(params, model), shapes)

    def source(self, model: families.ModelConfig) -> families.ModelConfig:
        """The config of the model that is read."""
        return self.model

    def fit(self, params: PyTree, model: families.ModelConfig) -> PyTree:
        """Parameters of the run's model, from those that were read."""
        return shallow.choose_layers(params, model, self.model, self.layers, self.encoder_layers)


Start = FromRun | FromLayers


def described(config: Mapping[str, Any]) -> Start:
    """What a run started from, out of its config.json."""
    kinds = {kind.__name__: kind for kind in (FromRun, FromLayers)}
    fields = dict(config["start"])
    kind = kinds[fields.pop("type")]
    if kind is FromLayers:
        fields["model"] = run_folder.model_of(fields)
    return kind(**fields)
