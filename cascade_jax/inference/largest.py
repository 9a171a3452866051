"""The k largest of many logits, and what mass the others have, from blocks of them.

A sort of a whole vocabulary, or a second pass over its rest, takes longer than all else that is
measured of a token's logits. The k largest lie in the k blocks with the largest maxima.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cascade_jax import numerics

_WIDTH = 128  # logits of a block


@flax.struct.dataclass
class Top:
    """The largest logits, and sums of exponentials of what is left when the largest is taken off.

    Attributes:
      values, ids: the k largest and where they stand; of equal ones the first.
      best: the largest of all.
      log_total: log of the sum of `exp(logits - best)`.
      log_rest: the same sum without the k largest; near `numerics.LOWEST` if there are no others.
    """

    values: Float[Array, "*n k"]
    ids: Int[Array, "*n k"]
    best: Float[Array, "*n"]
    log_total: Float[Array, "*n"]
    log_rest: Float[Array, "*n"]


def top_k(logits: Float[Array, "*n V"], k: int) -> tuple[Float[Array, "*n k"], Int[Array, "*n k"]]:
    """`jax.lax.top_k`: the k largest, of equal ones the first, and where they stand."""
    blocks = in_blocks(logits)
    return _top(blocks, jnp.max(blocks, axis=-1), k)[:2]


def top_and_rest(logits: Float[Array, "*n V"], k: int) -> Top:
    """The k largest logits, k at least 1, and the sums of exponentials of all and of the others."""
    blocks = in_blocks(logits)
    most = jnp.max(blocks, axis=-1)
    values, ids, chosen, candidates, places = _top(blocks, most, k)
    best, most = jnp.max(most, axis=-1), jnp.maximum(most, numerics.LOWEST)
    sums = jnp.sum(jnp.exp(blocks - most[..., None]), axis=-1)

    def without(array: Array, index: Array) -> Array:
        return jnp.put_along_axis(array, index, numerics.LOWEST, axis=-1, inplace=False)

    # The others are those of blocks that hold none of the largest, and of the chosen ones.
    most_left, left = without(most, chosen), without(candidates, places)
    best_left = jnp.maximum(jnp.max(most_left, axis=-1), jnp.max(left, axis=-1))
    sum_left = _sum(sums, most_left, best_left) + _sum(1.0, left, best_left)
    log_total = jnp.log(_sum(sums, most, best))
    return Top(values, ids, best, log_total, (best_left - best) + jnp.log(sum_left))


def in_blocks(logits: Float[Array, "*n V"]) -> Float[Array, "*n blocks width"]:
    """Logits in blocks of one width, the last filled up with -inf."""
    padding = -logits.shape[-1] % _WIDTH
    if padding:
        widths = [(0, 0)] * (logits.ndim - 1) + [(0, padding)]
        logits = jnp.pad(logits, widths, constant_values=-jnp.inf)
    return logits.reshape(*logits.shape[:-1], -1, _WIDTH)


def _sum(factors: Array | float, logs: Array, best: Array) -> Array:
    return jnp.sum(factors * jnp.exp(logs - best[..., None]), axis=-1)


def _top(blocks: Array, most: Array, k: int) -> tuple[Array, ...]:
    """Values and ids of the largest, their blocks, all logits of these, and the places in them."""
    # In order, so that of equal logits the first comes first.
    chosen = jnp.sort(jax.lax.top_k(most, min(k, most.shape[-1]))[1], axis=-1)
    candidates = jnp.take_along_axis(blocks, chosen[..., None], axis=-2)
    candidates = candidates.reshape(*chosen.shape[:-1], -1)
    values, places = jax.lax.top_k(candidates, k)
    ids = jnp.take_along_axis(chosen, places // _WIDTH, axis=-1) * _WIDTH + places % _WIDTH
    return values, ids, chosen, candidates, places
