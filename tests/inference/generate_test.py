"""Greedy decoding with a cache against an argmax loop over the whole model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.inference.generate import make_generate_fn
from cascade_jax.models.config import T5Config
from cascade_jax.models.families import parameter_shapes
from cascade_jax.models.t5 import T5
from tests.support.greedy import generate
from tests.support.layers import stack_layers

pytestmark = pytest.mark.medium

CONFIG = T5Config(
    vocab_size=13,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=2,
    relative_buckets=4,
    relative_max_distance=5,
)
MAX_LENGTH = 9
INPUTS = np.random.default_rng(0).integers(2, 13, size=(6, 5))
INPUTS[1, 3:] = 0  # rows of other lengths
INPUTS[5, 1:] = 0

_steps = []


class CountingT5(T5):
    """Notes every decoding step that really runs."""

    def decode_step(self, tokens, inputs):
        jax.debug.callback(lambda: _steps.append(1))
        return super().decode_step(tokens, inputs)


@functools.cache
def _params():
    """Larger than a fresh model's, so that distributions are sharp and rows take their own ways."""
    rng = np.random.default_rng(1)

    def draw(leaf):
        if len(leaf.shape) == 1:  # norm scales
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 3 / np.sqrt(leaf.shape[0])).astype(np.float32)

    return jax.tree.map(draw, nn.meta.unbox(parameter_shapes(CONFIG)))


@functools.cache
def _argmax_loop():
    """Tokens, log-probs and entropies [B, MAX_LENGTH] when nothing ends a row, in float64."""
    forward = jax.jit(T5(CONFIG).apply)
    batch = INPUTS.shape[0]
    decoder_inputs = np.zeros((batch, MAX_LENGTH + 1), int)
    log_probs, entropies = np.zeros((2, batch, MAX_LENGTH))
    for step in range(MAX_LENGTH):
        # Later positions hold zeros, which a causal model does not see.
        logits = forward({"params": _params()}, INPUTS, decoder_inputs[:, :-1])[:, step]
        logits = np.asarray(logits, np.float64)
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        decoder_inputs[:, step + 1] = logits.argmax(axis=-1)
        log_probs[:, step] = np.log(p.max(axis=-1))
        entropies[:, step] = -(p * np.log(p)).sum(axis=-1)
    return decoder_inputs[:, 1:], log_probs, entropies


def _lengths(tokens, eos_id):
    rows = [np.flatnonzero(row == eos_id) for row in tokens]
    return np.array([ends[0] + 1 if ends.size else MAX_LENGTH for ends in rows])


def _eos_that_ends_rows_apart():
    """The id whose first appearances differ most between the rows."""
    tokens = _argmax_loop()[0]
    return max(range(1, 13), key=lambda i: len(set(_lengths(tokens, i))))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_cached_decoding_is_the_argmax_loop_and_stops_early(scan_layers):
    eos_id = _eos_that_ends_rows_apart()
    # Only rows that end at all: one that does not would hide whether decoding stops early.
    ending = _lengths(_argmax_loop()[0], eos_id) < MAX_LENGTH
    tokens, log_probs, entropies = (array[ending] for array in _argmax_loop())
    lengths = _lengths(tokens, eos_id)
    assert len(set(lengths)) >= 3  # the case is worth testing
    counted = np.arange(MAX_LENGTH) < lengths[:, None]

    _steps.clear()
    params = stack_layers(_params()) if scan_layers else _params()
    model = CountingT5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    answer = generate(model, params, INPUTS[ending], max_length=MAX_LENGTH, eos_id=eos_id)
    jax.effects_barrier()

    np.testing.assert_array_equal(answer.tokens, np.where(counted, tokens, 0))
    np.testing.assert_array_equal(answer.lengths, lengths)
    np.testing.assert_allclose(answer.log_probs, np.where(counted, log_probs, 0), atol=1e-5)
    np.testing.assert_allclose(answer.entropies, np.where(counted, entropies, 0), atol=1e-5)
    assert len(_steps) == lengths.max() < MAX_LENGTH


@pytest.mark.parametrize("scan_layers", [False, True])
def test_top_log_probs_are_those_of_a_forward_pass_over_the_whole_answer(scan_layers):
    eos_id, top_k = _eos_that_ends_rows_apart(), 4
    params = stack_layers(_params()) if scan_layers else _params()
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    answer = generate(model, params, INPUTS, max_length=MAX_LENGTH, eos_id=eos_id, top_k=top_k)
    without = generate(model, params, INPUTS, max_length=MAX_LENGTH, eos_id=eos_id)
    assert without.top_log_probs is without.top_ids is None
    np.testing.assert_array_equal(answer.tokens, without.tokens)

    # Without a cache: all places of the answer at once.
    shifted = np.pad(np.asarray(answer.tokens)[:, :-1], ((0, 0), (1, 0)))
    logits = jax.jit(T5(CONFIG).apply)({"params": _params()}, INPUTS, shifted)
    values, ids = jax.lax.top_k(jax.nn.log_softmax(logits), top_k)
    is_token = (np.arange(MAX_LENGTH) < np.asarray(answer.lengths)[:, None])[:, :, None]
    assert answer.top_log_probs.shape == (len(INPUTS), MAX_LENGTH, top_k)
    np.testing.assert_array_equal(answer.top_ids, np.where(is_token, ids, 0))
    values = np.where(is_token, values, 0)
    np.testing.assert_allclose(answer.top_log_probs, values, rtol=1e-5, atol=1e-5)
    # The first is the chosen one, to the last bit.
    np.testing.assert_array_equal(answer.top_ids[..., 0], answer.tokens)
    np.testing.assert_array_equal(answer.top_log_probs[..., 0], answer.log_probs)


def test_all_log_probs_of_a_distribution_add_up_to_one():
    size = CONFIG.vocab_size
    answer = generate(T5(CONFIG), _params(), INPUTS[:2], max_length=3, eos_id=1, top_k=size)
    at_first = np.asarray(answer.top_log_probs, np.float64)[:, 0]
    np.testing.assert_allclose(np.exp(at_first).sum(axis=-1), 1, rtol=1e-5)
    assert (np.sort(np.asarray(answer.top_ids)[:, 0]) == np.arange(size)).all()
    np.testing.assert_allclose(
        -(np.exp(at_first) * at_first).sum(axis=-1), answer.entropies[:, 0], rtol=1e-4
    )


def test_row_without_an_end_has_max_length():
    tokens = _argmax_loop()[0]
    unused = next(i for i in range(1, 13) if _lengths(tokens[:1], i)[0] == MAX_LENGTH)
    answer = generate(T5(CONFIG), _params(), INPUTS[:1], max_length=MAX_LENGTH, eos_id=unused)
    np.testing.assert_array_equal(answer.lengths, [MAX_LENGTH])
    np.testing.assert_array_equal(answer.tokens, tokens[:1])


def test_compiled_once_for_each_shape():
    traces = []

    class TracedT5(T5):
        def encode(self, inputs, **kwargs):
            traces.append(inputs.shape)
            return super().encode(inputs, **kwargs)

    shallow = dataclasses.replace(CONFIG, num_decoder_layers=1)
    shapes = nn.meta.unbox(parameter_shapes(shallow))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    for inputs in (INPUTS[:1], INPUTS[1:2], INPUTS[2:3]):
        generate(TracedT5(shallow), params, inputs, max_length=2, eos_id=1)
    assert traces == [(1, 5)]
    same = make_generate_fn(TracedT5(shallow), 2, 1)
    assert same is make_generate_fn(TracedT5(dataclasses.replace(shallow)), 2, 1)


def test_bfloat16_model_reports_float32():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    answer = jax.eval_shape(make_generate_fn(T5(config), 4, 1), _params(), INPUTS)
    assert answer.log_probs.dtype == answer.entropies.dtype == jnp.float32
    assert answer.top_log_probs is None
    answer = jax.eval_shape(make_generate_fn(T5(config), 4, 1, top_k=2), _params(), INPUTS)
    assert answer.top_log_probs.dtype == jnp.float32 and answer.top_ids.dtype == jnp.int32
    assert answer.tokens.shape == (6, 4) and answer.lengths.shape == (6,)


@pytest.mark.parametrize("top_k", [-1, 14])
def test_refuses_more_log_probs_than_there_are_tokens(top_k):
    with pytest.raises(ValueError, match=rf"top_k is {top_k}; must be from 0 \(none\) to 13"):
        make_generate_fn(T5(CONFIG), 4, 1, top_k)


@pytest.mark.parametrize(
    ("max_length", "eos_id", "message"),
    [
        (0, 1, "max_length is 0; must be an integer of at least 1"),
        (4, 13, "eos_id is 13; must be an id of the vocabulary, 0 to 12"),
        (4, -1, "eos_id is -1"),
    ],
)
def test_refuses_what_it_cannot_do(max_length, eos_id, message):
    with pytest.raises(ValueError, match=message):
        make_generate_fn(T5(CONFIG), max_length, eos_id)
