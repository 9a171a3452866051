"""Attention in blocks of queries, so that its memory grows with the length and not its square."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def over_queries(
    attend: Callable[..., Float[Array, "B _ H K"]], chunk: int, *parts: tuple[PyTree, int]
) -> Float[Array, "B Q H K"]:
    """`attend(*arrays)`, for blocks of `chunk` queries one after the other if there are more.

    The backward pass then computes the weights of a block anew. Each of `parts` is an argument that
    differs from query to query, and on which axis of its arrays the queries are.

    Reference: Rabe and Staats 2021, "Self-attention Does Not Need O(n^2) Memory".
    """
    first, axis = parts[0]
    length = jax.tree.leaves(first)[0].shape[axis]
    if length <= chunk:
        return attend(*(arrays for arrays, _ in parts))
    count = -(-length // chunk)

    def cut(x: Array, axis: int) -> Array:  # the blocks on a new axis 0
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.pad(x, ((0, count * chunk - length), *((0, 0),) * (x.ndim - 1)))
        return jnp.moveaxis(x.reshape(count, chunk, *x.shape[1:]), 1, axis + 1)

    blocks = tuple(
        jax.tree.map(lambda x, axis=axis: cut(x, axis), arrays) for arrays, axis in parts
    )
    answers = jax.lax.map(lambda block: jax.checkpoint(attend)(*block), blocks)
    answers = answers.swapaxes(0, 1)
    return answers.reshape(len(answers), count * chunk, *answers.shape[3:])[:, :length]
