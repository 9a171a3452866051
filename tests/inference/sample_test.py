"""Answers drawn at random, against exact distributions in float64 and whatever is beside them."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from cascade_jax.batch import Batch
from cascade_jax.inference import engine, sample
from cascade_jax.inference.sample import Distribution
from cascade_jax.models import families
from cascade_jax.parallel.mesh import MeshConfig
from tests.support import engine_models

RNG = np.random.default_rng(0)


def exact(logits, distribution):
    """Probabilities by the definition, in float64; of one row."""
    p = scipy.special.softmax(np.asarray(logits, np.float64) / distribution.temperature)
    if distribution.top_k:
        p = np.where(p >= np.sort(p)[-min(distribution.top_k, len(p))], p, 0)
        p /= p.sum()
    if distribution.top_p < 1:
        order = np.argsort(-p)
        count = np.searchsorted(np.cumsum(p[order]), distribution.top_p) + 1
        p = np.where(p >= p[order[min(count, len(p)) - 1]], p, 0)
        p /= p.sum()
    return p


def p_value(counts, probabilities):
    """Of the chi-square test; outcomes that are expected fewer than five times are one."""
    expected = probabilities * counts.sum()
    assert not counts[probabilities == 0].any()
    is_rare = expected < 5

    def pooled(values):
        return np.append(values[~is_rare], values[is_rare].sum())

    observed, expected = pooled(counts), pooled(expected)
    return scipy.stats.chisquare(
        *((observed, expected) if expected[-1] else (observed[:-1], expected[:-1]))
    ).pvalue


# ------------------------------------------------------------------ distributions and draws

DISTRIBUTIONS = [
    Distribution(),
    Distribution(temperature=0.6, top_p=0.7),
    Distribution(temperature=1e-6, top_k=1),
    Distribution(temperature=1e6, top_k=290, top_p=1e-6),
    Distribution(temperature=1.5, top_k=20, top_p=0.9),
    Distribution(top_k=301, top_p=1 - 1e-7),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_distribution_is_the_definition(distribution):
    logits = (RNG.normal(size=(6, 300)) * 4).astype(np.float32)
    logits[0, 10:] = -np.inf
    logits[1] = np.round(logits[1])  # with equal ones at any edge
    logits[2] = 0
    logits[3] += 1e6
    actual = jax.jit(distribution.log_probs)(logits)
    assert np.isfinite(actual).all()
    for row, log_p in zip(logits, actual, strict=True):
        p = exact(row, distribution)
        np.testing.assert_allclose(np.exp(log_p, dtype=np.float64), p, rtol=2e-5, atol=1e-7)
        assert (log_p[p == 0] < -1e20).all()


def test_draws_have_their_probabilities():
    """Of 300 tokens in blocks of 128: some are unlikely, and a third can't be drawn."""
    p = RNG.dirichlet(np.full(300, 0.3)) * np.repeat([8, 0, 1], [128, 72, 100])
    p /= p.sum()
    count = 6_000
    with np.errstate(divide="ignore"):
        log_p = np.broadcast_to(np.maximum(np.log(p), -1e30).astype(np.float32), (count, 300))
    keys = sample.answer_keys(3, ["one", "two"], count)
    drawn = jax.jit(sample.draw)
    for places in (np.full(count, 7, np.int32), np.arange(count, dtype=np.int32)):
        of_answers = [np.bincount(drawn(each, places, log_p), minlength=300) for each in keys]
        assert p_value(sum(of_answers), p) > 0.01
        assert scipy.stats.chi2_contingency(np.array(of_answers)[:, p > 0.002]).pvalue > 0.01
    one_answer = drawn(keys[0, :1].repeat(count, 0), places, log_p)
    assert p_value(np.bincount(one_answer, minlength=300), p) > 0.01


def test_keys_are_an_answers_own():
    names = [f"task/test/{i}" for i in range(200)]
    keys = sample.answer_keys(5, names, 7)
    assert keys.shape == (200, 7, 2) and keys.dtype == np.uint32
    assert len(np.unique(keys.reshape(-1, 2), axis=0)) == 1400
    np.testing.assert_array_equal(sample.answer_keys(5, names[150:100:-1], 3), keys[150:100:-1, :3])
    assert not (sample.answer_keys(6, names, 7) == keys).all(axis=2).any()
    assert sample.answer_keys(5, [], 2).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0}, "temperature is 0; must be a number from 1e-06 to 1e[+]06"),
        ({"temperature": float("nan")}, "temperature is nan; must be a number from"),
        ({"top_p": 0.0}, "top_p is 0.0; must be a number above 0"),
        ({"top_p": 1.5}, "top_p is 1.5; must be a number above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; must be an integer of at least 0"),
    ],
)
def test_what_is_no_distribution(settings, said):
    with pytest.raises(ValueError, match=said):
        Distribution(**settings)


# ------------------------------------------------------------------ answers of a model

LENGTH, END, VOCAB, COUNT = 3, 1, 6, 2000
INPUTS = [np.array([3, 2, 5, 4, 4], np.int32), np.array([2], np.int32)]
ONE_DEVICE = MeshConfig(data=1)
PREFIXES = [
    prefix
    for length in range(LENGTH)
    for prefix in itertools.product([i for i in range(VOCAB) if i != END], repeat=length)
]


@functools.cache
def logits_of(kind):
    """A model, its parameters, and its logits after each prefix of an answer: input -> {prefix}."""
    model, params = engine_models.model_of(kind, vocab_size=VOCAB)
    params = jax.tree.map(lambda leaf: leaf * (0.35 if leaf.ndim > 1 else 1), params)
    before = np.zeros((len(PREFIXES), LENGTH), np.int32)
    for row, prefix in enumerate(PREFIXES):
        before[row, : len(prefix)] = prefix
    shifted, lengths = np.pad(before[:, :-1], ((0, 0), (1, 0))), list(map(len, PREFIXES))
    fn, found = jax.jit(functools.partial(families.logits, model)), []
    for ids in INPUTS:
        inputs = np.zeros((len(PREFIXES), 5), np.int32)
        inputs[:, : len(ids)] = ids
        batch = Batch(inputs, shifted, before, np.ones(before.shape, np.float32))
        logits = np.asarray(fn(params, batch))[np.arange(len(PREFIXES)), lengths]
        found.append(dict(zip(PREFIXES, logits, strict=True)))
    return model, params, found


def answers_of(next_probabilities):
    """Probabilities of all answers, and of their tokens."""
    whole = {}
    for prefix in next_probabilities:
        for token in range(VOCAB):
            answer = (*prefix, token)
            if token == END or len(answer) == LENGTH:
                places = range(len(answer))
                whole[answer] = [next_probabilities[answer[:i]][answer[i]] for i in places]
    return whole


@pytest.mark.medium
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("decoder", {}),
        ("t5", {"top_p": 0.8, "temperature": 0.9}),
        ("decoder", {"temperature": 1.4, "top_k": 4, "top_p": 0.9}),
    ],
)
def test_answers_have_the_probabilities_that_the_model_and_the_settings_give(kind, settings):
    model, params, by_input = logits_of(kind)
    distribution = Distribution(**settings)
    engine_settings = engine.Settings(
        model, LENGTH, END, 0, ONE_DEVICE.build(jax.devices()[:1]), distribution=distribution
    )
    keys = sample.answer_keys(11, ["first", "second"], COUNT)
    made = [{}, {}]
    counts = engine.ComputedTokens()
    for index, number, answer, _ in engine.samples(
        engine_settings, params, INPUTS, keys, 512, counts
    ):
        assert number not in made[index]
        made[index][number] = answer
    assert counts.prefill_useful == sum(map(len, INPUTS)) + 2 * model.start_places
    for ours, logits in zip(made, by_input, strict=True):
        assert len(ours) == COUNT
        drawn = answers_of({k: exact(v, distribution) for k, v in logits.items()})
        plain = answers_of({k: exact(v, Distribution()) for k, v in logits.items()})
        observed = dict.fromkeys(drawn, 0)
        for answer in ours.values():
            tokens = tuple(answer.tokens[: answer.lengths].tolist())
            observed[tokens] += 1
            for values, by_answer in (
                (answer.log_probs, plain),
                (answer.drawn_log_probs, drawn),
            ):
                expected = np.zeros(LENGTH)
                expected[: len(tokens)] = np.log(by_answer[tokens])
                assert np.abs(values - expected).max() < 2e-4
        totals = np.array(list(observed.values()))
        assert p_value(totals, np.array([np.prod(p) for p in drawn.values()])) > 0.01
        # Other settings are told apart.
        other = np.array([np.prod(p) for p in plain.values()])
        if settings:
            assert p_value(totals, other) < 1e-9
        assert np.count_nonzero(totals) > 8


def drawn_answers(kind, rows, names, slot_count, mesh=ONE_DEVICE, devices=1):
    """By (name, number): tokens and log-probs of three answers to each."""
    model, params = engine_models.model_of(kind)
    settings = engine.Settings(
        model,
        engine_models.MAX_LENGTH,
        engine_models.EOS,
        0,
        mesh.build(jax.devices()[:devices]),
        distribution=Distribution(temperature=0.8, top_p=0.95, top_k=20),
    )
    keys = sample.answer_keys(0, names, 3)
    return {
        (names[index], number): answer
        for index, number, answer, _ in engine.samples(settings, params, rows, keys, slot_count)
    }


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["t5", pytest.param("scanned", marks=pytest.mark.slow)])
def test_slots_order_padding_other_inputs_and_a_mesh_change_nothing(kind):
    """All of these at once; decoders are like T5, and the engine's own tests have both."""
    rows = engine_models.drawn(12)
    names = [f"example {i}" for i in range(len(rows))]
    expected = drawn_answers(kind, rows, names, 8)
    assert len(expected) == 36 and len({int(a.lengths) for a in expected.values()}) >= 4
    assert len({tuple(a.tokens.tolist()) for a in expected.values()}) > 24
    longer = [np.full(70, 4, np.int32), *rows[:4:-1]]
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    actual = drawn_answers(kind, longer, ["longer", *names[:4:-1]], 16, mesh, 8)
    assert len(actual) == 24
    for key in set(actual) & set(expected):
        ours, theirs = actual[key], expected[key]
        np.testing.assert_array_equal(ours.tokens, theirs.tokens, err_msg=str(key))
        assert ours.lengths == theirs.lengths
        for name in ("log_probs", "drawn_log_probs"):
            values = getattr(ours, name), getattr(theirs, name)
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)


@pytest.mark.medium
def test_an_engine_is_greedy_or_draws():
    model, params = engine_models.model_of("t5")
    settings = engine.Settings(model, 4, 1, 0, ONE_DEVICE.build(jax.devices()[:1]))
    keys = sample.answer_keys(0, ["a"], 2)
    with pytest.raises(ValueError, match="distribution is None; must be what the tokens are drawn"):
        next(engine.samples(settings, params, [np.ones(2, np.int32)], keys, 2))
    settings = dataclasses.replace(settings, distribution=Distribution())
    with pytest.raises(ValueError, match=r"distribution is Distribution.*; must be None"):
        next(engine.answers(settings, params, [np.ones(2, np.int32)], 2))
