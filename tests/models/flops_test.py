"""Parameter counts against a count by hand."""

import dataclasses

import numpy as np
import pytest

from cascade_jax.models.config import T5Config
from cascade_jax.models.flops import flops_per_token, parameter_count
from cascade_jax.models.t5 import parameter_shapes

CONFIG = T5Config(
    vocab_size=31,
    embed_dim=10,
    num_heads=3,
    head_dim=4,
    mlp_dim=17,
    num_encoder_layers=2,
    num_decoder_layers=3,
    relative_buckets=8,
)


def _count_by_hand(config: T5Config) -> int:
    embed, joined = config.embed_dim, config.num_heads * config.head_dim
    attention = 4 * embed * joined
    mlp = (len(config.mlp_activations) + 1) * embed * config.mlp_dim
    encoder = config.num_encoder_layers * (attention + mlp + 2 * embed) + embed
    decoder = config.num_decoder_layers * (2 * attention + mlp + 3 * embed) + embed
    tables = config.vocab_size * embed * (1 if config.tied_logits else 2)
    return encoder + decoder + tables + 2 * config.num_heads * config.relative_buckets


@pytest.mark.parametrize(
    "changes",
    [{}, {"tied_logits": True}, {"mlp_activations": ("relu",)}, {"scan_layers": True}],
    ids=str,
)
def test_count_by_hand(changes):
    config = dataclasses.replace(CONFIG, **changes)
    expected = _count_by_hand(config)
    shapes = parameter_shapes(config)
    assert parameter_count(shapes) == expected
    assert flops_per_token(config) == flops_per_token(shapes) == 2 * expected


def test_arrays_count_as_their_shapes_do():
    params = {"a": {"kernel": np.zeros((3, 4))}, "b": np.zeros(()), "c": np.zeros((5,))}
    assert parameter_count(params) == 12 + 1 + 5
    assert flops_per_token(params) == 36
