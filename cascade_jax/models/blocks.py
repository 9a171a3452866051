"""Attention in blocks, so that its memory grows with the length and not its square."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from cascade_jax import axes

# Of a block's logits in float32. A TPU v5e has 128 MiB beside its cores, where the compiler keeps
# the few arrays of this size that a block has in either pass; larger ones it writes to HBM.
TPU_BLOCK_BYTES = 2**25
_LEAST_QUERIES = 128  # of a block of one head: the rows of a TPU's matrix unit

# An argument of `attend`, and on which axis of its arrays queries and heads are.
Part = tuple[PyTree, int | None, int | None]


def platform() -> str:
    """Of the devices that a program is traced for: the mesh's, or JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def in_blocks(
    attend: Callable[..., Float[Array, "B _ H K"]], chunk: int, num_keys: int, *parts: Part
) -> Float[Array, "B Q H K"]:
    """`attend(*arrays)`, for some heads and queries after the other where all are too many.

    On a TPU a block has few heads, so that its logits stay on the chip: no pass writes an array of
    [rows, heads, queries, keys] to HBM, and each head's keys, values and bias are read once. Where
    a head has too many queries, and on other devices, it has `chunk` queries at most. The backward
    pass computes the weights of a block anew.

    Args:
      attend: attention of queries [B, Q, H, K] to all of their keys.
      chunk: the most queries of a block.
      num_keys: keys of a query.
      parts: the arguments of `attend`, first the queries.

    Reference: Rabe and Staats 2021, "Self-attention Does Not Need O(n^2) Memory".
    """
    rows, num_queries, num_heads, _ = parts[0][0].shape
    if platform() != "tpu" or num_queries == 1:
        return _over_queries(attend, chunk, False, *parts)
    heads = min(x.shape[axis] for x, _, axis in parts if axis is not None)  # that can be split
    shards = math.gcd(heads, num_shards(axes.HEADS))
    local_rows, local_heads = -(-rows // num_shards(axes.BATCH)), num_heads // shards
    query_bytes = 4 * num_keys * local_rows * local_heads  # of the logits of a query on a device
    least = query_bytes * num_queries / TPU_BLOCK_BYTES
    most = heads // shards
    steps = next((n for n in range(1, most) if most % n == 0 and n >= least), most)
    room = TPU_BLOCK_BYTES * steps // query_bytes // _LEAST_QUERIES
    chunk = min(chunk, max(room, 1) * _LEAST_QUERIES)

    def some_heads(*arrays):
        cut = ((x, queries, None) for x, (_, queries, _) in zip(arrays, parts, strict=True))
        return _over_queries(attend, chunk, True, *cut)

    return _over_heads(some_heads, shards, steps, *parts)


def num_shards(axis: str) -> int:
    """Into how many parts the mesh splits a logical axis."""
    (places,) = nn.logical_to_mesh_axes((axis,)) or (None,)
    places = (places,) if isinstance(places, str) else places or ()
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(place, 1) for place in places)


def _over_heads(attend, shards: int, steps: int, *parts: Part):
    """`attend` in `steps` steps, each for some of the heads of every shard."""
    if steps == 1:
        return attend(*(arrays for arrays, _, _ in parts))

    def cut(x, axis):  # the steps on a new axis 0
        split = (shards, steps, x.shape[axis] // (shards * steps))
        x = jnp.moveaxis(x.reshape(*x.shape[:axis], *split, *x.shape[axis + 1 :]), axis + 1, 0)
        return x.reshape(steps, *x.shape[1 : axis + 1], -1, *x.shape[axis + 3 :])

    places = [place for place, part in enumerate(parts) if part[2] is not None]
    blocks = tuple(cut(parts[place][0], parts[place][2]) for place in places)

    def step(blocks):
        arrays = [arrays for arrays, _, _ in parts]
        for place, block in zip(places, blocks, strict=True):
            arrays[place] = block
        return attend(*arrays)

    answers = jax.lax.map(step, blocks)  # [steps, B, Q, shards * heads, K]
    _, rows, queries, heads, size = answers.shape
    answers = answers.reshape(steps, rows, queries, shards, heads // shards, size)
    return jnp.moveaxis(answers, 0, 3).reshape(rows, queries, steps * heads, size)


def _over_queries(attend, chunk: int, again: bool, *parts: Part):
    """`attend` for blocks of `chunk` queries if there are more.

    With `again`, even a single block's weights are computed anew in the backward pass.
    """
    first, axis, _ = parts[0]
    length = jax.tree.leaves(first)[0].shape[axis]
    if length <= chunk:
        attend = jax.checkpoint(attend, prevent_cse=False) if again else attend
        return attend(*(arrays for arrays, _, _ in parts))
    count = -(-length // chunk)
    is_cut = [axis is not None for _, axis, _ in parts]

    def cut(x: Array, axis: int) -> Array:  # the blocks on a new axis 0
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.pad(x, ((0, count * chunk - length), *((0, 0),) * (x.ndim - 1)))
        return jnp.moveaxis(x.reshape(count, chunk, *x.shape[1:]), 1, axis + 1)

    blocks = tuple(
        jax.tree.map(lambda x, axis=axis: cut(x, axis), arrays)
        for arrays, axis, _ in parts
        if axis is not None
    )

    def one(*blocks):
        rest = iter(blocks)
        arrays = (
            next(rest) if cuts else whole for cuts, (whole, _, _) in zip(is_cut, parts, strict=True)
        )
        return attend(*arrays)

    answers = jax.lax.map(lambda block: jax.checkpoint(one)(*block), blocks)
    answers = answers.swapaxes(0, 1)
    return answers.reshape(len(answers), count * chunk, *answers.shape[3:])[:, :length]
