"""Attention in blocks of heads and queries, as on a TPU, against attention all at once."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models import attention, blocks, cudnn, families, layers
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from tests.support import fakes

ROWS, LENGTH, HEADS, SIZE = 2, 20, 4, 8


@pytest.fixture
def as_on_tpu(monkeypatch):
    """Traces programs as for a TPU, whose blocks hold a given number of logits."""

    def use(logits):
        monkeypatch.setattr(blocks, "platform", lambda: "tpu")
        monkeypatch.setattr(blocks, "TPU_BLOCK_BYTES", 4 * logits)
        monkeypatch.setattr(blocks, "_LEAST_QUERIES", 4)

    return use


def draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def with_gradients(function, cotangent, *arrays):
    """A jitted call: the result, and gradients for all arrays."""

    def run(*arrays):
        result, pull = jax.vjp(function, *arrays)
        return result, pull(cotangent)

    return jax.jit(run)


def t5_problem(seed=0):
    """(arrays to differentiate, mask): T5's attention with padding and packed rows."""
    rng = np.random.default_rng(seed)
    query = draw(rng, ROWS, LENGTH, HEADS, SIZE)
    key, value = draw(rng, ROWS, HEADS, SIZE, LENGTH), draw(rng, ROWS, HEADS, LENGTH, SIZE)
    bias = draw(rng, 1, HEADS, LENGTH, LENGTH)
    segments = jnp.asarray(np.sort(rng.integers(0, 3, (ROWS, LENGTH)), axis=1))  # 0 is padding
    mask = (segments[:, :, None] == segments[:, None]) & (segments[:, None] > 0)
    return (query, key, value, bias), mask[:, None]


def t5_attention(mask, chunk=LENGTH):
    return lambda q, k, v, bias: layers._attend(q, k, v, mask, bias, chunk)


def float64_attention(arrays, mask):
    """Output, and gradients of the output's product with a cotangent of ones."""
    q, k, v, bias = (np.asarray(x, np.float64) for x in arrays)
    logits = np.einsum("bqhk,bhkt->bhqt", q, k) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True)) * np.asarray(mask)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    d_weights = np.einsum("bqhk,bhtk->bhqt", np.ones_like(q), v)
    d_logits = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    gradients = (
        np.einsum("bhqt,bhkt->bqhk", d_logits, k),
        np.einsum("bhqt,bqhk->bhkt", d_logits, q),
        np.einsum("bhqt,bqhk->bhtk", weights, np.ones_like(q)),
        d_logits.sum(0, keepdims=True),
    )
    return np.einsum("bhqt,bhtk->bqhk", weights, v), gradients


def assert_close(actual, expected, tolerance=2e-6):
    leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, b in leaves:
        largest = np.abs(b).max()
        assert largest > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


ALL_LOGITS = ROWS * HEADS * LENGTH * LENGTH
# Logits of a block: all, two heads, one head, and a few queries of one head.
ROOMS = {"all": ALL_LOGITS, "heads": ALL_LOGITS // 2, "a head": ALL_LOGITS // 4, "queries": 400}


@pytest.mark.medium
@pytest.mark.parametrize("room", ROOMS)
def test_t5_attention_and_its_gradients_are_those_of_float64(room, as_on_tpu):
    arrays, mask = t5_problem()
    as_on_tpu(ROOMS[room])
    run = with_gradients(t5_attention(mask), jnp.ones((ROWS, LENGTH, HEADS, SIZE)), *arrays)
    assert_close(run(*arrays), float64_attention(arrays, mask))


def largest_array(function, *arrays):
    """Numbers of the largest array that a compiled program names."""
    text = jax.jit(function).lower(*arrays).compile().as_text()
    shapes = re.findall(r"\b(?:pred|[suf]\d+|bf16)\[([\d,]+)\]", text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.medium
def test_no_pass_has_an_array_of_all_rows_heads_queries_and_keys(as_on_tpu):
    arrays, mask = t5_problem()
    cotangent = jnp.ones((ROWS, LENGTH, HEADS, SIZE))
    plain = with_gradients(t5_attention(mask), cotangent, *arrays)
    assert largest_array(plain, *arrays) == ALL_LOGITS
    as_on_tpu(ALL_LOGITS // 4)
    in_blocks = with_gradients(t5_attention(mask), cotangent, *arrays)
    # The bias is one for all rows; all queries of a head, in all rows, make a block.
    assert largest_array(in_blocks, *arrays) == HEADS * LENGTH * LENGTH == 2 * ALL_LOGITS // 4


@pytest.mark.medium
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("room", ["heads", "queries"])
def test_a_decoder_s_attention_is_that_of_one_block(room, groups, as_on_tpu):
    # Windows, a soft cap, packed examples and prefixes, with key heads that query heads share.
    rng = np.random.default_rng(1)
    arrays = (
        draw(rng, ROWS, LENGTH, HEADS, SIZE),
        draw(rng, ROWS, groups, SIZE, LENGTH),
        draw(rng, ROWS, groups, LENGTH, SIZE),
    )
    segments = jnp.asarray(np.sort(rng.integers(0, 3, (ROWS, LENGTH)), axis=1))
    positions = jnp.arange(LENGTH)[None] - jnp.argmax(segments[:, :, None] == segments[:, None], -1)
    places = attention.Places(
        positions, segments, positions < 4, jnp.asarray(rng.random((ROWS, LENGTH)) < 0.9)
    )

    def attend(query, key, value):
        return attention.attend(
            query, key, value, places, places, window=jnp.asarray(6), scale=0.3, soft_cap=2.0,
            chunk=LENGTH,
        )  # fmt: skip

    cotangent = draw(rng, ROWS, LENGTH, HEADS, SIZE)
    expected = with_gradients(attend, cotangent, *arrays)(*arrays)
    as_on_tpu(ROOMS[room])
    assert_close(with_gradients(attend, cotangent, *arrays)(*arrays), expected)


@pytest.mark.medium
@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 4, 2)])
def test_a_mesh_that_splits_heads_and_rows_gives_the_encoder_of_one_device(shape, as_on_tpu):
    config = fakes.t5_config(16, scan_layers=True, remat="full", num_encoder_layers=2)
    model = families.build(config)
    params = families.initialize(model, jax.random.key(0))
    inputs = jnp.asarray(fakes.ragged_batch(8).inputs)
    cotangent = draw(np.random.default_rng(2), *inputs.shape, 16)

    def loss(params):
        return jnp.sum(cotangent * model.apply({"params": params}, inputs, method="encode"))

    expected = jax.jit(jax.value_and_grad(loss))(params)
    as_on_tpu(inputs.size * inputs.shape[1])  # less than what a device has of all its heads
    mesh = MeshConfig(*shape).build()
    with jax.set_mesh(mesh), rules.applied("fsdp_tensor"):
        assert blocks.num_shards(layers.axes.HEADS) == shape[2]
        actual = jax.jit(jax.value_and_grad(loss))(params)
    used = {name: gradient["encoder"] for name, gradient in (("a", actual[1]), ("b", expected[1]))}
    assert_close((actual[0], used["a"]), (expected[0], used["b"]), 2e-5)


@pytest.mark.parametrize("room", ["heads", "queries"])
def test_weights_that_a_probe_asks_for_are_those_of_float64(room, as_on_tpu):
    (query, key, _, bias), mask = t5_problem(4)
    rng, places, distances = np.random.default_rng(4), jnp.arange(LENGTH), (0, 1)
    as_on_tpu(ROOMS[room])

    def expected(query, key, mask, bias):
        q, k, bias = (np.asarray(x, np.float64) for x in (query, key, bias))
        weights = np.exp(np.einsum("bqhk,bhkt->bhqt", q, k) + bias) * np.asarray(mask)
        weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
        at = [np.diagonal(np.pad(weights, [(0, 0)] * 3 + [(d, 0)]), 0, 2, 3) for d in distances]
        return np.stack(at, axis=-1).swapaxes(1, 2)

    run = jax.jit(lambda *arrays: layers._weights_at(*arrays, LENGTH, distances))
    assert_close(run(query, key, mask, bias), expected(query, key, mask, bias))
    shared = draw(rng, ROWS, 2, SIZE, LENGTH)
    rows = jnp.broadcast_to(places, (ROWS, LENGTH))
    seen = attention.Places(rows, jnp.ones_like(rows), rows < 4, rows >= 0)
    chosen = jnp.asarray(rng.integers(0, LENGTH, (ROWS, 7)))
    looking = attention.take_places(query, chosen)
    actual = jax.jit(
        lambda query, key: attention.weights_at(
            query, key, jax.tree.map(lambda x: attention.take_places(x, chosen), seen), seen,
            chosen, distances, window=jnp.asarray(6), scale=1.0, soft_cap=None, chunk=LENGTH,
        )
    )(looking, shared)  # fmt: skip
    visible = attention.is_visible(seen, seen, jnp.asarray(6))[:, None]
    whole = expected(query, jnp.repeat(shared, 2, axis=1), visible, jnp.zeros(()))
    assert_close(actual, np.take_along_axis(whole, np.asarray(chosen)[:, :, None, None], axis=1))


def test_the_platform_is_that_of_the_mesh_or_the_default():
    assert blocks.platform() == jax.default_backend() == "cpu"
    with jax.set_mesh(MeshConfig(8).build()):
        assert blocks.platform() == "cpu"


@pytest.mark.medium
def test_what_cudnn_is_asked_for_is_the_same_attention(monkeypatch):
    (query, key, value, _), mask = t5_problem(3)
    assert not jnp.all(jnp.any(mask, axis=-1))  # some queries may look nowhere
    halves = [x.astype(jnp.bfloat16) for x in (query, key, value)]

    def attend(query, key, value):
        return layers._attend(query, key, value, mask, None, LENGTH)

    expected = with_gradients(attend, query, query, key, value)(query, key, value)
    # The kernels are for GPUs; JAX's plain code takes the same arguments.
    plain = functools.partial(cudnn.attend, implementation="xla")
    monkeypatch.setattr(cudnn, "attend", plain)
    monkeypatch.setattr(blocks, "platform", lambda: "gpu")
    actual = with_gradients(attend, query.astype(jnp.bfloat16), *halves)(*halves)
    assert actual[0].dtype == jnp.bfloat16
    assert_close(jax.tree.map(lambda x: x.astype(jnp.float32), actual), expected, 2e-2)
    assert cudnn.takes(*halves[:2])
    assert not cudnn.takes(query, key)  # float32
    assert not cudnn.takes(halves[0][:, :7], halves[1])  # an odd number of queries
