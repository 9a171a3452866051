"""Small numerical building blocks that stay finite where the plain formula does not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def masked_sum(values: Shaped[Array, "*n"], mask: Shaped[Array, "*n"]) -> Float[Array, ""]:
    """Sum of `values * mask` in float32, where a masked value may be NaN or infinite.

    Args:
      values: numbers of any dtype, or booleans that count as 0 and 1.
      mask: weights of the same shape; where it is 0 the value does not matter.

    Returns:
      float32 scalar.
    """
    mask = mask.astype(jnp.float32)
    safe = jnp.where(mask != 0, values.astype(jnp.float32), 0.0)
    return jnp.sum(safe * mask)


def safe_ratio(
    numerator: Float[Array, "*n"], denominator: Float[Array, "..."]
) -> Float[Array, "*n"]:
    """`numerator / denominator`, and 0 where the denominator is 0 (gradients stay finite too).

    Args:
      numerator: any shape.
      denominator: of the same shape, or a scalar.
    """
    is_zero = denominator == 0
    return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1.0, denominator))


def log_probs(logits: Float[Array, "*n V"]) -> Float[Array, "*n V"]:
    """log-softmax over the last axis in float32, whatever the dtype of the logits."""
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def entropy(log_p: Float[Array, "*n V"]) -> Float[Array, "*n"]:
    """Shannon entropy in nats of distributions given by their log-probs; log-prob -inf counts 0."""
    finite = log_p > -jnp.inf
    safe = jnp.where(finite, log_p, 0.0)
    return -jnp.sum(jnp.where(finite, jnp.exp(safe) * safe, 0.0), axis=-1)
