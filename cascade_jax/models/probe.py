"""What layers measure beside their output if a probe asks for it: attention, hidden states."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Bool, Float, Int

COLLECTION = "probe"  # of Flax, in which layers put what they measured
ATTENTION, STATES = "attention", "states"
FIRST, MEAN, LAST = range(3)  # of the states that are kept of an answer's places


@flax.struct.dataclass
class Probe:
    """What every layer measures at the places that predict the tokens of an answer.

    The place that predicts a token reads the token before it: the last token of the input, or a
    T5's start, where the answer begins.

    Attributes:
      is_token: False where a row has fewer answer tokens than places.
      at: the places in the rows that a layer reads; None where it reads nothing else.
      distances: how many places before each place stand those to which its attention is measured:
        0 for itself; () for no attention.
      states: whether hidden states are measured.
    """

    is_token: Bool[Array, "B A"]
    at: Int[Array, "B A"] | None = None
    distances: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
    states: bool = flax.struct.field(pytree_node=False, default=False)

    def put_states(self, layer: nn.Module, x: Float[Array, "B A D"]) -> None:
        """Keeps of a layer's output that of the FIRST place of an answer, the MEAN and the LAST.

        Nothing where states are not asked for. Those of an answer without a token are 0.
        """
        if self.states:
            x = jnp.where(self.is_token[:, :, None], x.astype(jnp.float32), 0.0)
            count = jnp.maximum(jnp.sum(self.is_token, axis=1, keepdims=True), 1)
            mean = jnp.sum(x, axis=1) / count.astype(jnp.float32)
            last = jnp.take_along_axis(x, count[:, :, None] - 1, axis=1)[:, 0]
            layer.sow(COLLECTION, STATES, jnp.stack([x[:, 0], mean, last], axis=1))


def at_distances(
    weights: Float[Array, "B H Q T"], places: Int[Array, "B Q"], distances: tuple[int, ...]
) -> Float[Array, "B Q H d"]:
    """The weights that queries at these places give to the keys at some distances before them.

    0 where there is no such place. A sum over a comparison and not a gather: XLA makes it with the
    softmax, and the weights are never written to memory.
    """
    keys = jnp.arange(weights.shape[-1])[None, None, None]

    def at(distance: int) -> Float[Array, "B H Q"]:
        is_there = keys == (places - distance)[:, None, :, None]
        return jnp.sum(jnp.where(is_there, weights, 0.0), axis=-1)

    return jnp.stack(list(map(at, distances)), axis=-1).swapaxes(1, 2)


@flax.struct.dataclass
class Measured:
    """What the layers that answers go through measured, in their order.

    Attributes:
      attention: weights in [0, 1] by place, head and distance.
      states: after each layer, float32, of the places that predict tokens: FIRST, MEAN and LAST.

    What was not asked for is None.
    """

    attention: Float[Array, "layers B A H d"] | None = None
    states: Float[Array, "layers B 3 D"] | None = None


def measured(variables: Mapping[str, Any]) -> Measured:
    """What layers put into the collection, whether they are scanned or not.

    Args:
      variables: what `apply` returns with `mutable=[COLLECTION]`.
    """
    by_kind: dict[str, list[tuple[int, Array]]] = {}
    flat = traverse_util.flatten_dict(variables.get(COLLECTION, {}))
    for path, (value,) in flat.items():
        layer = next(name for name in path if name.startswith("layers"))
        number = layer.removeprefix("layers").removeprefix("_")
        by_kind.setdefault(path[-1], []).append((int(number or -1), value))

    def stacked(values: list[tuple[int, Array]]) -> Array:
        values = sorted(values, key=lambda pair: pair[0])
        if values[0][0] < 0:  # the one module that scans over all
            return values[0][1]
        return jnp.stack([value for _, value in values])

    return Measured(**{kind: stacked(values) for kind, values in by_kind.items()})


def own_places(count: int, batch: int) -> Int[Array, "B Q"]:
    """The places of rows that hold nothing but an answer."""
    return jnp.broadcast_to(jnp.arange(count), (batch, count))


def put_attention(layer: nn.Module, weights: Float[Array, "B Q H d"]) -> None:
    """Keeps a layer's attention weights, sharded by rows as its output is."""
    layer.sow(COLLECTION, ATTENTION, weights)
