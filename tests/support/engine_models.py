"""Small models of both kinds with sharp distributions, and inputs of many lengths to them."""

import dataclasses
import functools

import jax
import numpy as np
from flax import linen as nn

from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from cascade_jax.models.families import parameter_shapes
from tests.support import fakes

MAX_LENGTH = 10
EOS = 5  # which these models' greedy answers have at all places, or never
DECODER = DecoderConfig(
    vocab_size=23,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    bidirectional_prefix=True,
)
CONFIGS = {
    "t5": fakes.t5_config(vocab_size=23, num_heads=2, head_dim=8),
    "decoder": DECODER,
    "scanned": dataclasses.replace(
        DECODER,
        scan_layers=True,
        bidirectional_prefix=False,
        attention_kinds=("sliding", "full"),
        sliding_window=6,
    ),
}


@functools.cache
def model_of(kind, **changes):
    """A model whose distributions are sharp, and its parameters."""
    config = dataclasses.replace(CONFIGS[kind], **changes)
    shapes, rng = nn.meta.unbox(parameter_shapes(config)), np.random.default_rng(3)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 2 / np.sqrt(leaf.shape[-2])).astype(np.float32)

    return families.build(config), jax.tree_util.tree_map_with_path(draw, shapes)


def drawn(count, longest=40):
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 23, size=rng.integers(0, longest + 1)) for _ in range(count)]
    return [row.astype(np.int32) for row in rows]
