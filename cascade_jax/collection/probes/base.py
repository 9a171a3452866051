"""What a probe is: columns of records that are measured of a model's answers for scores.

A probe is a frozen dataclass. Those of one teacher-forced pass derive from `PassProbe`; all that a
collection names share the pass, which computes what they read and nothing else.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Array, Bool, Float, Int

from cascade_jax import checks
from cascade_jax.models import families
from cascade_jax.models.config import ModelConfig

LOGITS, STATES = "logits", "states"


@dataclasses.dataclass(frozen=True)
class Probe:
    """Base of all probes.

    Attributes:
      columns: the columns of records that it measures.
    """

    columns: ClassVar[tuple[str, ...]] = ()

    def check(self, config: ModelConfig, top_k: int, samples: int) -> None:
        """Refuses a model or a collection that it can't measure.

        Args:
          config: of the model.
          top_k: how many of the largest log-probs of each token are kept.
          samples: how many more answers to each example are drawn.

        Raises:
          ValueError: the model has no such layer, or too few log-probs or samples are kept.
        """

    def input_columns(
        self, config: ModelConfig, input_length: int
    ) -> Mapping[str, Sequence[float]]:
        """Those of its columns that the model and the length of an input give, for one example."""
        return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """What the pass over inputs and their answers sees, inside of a jitted function.

    The place of a model that predicts an answer's token reads the token before it.

    Attributes:
      answers: ids, 0 behind an answer's end.
      is_token: False there.
      eos_id: of the token that ends an answer.
      vocab_size: ids that a token is one of.
      hidden: what the logits of each token are made of.
      attention: of the place that predicts each token to the token that it reads, by layer and
        head.
      states: after each layer, of the places that predict tokens: see `models.probe.Measured`.
      on_log_probs: `fn` -> what it makes of the log-probs [B P V] of some places at a time, arrays
        [B P ...], joined to [B L ...].

    Those that no probe of the pass reads are None.
    """

    answers: Int[Array, "B L"]
    is_token: Bool[Array, "B L"]
    eos_id: int
    vocab_size: int
    hidden: Float[Array, "B L D"]
    attention: Float[Array, "layers B L H"] | None
    states: Float[Array, "layers B 3 D"] | None
    on_log_probs: Callable[[Callable[[Float[Array, "B P V"]], Any]], Any]


@dataclasses.dataclass(frozen=True)
class PassProbe(Probe):
    """Base of the probes of one teacher-forced pass.

    Attributes:
      reads: what it needs of the pass beside its hidden states and attention: LOGITS, STATES.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def attention_layers(self, count: int) -> tuple[int, ...]:
        """The layers whose attention it reads, in a model with `count` layers."""
        return ()

    def measure(self, seen: Seen) -> Mapping[str, Array]:
        """Its columns, float32: a value of each token [B L], of each layer and token [B L layers],
        or a number [B] or vector [B D] of each answer. Values behind an answer's end do not matter.
        """
        raise NotImplementedError


def check_layers(name: str, layers: tuple[int, ...], config: ModelConfig) -> None:
    """Refuses layers that a model does not have.

    Args:
      name: of the setting.
      layers: counted from 0, of the stack that answers go through: a T5's decoder.
      config: of the model.

    Raises:
      ValueError: names the first of them and the layers that there are.
    """
    count = families.answer_layers(config)
    for layer in layers:
        is_layer = isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < count
        there = f"a layer of the model, 0 to {count - 1}"
        checks.require(is_layer, f"{name}: a layer", layer, there)
