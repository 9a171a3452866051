"""Rank classification against a loop that scores every option alone, without padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.inference.rank import make_rank_fn, option_batch
from cascade_jax.models.families import parameter_shapes
from cascade_jax.models.t5 import T5
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from tests.support import fakes
from tests.support.greedy import generate
from tests.support.layers import stack_layers

pytestmark = pytest.mark.medium

CONFIG = fakes.t5_config(num_decoder_layers=2, vocab_size=24, relative_buckets=4)
EOS = 1
LENGTH = 6
RNG = np.random.default_rng(0)
INPUTS = RNG.integers(2, 24, size=(4, 5)).astype(np.int32)
INPUTS[1, 3:] = 0
INPUTS[3, 1:] = 0
# Other numbers of options in each row (5 take K = 8), other lengths of options, one EOS alone.
OPTIONS = [
    [[*RNG.integers(2, 24, size=length), EOS] for length in lengths]
    for lengths in ([0, 3, 5], [1, 2], [4, 2, 1, 3, 5], [2])
]

_encoded = []


class CountingT5(T5):
    """Notes every run of the encoder, and on how many rows."""

    def encode(self, inputs, **kwargs):
        jax.debug.callback(lambda: _encoded.append(len(inputs)))
        return super().encode(inputs, **kwargs)


@functools.cache
def _params(config=CONFIG):
    """Larger than a fresh model's, so that distributions are sharp and options differ."""
    rng = np.random.default_rng(5)

    def draw(leaf):
        if len(leaf.shape) == 1:  # norm scales
            return np.ones(leaf.shape, np.float32)
        return (rng.normal(size=leaf.shape) * 2 / np.sqrt(leaf.shape[0])).astype(np.float32)

    return jax.tree.map(draw, nn.meta.unbox(parameter_shapes(config)))


@functools.cache
def _alone(dtype="float32"):
    """(log-probs, entropies) of every option, from whole logits of that option alone."""
    forward = jax.jit(T5(dataclasses.replace(CONFIG, dtype=dtype)).apply)

    def measure(row, option):
        inputs = INPUTS[row : row + 1]
        logits = forward({"params": _params()}, inputs, np.array([[0, *option[:-1]]]))[0]
        logits = np.asarray(logits, np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return log_p[np.arange(len(option)), option], -(np.exp(log_p) * log_p).sum(axis=-1)

    return [[measure(i, option) for option in row] for i, row in enumerate(OPTIONS)]


def _assert_as_alone(ranking, alone, normalize, tolerance):
    reduce = {"sum": np.sum, "mean": np.mean}[normalize]
    shape = ranking.log_probs.shape
    log_probs, entropies = np.zeros((2, *shape))
    lengths, scores = np.zeros(shape[:2]), np.full(shape[:2], -np.inf)
    for i, row in enumerate(alone):
        for k, (of_tokens, of_entropies) in enumerate(row):
            lengths[i, k] = len(of_tokens)
            log_probs[i, k, : len(of_tokens)] = of_tokens
            entropies[i, k, : len(of_tokens)] = of_entropies
            scores[i, k] = reduce(of_tokens)
    np.testing.assert_array_equal(ranking.lengths, lengths)
    np.testing.assert_array_equal(ranking.best, scores.argmax(axis=1))
    np.testing.assert_allclose(ranking.log_probs, log_probs, **tolerance)
    np.testing.assert_allclose(ranking.entropies, entropies, **tolerance)
    np.testing.assert_allclose(ranking.scores, scores, **tolerance)


@pytest.mark.parametrize(
    ("normalize", "scan_layers"), [("sum", False), ("mean", False), ("sum", True)]
)
def test_every_option_has_the_likelihood_that_it_has_alone(normalize, scan_layers):
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    params = stack_layers(_params()) if scan_layers else _params()
    options = option_batch(OPTIONS, LENGTH)
    assert options.shape == (4, 8, LENGTH)
    ranking = make_rank_fn(model, normalize)(params, INPUTS, options)
    _assert_as_alone(ranking, _alone(), normalize, {"atol": 1e-5, "rtol": 1e-5})


@pytest.mark.parametrize("scan_layers", [False, True])
def test_top_log_probs_of_the_best_option_are_those_it_has_alone(scan_layers):
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    params, top_k = stack_layers(_params()) if scan_layers else _params(), 5
    options = option_batch(OPTIONS, LENGTH)
    plain = make_rank_fn(model)(params, INPUTS, options)
    ranking = make_rank_fn(model, top_k=top_k)(params, INPUTS, options)
    assert plain.top_ids is None and ranking.top_ids.shape == (4, LENGTH, top_k)
    np.testing.assert_allclose(ranking.scores, plain.scores, rtol=1e-5)
    forward = jax.jit(T5(CONFIG).apply)
    for row, best in enumerate(np.asarray(ranking.best)):
        option = OPTIONS[row][best]
        shifted = np.array([[0, *option[:-1]]])
        logits = forward({"params": _params()}, INPUTS[row : row + 1], shifted)[0]
        values, ids = jax.lax.top_k(jax.nn.log_softmax(logits), top_k)
        np.testing.assert_array_equal(ranking.top_ids[row, : len(option)], ids)
        np.testing.assert_allclose(
            ranking.top_log_probs[row, : len(option)], values, atol=1e-5, rtol=1e-5
        )
        assert not ranking.top_ids[row, len(option) :].any()
        assert not ranking.top_log_probs[row, len(option) :].any()
    with pytest.raises(ValueError, match="top_k is 25; must be from 0"):
        make_rank_fn(model, top_k=25)


def test_the_two_normalizations_can_disagree():
    # Else the test above would not tell them apart.
    best = [
        [max(range(len(row)), key=lambda k, row=row: reduce(row[k][0])) for row in _alone()]
        for reduce in (np.sum, np.mean)
    ]
    assert best[0] != best[1]


def test_bfloat16_model_is_measured_in_float32():
    model = T5(dataclasses.replace(CONFIG, dtype="bfloat16"))
    ranking = make_rank_fn(model)(_params(), INPUTS, option_batch(OPTIONS, LENGTH))
    assert {ranking.log_probs.dtype, ranking.entropies.dtype, ranking.scores.dtype} == {
        jnp.dtype("float32")
    }
    # bfloat16 hidden states may round otherwise in a batch; a bfloat16 log-softmax would be off
    # by 2^-8 of values around 30.
    _assert_as_alone(ranking, _alone("bfloat16"), "sum", {"atol": 2e-2, "rtol": 0})


def test_order_of_the_options_and_other_options_change_no_score():
    rank_fn = make_rank_fn(T5(CONFIG))
    options = np.concatenate([option_batch([row], LENGTH, 20) for row in OPTIONS])
    order = np.random.default_rng(2).permutation(20)  # absent options come between
    straight = rank_fn(_params(), INPUTS, options)
    permuted = rank_fn(_params(), INPUTS, options[:, order])
    np.testing.assert_allclose(permuted.scores, straight.scores[:, order], rtol=1e-6)
    np.testing.assert_array_equal(order[permuted.best], straight.best)
    # More options than go through the decoder together.
    _assert_as_alone(straight, _alone(), "sum", {"atol": 1e-5, "rtol": 1e-5})


def test_absent_options_never_win():
    options = np.zeros((3, 4, LENGTH), np.int32)
    options[0, 2] = options[1, 3] = 23  # very unlikely: six tokens without an end
    ranking = make_rank_fn(T5(CONFIG), "mean")(_params(), INPUTS[:3], options)
    np.testing.assert_array_equal(ranking.best, [2, 3, -1])
    np.testing.assert_array_equal(np.isneginf(ranking.scores), ranking.lengths == 0)
    assert not ranking.log_probs[2].any() and not ranking.entropies[2].any()


@pytest.mark.parametrize(("normalize", "best"), [("sum", [1, 0]), ("mean", [0, 0])])
def test_lowest_index_among_equals(normalize, best):
    # All weights 0: every token has probability 1 / 24.
    params = jax.tree.map(np.zeros_like, _params())
    options = option_batch([[[5, 6, 1], [7, 1], [8, 1]], [[9, 1], [3, 1]]], LENGTH)
    ranking = make_rank_fn(T5(CONFIG), normalize)(params, INPUTS[:2], options)
    np.testing.assert_array_equal(ranking.best, best)
    is_token = options > 0
    np.testing.assert_allclose(ranking.log_probs, -np.log(24) * is_token, rtol=1e-6)
    np.testing.assert_allclose(ranking.entropies, np.log(24) * is_token, rtol=1e-6)


def test_greedy_answer_as_an_option():
    inputs = np.random.default_rng(3).integers(2, 24, size=(64, 5)).astype(np.int32)
    greedy = generate(T5(CONFIG), _params(), inputs, max_length=LENGTH, eos_id=EOS)
    tokens, lengths = np.asarray(greedy.tokens), np.asarray(greedy.lengths)
    ends = tokens[np.arange(64), lengths - 1] == EOS
    rows = np.flatnonzero(ends & ((tokens > 0).sum(axis=1) == lengths))
    assert len(set(lengths[rows])) >= 3  # the case is worth testing
    answers = [tokens[row, : lengths[row]].tolist() for row in rows]
    rank_fn = make_rank_fn(T5(CONFIG))

    # Alone it is the whole answer, with generate's figures.
    ranking = rank_fn(_params(), inputs[rows], option_batch([[a] for a in answers], LENGTH))
    np.testing.assert_array_equal(ranking.lengths[:, 0], lengths[rows])
    for name in ("log_probs", "entropies"):
        expected = getattr(greedy, name)[rows]
        np.testing.assert_allclose(getattr(ranking, name)[:, 0], expected, atol=1e-5, err_msg=name)

    # It beats whatever differs from it in the last token only,
    others = [[[*answer[:-1], i] for i in range(2, 24)] for answer in answers]
    assert (_best_beside(rank_fn, inputs[rows], others, answers) == 0).all()
    # with more than half of the probability it beats everything, and else it may lose: greedy
    # decoding is no search for the likeliest answer.
    others = [[[EOS], *([i, EOS] for i in range(2, 24))]] * len(rows)
    wins = _best_beside(rank_fn, inputs[rows], others, answers) == 0
    is_likely = np.asarray(greedy.log_probs)[rows].sum(axis=1) > np.log(0.5)
    assert is_likely.any() and wins[is_likely].all() and not wins.all()


def _best_beside(rank_fn, inputs, others, answers):
    rows = [
        [answer, *(option for option in row if option != answer)]
        for row, answer in zip(others, answers, strict=True)
    ]
    return np.asarray(rank_fn(_params(), inputs, option_batch(rows, LENGTH)).best)


def test_mesh_equals_one_device():
    config = fakes.t5_config(num_decoder_layers=2)
    options = option_batch(OPTIONS, LENGTH)
    rank_fn = make_rank_fn(T5(config))
    one_device = rank_fn(_params(config), INPUTS, options)
    mesh = MeshConfig(4, tensor=2).build()
    shardings = rules.parameter_shardings(parameter_shapes(config), mesh)
    params = jax.tree.map(jax.device_put, _params(config), shardings)
    by_row = rules.batch_sharding(mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules.RULES):
        split = rank_fn(params, jax.device_put(INPUTS, by_row), jax.device_put(options, by_row))
    assert len(split.scores.sharding.device_set) == 8
    for name in ("log_probs", "entropies", "lengths", "scores", "best"):
        np.testing.assert_allclose(
            getattr(split, name), getattr(one_device, name), atol=1e-5, rtol=1e-5, err_msg=name
        )


def test_inputs_are_encoded_once():
    _encoded.clear()
    options = np.concatenate([option_batch([row], LENGTH, 20) for row in OPTIONS])
    jax.block_until_ready(make_rank_fn(CountingT5(CONFIG))(_params(), INPUTS, options))
    jax.effects_barrier()
    assert _encoded == [4]


def test_memory_does_not_grow_by_a_distribution_for_each_option():
    config = fakes.t5_config(vocab_size=8192)
    rank_fn = make_rank_fn(T5(config))

    def temporary_bytes(num_options):
        shapes = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((4, 8), (4, num_options, 8))]
        compiled = rank_fn.lower(nn.meta.unbox(parameter_shapes(config)), *shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one_distribution = 4 * 8 * 8192 * 4  # bytes of a [B L V] array
    # 56 options more, and not one such array more.
    assert temporary_bytes(64) - temporary_bytes(8) < one_distribution


def test_an_id_past_the_vocabulary_is_not_a_number():
    options = option_batch([[[5, 1], [24, 1], [7, 24]]], LENGTH)
    scores = make_rank_fn(T5(CONFIG))(_params(), INPUTS[:1], options).scores
    np.testing.assert_array_equal(np.isnan(scores), [[False, True, True, False]])


def test_option_batch_pads_to_a_power_of_two():
    np.testing.assert_array_equal(
        option_batch([[[5, 6, 1]], [[7, 1], [1], [8, 9, 1]]], 4),
        [
            [[5, 6, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
            [[7, 1, 0, 0], [1, 0, 0, 0], [8, 9, 1, 0], [0, 0, 0, 0]],
        ],
    )
    counts = [option_batch([[[k + 1] for k in range(n)]], 1).shape[1] for n in (1, 2, 3, 4, 5, 9)]
    assert counts == [1, 2, 4, 4, 8, 16]
    assert option_batch([[[1]]], 3, max_options=5).shape == (1, 5, 3)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ([[[1]], [[1], [5, 6, 1]]], {}, "option 1 of row 1 has 3 tokens: expected at most 2"),
        ([[[1], []]], {}, "option 1 of row 0 is empty"),
        ([[[1]], []], {}, "row 1 has 0 options: expected 1 to 1"),
        ([[[1], [2], [3]]], {"max_options": 2}, "row 0 has 3 options: expected 1 to 2"),
        ([[[4, 1], [5, 1], [4, 1]]], {}, r"option 2 of row 0 is the same as option 0: \[4, 1\]"),
        ([[[0, 1]]], {}, r"option 0 of row 0 is \[0, 1\]: id 0 is padding"),
        ([[[1]]], {"max_length": 0}, "max_length is 0; must be an integer of at least 1"),
    ],
)
def test_option_batch_refuses_what_cannot_be_ranked(options, settings, message):
    with pytest.raises(ValueError, match=message):
        option_batch(options, **{"max_length": 2} | settings)


def test_refuses_unknown_normalization_and_shapes_that_do_not_fit():
    with pytest.raises(
        ValueError, match="normalize is 'means'; must be one of sum, mean; did.*'me"
    ):
        make_rank_fn(T5(CONFIG), "means")
    with pytest.raises(ValueError, match=r"options \(2, 1, 3\) and inputs \(4, 5\): expected"):
        make_rank_fn(T5(CONFIG))(_params(), INPUTS, np.ones((2, 1, 3), np.int32))
