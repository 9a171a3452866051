"""What layers measure for probes, against NumPy on captured queries, keys and outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.batch import Batch
from cascade_jax.models import decoder, families
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.models.probe import COLLECTION, Probe

pytestmark = pytest.mark.medium

DISTANCES = (0, 1)
INPUTS = np.array([[5, 6, 7, 8, 9, 3], [11, 12, 4, 0, 0, 0]], np.int32)
ANSWERS = np.array([[13, 14, 15, 16, 1], [17, 1, 0, 0, 0]], np.int32)
IS_TOKEN = ANSWERS != 0
BATCH = Batch(
    INPUTS, np.pad(ANSWERS, ((0, 0), (1, 0)))[:, :-1], ANSWERS, IS_TOKEN.astype(np.float32)
)
PLAIN = DecoderConfig(
    vocab_size=20, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24
)
GEMMA = dataclasses.replace(
    PLAIN,
    qk_norm=True,
    sliding_window=3,
    attention_kinds=("sliding", "full"),
    attention_soft_cap=4.0,
    query_scale=0.9,
)
ENCODER_DECODER = T5Config(
    vocab_size=20, embed_dim=8, num_heads=2, head_dim=3, mlp_dim=10,
    num_encoder_layers=1, num_decoder_layers=2, relative_buckets=4, relative_max_distance=6,
)  # fmt: skip
MODELS = {"plain": PLAIN, "gemma": GEMMA, "t5": ENCODER_DECODER}


def params_of(config):
    """Random parameters of a model whose layers are not scanned."""
    rng = np.random.default_rng(0)
    shapes = nn.unbox(families.parameter_shapes(config))
    return jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])).astype(np.float32),
        shapes,
    )


def stacked(tree):
    """The parameters of scanned layers."""
    if not isinstance(tree, dict):
        return tree
    layers = [tree[f"layers_{i}"] for i in range(len(tree)) if f"layers_{i}" in tree]
    rest = {name: stacked(value) for name, value in tree.items() if "layers_" not in name}
    return rest | ({"layers": jax.tree.map(lambda *a: np.stack(a), *layers)} if layers else {})


def captured(model, params, *arguments, **settings):
    """The outputs of all modules, in float64, of rows of which every place is computed."""
    _, state = jax.jit(
        lambda params: model.apply(
            {"params": params},
            *arguments,
            **settings,
            method="hidden",
            capture_intermediates=True,
            mutable=["intermediates"],
        )
    )(params)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state["intermediates"])


def turned(x, places, config):
    """Rotary positions as complex numbers."""
    half = config.head_dim // 2
    angles = places[:, None] * config.rope_theta ** (-np.arange(half) / half)
    x = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([x.real, x.imag], axis=-1)


def decoder_reference(config, params):
    """Attention [layers B A H d], and states after each layer at the places [layers B A D]."""
    rows = decoder.joined_rows(BATCH)
    outputs = captured(families.build(config), params, rows.tokens)
    lengths = np.count_nonzero(INPUTS, axis=1)
    width, places = rows.tokens.shape[1], np.arange(rows.tokens.shape[1])
    attention, states = [], []
    for layer in range(config.num_layers):
        own = outputs[f"layers_{layer}"]
        names = ("query_norm", "key_norm") if config.qk_norm else ("query", "key")
        query, key = (own["attention"][name]["__call__"][0] for name in names)
        query, key = (x.reshape(*x.shape[:2], -1, config.head_dim) for x in (query, key))
        key = np.repeat(key, config.num_heads // config.num_kv_heads, axis=2)
        by_row = []
        for row in range(len(INPUTS)):
            q, k = (turned(x[row], places, config) for x in (query, key))
            logits = np.einsum("qhk,thk->hqt", q, k)
            logits *= config.query_scale or config.head_dim**-0.5
            if config.attention_soft_cap:
                cap = config.attention_soft_cap
                logits = cap * np.tanh(logits / cap)
            seen = np.tril(np.ones((width, width), bool))
            if config.attention_kind(layer) == "sliding":
                seen &= places[:, None] - places < config.sliding_window
            weights = np.where(seen, np.exp(logits), 0)
            weights /= weights.sum(-1, keepdims=True)
            at = lengths[row] + np.arange(ANSWERS.shape[1])
            by_row.append(np.stack([weights[:, at, at - d].T for d in DISTANCES], axis=-1))
        attention.append(by_row)
        after = own["__call__"][0][0]
        states.append([after[r, n : n + ANSWERS.shape[1]] for r, n in enumerate(lengths)])
    return np.array(attention), np.array(states)


def t5_reference(config, params):
    outputs = captured(families.build(config), params, INPUTS, BATCH.decoder_inputs)["decoder"]
    bias = outputs["relpos_bias"]["__call__"][0][0]
    length, attention, states = ANSWERS.shape[1], [], []
    for layer in range(config.num_decoder_layers):
        own = outputs[f"layers_{layer}"]
        query, key = (own["self_attention"][n]["__call__"][0] for n in ("query", "key"))
        query, key = (x.reshape(*x.shape[:2], -1, config.head_dim) for x in (query, key))
        logits = np.einsum("bqhk,bthk->bhqt", query, key) + bias
        weights = np.where(np.tril(np.ones((length, length), bool)), np.exp(logits), 0)
        weights /= weights.sum(-1, keepdims=True)
        at = np.arange(length)
        before = [np.where(at >= d, weights[..., at, at - d], 0) for d in DISTANCES]
        attention.append(np.moveaxis(np.stack(before, axis=-1), 1, 2))
        states.append(own["__call__"][0][0])
    return np.array(attention), np.array(states)


def probed(config, params, **changes):
    """With changes, shapes alone."""
    probe = Probe(jnp.asarray(IS_TOKEN), distances=DISTANCES, states=True).replace(**changes)

    def run(params):
        return families.probed(families.build(config), params, BATCH, probe)

    return jax.eval_shape(run, params) if changes else jax.jit(run)(params)


@pytest.mark.parametrize(
    "name, scan", [("plain", False), ("gemma", False), ("gemma", True), ("t5", False), ("t5", True)]
)
def test_attention_and_states_are_those_of_whole_rows(name, scan):
    config, params = MODELS[name], params_of(MODELS[name])
    reference = t5_reference if name == "t5" else decoder_reference
    attention, states = reference(config, params)
    changes = dict(scan_layers=scan, query_chunk=2 if scan else 512, remat=scan * "full" or "none")
    config = dataclasses.replace(config, **changes)
    hidden, measured = probed(config, stacked(params) if scan else params)
    assert measured.attention.dtype == measured.states.dtype == jnp.float32
    for row, count in enumerate(IS_TOKEN.sum(axis=1)):
        np.testing.assert_allclose(
            measured.attention[:, row, :count], attention[:, row, :count], atol=1e-5
        )
        own = states[:, row, :count]
        expected = own[:, 0], own.mean(axis=1), own[:, -1]
        np.testing.assert_allclose(
            measured.states[:, row], np.stack(expected, axis=1), rtol=2e-4, atol=2e-5
        )
    run = jax.jit(lambda params: families.hidden(families.build(config), params, BATCH))
    alone = run(stacked(params) if scan else params)
    np.testing.assert_allclose(hidden, alone, rtol=1e-5, atol=1e-5)


def test_what_is_not_asked_for_is_not_there():
    params = params_of(PLAIN)
    _, measured = probed(PLAIN, params, distances=(), states=False)
    assert measured.attention is None and measured.states is None
    _, measured = probed(PLAIN, params, distances=(0,), states=False)
    assert measured.attention.shape == (2, 2, 5, 4, 1) and measured.states is None


def test_nothing_is_put_anywhere_without_a_probe():
    model = families.build(PLAIN)
    variables = jax.eval_shape(model.init, jax.random.key(0), *model.example_arguments())
    assert COLLECTION not in variables
    with pytest.raises(ValueError, match="a probe looks at the places of only_at"):
        probe = Probe(jnp.ones((1, 1), bool), states=True)
        model.apply(variables, jnp.ones((1, 1), jnp.int32), probe=probe, method="hidden")


def test_the_layers_of_an_answer_are_those_of_the_last_stack():
    assert families.answer_layers(ENCODER_DECODER) == families.answer_layers(PLAIN) == 2
    assert families.answer_layers(dataclasses.replace(ENCODER_DECODER, num_decoder_layers=5)) == 5


@pytest.mark.parametrize("name", ["plain", "t5"])
def test_no_array_of_all_queries_and_keys_is_kept(name):
    """Of long answers, the memory of the pass grows by what is measured and a block of queries."""
    length, rows = 2048, 1
    config = dataclasses.replace(MODELS[name], query_chunk=64)
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def run(params, tokens, distances):
        is_token = tokens != 0
        batch = Batch(tokens[:, :8], tokens, tokens, is_token.astype(jnp.float32))
        probe = Probe(is_token, distances=distances)
        return families.probed(families.build(config), params, batch, probe)

    def memory(distances):
        compiled = jax.jit(run, static_argnums=2).lower(params_of(config), tokens, distances)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    square = 4 * config.num_heads * length * length
    assert memory((0,)) < memory(()) + square / 4
