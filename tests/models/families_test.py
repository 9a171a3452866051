"""Both kinds of models on both kinds of batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.inference import rank, rank_packing
from cascade_jax.models import decoder, families, flops, pair
from cascade_jax.models.config import DecoderConfig, T5Config
from tests.support import fakes
from tests.support.greedy import generate

pytestmark = pytest.mark.medium

DECODER = DecoderConfig(
    vocab_size=20, embed_dim=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8
)
T5 = T5Config(
    vocab_size=20, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1,
    num_decoder_layers=1,
)  # fmt: skip
INPUTS = np.array([[7, 8, 9, 1], [4, 1, 0, 0]], np.int32)
TARGETS = np.array([[5, 6, 1], [3, 1, 0]], np.int32)
SHIFTED = np.array([[0, 5, 6], [0, 3, 1]], np.int32)
BATCH = Batch(INPUTS, SHIFTED, TARGETS, (TARGETS > 0).astype(np.float32))

_hidden = jax.jit(families.hidden, static_argnums=0)


@functools.cache
def _params(config):
    fresh = fakes.initialize(families.build(config))
    # Sharper distributions than a fresh model's.
    return jax.tree.map(lambda x: x + 0.5 * jax.random.normal(jax.random.key(1), x.shape), fresh)


def _row(targets):
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    return Batch(INPUTS, shifted, targets, (targets > 0).astype(np.float32))


def test_rows_hold_the_input_and_then_the_target():
    rows = decoder.joined_rows(BATCH)
    assert rows.tokens.tolist() == [[0, 7, 8, 9, 1, 5, 6], [0, 4, 1, 3, 1, 0, 0]]
    assert rows.targets.tolist() == [[7, 8, 9, 1, 5, 6, 1], [4, 1, 3, 1, 0, 0, 0]]
    assert rows.weights.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0]]
    assert rows.is_prefix.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_decoder_predicts_the_same_from_either_form_of_a_batch(both_ways):
    config = dataclasses.replace(DECODER, bidirectional_prefix=both_ways)
    model, params = families.build(config), _params(DECODER)
    whole = fakes.logits(model, params, decoder.joined_rows(BATCH))
    actual = fakes.logits(model, params, BATCH)
    assert actual.shape == (2, 3, 20)
    np.testing.assert_allclose(actual[0], whole[0, 4:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual[1, :2], whole[1, 2:4], rtol=1e-5, atol=1e-6)
    hidden = _hidden(model, params, BATCH)
    made = families.build(config).unembedding(params).logits(hidden)
    np.testing.assert_allclose(made, actual, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [DECODER, T5])
def test_greedy_answers_are_the_argmax_of_teacher_forced_logits(config):
    model, params = families.build(config), _params(config)
    answer = generate(model, params, jnp.asarray(INPUTS), max_length=5, eos_id=1)
    tokens = np.asarray(answer.tokens)
    row = Batch(
        INPUTS, np.pad(tokens[:, :-1], ((0, 0), (1, 0))), tokens, np.ones(tokens.shape, np.float32)
    )
    logits = np.asarray(fakes.logits(model, params, row), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for i, length in enumerate(answer.lengths):
        assert tokens[i, :length].tolist() == log_p[i, :length].argmax(-1).tolist()
        np.testing.assert_allclose(
            answer.log_probs[i, :length], log_p[i, :length].max(-1), rtol=1e-4, atol=1e-5
        )


def test_a_decoder_ranks_options_by_their_log_likelihood():
    model, params = families.build(DECODER), _params(DECODER)
    options = [[[5, 6, 1], [2, 1]], [[3, 1], [9, 9, 1]]]
    rows = rank_packing.Pass([[0, 1]], 1, 12, 12)
    packed = rank.pack([row[row > 0] for row in INPUTS], options, rows, model.start_places)
    scores = rank.make_rank_fn(model)(params, *packed).scores[0]
    places = [firsts for _, _, firsts in rank.option_places(options, rows)]
    for k in range(2):
        targets = np.array([[*row[k], 0][:3] for row in options], np.int32)
        row = Batch(
            INPUTS,
            np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            targets,
            jnp.asarray(targets > 0, jnp.float32),
        )
        log_p = jax.nn.log_softmax(fakes.logits(model, params, row))
        each = np.take_along_axis(np.asarray(log_p), targets[..., None], -1)[..., 0]
        expected = (each * (targets > 0)).sum(-1)
        actual = [scores[firsts[k]] for firsts in places]
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("config", [DECODER, T5])
def test_dropout_is_on_with_a_key_only(config):
    config = dataclasses.replace(config, dropout_rate=0.5)
    model, params = families.build(config), _params(config)
    still = fakes.logits(model, params, BATCH)
    np.testing.assert_array_equal(fakes.logits(model, params, BATCH), still)
    dropped = fakes.logits(model, params, BATCH, jax.random.key(3))
    assert np.abs(dropped - still).max() > 1e-3


def test_a_pair_may_be_of_both_kinds_with_one_vocabulary():
    assert pair.ModelPair(DECODER, T5).teacher is T5
    with pytest.raises(ValueError, match="share one vocabulary"):
        pair.ModelPair(dataclasses.replace(DECODER, vocab_size=21), T5)


def test_rows_that_a_model_cannot_read_are_refused():
    rows = decoder.joined_rows(BATCH)
    assert isinstance(rows, DecoderBatch)
    with pytest.raises(ValueError, match='set DataConfig.architecture to "encoder_decoder"'):
        fakes.logits(families.build(T5), _params(T5), rows)
    packed = BATCH.replace(input_segment_ids=INPUTS > 0, target_segment_ids=TARGETS > 0)
    with pytest.raises(ValueError, match="cannot read packed encoder-decoder rows"):
        fakes.logits(families.build(DECODER), _params(DECODER), packed)
    with pytest.raises(ValueError, match="is no model; expected a T5Config or a DecoderConfig"):
        families.build("t5")


def test_parameters_are_counted_for_both_kinds():
    shapes = families.parameter_shapes(DECODER)
    attention = 8 * (8 + 4 + 4) + 8 * 8
    layer = attention + 3 * 8 * 8 + 2 * 8
    assert flops.parameter_count(shapes) == 20 * 8 + 2 * layer + 8
    assert flops.flops_per_token(DECODER) == 2 * flops.parameter_count(shapes)
