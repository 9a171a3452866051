"""A model as live decoding uses it: start on inputs, then read tokens and return logits."""

import dataclasses
from typing import Any, Protocol

from jaxtyping import Array, Float, Int

from cascade_jax.models import families
from cascade_jax.models.ragged import Ragged
from cascade_jax.parallel import rules as rules_lib


class Stepper(Protocol):
    """A model as live decoding sees it; both methods are traced, and their state is any pytree.

    Steppers are compared and hashed, so that equal ones share what was compiled.

    Attributes:
      vocab_size: number of token ids.
    """

    vocab_size: int

    def start(
        self, params: Any, inputs: Int[Array, "B S"], max_length: int
    ) -> tuple[Int[Array, " B"], Any]:
        """Each row's token at place 0 (what the model reads to predict the first), and a state."""

    def step(
        self,
        params: Any,
        state: Any,
        tokens: Int[Array, "P K"],
        where: Ragged,
        logits_at: Int[Array, " B"],
    ) -> tuple[Float[Array, "B V"], Any]:
        """Reads tokens; a row goes on where it stopped, and one without tokens stays as it is.

        Args:
          params: of the model.
          state: what `start` or the last `step` gave.
          tokens: at place 0 what `start` gave, at place j > 0 the answer's token j - 1.
          where: rows and places of the tokens.
          logits_at: index, among the P * K tokens, of the one after which each row's logits are
            returned; those of a row without tokens are not looked at.
        """


@dataclasses.dataclass(frozen=True)
class ModelStepper:
    """A model of ours with its key-value cache; it starts by encoding the input or the prompt.

    Attributes:
      model: an unbound module.
      rules: how its activations are split over the mesh, if there is one.
    """

    model: families.Model
    rules: rules_lib.Table = rules_lib.RULES

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def start(self, params, inputs, max_length):
        with rules_lib.applied(self.rules):
            first, cache = families.start_decoding(self.model, params, inputs, max_length)
        return first, (inputs, cache)

    def step(self, params, state, tokens, where, logits_at):
        inputs, cache = state
        with rules_lib.applied(self.rules):
            logits, updated = self.model.apply(
                {"params": params, "cache": cache},
                tokens,
                inputs,
                where,
                logits_at,
                method="decode_ragged",
                mutable=["cache"],
            )
        return logits, (inputs, updated["cache"])


def stepper_of(model: families.Model | Stepper) -> Stepper:
    """A module of ours as a stepper; a stepper as it is.

    Raises:
      ValueError: for anything else.
    """
    if families.is_model(model):
        return ModelStepper(model)
    if not all(hasattr(model, name) for name in ("vocab_size", "start", "step")):
        raise ValueError(
            f"{model!r} is no model; expected a module of cascade_jax.models.families, or a "
            "Stepper (vocab_size, start, step)"
        )
    return model
