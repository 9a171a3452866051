"""Slots of a KV cache: rows that come and go while the others are decoded."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from cascade_jax import axes
from cascade_jax.models.cache import leaf_axes, place_axis

_ENCODED = "encoder_decoder_attention"  # keys of an encoder's output have no place for answers
_BY_ROW = ("lengths", "is_readable")  # leaves of a cache that are no keys or values, by row


@flax.struct.dataclass
class PackedInputs:
    """Inputs of several examples in a row, each after the family's `start_places` zeros.

    Example: inputs "7 8" and "9" of a decoder-only model, which has a start:
    ``tokens = [0 7 8 0 9 0]``, ``segment_ids = [1 1 1 2 2 0]``, ``positions = [0 1 2 0 1 0]``.

    Attributes:
      tokens: ids, 0 for starts and padding.
      segment_ids: number of the example in its row, from 1; 0 for padding.
      positions: inside the example, from 0.
    """

    tokens: Int[Array, "R T"]
    segment_ids: Int[Array, "R T"]
    positions: Int[Array, "R T"]


@flax.struct.dataclass
class Arrivals:
    """Examples that go from packed rows to slots.

    Attributes:
      rows, offsets: the packed row of each, and the place of its first token there.
      lengths: places that it takes, a start included.
      slots: where it goes; a slot past the last one for entries that only fill up.
    """

    rows: Int[Array, " N"]
    offsets: Int[Array, " N"]
    lengths: Int[Array, " N"]
    slots: Int[Array, " N"]


def insert(cache: Any, packed: Any, arrivals: Arrivals, max_length: int) -> Any:
    """The cache after slots have got the keys and values of examples in packed rows.

    Args:
      cache: what `start_decoding` creates for B rows.
      packed: what `read_packed` creates, with a `tail` as long again.
      arrivals: which examples go where.
      max_length: the argument of `start_decoding`.
    """

    def put(leaf, source, width, axis):
        width = min(width, source.shape[axis] // 2)
        if not width:
            return leaf

        def window(row, offset):
            start, size = [0] * source.ndim, list(source.shape)
            start[-4], start[axis], size[-4], size[axis] = row, offset, 1, width
            return jax.lax.dynamic_slice(source, start, size).squeeze(-4)

        windows = jax.vmap(window, out_axes=-4)(arrivals.rows, arrivals.offsets)
        places = [slice(None)] * 2
        places[axis] = slice(width)
        return leaf.at[..., arrivals.slots, :, *places].set(windows, mode="drop")

    cache = dict(cache)
    vectors = {name: cache.pop(name) for name in list(cache) if name in _BY_ROW}
    step = cache.pop("step")
    result = _keys_and_values(put, max_length, cache, packed)
    is_readable = vectors["is_readable"]
    inputs = is_readable.shape[1] - max_length
    # The last token comes again, as the first that `decode_step` reads.
    order = jnp.arange(is_readable.shape[1])[None]
    own = order < jnp.minimum(arrivals.lengths - 1, inputs)[:, None]
    new = {"lengths": arrivals.lengths, "is_readable": own}
    for name, values in vectors.items():
        result[name] = values.at[arrivals.slots].set(new[name], mode="drop")
    return constrained(result | {"step": step})


def tail(packed: Any, places: int) -> Any:
    """What `read_packed` creates, padded to `places`: a window may then begin at any place."""

    def widen(path, leaf):
        pad, axis = [(0, 0)] * leaf.ndim, place_axis(path[-1].key)
        pad[axis] = (0, places - leaf.shape[axis])
        return jnp.pad(leaf, pad)

    return jax.tree_util.tree_map_with_path(widen, packed)


def select(cache: Any, rows: Int[Array, " N"], width: int, max_length: int) -> Any:
    """The cache of some rows, with `width` places for inputs, or as many as there were."""

    def cut(leaf, inputs, axis):
        kept = jax.lax.slice_in_dim(leaf, 0, min(width, inputs), axis=axis)
        answers = jax.lax.slice_in_dim(leaf, inputs, None, axis=axis)
        return jnp.concatenate([kept, answers], axis=axis)

    cache = dict(cache)
    vectors = {name: cache.pop(name)[rows] for name in list(cache) if name in _BY_ROW}
    step = cache.pop("step")
    vectors["is_readable"] = cut(
        vectors["is_readable"], vectors["is_readable"].shape[1] - max_length, -1
    )
    result = _keys_and_values(
        lambda leaf, *where: cut(jnp.take(leaf, rows, axis=-4), *where), max_length, cache
    )
    return constrained(result | vectors | {"step": step})


def constrained(tree: Any) -> Any:
    """Arrays by row, split as models split them over the mesh."""

    def one(path, leaf):
        if leaf.ndim < 4:
            names = (axes.BATCH,) * (leaf.ndim > 0) + (None,) * (leaf.ndim - 1)
        else:
            names = (None,) * (leaf.ndim - 4) + leaf_axes(path[-1].key)
        return nn.with_logical_constraint(leaf, names)

    return jax.tree_util.tree_map_with_path(one, tree)


def _keys_and_values(function: Callable, max_length: int, cache: Any, *others: Any) -> Any:
    """`function(leaf, *leaves of others, places for inputs, their axis)` of all keys and values."""

    def one(path, leaf, *rest):
        is_encoded, axis = any(key.key == _ENCODED for key in path), place_axis(path[-1].key)
        return function(leaf, *rest, leaf.shape[axis] - (0 if is_encoded else max_length), axis)

    return jax.tree_util.tree_map_with_path(one, cache, *others)
