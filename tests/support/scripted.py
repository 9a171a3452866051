"""A model for live decoding whose answers are written down beforehand."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Scripted:
    """A stepper whose parameters are its logits [B, L, V], whatever was written before."""

    vocab_size: int = 3

    def start(self, params, inputs, max_length):
        return jnp.zeros(len(inputs), jnp.int32), ()

    def step(self, params, state, tokens, where, logits_at):
        place = jnp.clip(where.places.reshape(-1)[logits_at], 0, params.shape[1] - 1)
        return params[jnp.arange(len(params)), place], state
