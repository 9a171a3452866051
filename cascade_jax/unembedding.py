"""The output layer: from hidden states to logits; scale, bias, soft cap, padding."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cascade_jax import checks
from cascade_jax.names import check_choice
from cascade_jax.numerics import DTYPE_NAMES


@flax.struct.dataclass
class Unembedding:
    """`logits = cap(scale * hidden @ kernel + bias)`, with what the families of models add to it.

    Attributes:
      kernel: [D, V], or [V, D] when `tied`.
      bias: added to the logits, or None.
      vocab_size: number of token ids; columns of the kernel from here on are padding, which gets
        no probability. None takes all columns.
      tied: the kernel is the embedding, one row a token.
      scale: what the hidden states are multiplied by; 1 / sqrt(D) in T5 with tied logits.
      soft_cap: logits become `soft_cap * tanh(logits / soft_cap)` (Gemma); None for no cap.
      dtype: of the product's operands; sums and logits are float32.
    """

    kernel: Float[Array, "D V"]
    bias: Float[Array, " V"] | None = None
    vocab_size: int | None = flax.struct.field(default=None, pytree_node=False)
    tied: bool = flax.struct.field(default=False, pytree_node=False)
    scale: float = flax.struct.field(default=1.0, pytree_node=False)
    soft_cap: float | None = flax.struct.field(default=None, pytree_node=False)
    dtype: str = flax.struct.field(default="float32", pytree_node=False)

    def __post_init__(self):
        checks.positive("soft_cap", self.soft_cap, optional=True)
        check_choice("dtype", self.dtype, DTYPE_NAMES)

    def check(self) -> None:
        """Refuses arrays that do not fit. (Not when built: trees of other things are built too.)

        Raises:
          ValueError: naming the shapes.
        """
        if self.kernel.ndim != 2:
            raise ValueError(f"kernel has shape {self.kernel.shape}; it must have two axes")
        if self.bias is not None and self.bias.shape != (self.columns,):
            allowed = f"({self.columns},) for the kernel {self.kernel.shape}"
            raise ValueError(f"bias has shape {self.bias.shape}; must be {allowed}")
        if self.vocab_size is not None:
            fits = 0 < self.vocab_size <= self.columns
            allowed = f"from 1 to {self.columns} for the kernel {self.kernel.shape}"
            checks.require(fits, "vocab_size", self.vocab_size, allowed)

    @property
    def columns(self) -> int:
        """Number of logits that the kernel makes, padding included."""
        return self.kernel.shape[0 if self.tied else 1]

    @property
    def features(self) -> int:
        """Width of the hidden states."""
        return self.kernel.shape[1 if self.tied else 0]

    @property
    def num_ids(self) -> int:
        """Number of token ids, padding left out."""
        return self.columns if self.vocab_size is None else self.vocab_size

    def logits(self, hidden: Float[Array, "*n D"]) -> Float[Array, "*n V"]:
        """float32 logits of the `num_ids` token ids."""
        return self.all_logits(hidden)[..., : self.num_ids]

    def all_logits(self, hidden: Float[Array, "*n D"]) -> Float[Array, "*n columns"]:
        """float32 logits with those of the padding columns, which mean nothing."""
        dims = (((hidden.ndim - 1,), (1 if self.tied else 0,)), ((), ()))
        arrays = self.scaled(hidden), self.kernel.astype(self.dtype)
        logits = jax.lax.dot_general(*arrays, dims, preferred_element_type=jnp.float32)
        if self.bias is not None:
            logits = logits + jnp.expand_dims(self.bias.astype(jnp.float32), range(logits.ndim - 1))
        if self.soft_cap is not None:
            logits = self.soft_cap * jnp.tanh(logits / self.soft_cap)
        return logits

    def scaled(self, hidden: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """The scaled hidden states that the kernel multiplies, in `dtype`."""
        return hidden.astype(self.dtype) * jnp.asarray(self.scale, self.dtype)

    def widened(self, columns: int) -> "Unembedding":
        """With padding columns up to `columns`, all of which then count as tokens."""
        more = columns - self.columns
        kernel_pad = ((0, more), (0, 0)) if self.tied else ((0, 0), (0, more))
        bias = None if self.bias is None else jnp.pad(self.bias, (0, more))
        kernel = jnp.pad(self.kernel, kernel_pad)
        return dataclasses.replace(self, kernel=kernel, bias=bias, vocab_size=None)
