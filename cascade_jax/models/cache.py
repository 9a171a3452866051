"""Keys and values in the order in which attention multiplies them, and caches of them.

Keys are [B H K T] and values [B H T K], with T their places: products with the queries of a head,
and with its weights, then read a cache as it lies. In another order the whole cache would be
transposed for every token that is decoded.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cascade_jax import axes
from cascade_jax.models.ragged import Ragged

KEY, VALUE = "cached_key", "cached_value"  # names of a cache's leaves
PLACES = {KEY: -1, VALUE: -2}  # their axis T
AXES = {
    KEY: (axes.BATCH, axes.HEADS, axes.HEAD_SIZE, axes.LENGTH),
    VALUE: (axes.BATCH, axes.HEADS, axes.LENGTH, axes.HEAD_SIZE),
}


def keys_last(x: Float[Array, "B T H K"]) -> Float[Array, "B H K T"]:
    """Keys as attention multiplies them."""
    return nn.with_logical_constraint(x.transpose(0, 2, 3, 1), AXES[KEY])


def values_by_head(x: Float[Array, "B T H K"]) -> Float[Array, "B H T K"]:
    """Values as attention multiplies them."""
    return nn.with_logical_constraint(x.transpose(0, 2, 1, 3), AXES[VALUE])


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
        variable = module.variable("cache", name, _empty, name, new, length)
        if isinstance(where, Ragged):
            variable.value = where.put(variable.value, new, PLACES[name])
        elif where is not None:
            update = jax.lax.dynamic_update_slice_in_dim
            variable.value = update(variable.value, new, where, axis=PLACES[name])
        both.append(variable.value)
    return both[0], both[1]


def _empty(name, new, length):
    shape = list(new.shape)
    shape[PLACES[name]] = length
    return nn.with_logical_constraint(jnp.zeros(shape, new.dtype), AXES[name])
