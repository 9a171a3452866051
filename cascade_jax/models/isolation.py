"""Keeps NaN and infinity in the example that made them."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def isolated(
    key: Float[Array, "B T G K"], value: Float[Array, "B T G K"]
) -> tuple[Float[Array, "B T G K"], Float[Array, "B T G K"]]:
    """Keys and values of which only those reach a query that it may look at.

    Attention gives a weight of 0 to all others, and 0 times NaN or infinity is NaN. So a value that
    is not finite becomes 0, and its key NaN: the logit of a query that may look there is NaN, that
    of another one is masked. Other numbers stay as they are. Examples in a packed row, or one after
    the other in a slot of a cache, then do not change each other's answers, whatever they hold.
    """
    is_finite = jnp.isfinite(value)
    return jnp.where(is_finite, key, jnp.nan), jnp.where(is_finite, value, 0)
