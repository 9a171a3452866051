"""Decoder-only models against a NumPy forward pass in float64, and against themselves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.models import attention, decoder, families
from cascade_jax.models.config import DecoderConfig, RopeScaling

pytestmark = pytest.mark.medium

PLAIN = DecoderConfig(
    vocab_size=40, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24
)
QWEN = dataclasses.replace(PLAIN, qkv_bias=True, tied_logits=False, rope_theta=100.0)
GEMMA = dataclasses.replace(
    PLAIN,
    mlp_activations=("gelu", "linear"),
    norm_adds_one=True,
    post_norms=True,
    qk_norm=True,
    query_scale=0.3,
    sliding_window=3,
    attention_kinds=("sliding", "full"),
    sliding_rope_theta=50.0,
    rope_scaling=RopeScaling(8.0),
    attention_soft_cap=4.0,
    logit_soft_cap=5.0,
    scaled_embedding=True,
    bos_id=2,
)
LLAMA = dataclasses.replace(
    PLAIN,
    attention_out_bias=True,
    rope_scaling=RopeScaling(4.0, "llama3", 1.0, 4.0, original_length=20),
)
PREFIX = dataclasses.replace(PLAIN, bidirectional_prefix=True)
CONFIGS = {"plain": PLAIN, "qwen": QWEN, "gemma": GEMMA, "llama": LLAMA, "prefix": PREFIX}

RNG = np.random.default_rng(0)
TOKENS = np.pad(RNG.integers(3, 40, size=(2, 10)), ((0, 0), (1, 0)))  # 0 starts a row
IS_PREFIX = (np.arange(11) < np.array([[4], [6]])).astype(int)


@functools.cache
def _params(config):
    """Random parameters, biases and norms too, of a model without scanned layers."""
    rng = np.random.default_rng(1)
    shapes = nn.meta.unbox(
        families.parameter_shapes(dataclasses.replace(config, scan_layers=False))
    )
    return jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])).astype(np.float32),
        shapes,
    )


def _stacked(params, config):
    layers = [params[f"layers_{i}"] for i in range(config.num_layers)]
    rest = {name: value for name, value in params.items() if not name.startswith("layers_")}
    return rest | {"layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}


@functools.cache
def _forward(config):
    return jax.jit(decoder.Decoder(config).apply)


# ---- a forward pass in NumPy, one position and head after the other


def _norm(x, scale, config):
    factor = 1.0 + scale if config.norm_adds_one else scale
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * factor


def _linear(x, params):
    return x @ params["kernel"] + params.get("bias", 0.0)


def _angles(config, layer):
    theta, scaling = config.rope_theta, config.rope_scaling
    if config.attention_kind(layer) == "sliding" and config.sliding_rope_theta:
        theta, scaling = config.sliding_rope_theta, None
    result = []
    for i in range(config.head_dim // 2):
        angle = theta ** (-2 * i / config.head_dim)
        if scaling is not None and scaling.kind == "linear":
            angle /= scaling.factor
        elif scaling is not None:
            wave = 2 * np.pi / angle
            longest = scaling.original_length / scaling.low_frequency_factor
            shortest = scaling.original_length / scaling.high_frequency_factor
            if wave > longest:
                angle /= scaling.factor
            elif wave > shortest:
                share = (scaling.original_length / wave - scaling.low_frequency_factor) / (
                    scaling.high_frequency_factor - scaling.low_frequency_factor
                )
                angle = share * angle + (1 - share) * angle / scaling.factor
        result.append(angle)
    return np.array(result)


def _turn(x, position, angles):
    """One head's vector as complex numbers x_i + i x_{i + K/2}, turned."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * angles)
    return np.concatenate([turned.real, turned.imag])


def _attention(x, params, config, layer, prefix):
    length, angles = len(x), _angles(config, layer)
    shape = (length, -1, config.head_dim)
    query, key, value = (_linear(x, params[n]).reshape(shape) for n in ("query", "key", "value"))
    if config.qk_norm:
        query = _norm(query, params["query_norm"]["scale"], config)
        key = _norm(key, params["key_norm"]["scale"], config)
    out = np.zeros((length, config.num_heads, config.head_dim))
    scale = config.query_scale or 1 / np.sqrt(config.head_dim)
    for head in range(config.num_heads):
        group = head // (config.num_heads // config.num_kv_heads)
        for q in range(length):
            seen, logits = [], []
            for k in range(length):
                both = config.bidirectional_prefix and q < prefix and k < prefix
                near = config.attention_kind(layer) == "full" or q - k < config.sliding_window
                if (k <= q or both) and near:
                    logit = scale * (
                        _turn(query[q, head], q, angles) @ _turn(key[k, group], k, angles)
                    )
                    if config.attention_soft_cap:
                        logit = config.attention_soft_cap * np.tanh(
                            logit / config.attention_soft_cap
                        )
                    seen.append(k)
                    logits.append(logit)
            weights = np.exp(logits - np.max(logits))
            out[q, head] = weights / weights.sum() @ value[seen, group]
    return _linear(out.reshape(length, -1), params["out"])


def _activation(name, x):
    if name == "silu":
        return x / (1 + np.exp(-x))
    if name == "gelu":  # the tanh form
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x


def _reference(config, params, row, prefix):
    """Logits [L V] of one row."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    embedding = params["token_embedder"]["embedding"]
    row = np.where(np.arange(len(row)) == 0, config.bos_id, row)
    x = embedding[row] * (np.sqrt(config.embed_dim) if config.scaled_embedding else 1.0)
    for layer in range(config.num_layers):
        own = params[f"layers_{layer}"]

        def after(name, y, own=own):
            return _norm(y, own[name]["scale"], config) if config.post_norms else y

        y = _norm(x, own["pre_attention_norm"]["scale"], config)
        y = _attention(y, own["attention"], config, layer, prefix)
        x = x + after("post_attention_norm", y)
        y = _norm(x, own["pre_mlp_norm"]["scale"], config)
        gates = [
            _activation(name, _linear(y, own["mlp"][f"wi_{i}"]))
            for i, name in enumerate(config.mlp_activations)
        ]
        x = x + after("post_mlp_norm", _linear(np.prod(gates, axis=0), own["mlp"]["wo"]))
    x = _norm(x, params["final_norm"]["scale"], config)
    logits = x @ embedding.T if config.tied_logits else _linear(x, params["logits_dense"])
    cap = config.logit_soft_cap
    return cap * np.tanh(logits / cap) if cap else logits


# ---- the whole forward pass


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_a_float64_forward_pass(name):
    config = CONFIGS[name]
    actual = _forward(config)({"params": _params(config)}, TOKENS, is_prefix=IS_PREFIX)
    for row, prefix, logits in zip(TOKENS, IS_PREFIX.sum(1), actual, strict=True):
        expected = _reference(config, _params(config), row, prefix)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["gemma", "prefix"])
@pytest.mark.parametrize("chunk", [1, 4, 11])
def test_blocks_of_queries_change_nothing(name, chunk):
    config = CONFIGS[name]
    variables = {"params": _params(config)}
    whole = _forward(config)(variables, TOKENS, is_prefix=IS_PREFIX)
    chunked = dataclasses.replace(config, query_chunk=chunk)
    actual = _forward(chunked)(variables, TOKENS, is_prefix=IS_PREFIX)
    np.testing.assert_allclose(actual, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scanned_layers_and_remat_give_the_same_logits_and_gradients(remat):
    params = _params(GEMMA)
    scanned = dataclasses.replace(GEMMA, scan_layers=True, remat=remat)

    def loss(config, params):
        return jnp.mean(jnp.square(decoder.Decoder(config).apply({"params": params}, TOKENS)))

    value, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, GEMMA)))(params)
    stacked = _stacked(params, GEMMA)
    actual, ours = jax.jit(jax.value_and_grad(functools.partial(loss, scanned)))(stacked)
    np.testing.assert_allclose(actual, value, rtol=1e-5)
    expected = _stacked(jax.device_get(gradient), GEMMA)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), ours, expected
    )


def test_packed_examples_do_not_see_each_other():
    config = dataclasses.replace(GEMMA, bidirectional_prefix=True)
    variables = {"params": _params(config)}
    parts = [TOKENS[0, :5], np.pad(TOKENS[1, 1:4], (1, 0))]
    tokens = np.concatenate([*parts, np.zeros(2, int)])[None]
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 2])
    positions = np.array([[*range(5), *range(4), 0, 1]])
    prefix = np.array([[1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]])
    actual = _forward(config)(
        variables, tokens, is_prefix=prefix, segment_ids=segments, positions=positions
    )
    for part, start, prefixes in zip(parts, (0, 5), (3, 2), strict=True):
        alone = _reference(config, _params(config), part, prefixes)
        np.testing.assert_allclose(
            actual[0, start : start + len(part)], alone, rtol=1e-4, atol=2e-5
        )


def test_what_comes_after_a_token_does_not_reach_it():
    variables = {"params": _params(PLAIN)}
    changed = TOKENS.copy()
    changed[:, 6:] = 7
    before, after = _forward(PLAIN)(variables, TOKENS), _forward(PLAIN)(variables, changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-3


def test_unembedding_makes_the_logits_of_hidden_states():
    for config in (GEMMA, QWEN):
        params = _params(config)
        model = decoder.Decoder(config)
        hidden = jax.jit(functools.partial(model.apply, method="hidden"))(
            {"params": params}, TOKENS
        )
        expected = _forward(config)({"params": params}, TOKENS)
        actual = families.build(config).unembedding(params).logits(hidden)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_near_float32():
    variables = {"params": _params(QWEN)}
    exact = _forward(QWEN)(variables, TOKENS)
    rough = _forward(dataclasses.replace(QWEN, dtype="bfloat16"))(variables, TOKENS)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(rough - exact).max() < 0.1 * np.abs(exact).max()


# ---- decoding with a cache


# Each kind of layers in one way or the other.
@pytest.mark.parametrize(
    "name, scan",
    [
        pytest.param(name, scan, marks=[] if scan == (i % 2 == 0) else pytest.mark.slow)
        for i, name in enumerate(CONFIGS)
        for scan in (False, True)
    ],
)
def test_cached_steps_give_the_logits_of_whole_rows(name, scan):
    config = dataclasses.replace(CONFIGS[name], scan_layers=scan)
    params = _params(CONFIGS[name])
    params = _stacked(params, config) if scan else params
    model, lengths = decoder.Decoder(config), [6, 4]
    inputs = np.zeros((2, 6), int)
    for row, length in enumerate(lengths):
        inputs[row, :length] = TOKENS[row, 1 : 1 + length]
    start = jax.jit(
        lambda p, i: model.apply({"params": p}, i, 4, method="start_decoding", mutable=["cache"])
    )
    forward = _forward(config)
    step = jax.jit(
        lambda p, c, t: model.apply(
            {"params": p, "cache": c}, t, inputs, method="decode_step", mutable=["cache"]
        )
    )
    last, created = start(params, inputs)
    rows = [[0, *inputs[row, :length]] for row, length in enumerate(lengths)]
    assert last.tolist() == [row[-1] for row in rows]
    cache = created["cache"]
    for chosen in ([5, 9], [8, 3], [3, 3], [11, 30]):
        logits, updated = step(params, cache, last[:, None])
        cache, last = updated["cache"], jnp.asarray(chosen)
        for row, length in enumerate(lengths):
            whole = np.zeros((1, 11), int)
            whole[0, : len(rows[row])] = rows[row]
            prefix = (np.arange(11) <= length).astype(int)[None]
            expected = forward({"params": params}, whole, is_prefix=prefix)
            at = len(rows[row]) - 1
            np.testing.assert_allclose(logits[row, 0], expected[0, at], rtol=2e-4, atol=2e-5)
            rows[row].append(chosen[row])


# ---- memory, parts, refusals


def test_attention_of_long_rows_never_holds_a_square_array():
    config = dataclasses.replace(PLAIN, query_chunk=64)
    tokens = jax.ShapeDtypeStruct((1, 2048), jnp.int32)

    def loss(params, tokens):
        return jnp.sum(decoder.Decoder(config).apply({"params": params}, tokens))

    compiled = jax.jit(jax.grad(loss)).lower(_params(PLAIN), tokens).compile()
    square = 4 * config.num_heads * 2048 * 2048  # one layer's attention weights in float32
    assert compiled.memory_analysis().temp_size_in_bytes < square / 2


def test_a_window_hides_what_is_too_far_back():
    def places(positions, **changes):
        positions = jnp.asarray([positions])
        ones = jnp.ones_like(positions)
        settings = {"segments": ones, "is_prefix": ones < 1, "is_readable": ones > 0}
        return attention.Places(positions, **settings | changes)

    keys = places([0, 1, 2, 3], is_readable=jnp.asarray([[True, True, False, True]]))
    actual = attention.is_visible(places([1, 3]), keys, jnp.asarray(3))
    assert actual[0].tolist() == [[True, True, False, False], [False, True, False, True]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads is 4; must be a multiple of num_kv_heads = 3"),
        ({"head_dim": 7}, "head_dim is 7; must be an even number"),
        ({"attention_kinds": ("sliding",)}, "'sliding' needs sliding_window"),
        ({"attention_kinds": ("local",)}, "attention_kinds is 'local'; must be one of full"),
        ({"attention_kinds": "full"}, "attention_kinds is 'full'; must be a tuple"),
        ({"logit_soft_cap": 0.0}, "logit_soft_cap is 0.0; must be a number above 0, or None"),
        ({"bos_id": 40}, "bos_id is 40; must be an id of the vocabulary, 0 to 39"),
        ({"sliding_window": 0}, "sliding_window is 0; must be an integer of at least 1"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0; must be at least 0 and below 1"),
        ({"query_chunk": 0}, "query_chunk is 0; must be an integer of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        dataclasses.replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "factor is 0.0"),
        ((2.0, "yarn"), "kind is 'yarn'; must be one of linear, llama3"),
        ((2.0, "llama3", 4.0, 4.0), "low_frequency_factor is 4.0"),
    ],
)
def test_scalings_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RopeScaling(*arguments)


@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_states_at_some_places_are_those_of_the_whole_rows(name, is_scanned):
    config = dataclasses.replace(CONFIGS[name], scan_layers=is_scanned)
    params = _params(config)
    params = _stacked(params, config) if is_scanned else params
    places = np.array([[4, 9, 9], [0, 10, 2]])
    weights = np.random.default_rng(3).normal(size=(2, 3, config.embed_dim)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def states_and_gradient(params, is_whole):
        def total(params):
            settings = {} if is_whole else {"only_at": places}
            states = decoder.Decoder(config).apply(
                {"params": params}, TOKENS, is_prefix=IS_PREFIX, method="hidden", **settings
            )
            states = states[np.arange(2)[:, None], places] if is_whole else states
            return jnp.sum(states * weights), states

        return jax.grad(total, has_aux=True)(params)

    whole, some = (states_and_gradient(params, is_whole) for is_whole in (True, False))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), some, whole)
