"""Teacher-forced next tokens against each row alone, in float64, without padding or parts."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.batch import Batch
from cascade_jax.inference.teacher_forced import make_next_tokens_fn
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from tests.support import fakes

pytestmark = pytest.mark.medium

VOCAB, TOP_K = 24, 5
DECODER = dict(
    vocab_size=VOCAB, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    mlp_dim=16,
)  # fmt: skip
CONFIGS = {
    "t5": fakes.t5_config(vocab_size=VOCAB),
    "t5_tied": fakes.t5_config(vocab_size=VOCAB, tied_logits=True, dtype="bfloat16"),
    "decoder": DecoderConfig(**DECODER),
    "decoder_both_ways": DecoderConfig(
        **DECODER, bidirectional_prefix=True, tied_logits=False, logit_soft_cap=5.0
    ),
}
RNG = np.random.default_rng(0)
INPUT_LENGTHS, TARGET_LENGTHS = [5, 3, 1, 5], [7, 1, 4, 0]


def _padded(lengths):
    rows = RNG.integers(1, VOCAB, (len(lengths), max(lengths)))
    return (rows * (np.arange(max(lengths)) < np.array(lengths)[:, None])).astype(np.int32)


INPUTS, TARGETS = _padded(INPUT_LENGTHS), _padded(TARGET_LENGTHS)


@functools.cache
def _params(config):
    """Larger than a fresh model's, so that distributions are sharp."""
    rng = np.random.default_rng(5)

    def draw(leaf):
        if len(leaf.shape) == 1:
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 2 / np.sqrt(leaf.shape[0])).astype(np.float32)

    return jax.tree.map(draw, nn.meta.unbox(families.parameter_shapes(config)))


PLACES = [(row, place) for row, length in enumerate(TARGET_LENGTHS) for place in range(length)]


def _alone(config):
    """By place, log-probs and hidden state of the next token, of rows that end right before it."""
    rows, places = np.array(PLACES).T
    length = TARGETS.shape[1]
    before = TARGETS[rows] * (np.arange(length) < places[:, None])
    shifted = np.pad(before[:, :-1], ((0, 0), (1, 0)))
    batch = Batch(INPUTS[rows], shifted, before, np.ones(before.shape, np.float32))
    model = families.build(config)

    def forward(params):
        return families.logits(model, params, batch), families.hidden(model, params, batch)

    logits, hidden = (
        array[np.arange(len(rows)), places] for array in jax.jit(forward)(_params(config))
    )
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    return dict(zip(PLACES, zip(log_p, np.asarray(hidden, np.float32), strict=True), strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_each_place_is_what_the_model_says_after_the_tokens_before_it(name):
    config = CONFIGS[name]
    fn = make_next_tokens_fn(families.build(config), TOP_K, True)
    actual = jax.device_get(fn(_params(config), INPUTS, TARGETS))
    close = dict(rtol=1e-4, atol=1e-4)
    if config.dtype == "bfloat16":
        close = dict(rtol=0.05, atol=0.15)
    for at, (log_p, hidden) in _alone(config).items():
        token = actual.tokens[at]
        if config.dtype == "float32":
            assert token == np.argmax(log_p)
            assert actual.top_ids[at].tolist() == np.argsort(-log_p)[:TOP_K].tolist()
        np.testing.assert_allclose(actual.log_probs[at], log_p[token], **close)
        np.testing.assert_allclose(actual.entropies[at], -np.sum(np.exp(log_p) * log_p), **close)
        np.testing.assert_allclose(actual.top_log_probs[at], log_p[actual.top_ids[at]], **close)
        np.testing.assert_allclose(actual.hidden[at], hidden, **close)
    for row, length in enumerate(TARGET_LENGTHS):
        for array in jax.tree.leaves(actual):
            assert not array[row, length:].any()
    assert (
        len(set(actual.tokens.ravel())) > 5
    )  # a model that always says the same would prove little


@pytest.mark.parametrize("places", [1, 3, 100])
def test_parts_change_nothing(places):
    config = CONFIGS["t5"]
    model, rows = families.build(config), len(TARGETS)
    whole = make_next_tokens_fn(model, TOP_K, True)(_params(config), INPUTS, TARGETS)
    fn = make_next_tokens_fn(model, TOP_K, True, logits_at_once=places * rows * VOCAB)
    result = fn(_params(config), INPUTS, TARGETS)
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_whole_logits_are_never_held():
    vocab, rows, length = 4096, 8, 64
    config = fakes.t5_config(vocab_size=vocab)
    shapes = nn.meta.unbox(families.parameter_shapes(config))
    tokens = jax.ShapeDtypeStruct((rows, length), np.int32)

    def temporary(places):
        fn = make_next_tokens_fn(
            families.build(config), TOP_K, logits_at_once=places * rows * vocab
        )
        return fn.lower(shapes, tokens, tokens).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * rows * length * vocab
    assert temporary(4) < logits / 2 < logits <= temporary(length)


@pytest.mark.parametrize("name", ["t5", "decoder"])
def test_of_several_likeliest_tokens_the_label_is_the_answer(name):
    """With all parameters 0, all tokens are equally likely: every one is right, as in the loss."""
    config = CONFIGS[name]
    params = jax.tree.map(np.zeros_like, _params(config))
    actual = make_next_tokens_fn(families.build(config), 2)(params, INPUTS, TARGETS)
    np.testing.assert_array_equal(actual.tokens, TARGETS)
    is_token = TARGETS > 0
    np.testing.assert_allclose(actual.log_probs, -np.log(VOCAB) * is_token, rtol=1e-6)
    np.testing.assert_allclose(actual.entropies, np.log(VOCAB) * is_token, rtol=1e-6)
    assert actual.top_ids[0, 0].tolist() == [0, 1]
    assert actual.hidden is None


def test_rows_may_lie_on_several_devices():
    config, mesh = CONFIGS["t5"], Mesh(np.array(jax.devices()[:4]), ("rows",))
    fn = make_next_tokens_fn(families.build(config), TOP_K, logits_at_once=2 * 4 * VOCAB)
    split = NamedSharding(mesh, PartitionSpec("rows"))
    placed = (jax.device_put(array, split) for array in (INPUTS, TARGETS))
    result, plain = fn(_params(config), *placed), fn(_params(config), INPUTS, TARGETS)
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_more_log_probs_than_tokens_are_refused():
    with pytest.raises(ValueError, match="top_k is 25; must be from 0 .none. to 24"):
        make_next_tokens_fn(families.build(CONFIGS["t5"]), VOCAB + 1)
