"""Mean-pooled inputs against the whole model run on each input alone, without padding."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cascade_jax.batch import DecoderBatch
from cascade_jax.inference.embed import make_embed_fn
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from tests.support import fakes

pytestmark = pytest.mark.medium

DECODER = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24
)
INPUTS = np.random.default_rng(0).integers(2, 64, size=(4, 6)).astype(np.int32)
INPUTS[1, 4:] = 0
INPUTS[2, 1:] = 0
CONFIGS = {
    "t5": fakes.t5_config(num_encoder_layers=2),
    "t5 bfloat16": fakes.t5_config(dtype="bfloat16"),
    "decoder": DECODER,
    "decoder, prefix": dataclasses.replace(DECODER, bidirectional_prefix=True),
}


def hidden_alone(config, model, params, row):
    """Hidden states [L, D] of an input that stands alone in its batch."""
    if hasattr(config, "num_encoder_layers"):
        encode = jax.jit(functools.partial(model.apply, method="encode"))
        return encode({"params": params}, row[None])[0]
    tokens = np.array([[0, *row]], np.int32)
    ones = np.ones_like(tokens)
    batch = DecoderBatch(tokens=tokens, targets=tokens, weights=ones, is_prefix=ones)
    return jax.jit(families.hidden, static_argnums=0)(model, params, batch)[0, 1:]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_mean_is_over_the_tokens_of_the_input(name):
    config = CONFIGS[name]
    model = families.build(config)
    params = fakes.initialize(model)
    actual = make_embed_fn(model)(params, INPUTS)
    assert actual.shape == (4, 16) and actual.dtype == np.float32
    for row in range(4):
        tokens = INPUTS[row][INPUTS[row] > 0]
        states = np.asarray(hidden_alone(config, model, params, tokens), np.float64)
        assert len(states) == len(tokens)
        tolerance = 2e-2 if "bfloat16" in name else 1e-5
        np.testing.assert_allclose(actual[row], states.mean(axis=0), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["t5", "decoder"])
def test_an_input_without_a_token_is_zero(name):
    model = families.build(CONFIGS[name])
    params = fakes.initialize(model)
    assert not np.asarray(make_embed_fn(model)(params, np.zeros((2, 6), np.int32))).any()
