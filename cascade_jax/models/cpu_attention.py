"""Attention and rotary positions in the form that a CPU computes fastest.

XLA's CPU compiler makes one loop of a product, an added array and the softmax after it, but only if
nothing is transposed between them and the mask is a number that is added.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cascade_jax.models import blocks

_MASKED = -1e10  # finite, so that a row with nothing to attend to gives no NaN
_MOST_BLOCKS, _LEAST_QUERIES = 4, 64  # of queries in `attend_in_order`


def takes(query: Float[Array, "B Q H K"]) -> bool:
    """Whether this is for a CPU and not for one query of every row."""
    return query.shape[1] > 1 and blocks.platform() == "cpu"


def attend(
    query: Float[Array, "B Q H K"],
    key: Float[Array, "B G K T"],
    value: Float[Array, "B G T K"],
    mask: Bool[Array, "#B #Q T"],
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
    bias: Float[Array, "#B G #Q T"] | None = None,
) -> Float[Array, "B Q H K"]:
    """`softmax(cap(scale * q k^T) + bias) v` over the keys that the mask leaves; 0 without any.

    Each of the G key heads serves H / G query heads that stand together. All keys are finite.
    """
    (rows, length, heads, size), (groups, _, keys) = query.shape, key.shape[1:]
    apart = (rows, groups, heads // groups, length)
    joined = (rows, groups, -1)
    query = (query * scale).reshape(rows, length, groups, -1, size).transpose(0, 2, 3, 1, 4)
    logits = jnp.matmul(query.reshape(*joined, size), key, preferred_element_type=jnp.float32)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    logits = logits.reshape(*apart, keys)
    if bias is not None:
        logits = _with_bias(logits, bias[:, :, None])
    addend = jnp.where(mask, 0.0, _MASKED)[:, None, None]
    weights = _softmax_of_sum(logits, addend).astype(value.dtype)
    answers = jnp.matmul(weights.reshape(*joined, keys), value)
    is_somewhere = jnp.any(mask, axis=-1)[:, None, None, :, None]
    answers = jnp.where(is_somewhere, answers.reshape(*apart, size), 0.0)
    return answers.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads, size)


def attend_in_order(
    query: Float[Array, "B Q H K"],
    key: Float[Array, "B G K Q"],
    value: Float[Array, "B G Q K"],
    mask: Bool[Array, "B Q Q"],
    **settings: float | None,
) -> Float[Array, "B Q H K"]:
    """`attend` where no query sees a key after its own place: a few blocks of queries do without.

    Four blocks do five eighths of the work.
    """
    length = query.shape[1]
    size = max(_LEAST_QUERIES, -(-length // _MOST_BLOCKS))
    blocks = []
    for start in range(0, length, size):
        end = start + size
        keys = key[..., :end], value[:, :, :end], mask[:, start:end, :end]
        blocks.append(attend(query[:, start:end], *keys, **settings))
    return jnp.concatenate(blocks, axis=1)


@jax.custom_vjp
def _softmax_of_sum(x: Float[Array, "*n T"], constant: Float[Array, "*n T"]) -> Array:
    """`softmax(x + constant)`; the backward pass needs one array of its size, JAX's own two."""
    return jax.nn.softmax(x + constant, axis=-1)


def _forward(x, constant):
    weights = _softmax_of_sum(x, constant)
    return weights, weights


def _backward(weights, cotangent):
    mean = jnp.sum(weights * cotangent, axis=-1, keepdims=True)
    return weights * (cotangent - mean), None


_softmax_of_sum.defvjp(_forward, _backward)


@jax.custom_vjp
def _with_bias(logits: Array, bias: Array) -> Array:
    """`logits + bias`; the gradient of one bias for all rows is a product with ones.

    As a sum over rows it would be one loop with the softmax's gradient, computed there once more.
    """
    return logits + bias


def _bias_forward(logits, bias):
    return logits + bias, bias


def _bias_backward(bias, cotangent):
    rows = len(cotangent)
    if bias.shape == (1, *cotangent.shape[1:]):
        return cotangent, (jnp.ones((1, rows)) @ cotangent.reshape(rows, -1)).reshape(bias.shape)
    repeated = [i for i, size in enumerate(bias.shape) if size != cotangent.shape[i]]
    return cotangent, jnp.sum(cotangent, axis=repeated, keepdims=True)


_with_bias.defvjp(_bias_forward, _bias_backward)


def rotate(
    x: Float[Array, "B T H K"], sin: Float[Array, "B T half"], cos: Float[Array, "B T half"]
) -> Float[Array, "B T H K"]:
    """`attention.rotate` of float32 numbers: halves are read in reverse, not joined anew."""
    sin, cos = (jnp.stack(pair, axis=2)[:, :, None] for pair in ((-sin, sin), (cos, cos)))
    halves = x.reshape(*x.shape[:-1], 2, -1)
    return (halves * cos + halves[..., ::-1, :] * sin).reshape(x.shape)
