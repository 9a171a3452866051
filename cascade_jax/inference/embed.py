"""One vector of an input: the mean of a model's hidden states."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cascade_jax import numerics
from cascade_jax.batch import PAD_ID
from cascade_jax.models import families


@functools.lru_cache(maxsize=32)
def make_embed_fn(
    model: families.Model,
) -> Callable[[Mapping[str, Any], Int[Array, "B S"]], Float[Array, "B D"]]:
    """A jitted `(params, inputs) -> means`, compiled once for each shape of inputs.

    `mean over the input's tokens of h_i`, padding left out: h is an encoder-decoder's encoder
    output, and a decoder-only model's final hidden states (after the last norm) over the prompt.
    An input without a token gives zeros. Inputs are padded with 0 at the end, means are float32.
    """

    @jax.jit
    def embed_fn(params, inputs):
        is_token = (inputs != PAD_ID)[:, :, None]
        hidden = model.apply({"params": params}, inputs, method="encode")
        hidden = jnp.where(is_token, hidden.astype(jnp.float32), 0.0)
        counts = jnp.sum(is_token, axis=1, dtype=jnp.float32)  # [B, 1]
        return numerics.safe_ratio(jnp.sum(hidden, axis=1), counts)

    return embed_fn
