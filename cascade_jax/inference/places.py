"""Measures next-token distributions at some places of all rows at a time: they are large arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from cascade_jax.batch import PAD_ID

LOGITS_AT_ONCE = 1 << 25  # 128 MiB


def measure(
    fn: Callable[[Float[Array, "B P D"], Int[Array, "B P"]], PyTree],
    hidden: Float[Array, "B L D"],
    labels: Int[Array, "B L"],
    vocab_size: int,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> PyTree:
    """`fn(hidden, labels)` in parts of P places, joined to arrays [B L ...]; 0 at padding.

    Args:
      fn: what is measured, of hidden states [B P D] and labels [B P]: a tree of arrays [B P ...].
      hidden: hidden states of all places.
      labels: tokens, 0 for padding.
      vocab_size: logits of a place.
      logits_at_once: the most logits held at a time, though at least those of one place of all
        rows.
    """
    rows, length = labels.shape
    most = min(length, max(1, logits_at_once // (rows * vocab_size)))
    size = -(-length // -(-length // most))  # the parts are about equal
    measured = jax.lax.map(lambda part: fn(*part), (_cut(hidden, size), _cut(labels, size)))

    def whole(parts):
        joined = jnp.swapaxes(parts, 0, 1).reshape(rows, -1, *parts.shape[3:])[:, :length]
        is_token = labels != PAD_ID
        is_token = jnp.expand_dims(is_token, range(2, joined.ndim))
        return jnp.where(is_token, joined, jnp.zeros((), joined.dtype))

    return jax.tree.map(whole, measured)


def _cut(array: Array, size: int) -> Array:
    """[B L ...] -> [parts B size ...], zeros at the end of the last part."""
    rows, length, *rest = array.shape
    padding = ((0, 0), (0, -length % size), *((0, 0) for _ in rest))
    return jnp.swapaxes(jnp.pad(array, padding).reshape(rows, -1, size, *rest), 0, 1)
