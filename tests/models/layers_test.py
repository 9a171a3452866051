"""Each part of a layer against its formula in NumPy float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.models.config import T5Config
from cascade_jax.models.layers import (
    MLP,
    Attention,
    Embed,
    RelativePositionBias,
    RMSNorm,
    relative_position_buckets,
)

CONFIG = T5Config(11, 6, 2, 5, 9, 1, 1)


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _init(module, *args):
    return nn.meta.unbox(jax.jit(lambda key: module.init(key, *args))(jax.random.key(0))["params"])


# ---------------------------------------------------------------- relative positions


def _bucket_by_definition(relative_position, bidirectional, num_buckets, max_distance):
    """One bucket, found by counting; whole-number arithmetic, so no rounding at the boundaries.

    Logarithmic bucket number j starts at distance exact * (max_distance / exact)^(j / steps), that
    is where distance^steps >= max_distance^j * exact^(steps - j).
    """
    offset, distance = 0, max(-relative_position, 0)
    if bidirectional:
        num_buckets //= 2
        distance = abs(relative_position)
        offset = num_buckets if relative_position > 0 else 0
    exact = num_buckets // 2
    if distance < exact:
        return offset + distance
    steps = num_buckets - exact
    j = 0
    while j + 1 < steps and distance**steps >= max_distance ** (j + 1) * exact ** (steps - j - 1):
        j += 1
    return offset + exact + j


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (4, 128), (12, 33)])
def test_buckets_by_definition(bidirectional, num_buckets, max_distance):
    positions = np.arange(-300, 301)
    buckets = relative_position_buckets(
        positions[None],
        bidirectional=bidirectional,
        num_buckets=num_buckets,
        max_distance=max_distance,
    )
    expected = [
        _bucket_by_definition(int(p), bidirectional, num_buckets, max_distance) for p in positions
    ]
    np.testing.assert_array_equal(buckets[0], expected)


def test_bias_is_the_heads_number_for_the_bucket():
    module = RelativePositionBias(CONFIG, bidirectional=True)
    queries, keys = np.array([3, 0]), np.arange(5)
    params = _init(module, queries, keys)
    bias = module.apply({"params": params}, queries, keys)
    assert bias.shape == (1, CONFIG.num_heads, 2, 5)
    for head in range(CONFIG.num_heads):
        for i, query in enumerate(queries):
            for key in keys:
                bucket = _bucket_by_definition(int(key - query), True, 32, 128)
                assert bias[0, head, i, key] == params["rel_embedding"][head, bucket]


def test_queries_may_have_other_positions_in_every_row():
    module = RelativePositionBias(CONFIG, bidirectional=False)
    rows, keys = np.array([[3, 4], [0, 1], [9, 9]]), np.arange(5)
    params = _init(module, rows, keys)
    bias = module.apply({"params": params}, rows, keys)
    assert bias.shape == (3, CONFIG.num_heads, 2, 5)
    for row, queries in enumerate(rows):
        alone = module.apply({"params": params}, queries, keys)
        np.testing.assert_array_equal(bias[row], alone[0])


# ---------------------------------------------------------------- norm, embedding, MLP


def test_rms_norm_by_formula():
    x, scale = _normal(0, 2, 3, 6) * 7 + 2, _normal(1, 6)
    y = RMSNorm().apply({"params": {"scale": scale}}, x)
    x64 = x.astype(np.float64)
    expected = x64 / np.sqrt((x64**2).mean(-1, keepdims=True) + 1e-6) * scale
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_rms_norm_of_bfloat16_takes_the_mean_in_float32():
    # A sum of 4096 nines in bfloat16 would stop growing at 4096 (8 bits: 4096 + 9 rounds back).
    x = jnp.ones((1, 4096), jnp.bfloat16) * 3
    y = RMSNorm("bfloat16").apply({"params": {"scale": jnp.ones(4096)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), 1.0)


def test_embedding_is_rows_by_a_gather():
    module, tokens = Embed(CONFIG), np.array([[0, 10, 3], [3, 3, 1]])
    params = _init(module, tokens)
    rows = module.apply({"params": params}, tokens)
    np.testing.assert_array_equal(rows, np.asarray(params["embedding"])[tokens])
    primitives = str(jax.make_jaxpr(module.apply)({"params": params}, tokens))
    assert "gather" in primitives and "dot_general" not in primitives


def test_token_past_the_vocabulary_is_nan_and_no_other_token():
    module = Embed(CONFIG)
    params = _init(module, np.array([[0]]))
    rows = module.apply({"params": params}, np.array([[10, 11]]))
    assert np.isfinite(rows[0, 0]).all() and np.isnan(rows[0, 1]).all()


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _three_gates(x, kernels):
    first, second, third = (x @ kernels[f"wi_{i}"]["kernel"] for i in range(3))
    return _sigmoid(first) * np.tanh(second) * third * _sigmoid(third)


@pytest.mark.parametrize(
    ("activations", "formula"),
    [
        (("relu",), lambda x, k: np.maximum(x @ k["wi"]["kernel"], 0)),
        (
            ("gelu", "linear"),
            lambda x, k: _gelu(x @ k["wi_0"]["kernel"]) * (x @ k["wi_1"]["kernel"]),
        ),
        (("sigmoid", "tanh", "silu"), _three_gates),
    ],
    ids=["plain", "gated", "three"],
)
def test_mlp_by_formula(activations, formula):
    module = MLP(T5Config(11, 6, 2, 5, 9, 1, 1, mlp_activations=activations))
    x = _normal(0, 2, 3, 6)
    params = _init(module, x, True)
    y = module.apply({"params": params}, x, True)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = formula(x.astype(np.float64), params) @ params["wo"]["kernel"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- attention


def _attention_by_loop(params, x, source, mask, bias):
    """One head, one query at a time, in float64."""
    kernels = {name: np.asarray(params[name]["kernel"], np.float64) for name in params}
    out = np.zeros(x.shape)
    size = CONFIG.head_dim
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            heads = []
            for h in range(CONFIG.num_heads):
                columns = slice(h * size, (h + 1) * size)
                query = x[b, i] @ kernels["query"][:, columns]
                visible = np.flatnonzero(mask[b, 0, i])
                keys = source[b, visible] @ kernels["key"][:, columns]
                scores = np.exp(keys @ query + bias[0, h, i, visible])
                values = source[b, visible] @ kernels["value"][:, columns]
                heads.append(scores @ values / max(scores.sum(), 1e-300))
            out[b, i] = np.concatenate(heads) @ kernels["out"]
    return out


def test_attention_by_formula_and_zero_where_nothing_is_visible():
    module = Attention(CONFIG)
    x, source, bias = _normal(0, 2, 3, 6), _normal(1, 2, 4, 6), _normal(2, 1, 2, 3, 4)
    mask = np.random.default_rng(3).random((2, 1, 3, 4)) < 0.6
    mask[1, 0, 2] = False
    params = _init(module, x, source, mask, bias, None, True)
    out = module.apply({"params": params}, x, source, mask, bias, None, True)
    expected = _attention_by_loop(params, x, source, mask, bias)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out[1, 2], 0.0)


def test_query_starts_smaller_by_the_root_of_the_head_size():
    config = T5Config(11, 64, 8, 16, 9, 1, 1)
    x = jnp.zeros((1, 1, 64))
    params = _init(Attention(config), x, x, jnp.ones((1, 1, 1, 1), bool), None, None, True)
    spread = {name: float(jnp.std(params[name]["kernel"])) for name in params}
    # 8192 normal draws each: the standard error of a spread is below 1 %.
    assert spread["key"] == pytest.approx(1 / math.sqrt(64), rel=0.05)
    assert spread["query"] == pytest.approx(1 / math.sqrt(64 * 16), rel=0.05)
