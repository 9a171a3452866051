"""Masked sums, safe ratios, log-softmax and entropy that stay finite; arrays that are not."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

DTYPE_NAMES = ("bfloat16", "float32")  # of a computation; sums are float32 in either
LOWEST = -1e30  # used for -inf where 0 * -inf would be NaN


def masked_sum(values: Shaped[Array, "*n"], mask: Shaped[Array, "*n"]) -> Float[Array, ""]:
    """Sum of `values * mask` in float32, where a masked value may be NaN or infinite.

    Values are numbers of any dtype, or booleans that count as 0 and 1; the mask holds weights.
    """
    mask = mask.astype(jnp.float32)
    safe = jnp.where(mask != 0, values.astype(jnp.float32), 0.0)
    return jnp.sum(safe * mask)


def safe_ratio(
    numerator: Float[Array, "*n"], denominator: Float[Array, "..."]
) -> Float[Array, "*n"]:
    """`numerator / denominator`, and 0 where the denominator is 0 (gradients stay finite too).

    The denominator has the numerator's shape, or is a scalar.
    """
    is_zero = denominator == 0
    return jnp.where(is_zero, 0.0, numerator / jnp.where(is_zero, 1.0, denominator))


def floored(
    logits: Float[Array, "*n V"], where: Bool[Array, "*n V"] | None = None
) -> Float[Array, "*n V"]:
    """float32 logits, those of -inf and those outside `where` replaced by the finite LOWEST.

    Its exponential is 0 all the same, and no product with it is NaN.
    """
    logits = logits.astype(jnp.float32)
    is_outcome = ~jnp.isneginf(logits)
    return jnp.where(is_outcome if where is None else is_outcome & where, logits, LOWEST)


def log_sum_exp(
    logits: Float[Array, "*n V"], where: Bool[Array, "*n V"] | None = None
) -> Float[Array, "*n"]:
    """log of the sum of exponentials over the last axis, in float32."""
    return jax.nn.logsumexp(floored(logits, where), axis=-1)


def log_probs(
    logits: Float[Array, "*n V"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    where: Bool[Array, "*n V"] | None = None,
) -> Float[Array, "*n V"]:
    """log-softmax over the last axis in float32, whatever the dtype of the logits.

    Args:
      logits: may hold -inf, whose log-prob is about -1e30, finite.
      temperature: divides the logits.
      where: False for entries that are no outcomes; they get a log-prob of about -1e30.
    """
    return jax.nn.log_softmax(floored(logits, where) / temperature, axis=-1)


def entropy(log_p: Float[Array, "*n V"]) -> Float[Array, "*n"]:
    """Shannon entropy in nats of distributions given by their log-probs; log-prob -inf counts 0."""
    log_p = jnp.maximum(log_p, LOWEST)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def argmax(values: Float[Array, "*n V"]) -> Int[Array, "*n"]:
    """`jnp.argmax` over the last axis, int32: the first of equals, the first NaN if there is one.

    As two reductions of one array each, which a CPU does five times as fast as one of pairs.
    """
    largest = jnp.max(values, axis=-1, keepdims=True)
    is_largest = (values == largest) | jnp.isnan(values)
    index = jax.lax.broadcasted_iota(jnp.int32, values.shape, values.ndim - 1)
    return jnp.min(jnp.where(is_largest, index, values.shape[-1] - 1), axis=-1)


_all_finite = jax.jit(lambda values: jnp.isfinite(values).all())


def not_finite(arrays: PyTree) -> list[str]:
    """Paths ("decoder/logits_dense/kernel") of the arrays with NaN or infinite numbers.

    Arrays of JAX are checked on their devices; all hosts that hold parts of one must call this.

    Args:
      arrays: a tree of arrays of NumPy or JAX; integers and booleans are always finite.
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, array in jax.tree_util.tree_leaves_with_path(arrays)
        if not is_finite(array)
    ]


def is_finite(array: np.ndarray | Array) -> bool:
    """Whether an array of any dtype has no NaN and no infinite number."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return True
    return bool(np.isfinite(array).all() if isinstance(array, np.ndarray) else _all_finite(array))
