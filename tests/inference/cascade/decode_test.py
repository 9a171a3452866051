"""Live decoding against both models run at every place on the whole prefix, without a cache."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cascade_jax.batch import Batch
from cascade_jax.inference.cascade.costs import cascade_flops
from cascade_jax.inference.cascade.decode import make_cascade_decode_fn
from cascade_jax.inference.cascade.steppers import stepper_of
from cascade_jax.inference.generate import make_generate_fn
from cascade_jax.models import families, flops
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig

pytestmark = pytest.mark.medium

VOCAB_SIZE, ROWS, MAX_LENGTH = 32, 16, 12
T5 = T5Config(
    vocab_size=VOCAB_SIZE,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=2,
    relative_buckets=4,
    relative_max_distance=5,
    scan_layers=True,
)
DECODER = DecoderConfig(
    vocab_size=VOCAB_SIZE,
    embed_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=24,
    scan_layers=True,
    sliding_window=6,
    attention_kinds=("sliding", "full"),
    tied_logits=False,
)
PREFIX_LM = dataclasses.replace(
    DECODER, bidirectional_prefix=True, bos_id=2, num_layers=1, scan_layers=False
)
# Student and teacher; of one size, the student is the teacher with some noise.
PAIRS = {
    "t5": (T5, T5),
    "decoder": (DECODER, DECODER),
    "mixed": (dataclasses.replace(T5, num_decoder_layers=1, scan_layers=False), PREFIX_LM),
}


def _slow(case):
    return pytest.param(case, marks=pytest.mark.slow)


PAIR_CASES = ["t5", "decoder", _slow("mixed")]
MARGIN = 1e-4  # by so much every token and deferral is decided, so that nothing hangs on rounding
INPUTS = np.random.default_rng(0).integers(4, VOCAB_SIZE, size=(ROWS, 7)).astype(np.int32)
INPUTS *= np.arange(7) < (np.arange(ROWS) % 7 + 1)[:, None]  # ragged


@functools.cache
def _params(pair):
    """Sharp distributions, so that no two tokens are nearly alike."""
    rng, drawn = np.random.default_rng(1), []
    for config in reversed(PAIRS[pair]):

        def draw(leaf):
            if len(leaf.shape) == 1:  # norm scales
                return np.ones(leaf.shape, np.float32)
            is_embedding = leaf.shape[0] == VOCAB_SIZE
            scale = 1 if is_embedding else 2 / np.sqrt(leaf.shape[0])
            return (rng.normal(size=leaf.shape) * scale).astype(np.float32)

        drawn.append(jax.tree.map(draw, nn.unbox(families.parameter_shapes(config))))
    teacher, student = drawn
    if PAIRS[pair][0] == PAIRS[pair][1]:
        student = jax.tree.map(lambda t, s: t if t.ndim == 1 else t + 0.1 * s, teacher, student)
    return student, teacher


@functools.cache
def _forward(config):
    model = families.build(config)

    def forward(params, inputs, tokens):
        shifted = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        batch = Batch(inputs, shifted, tokens, jnp.zeros(tokens.shape))
        return families.logits(model, params, batch)

    return jax.jit(forward)


@dataclasses.dataclass
class Plain:
    """What the plain way gives; see `_plain`."""

    tokens: np.ndarray
    lengths: np.ndarray
    is_deferred: np.ndarray
    proposals: np.ndarray
    log_probs: np.ndarray
    entropies: np.ndarray
    margin: float  # the least by which a token or a threshold was decided


def _plain(pair, limits, uncertainty="log_prob", eos=None):
    """Both models at every place, whole prefixes, no cache; limits [MAX_LENGTH]; in float64."""
    eos = _eos(pair) if eos is None else eos
    tokens, proposals = np.zeros((2, ROWS, MAX_LENGTH), np.int32)
    log_probs, entropies = np.zeros((2, ROWS, MAX_LENGTH))
    is_deferred = np.zeros((ROWS, MAX_LENGTH), bool)
    lengths, has_ended, margin = np.zeros(ROWS, int), np.zeros(ROWS, bool), np.inf
    rows = np.arange(ROWS)
    for place in range(MAX_LENGTH):
        small, large = (
            np.asarray(_forward(config)(params, INPUTS, tokens), np.float64)[:, place]
            for config, params in zip(PAIRS[pair], _params(pair), strict=True)
        )
        log_p = small - small.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        proposal, other = small.argmax(axis=1), large.argmax(axis=1)
        entropy = -(np.exp(log_p) * log_p).sum(axis=1)
        unsure = entropy if uncertainty == "entropy" else -log_p[rows, proposal]
        defers = unsure > limits[place]
        running = ~has_ended
        best = np.sort(np.where(defers[:, None], large, small), axis=1)
        gaps = np.stack([best[:, -1] - best[:, -2], np.abs(unsure - limits[place])])
        margin = min(margin, gaps[:, running].min(initial=np.inf))
        for array, column in [
            (tokens, np.where(defers, other, proposal)),
            (proposals, proposal),
            (is_deferred, defers),
            (log_probs, log_p[rows, proposal]),
            (entropies, entropy),
        ]:
            array[running, place] = column[running]
        lengths += running
        has_ended |= tokens[:, place] == eos
    return Plain(tokens, lengths, is_deferred, proposals, log_probs, entropies, margin)


@functools.cache
def _eos(pair):
    """The id whose first appearances differ most between rows, in answers that nothing ends."""
    tokens = np.concatenate(
        [_plain(pair, np.full(MAX_LENGTH, limit), eos=-1).tokens for limit in (-np.inf, np.inf)]
    )
    return max(range(VOCAB_SIZE), key=lambda i: len({(row == i).argmax() for row in tokens}))


@functools.cache
def _cases(pair, uncertainty="log_prob"):
    """(threshold, plain answers): -inf, 20 quantiles of the uncertainties seen, inf."""
    plain = [_plain(pair, np.full(MAX_LENGTH, limit)) for limit in (-np.inf, np.inf)]
    seen = np.unique(np.concatenate([_unsure(each, uncertainty) for each in plain]))
    result = []
    for share in np.linspace(0.02, 0.98, 20):
        at = int(share * len(seen))
        # The next number between two of them that no decision is near to.
        for limit in (seen[at:-1] + seen[at + 1 :]) / 2:
            answers = _plain(pair, np.full(MAX_LENGTH, limit), uncertainty)
            if answers.margin > MARGIN:
                result.append((limit, answers))
                break
    assert len(result) == 20 and all(each.margin > MARGIN for each in plain)
    return [(-np.inf, plain[0]), *result, (np.inf, plain[1])]


def _unsure(plain, uncertainty):
    is_token = np.arange(MAX_LENGTH) < plain.lengths[:, None]
    return (plain.entropies if uncertainty == "entropy" else -plain.log_probs)[is_token]


def _models(pair):
    return [families.build(config) for config in PAIRS[pair]]


def _check(actual, plain, rows=slice(None), uncertainty="log_prob"):
    for name in ("tokens", "lengths", "is_deferred", "proposals"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(plain, name)[rows], name)
    np.testing.assert_allclose(actual.log_probs, plain.log_probs[rows], atol=1e-4)
    np.testing.assert_allclose(actual.entropies, plain.entropies[rows], atol=1e-4)
    unsure = plain.entropies if uncertainty == "entropy" else -plain.log_probs
    np.testing.assert_allclose(actual.uncertainties, unsure[rows], atol=1e-4)


def _check_counts(actual):
    """What follows from who wrote which token."""
    is_deferred, lengths = np.asarray(actual.is_deferred), np.asarray(actual.lengths)
    deferred = is_deferred.sum(axis=1)
    np.testing.assert_array_equal(actual.deferred, deferred)
    np.testing.assert_array_equal(actual.student_tokens, lengths)
    last = np.where(is_deferred.any(axis=1), MAX_LENGTH - is_deferred[:, ::-1].argmax(axis=1), 0)
    np.testing.assert_array_equal(actual.teacher_tokens, last)
    assert deferred.max() <= actual.calls <= is_deferred.any(axis=0).sum()
    assert actual.student_steps >= lengths.max()
    assert actual.computed_tokens >= actual.teacher_tokens.sum()


@pytest.mark.parametrize("pair", PAIR_CASES)
def test_live_decoding_is_the_plain_way_token_for_token(pair):
    fn = make_cascade_decode_fn(*_models(pair), MAX_LENGTH, _eos(pair))
    rates, answers = [], set()
    for limit, plain in _cases(pair):
        result = fn(*_params(pair), INPUTS, limit)
        _check(result, plain)
        _check_counts(result)
        rates.append(plain.is_deferred.sum() / plain.lengths.sum())
        answers.add(plain.tokens.tobytes())
        for row in range(0, ROWS, 5):
            _check(fn(*_params(pair), INPUTS[row : row + 1], limit), plain, slice(row, row + 1))
    # The cases are worth testing: both models write, and what they write depends on who began.
    assert rates[0] == 1 and rates[-1] == 0 and sum(0.05 < rate < 0.95 for rate in rates) > 10
    assert len(answers) > 10


@pytest.mark.parametrize("pair", PAIR_CASES)
def test_at_the_ends_one_model_writes_what_it_writes_alone(pair):
    fn = make_cascade_decode_fn(*_models(pair), MAX_LENGTH, _eos(pair))
    lengths = set()
    for model, params, limit in zip(_models(pair), _params(pair), (np.inf, -np.inf), strict=True):
        alone = make_generate_fn(model, MAX_LENGTH, _eos(pair))(params, INPUTS)
        actual = fn(*_params(pair), INPUTS, limit)
        np.testing.assert_array_equal(actual.tokens, alone.tokens)
        np.testing.assert_array_equal(actual.lengths, alone.lengths)
        lengths.update(alone.lengths.tolist())
        if limit == np.inf:
            np.testing.assert_allclose(actual.log_probs, alone.log_probs, atol=5e-5)
            np.testing.assert_allclose(actual.entropies, alone.entropies, atol=5e-5)
    assert len(lengths) > 1  # answers end apart


def test_entropy_decides_if_asked():
    fn = make_cascade_decode_fn(*_models("t5"), MAX_LENGTH, _eos("t5"), uncertainty="entropy")
    for limit, plain in _cases("t5", "entropy")[::4]:
        _check(fn(*_params("t5"), INPUTS, limit), plain, uncertainty="entropy")


@pytest.mark.parametrize(
    "blocks, places", [(2, [6, 6]), (5, [3, 2, 3, 2, 2]), (MAX_LENGTH, [1] * MAX_LENGTH)]
)
def test_blocks_of_places_have_thresholds_of_their_own(blocks, places):
    chosen = np.array([limit for limit, _ in _cases("decoder")])[np.arange(blocks) * 7 % 22]
    plain = _plain("decoder", np.repeat(chosen, places))
    assert plain.margin > 1e-5
    fn = make_cascade_decode_fn(*_models("decoder"), MAX_LENGTH, _eos("decoder"))
    _check(fn(*_params("decoder"), INPUTS, chosen), plain)


def test_every_row_may_have_thresholds_of_its_own():
    cases = _cases("t5")
    chosen = [cases[7 * row % len(cases)] for row in range(ROWS)]
    fn = make_cascade_decode_fn(*_models("t5"), MAX_LENGTH, _eos("t5"))
    actual = fn(*_params("t5"), INPUTS, np.array([[limit] for limit, _ in chosen]))
    for row, (_, plain) in enumerate(chosen):
        np.testing.assert_array_equal(actual.tokens[row], plain.tokens[row])
        np.testing.assert_array_equal(actual.is_deferred[row], plain.is_deferred[row])
    assert 0 < np.asarray(actual.is_deferred).sum() < np.asarray(actual.lengths).sum()


class _Noted:
    """Notes what it is asked to do when it is run."""

    def __init__(self, stepper, notes):
        self.stepper, self.notes, self.traced = stepper, notes, 0
        self.vocab_size = stepper.vocab_size

    def start(self, params, inputs, max_length):
        jax.debug.callback(lambda: self.notes.append("start"))
        return self.stepper.start(params, inputs, max_length)

    def step(self, params, state, tokens, where, logits_at):
        self.traced += 1
        jax.debug.callback(lambda: self.notes.append("step"))
        return self.stepper.step(params, state, tokens, where, logits_at)


def test_the_large_model_is_run_when_a_row_defers_and_not_before():
    small, large = _models("t5")
    notes = []
    large, way = _Noted(stepper_of(large), notes), {"waiting_share": 1.0, "is_packed": False}
    fn = make_cascade_decode_fn(small, large, MAX_LENGTH, _eos("t5"), **way)
    jax.block_until_ready(fn(*_params("t5"), INPUTS[:4], np.inf))
    jax.effects_barrier()
    assert notes == []
    traced = large.traced
    for limit, plain in _cases("t5")[::5]:
        notes.clear()
        actual = fn(*_params("t5"), INPUTS[:4], np.float64(limit))
        jax.block_until_ready(actual)
        jax.effects_barrier()
        calls = int(plain.is_deferred[:4].sum(axis=1).max())
        assert actual.calls == calls
        chunks = len(notes) - (calls > 0)
        assert notes == ["start"] * (calls > 0) + ["step"] * chunks
        assert calls <= chunks <= int(actual.computed_tokens) / 4  # a token of each of 4 rows
        assert int(actual.computed_tokens) <= 4 * MAX_LENGTH * chunks
    assert large.traced == traced  # another threshold is no other program


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_when_the_large_model_is_called_changes_no_answer(share):
    fn = make_cascade_decode_fn(*_models("t5"), MAX_LENGTH, _eos("t5"), waiting_share=share)
    for limit, plain in _cases("t5")[::6]:
        actual = fn(*_params("t5"), INPUTS, limit)
        _check(actual, plain)
        deferred = plain.is_deferred
        if share == 0:  # lock-step: every row at the same place
            assert actual.calls == deferred.any(axis=0).sum()
            assert actual.student_steps == plain.lengths.max()
        if share == 1:  # as many calls as the row that defers most
            assert actual.calls == deferred.sum(axis=1).max()
        assert deferred.sum(axis=1).max() <= actual.calls <= deferred.any(axis=0).sum()


@dataclasses.dataclass(frozen=True)
class ApplyStepper:
    """Any function from a whole answer to logits; without a cache, every step computes all anew.

    Attributes:
      apply: `(params, inputs [B S], decoder_inputs [B L]) -> logits [B L V]`, causal in
        decoder_inputs, which are the answer shifted right by one and start with `first_id`.
      vocab_size: V.
      first_id: what stands at place 0.
    """

    apply: Callable
    vocab_size: int
    first_id: int = 0

    def start(self, params, inputs, max_length):
        del params
        batch = inputs.shape[0]
        first = jnp.full((batch,), self.first_id, jnp.int32)
        return first, (inputs, jnp.zeros((batch, max_length), jnp.int32))

    def step(self, params, state, tokens, where, logits_at):
        inputs, read = state
        sources = where.sources
        read = jnp.where(sources >= 0, tokens.reshape(-1)[jnp.maximum(sources, 0)], read)
        logits = self.apply(params, inputs, read)
        place = where.places.reshape(-1)[logits_at]
        place = jnp.clip(place, 0, read.shape[1] - 1)
        return jnp.take_along_axis(logits, place[:, None, None], axis=1)[:, 0], (inputs, read)


def test_any_function_that_gives_logits_can_be_either_model():
    eos, (small, large) = _eos("t5"), _models("t5")
    plain = [
        ApplyStepper(lambda p, i, d, model=model: model.apply({"params": p}, i, d), VOCAB_SIZE)
        for model in (small, large)
    ]
    limit, expected = _cases("t5")[13]
    for models in [(small, plain[1]), (plain[0], large)]:
        fn = make_cascade_decode_fn(*models, MAX_LENGTH, eos, is_packed=False)
        _check(fn(*_params("t5"), INPUTS[:4], limit), expected, slice(4))


@pytest.mark.parametrize(
    "way",
    [
        {"is_packed": False},
        pytest.param({"least_chunk": 1}, marks=pytest.mark.slow),
        {"least_chunk": 256},
    ],
)
def test_how_catching_up_is_cut_changes_no_answer(way):
    fn = make_cascade_decode_fn(*_models("mixed"), MAX_LENGTH, _eos("mixed"), **way)
    for limit, plain in _cases("mixed")[::4]:
        _check(fn(*_params("mixed"), INPUTS[:3], limit), plain, slice(3))


@pytest.mark.parametrize("is_packed", [_slow(False), True])
def test_eight_devices_write_what_one_writes(is_packed):
    mesh = MeshConfig(data=4, tensor=2).build()
    models, eos = _models("mixed"), _eos("mixed")
    placed = [
        jax.device_put(
            params, rules.parameter_shardings(families.parameter_shapes(model.config), mesh)
        )
        for model, params in zip(models, _params("mixed"), strict=True)
    ]
    inputs = jax.device_put(INPUTS, rules.batch_sharding(mesh))
    fn = make_cascade_decode_fn(*models, MAX_LENGTH, eos, is_packed=is_packed)
    with jax.set_mesh(mesh), rules.applied():
        for limit, plain in [_cases("mixed")[i] for i in (0, 9, 21)]:
            _check(fn(*placed, inputs, limit), plain)


def test_an_uncertainty_that_is_nan_defers():
    params, teacher = _params("t5")
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    fn = make_cascade_decode_fn(*_models("t5"), MAX_LENGTH, _eos("t5"))
    actual = fn(broken, teacher, INPUTS, np.inf)
    np.testing.assert_array_equal(actual.tokens, fn(params, teacher, INPUTS, -np.inf).tokens)
    assert np.isnan(actual.uncertainties[:, 0]).all()


@pytest.mark.parametrize("pair", ["t5", "decoder"])
def test_flops_are_those_of_the_calls_one_after_the_other(pair):
    small, large = PAIRS[pair]
    fn = make_cascade_decode_fn(*_models(pair), MAX_LENGTH, _eos(pair))
    sizes = (INPUTS > 0).sum(axis=1)
    logits = 2 * small.embed_dim * VOCAB_SIZE
    for limit, _ in _cases(pair)[::7] + _cases(pair)[-1:]:
        actual = fn(*_params(pair), INPUTS, limit)
        spent = cascade_flops(actual, small, large, sizes)
        for row, size in enumerate(sizes.tolist()):
            deferred = np.flatnonzero(actual.is_deferred[row])
            prefill, expected, read = flops.prefill_flops(large, size), 0, 0
            for place in deferred.tolist():
                tokens = [flops.decode_flops(large, size, at) for at in range(read, place + 1)]
                expected += sum(tokens) - logits * (len(tokens) - 1)
                read = place + 1
            assert spent.teacher[row] == expected + (prefill if read else 0)
            assert spent.unused[row] == (prefill if actual.calls > 0 and not read else 0)
            length = int(actual.lengths[row])
            assert spent.student[row] == flops.answer_flops(small, size, length)
        if limit == -np.inf:
            lengths = np.asarray(actual.lengths).tolist()
            alone = [
                flops.answer_flops(large, *each)
                for each in zip(sizes.tolist(), lengths, strict=True)
            ]
            np.testing.assert_array_equal(spent.teacher, alone)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_length": 0}, "max_length is 0; must be an integer of at least 1"),
        ({"eos_id": 32}, "eos_id is 32; must be an id of the vocabulary, 0 to 31"),
        ({"uncertainty": "entropies"}, "of log_prob, entropy, random; did you mean 'entropy'?"),
        ({"waiting_share": 1.5}, "waiting_share is 1.5; must be a number from 0 to 1"),
        ({"least_chunk": 0}, "least_chunk is 0; must be an integer of at least 1"),
        ({"teacher": T5}, "is no model; expected a module of"),
        (
            {"teacher": families.build(dataclasses.replace(T5, vocab_size=33))},
            "share one vocabulary: the student's has 32 ids, the teacher's 33",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_refused(changes, message):
    student, teacher = _models("t5")
    settings = dict(student=student, teacher=teacher, max_length=4, eos_id=1) | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        make_cascade_decode_fn(**settings)


@pytest.mark.parametrize(
    "thresholds, message",
    [
        (np.nan, "must be no NaN"),
        ([1.0, np.nan], "must be no NaN"),
        ([1.0] * 5, "of shape (5,): expected one number, or one for each of 1 to max_length = 4"),
        ([], "of shape (0,)"),
        ([[1.0]] * 3, "of shape (3, 1)"),
    ],
)
def test_thresholds_that_are_none_are_refused(thresholds, message):
    fn = make_cascade_decode_fn(*_models("t5"), 4, 1)
    with pytest.raises(ValueError, match=re.escape(message)):
        fn(*_params("t5"), INPUTS, thresholds)


def test_chance_decides_if_asked_and_no_other_row_has_a_say():
    fn = make_cascade_decode_fn(*_models("t5"), MAX_LENGTH, _eos("t5"), uncertainty="random")
    result = fn(*_params("t5"), INPUTS, 0.6)
    there = np.arange(MAX_LENGTH) < np.asarray(result.lengths)[:, None]
    chances = np.asarray(result.uncertainties)[there]
    assert 0 <= chances.min() and chances.max() < 1 and len(set(chances.tolist())) > 40
    assert abs(chances.mean() - 0.5) < 4 / np.sqrt(12 * len(chances))
    np.testing.assert_array_equal(np.asarray(result.is_deferred)[there], chances > 0.6)
    order = np.random.default_rng(0).permutation(ROWS)
    again = fn(*_params("t5"), INPUTS[order], 0.6)
    for name in ("tokens", "uncertainties"):
        np.testing.assert_array_equal(
            getattr(again, name), np.asarray(getattr(result, name))[order]
        )
