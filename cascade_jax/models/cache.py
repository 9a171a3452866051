"""Keys and values in the order in which attention multiplies them, and caches of them.

Attention takes keys [B H K T] and values [B H T K], with T their places. A cache holds them so that
both products read it as it lies; in another order the whole cache would be transposed for every
token that is decoded. On a CPU that is the order above. Elsewhere cached values are [B H K T] too:
a TPU pads the last axis to 128 numbers, and most heads have 64.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cascade_jax import axes
from cascade_jax.models import blocks
from cascade_jax.models.ragged import Ragged

KEY, VALUE = "cached_key", "cached_value"  # names of a cache's leaves
_KEYS_LAST = (axes.BATCH, axes.HEADS, axes.HEAD_SIZE, axes.LENGTH)
_BY_PLACE = (axes.BATCH, axes.HEADS, axes.LENGTH, axes.HEAD_SIZE)


def leaf_axes(name: str) -> tuple[str, ...]:
    """Logical axes of a cache's leaf of this name."""
    return _BY_PLACE if name == VALUE and blocks.platform() == "cpu" else _KEYS_LAST


def place_axis(name: str) -> int:
    """The axis T of a cache's leaf of this name: -1, or -2."""
    return leaf_axes(name).index(axes.LENGTH) - 4


def keys_last(x: Float[Array, "B T H K"]) -> Float[Array, "B H K T"]:
    """Keys as attention multiplies them."""
    return nn.with_logical_constraint(x.transpose(0, 2, 3, 1), _KEYS_LAST)


def values_by_head(x: Float[Array, "B T H K"]) -> Float[Array, "B H T K"]:
    """Values as attention multiplies them."""
    return nn.with_logical_constraint(x.transpose(0, 2, 1, 3), _BY_PLACE)


def extended(
    module: nn.Module,
    key: Float[Array, "P H K N"],
    value: Float[Array, "P H N K"],
    length: int,
    where: Any,
) -> tuple[Float[Array, "B H K {length}"], Float[Array, "B H {length} K"]]:
    """Keys and values of a module's cache, after these have gone there.

    Args:
      module: in whose collection "cache" they are; made of zeros if there are none.
      key, value: of new tokens.
      length: places of the cache.
      where: place of the first new token, the same for all rows; or where ragged tokens belong;
        None only makes the cache.
    """
    both = []
    for name, new in ((KEY, key), (VALUE, value)):
        new, axis = _turned(name, new), place_axis(name)
        variable = module.variable("cache", name, _empty, name, new, length)
        if isinstance(where, Ragged):
            variable.value = where.put(variable.value, new, axis)
        elif where is not None:
            update = jax.lax.dynamic_update_slice_in_dim
            variable.value = update(variable.value, new, where, axis=axis)
        both.append(_turned(name, variable.value))
    return both[0], both[1]


def kept(
    module: nn.Module,
    key: Float[Array, "B H K T"] | None,
    value: Float[Array, "B H T K"] | None,
) -> tuple[Float[Array, "B H K T"], Float[Array, "B H T K"]]:
    """Keys and values of a module's cache, which is made of these and then stays as it is."""
    both = []
    for name, made in ((KEY, key), (VALUE, value)):
        variable = module.variable("cache", name, lambda x, name=name: _turned(name, x), made)
        both.append(_turned(name, variable.value))
    return both[0], both[1]


def _turned(name, x):
    """From attention's order to a cache's, or back."""
    return x.swapaxes(-1, -2) if name == VALUE and leaf_axes(name) == _KEYS_LAST else x


def _empty(name, new, length):
    shape = list(new.shape)
    shape[place_axis(name)] = length
    return nn.with_logical_constraint(jnp.zeros(shape, new.dtype), leaf_axes(name))
