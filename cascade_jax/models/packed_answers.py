"""Answers to the packed inputs of a row, several of them to each input."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@flax.struct.dataclass
class PackedAnswers:
    """Answers of R rows one after the other, each to one of the row's inputs (`PackedInputs`).

    Example: the answers "5 6 1" and "7 1" to the input "7 8", and "5 1" to the input "9", of a
    family with a start: inputs are ``[0 7 8 0 9 0]``, and
    ``tokens = [5 6 1 7 1 5 1 0]``, ``numbers = [1 1 1 2 2 3 3 0]``,
    ``segment_ids = [1 1 1 1 1 2 2 0]``, ``input_ends = [2 2 2 2 2 4 4 0]``.

    Attributes:
      tokens: ids, 0 for padding.
      numbers: which answer of the row a token belongs to, from 1; 0 for padding.
      segment_ids: of the input that it answers; 0 for padding.
      input_ends: place of that input's last token in the row of inputs; 0 for padding, and of a
        family without a start for an empty input.
    """

    tokens: Int[Array, "R W"]
    numbers: Int[Array, "R W"]
    segment_ids: Int[Array, "R W"]
    input_ends: Int[Array, "R W"]

    @property
    def is_first(self) -> Bool[Array, "R W"]:
        """True for the first token of each answer."""
        return self.numbers != jnp.pad(self.numbers[:, :-1], ((0, 0), (1, 0)))

    def before(self, first: Int[Array, "R W"] | int) -> Int[Array, "R W"]:
        """The token before each one in its answer; `first` for the first."""
        shifted = jnp.pad(self.tokens[:, :-1], ((0, 0), (1, 0)))
        return jnp.where(self.is_first, first, shifted)
