"""Attention by cuDNN's fused kernels, on GPUs, where these take what a model has.

They need no array of [queries, keys] for each head either. No GPU has run this here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cascade_jax import axes
from cascade_jax.models import blocks

_HEAD_SIZE = 128  # the largest that all GPUs with these kernels have


def takes(query: Float[Array, "B Q H K"], key: Float[Array, "B G K T"]) -> bool:
    """Whether this is for a GPU whose kernels compute it: without a bias or a soft cap.

    They take 16-bit numbers and even lengths, and on a mesh as many key heads on each device.
    """
    size, num_queries, num_keys = query.shape[-1], query.shape[1], key.shape[-1]
    is_small = query.dtype in (jnp.bfloat16, jnp.float16) and size % 8 == 0 and size <= _HEAD_SIZE
    is_even = num_queries > 1 and num_queries % 2 == 0 and num_keys % 2 == 0
    is_split = key.shape[1] % blocks.num_shards(axes.HEADS) == 0
    return blocks.platform() == "gpu" and is_small and is_even and is_split


def attend(
    query: Float[Array, "B Q H K"],
    key: Float[Array, "B G K T"],
    value: Float[Array, "B G T K"],
    mask: Bool[Array, "#B #Q T"],
    scale: float,
    implementation: str = "cudnn",
) -> Float[Array, "B Q H K"]:
    """`softmax(scale * q k^T) v` over the keys that the mask leaves; 0 where it leaves none.

    A key that is not finite makes the answers of the queries that may look at it NaN, and no other.

    Args:
      implementation: of `jax.nn.dot_product_attention`; "xla" is for tests.
    """
    rows, queries, keys = query.shape[0], query.shape[1], key.shape[-1]
    mask = jnp.broadcast_to(mask, (rows, queries, keys))
    # The kernels add a large number to the logit of a masked key, which leaves NaN as it is.
    is_lost = ~jnp.all(jnp.isfinite(key), axis=(1, 2))
    key = jnp.where(is_lost[:, None, None], 0, key)
    key, value = key.transpose(0, 3, 1, 2), value.swapaxes(1, 2)
    answers = jax.nn.dot_product_attention(
        query, key, value, mask=mask[:, None], scale=scale, implementation=implementation
    )
    answers = jnp.where(jnp.any(mask, axis=-1)[:, :, None, None], answers, 0)
    sees_lost = jnp.any(mask & is_lost[:, None], axis=-1)
    return jnp.where(sees_lost[:, :, None, None], jnp.nan, answers)
