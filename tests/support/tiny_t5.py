"""A T5 small enough to check by hand, with inputs, random parameters and logits."""

import functools
import math

import jax
import numpy as np
from flax import linen as nn

from cascade_jax.models.config import T5Config
from cascade_jax.models.families import parameter_shapes
from cascade_jax.models.t5 import T5

CONFIG = T5Config(
    vocab_size=19,
    embed_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=10,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.25,
    # Few enough that the short rows here reach the logarithmic buckets.
    relative_buckets=4,
    relative_max_distance=6,
)
INPUTS = np.array([[3, 4, 5, 6, 7, 8, 1], [9, 10, 1, 0, 0, 0, 0]])
DECODER_INPUTS = np.array([[0, 11, 12, 13, 14], [0, 15, 16, 0, 0]])


@functools.cache
def params_of(config):
    """Random ones, norm scales and bias tables included, so that none of them could be left out."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 1 / math.sqrt(leaf.shape[0]) if len(leaf.shape) > 1 else 1.0
        return (rng.normal(size=leaf.shape) * scale).astype(np.float32)

    return jax.tree.map(draw, nn.meta.unbox(parameter_shapes(config)))


def logits_of(config, params, *args, **kwargs):
    return jax.jit(functools.partial(T5(config).apply, **kwargs))({"params": params}, *args)
