"""Rank classification against a loop that scores every option alone, without padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.batch import Batch
from cascade_jax.inference.rank import check_options, make_rank_fn, option_places, pack
from cascade_jax.inference.rank_packing import Pass
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


def _ids(inputs):
    return [row[row > 0].tolist() for row in inputs]


def _in_rows(options, rows=None, inputs=30, width=WIDTH):
    """A pass whose packed rows have the examples of `rows`; each one its own without."""
    rows = [[index] for index in range(len(options))] if rows is None else rows
    return Pass(rows, len(rows), inputs, width)


def _rank(model, params, options=OPTIONS, inputs=INPUTS, rows=None, normalize="sum", **settings):
    """(ranking, log-probs, entropies and score of every option of every example)."""
    rows = rows or _in_rows(options)
    packed = pack(_ids(inputs), options, rows, model.start_places)
    fn = make_rank_fn(model, normalize, **settings)
    ranking = jax.device_get(fn(params, *packed))
    is_token = packed[1].tokens > 0
    assert not ranking.log_probs[~is_token].any() and not ranking.entropies[~is_token].any()
    np.testing.assert_array_equal(np.isneginf(ranking.scores), ~is_token)
    result = [None] * len(options)
    for index, row, firsts in option_places(options, rows):
        own = [slice(at, at + len(o)) for at, o in zip(firsts, options[index], strict=True)]
        for each in own:
            np.testing.assert_array_equal(
                ranking.scores[row, each], ranking.scores[row, each.start]
            )
        tokens = ranking.log_probs[row], ranking.entropies[row], ranking.scores[row]
        result[index] = [(tokens[0][each], tokens[1][each], tokens[2][each][0]) for each in own]
    return ranking, result


def _assert_as_alone(result, alone, normalize, tolerance):
    reduce = {"sum": np.sum, "mean": np.mean}[normalize]
    for row, of_alone in zip(result, alone, strict=True):
        for (log_probs, entropies, score), (own, own_entropies) in zip(row, of_alone, strict=True):
            np.testing.assert_allclose(log_probs, own, **tolerance)
            np.testing.assert_allclose(entropies, own_entropies, **tolerance)
            np.testing.assert_allclose(score, reduce(own), **tolerance)


ROWS = Pass([[2, 1], [], [0, 3]], 4, 11, 31)  # some together, some rows empty


@pytest.mark.parametrize(
    ("normalize", "scan_layers", "rows"),
    [("sum", False, None), ("mean", False, ROWS), ("sum", True, ROWS)],
)
def test_every_option_has_the_likelihood_that_it_has_alone(normalize, scan_layers, rows):
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    params = stack_layers(_params()) if scan_layers else _params()
    ranking, result = _rank(model, params, rows=rows, normalize=normalize)
    assert ranking.scores.shape == ((4, 31) if rows else (4, WIDTH))
    _assert_as_alone(result, _alone(), normalize, {"atol": 1e-5, "rtol": 1e-5})


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

    options = [row[:2] for row in OPTIONS]
    alone = [[measure(i, option) for option in options[i]] for i in range(4)]
    _, result = _rank(model, params, options, inputs, ROWS)
    _assert_as_alone(result, alone, "sum", {"atol": 2e-5, "rtol": 2e-5})


@pytest.mark.parametrize("scan_layers", [False, True])
def test_top_log_probs_are_those_that_the_option_has_alone(scan_layers):
    model = T5(dataclasses.replace(CONFIG, scan_layers=scan_layers))
    params, top_k = stack_layers(_params()) if scan_layers else _params(), 5
    ranking, _ = _rank(model, params, rows=ROWS, top_k=top_k)
    assert ranking.top_ids.shape == (4, 31, top_k)
    forward = jax.jit(T5(CONFIG).apply)
    for index, row, firsts in option_places(OPTIONS, ROWS):
        option = OPTIONS[index][-1]
        own = slice(firsts[-1], firsts[-1] + len(option))
        shifted = np.array([[0, *option[:-1]]])
        logits = forward({"params": _params()}, INPUTS[index : index + 1], shifted)[0]
        values, ids = jax.lax.top_k(jax.nn.log_softmax(logits), top_k)
        np.testing.assert_array_equal(ranking.top_ids[row, own], ids)
        np.testing.assert_allclose(ranking.top_log_probs[row, own], values, atol=1e-5, rtol=1e-5)
    is_padding = np.isneginf(ranking.scores)
    assert not ranking.top_ids[is_padding].any() and not ranking.top_log_probs[is_padding].any()
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
    ranking, result = _rank(model, _params())
    assert {ranking.log_probs.dtype, ranking.entropies.dtype, ranking.scores.dtype} == {
        jnp.dtype("float32")
    }
    # bfloat16 hidden states may round otherwise in a batch; a bfloat16 log-softmax would be off
    # by 2^-8 of values around 30.
    _assert_as_alone(result, _alone("bfloat16"), "sum", {"atol": 2e-2, "rtol": 0})


def test_order_of_the_options_and_what_else_is_in_the_row_change_no_score():
    _, straight = _rank(T5(CONFIG), _params())
    # Backwards, with one more, in one wide row, of which few places are measured at a time.
    more = [[[9, 9, EOS], *row[::-1]] for row in OPTIONS]
    rows = Pass([[3, 1, 0, 2]], 1, 16, 60)
    _, wide = _rank(T5(CONFIG), _params(), more, rows=rows, logits_at_once=24 * 7)
    for row, expected in zip(wide, straight, strict=True):
        for ours, theirs in zip(row[:0:-1], expected, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_scores_of_a_model_that_knows_nothing(normalize):
    # All weights 0: every token has probability 1 / 24.
    params = jax.tree.map(np.zeros_like, _params())
    options = [[[5, 6, 1], [7, 1], [8, 1]], [[9, 1], [3, 1]]]
    _, result = _rank(T5(CONFIG), params, options, INPUTS[:2], normalize=normalize)
    for row, texts in zip(result, options, strict=True):
        for (log_probs, entropies, score), option in zip(row, texts, strict=True):
            np.testing.assert_allclose(log_probs, -np.log(24), rtol=1e-6)
            np.testing.assert_allclose(entropies, np.log(24), rtol=1e-6)
            count = len(option) if normalize == "sum" else 1
            np.testing.assert_allclose(score, -count * np.log(24), rtol=1e-6)


def test_greedy_answer_as_an_option():
    inputs = np.random.default_rng(3).integers(2, 24, size=(64, 5)).astype(np.int32)
    greedy = generate(T5(CONFIG), _params(), inputs, max_length=LENGTH, eos_id=EOS)
    tokens, lengths = np.asarray(greedy.tokens), np.asarray(greedy.lengths)
    ends = tokens[np.arange(64), lengths - 1] == EOS
    rows = np.flatnonzero(ends & ((tokens > 0).sum(axis=1) == lengths))
    assert len(set(lengths[rows])) >= 3  # the case is worth testing
    answers = [tokens[row, : lengths[row]].tolist() for row in rows]

    # Alone it is the whole answer, with generate's figures.
    _, result = _rank(T5(CONFIG), _params(), [[a] for a in answers], inputs[rows])
    for row, ((log_probs, entropies, _),) in zip(rows, result, strict=True):
        length = lengths[row]
        np.testing.assert_allclose(log_probs, greedy.log_probs[row, :length], atol=1e-5)
        np.testing.assert_allclose(entropies, greedy.entropies[row, :length], atol=1e-5)

    # It beats whatever differs from it in the last token only,
    others = [[[*answer[:-1], i] for i in range(2, 24)] for answer in answers]
    assert (_best_beside(inputs[rows], others, answers) == 0).all()
    # with more than half of the probability it beats everything, and else it may lose: greedy
    # decoding is no search for the likeliest answer.
    others = [[[EOS], *([i, EOS] for i in range(2, 24))]] * len(rows)
    wins = _best_beside(inputs[rows], others, answers) == 0
    is_likely = np.asarray(greedy.log_probs)[rows].sum(axis=1) > np.log(0.5)
    assert is_likely.any() and wins[is_likely].all() and not wins.all()


def _best_beside(inputs, others, answers):
    options = [
        [answer, *(option for option in row if option != answer)]
        for row, answer in zip(others, answers, strict=True)
    ]
    width = max(sum(map(len, row)) for row in options)
    rows = _in_rows(options, width=width)
    _, result = _rank(T5(CONFIG), _params(), options, inputs, rows)
    return np.array([np.argmax([score for *_, score in row]) for row in result])


def test_mesh_equals_one_device():
    config = fakes.t5_config(num_decoder_layers=2)
    packed = pack(_ids(INPUTS), OPTIONS, ROWS, 0)
    rank_fn = make_rank_fn(T5(config))
    one_device = rank_fn(_params(config), *packed)
    mesh = MeshConfig(4, tensor=2).build()
    shardings = rules.parameter_shardings(parameter_shapes(config), mesh)
    params = jax.tree.map(jax.device_put, _params(config), shardings)
    by_row = rules.batch_sharding(mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules.RULES):
        split = rank_fn(params, *jax.device_put(packed, by_row))
    assert len(split.scores.sharding.device_set) == 8
    for name in ("log_probs", "entropies", "scores"):
        np.testing.assert_allclose(
            getattr(split, name), getattr(one_device, name), atol=1e-5, rtol=1e-5, err_msg=name
        )


def test_inputs_are_encoded_once():
    _encoded.clear()
    packed = pack(_ids(INPUTS), OPTIONS, ROWS, 0)
    jax.block_until_ready(make_rank_fn(CountingT5(CONFIG))(_params(), *packed))
    jax.effects_barrier()
    assert _encoded == [4]


def test_memory_does_not_grow_by_a_distribution_for_each_option():
    config = fakes.t5_config(vocab_size=8192, query_chunk=8, relative_buckets=4)
    one_distribution = 4 * 8 * 8192 * 4  # bytes of a [B L V] array
    rank_fn = make_rank_fn(T5(config), logits_at_once=one_distribution // 4)

    def temporary_bytes(num_options):
        packed = pack([[5]] * 4, [[[5]]] * 4, Pass([[0]], 4, 8, 8 * num_options), 0)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), packed)
        compiled = rank_fn.lower(nn.meta.unbox(parameter_shapes(config)), *shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # 28 options more: what grows is the bias of attention, and no distributions.
    assert temporary_bytes(32) - temporary_bytes(4) < 28 * one_distribution / 5


@pytest.mark.parametrize("name", ["t5", *DECODERS])
def test_an_id_past_the_vocabulary_makes_its_own_options_not_a_number(name):
    model = T5(CONFIG) if name == "t5" else families.build(DECODERS[name])
    params = _params(model.config)
    options = [[[5, 1], [24, 1], [7, 24], [6, 1]], [[3, 1], [9, 4, 1]], [[8, 7, 1], [5, 1]]]
    inputs = INPUTS[:3].copy()
    inputs[1, 0] = 24
    rows = Pass([[0, 1, 2]], 1, 30, WIDTH)
    _, result = _rank(model, params, options, inputs, rows)
    scores = [np.array([score for *_, score in row]) for row in result]
    for own, expected in zip(scores, ([0, 1, 1, 0], [1, 1], [0, 0]), strict=True):
        np.testing.assert_array_equal(np.isnan(own), expected)
    options[0][1:3], inputs[1, 0] = [[4, 1], [7, 4]], 4
    _, clean = _rank(model, params, options, inputs, rows)
    kept = np.array([clean[0][0][2], clean[0][3][2], *(score for *_, score in clean[2])])
    np.testing.assert_array_equal(np.concatenate([scores[0][[0, 3]], scores[2]]), kept)


def test_examples_stand_side_by_side_with_their_options():
    """The example of `PackedAnswers`."""
    rows, options = Pass([[1, 0]], 1, 6, 8), [[[5, 1]], [[5, 6, 1], [7, 1]]]
    inputs, answers = pack([[9], [7, 8]], options, rows, 1)
    np.testing.assert_array_equal(inputs.tokens, [[0, 7, 8, 0, 9, 0]])
    np.testing.assert_array_equal(answers.tokens, [[5, 6, 1, 7, 1, 5, 1, 0]])
    np.testing.assert_array_equal(answers.numbers, [[1, 1, 1, 2, 2, 3, 3, 0]])
    np.testing.assert_array_equal(answers.segment_ids, [[1, 1, 1, 1, 1, 2, 2, 0]])
    np.testing.assert_array_equal(answers.input_ends, [[2, 2, 2, 2, 2, 4, 4, 0]])
    assert list(option_places(options, rows)) == [(1, 0, [0, 3]), (0, 0, [5])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([[1], []], "option 1 of row 3 is empty"),
        ([], "row 3 has no options to rank"),
        ([[4, 1], [5, 1], [4, 1]], r"option 2 of row 3 is the same as option 0: \[4, 1\]"),
        ([[0, 1]], r"option 0 of row 3 is \[0, 1\]: id 0 is padding"),
    ],
)
def test_options_that_can_not_be_ranked_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_options({3: options})


def test_refuses_unknown_normalization():
    with pytest.raises(
        ValueError, match="normalize is 'means'; must be one of sum, mean; did.*'me"
    ):
        make_rank_fn(T5(CONFIG), "means")
