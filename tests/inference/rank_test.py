"""Rank classification against a loop that scores every option alone, without padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.batch import Batch
from cascade_jax.inference.rank import Options, make_rank_fn, pack_options
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
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
# Other numbers of options in each row, other lengths of options, one EOS alone.
OPTIONS = [
    [[*RNG.integers(2, 24, size=length), EOS] for length in lengths]
    for lengths in ([0, 3, 5], [1, 2], [4, 2, 1, 3, 5], [2])
]
WIDTH = 21  # 20 tokens in the row with most
_DECODER = dict(
    vocab_size=24, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=16,
)  # fmt: skip
DECODERS = {
    "plain": DecoderConfig(**_DECODER, query_chunk=4),
    "gemma": DecoderConfig(
        **_DECODER, bidirectional_prefix=True, bos_id=3, logit_soft_cap=5.0, scan_layers=True,
        attention_kinds=("sliding", "full"), sliding_window=4,
    ),
}  # fmt: skip

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
        if len(leaf.shape) == 1 or leaf.shape[:-1] == (2,):  # norm scales, stacked
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


def _by_option(ranking, options):
    """(log-probs, entropies, score) of every option of every row."""
    result = []
    for i, row in enumerate(options):
        ends = np.cumsum(list(map(len, row)))
        bounds = [(end - len(option), end) for end, option in zip(ends, row, strict=True)]
        tokens = ranking.log_probs[i], ranking.entropies[i]
        result.append([
            (*(np.asarray(each[start:end]) for each in tokens), float(ranking.scores[i, start]))
            for start, end in bounds
        ])  # fmt: skip
        assert not ranking.log_probs[i, ends[-1] :].any()
        assert not ranking.entropies[i, ends[-1] :].any()
        assert np.isneginf(ranking.scores[i, ends[-1] :]).all()
        for start, end in bounds:
            assert len(set(np.asarray(ranking.scores[i, start:end]))) == 1
    return result


def _assert_as_alone(ranking, alone, normalize, tolerance, options=OPTIONS):
    reduce = {"sum": np.sum, "mean": np.mean}[normalize]
    for i, row in enumerate(_by_option(ranking, options)):
        for (log_probs, entropies, score), (own, own_entropies) in zip(row, alone[i], strict=True):
            np.testing.assert_allclose(log_probs, own, **tolerance)
            np.testing.assert_allclose(entropies, own_entropies, **tolerance)
            np.testing.assert_allclose(score, reduce(own), **tolerance)
        assert ranking.best[i] == np.argmax([reduce(own) for own, _ in alone[i]])


@pytest.mark.parametrize(
    ("normalize", "scan_layers"), [("sum", False), ("mean", False), ("sum", True)]
)
def test_every_option_has_the_likelihood_that_it_has_alone(normalize, scan_layers):
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    params = stack_layers(_params()) if scan_layers else _params()
    ranking = make_rank_fn(model, normalize)(params, INPUTS, pack_options(OPTIONS, WIDTH))
    assert ranking.scores.shape == (4, WIDTH)
    _assert_as_alone(ranking, _alone(), normalize, {"atol": 1e-5, "rtol": 1e-5})


@pytest.mark.parametrize("name", DECODERS)
def test_options_of_a_decoder_see_their_input_and_not_each_other(name):
    """Against each option alone, in rows without padding; an empty input too."""
    config = DECODERS[name]
    model, params = families.build(config), _params(config)
    forward = jax.jit(functools.partial(families.logits, model))
    inputs = INPUTS.copy()
    inputs[2] = 0

    def measure(row, option):
        tokens, target = inputs[row][inputs[row] > 0][None], np.array([option])
        shifted = np.pad(target[:, :-1], ((0, 0), (1, 0)))
        logits = forward(params, Batch(tokens, shifted, target, np.ones(target.shape)))[0]
        log_p = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)), np.float64)
        return log_p[np.arange(len(option)), option], -(np.exp(log_p) * log_p).sum(axis=-1)

    rows, options = [0, 1, 2, 3], [row[:2] for row in OPTIONS]
    alone = [[measure(i, option) for option in options[i]] for i in rows]
    ranking = make_rank_fn(model)(params, inputs, pack_options(options, WIDTH))
    _assert_as_alone(ranking, alone, "sum", {"atol": 2e-5, "rtol": 2e-5}, options)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_top_log_probs_of_the_best_option_are_those_it_has_alone(scan_layers):
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    params, top_k = stack_layers(_params()) if scan_layers else _params(), 5
    options = pack_options(OPTIONS, WIDTH)
    plain = make_rank_fn(model)(params, INPUTS, options)
    ranking = make_rank_fn(model, top_k=top_k)(params, INPUTS, options)
    assert plain.top_ids is None and ranking.top_ids.shape == (4, WIDTH, top_k)
    np.testing.assert_allclose(ranking.scores, plain.scores, rtol=1e-5)
    forward = jax.jit(T5(CONFIG).apply)
    for row, best in enumerate(np.asarray(ranking.best)):
        option = OPTIONS[row][best]
        own = np.flatnonzero(options.numbers[row] == best + 1)
        shifted = np.array([[0, *option[:-1]]])
        logits = forward({"params": _params()}, INPUTS[row : row + 1], shifted)[0]
        values, ids = jax.lax.top_k(jax.nn.log_softmax(logits), top_k)
        np.testing.assert_array_equal(ranking.top_ids[row, own], ids)
        np.testing.assert_allclose(ranking.top_log_probs[row, own], values, atol=1e-5, rtol=1e-5)
        assert not ranking.top_ids[row][options.numbers[row] == 0].any()
        assert not ranking.top_log_probs[row][options.numbers[row] == 0].any()
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
    ranking = make_rank_fn(model)(_params(), INPUTS, pack_options(OPTIONS, WIDTH))
    assert {ranking.log_probs.dtype, ranking.entropies.dtype, ranking.scores.dtype} == {
        jnp.dtype("float32")
    }
    # bfloat16 hidden states may round otherwise in a batch; a bfloat16 log-softmax would be off
    # by 2^-8 of values around 30.
    _assert_as_alone(ranking, _alone("bfloat16"), "sum", {"atol": 2e-2, "rtol": 0})


def test_order_of_the_options_and_other_options_and_padding_change_no_score():
    rank_fn = make_rank_fn(T5(CONFIG))
    straight = rank_fn(_params(), INPUTS, pack_options(OPTIONS, WIDTH))
    # Backwards, with one more, in wider rows, of which few places are measured at a time.
    more = [[[9, 9, EOS], *row[::-1]] for row in OPTIONS]
    in_parts = make_rank_fn(T5(CONFIG), logits_at_once=4 * 24 * 7)
    wide = in_parts(_params(), np.pad(INPUTS, ((0, 0), (0, 3))), pack_options(more, 2 * WIDTH))
    for i, row in enumerate(_by_option(wide, more)):
        for ours, theirs in zip(row[:0:-1], _by_option(straight, OPTIONS)[i], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)
    scores = [[score for *_, score in row] for row in _by_option(wide, more)]
    np.testing.assert_array_equal(wide.best, list(map(np.argmax, scores)))


def test_rows_without_options_have_none_that_is_best():
    options = pack_options(OPTIONS[:2] + [[[EOS]]], WIDTH)
    for array in (options.tokens, options.numbers):
        array[2] = 0
    ranking = make_rank_fn(T5(CONFIG), "mean")(_params(), INPUTS[:3], options)
    assert ranking.best[2] == -1 and (ranking.best[:2] >= 0).all()
    np.testing.assert_array_equal(np.isneginf(ranking.scores), options.numbers == 0)
    assert not ranking.log_probs[2].any() and not ranking.entropies[2].any()


@pytest.mark.parametrize(("normalize", "best"), [("sum", [1, 0]), ("mean", [0, 0])])
def test_lowest_index_among_equals(normalize, best):
    # All weights 0: every token has probability 1 / 24.
    params = jax.tree.map(np.zeros_like, _params())
    options = pack_options([[[5, 6, 1], [7, 1], [8, 1]], [[9, 1], [3, 1]]], 8)
    ranking = make_rank_fn(T5(CONFIG), normalize)(params, INPUTS[:2], options)
    np.testing.assert_array_equal(ranking.best, best)
    is_token = options.tokens > 0
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
    ranking = rank_fn(_params(), inputs[rows], pack_options([[a] for a in answers], LENGTH))
    for name in ("log_probs", "entropies"):
        expected = getattr(greedy, name)[rows]
        np.testing.assert_allclose(getattr(ranking, name), expected, atol=1e-5, err_msg=name)

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
    width = max(sum(map(len, row)) for row in rows)
    return np.asarray(rank_fn(_params(), inputs, pack_options(rows, width)).best)


def test_mesh_equals_one_device():
    config = fakes.t5_config(num_decoder_layers=2)
    options = pack_options(OPTIONS, WIDTH)
    rank_fn = make_rank_fn(T5(config))
    one_device = rank_fn(_params(config), INPUTS, options)
    mesh = MeshConfig(4, tensor=2).build()
    shardings = rules.parameter_shardings(parameter_shapes(config), mesh)
    params = jax.tree.map(jax.device_put, _params(config), shardings)
    by_row = rules.batch_sharding(mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules.RULES):
        split = rank_fn(params, *jax.device_put((INPUTS, options), by_row))
    assert len(split.scores.sharding.device_set) == 8
    for name in ("log_probs", "entropies", "scores", "best"):
        np.testing.assert_allclose(
            getattr(split, name), getattr(one_device, name), atol=1e-5, rtol=1e-5, err_msg=name
        )


def test_inputs_are_encoded_once():
    _encoded.clear()
    options = pack_options(OPTIONS, WIDTH)
    jax.block_until_ready(make_rank_fn(CountingT5(CONFIG))(_params(), INPUTS, options))
    jax.effects_barrier()
    assert _encoded == [4]


def test_memory_does_not_grow_by_a_distribution_for_each_option():
    config = fakes.t5_config(vocab_size=8192, query_chunk=8, relative_buckets=4)
    one_distribution = 4 * 8 * 8192 * 4  # bytes of a [B L V] array
    rank_fn = make_rank_fn(T5(config), logits_at_once=one_distribution // 4)

    def temporary_bytes(num_options):
        width = jax.ShapeDtypeStruct((4, 8 * num_options), jnp.int32)
        shapes = jax.ShapeDtypeStruct((4, 8), jnp.int32), Options(width, width)
        compiled = rank_fn.lower(nn.meta.unbox(parameter_shapes(config)), *shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # 28 options more: what grows is the bias of attention, and no distributions.
    assert temporary_bytes(32) - temporary_bytes(4) < 28 * one_distribution / 5


def test_an_id_past_the_vocabulary_is_not_a_number():
    options = pack_options([[[5, 1], [24, 1], [7, 24]]], LENGTH)
    scores = make_rank_fn(T5(CONFIG))(_params(), INPUTS[:1], options).scores
    np.testing.assert_array_equal(np.isnan(scores), [[False, False, True, True, True, True]])


def test_options_of_a_row_stand_side_by_side():
    options = pack_options([[[5, 6, 1]], [[7, 1], [1], [8, 9, 1]]], 7)
    np.testing.assert_array_equal(options.tokens, [[5, 6, 1, 0, 0, 0, 0], [7, 1, 1, 8, 9, 1, 0]])
    np.testing.assert_array_equal(options.numbers, [[1, 1, 1, 0, 0, 0, 0], [1, 1, 2, 3, 3, 3, 0]])


@pytest.mark.parametrize(
    ("options", "width", "message"),
    [
        ([[[1]], [[1], [5, 6, 1]]], 3, "the options of row 1 have 4 tokens: expected at most 3"),
        ([[[1], []]], 2, "option 1 of row 0 is empty"),
        ([[[1]], []], 2, "row 1 has no options to rank"),
        ([[[4, 1], [5, 1], [4, 1]]], 6, r"option 2 of row 0 is the same as option 0: \[4, 1\]"),
        ([[[0, 1]]], 2, r"option 0 of row 0 is \[0, 1\]: id 0 is padding"),
        ([[[1]]], 0, "width is 0; must be an integer of at least 1"),
    ],
)
def test_pack_options_refuses_what_cannot_be_ranked(options, width, message):
    with pytest.raises(ValueError, match=message):
        pack_options(options, width)


def test_refuses_unknown_normalization_and_shapes_that_do_not_fit():
    with pytest.raises(
        ValueError, match="normalize is 'means'; must be one of sum, mean; did.*'me"
    ):
        make_rank_fn(T5(CONFIG), "means")
    with pytest.raises(ValueError, match=r"are \(4, 5\), \(2, 3\), \(2, 3\): expected"):
        make_rank_fn(T5(CONFIG))(_params(), INPUTS, pack_options([[[1]], [[1]]], 3))
