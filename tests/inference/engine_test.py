"""The engine's answers against those to every input alone."""

import functools

import jax
import numpy as np
import pytest

from cascade_jax.inference import engine
from cascade_jax.inference.engine_programs import programs
from cascade_jax.inference.generate import make_generate_fn
from cascade_jax.models import cache
from cascade_jax.parallel.mesh import MeshConfig
from tests.support.engine_models import EOS, MAX_LENGTH, drawn, model_of

pytestmark = pytest.mark.medium

TOP_K, LONGEST = 3, 70
_ONE_DEVICE = MeshConfig(data=1)


@functools.cache
def alone(kind):
    """Answers one by one, whatever stands beside them."""
    model, params = model_of(kind)
    fn = make_generate_fn(model, MAX_LENGTH, EOS, TOP_K)

    @functools.cache
    def answer(ids):
        row = np.zeros((1, LONGEST), np.int32)
        row[0, : len(ids)] = ids
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], fn(params, row))

    return answer


def check(kind, rows, slot_count, mesh=_ONE_DEVICE, devices=1):
    """The engine's answers are those of each row alone; returns what was counted."""
    model, params = model_of(kind)
    mesh = mesh.build(jax.devices()[:devices])
    settings = engine.Settings(model, MAX_LENGTH, EOS, TOP_K, mesh)
    counts, calls, answers = engine.ComputedTokens(), [], {}
    for index, answer, seconds in engine.answers(
        settings, params, rows, slot_count, counts, calls.append
    ):
        assert index not in answers and seconds > 0
        answers[index] = answer
    assert sorted(answers) == list(range(len(rows)))
    for index, row in enumerate(rows):
        expected, actual = alone(kind)(tuple(row.tolist())), answers[index]
        for name in ("tokens", "lengths", "top_ids"):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
        for name in ("log_probs", "entropies", "top_log_probs"):
            ours, theirs = getattr(actual, name), getattr(expected, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert calls.count(False) > counts.loops + bool(rows) or not rows
    start = model.start_places
    assert counts.prefill_useful == sum(len(row) + start for row in rows)
    assert counts.decode_useful == sum(int(answer.lengths) for answer in answers.values())
    return counts


@pytest.mark.parametrize("kind", ["t5", "scanned"])
def test_so_are_those_of_a_cache_as_it_is_on_a_tpu(kind, monkeypatch):
    alone(kind)
    monkeypatch.setattr(cache, "leaf_axes", lambda name: cache._KEYS_LAST)
    programs.cache_clear()
    try:
        check(kind, drawn(9), 4)
    finally:
        programs.cache_clear()


@pytest.mark.parametrize("kind", ["t5", "decoder"])
def test_answers_are_those_of_each_input_alone(kind):
    rows = drawn(60)
    rows[7:10] = rows[3], rows[3], np.zeros(0, np.int32)  # the same again, and an empty one
    rows[20] = np.full(LONGEST, 4, np.int32)  # longer than all others: slots get shorter
    counts = check(kind, rows, 8)
    assert len({int(alone(kind)(tuple(row.tolist())).lengths) for row in rows}) >= 4
    assert counts.loops > 10
    assert counts.prefill_computed <= 1.25 * counts.prefill_useful
    assert counts.decode_computed <= 1.25 * counts.decode_useful
    check(kind, rows[:1], 8)
    check(kind, [], 8)


@pytest.mark.parametrize("kind", ["t5", "decoder"])
def test_an_input_that_is_not_a_number_changes_no_other_answer(kind):
    rows = drawn(60)
    for index in range(0, 60, 7):
        rows[index] = np.append(rows[index], np.int32(23))  # past the vocabulary: NaN
    check(kind, rows, 8)
    is_nan = [np.isnan(alone(kind)(tuple(row.tolist())).log_probs).any() for row in rows]
    assert is_nan == [23 in row for row in rows]


def test_a_stop_is_looked_for_while_many_inputs_are_read():
    model, params = model_of("t5")
    settings = engine.Settings(model, MAX_LENGTH, EOS, TOP_K, _ONE_DEVICE.build(jax.devices()[:1]))
    rows, counts, calls = [np.full(LONGEST, 4, np.int32)] * 32, engine.ComputedTokens(), []

    def before(may_compile):
        calls.append(may_compile)
        if calls.count(False) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        next(engine.answers(settings, params, rows, 32, counts, before))
    assert 0 < counts.prefill_useful < 32 * LONGEST and counts.loops == 0


@pytest.mark.parametrize("kind", ["t5", "scanned"])
def test_on_a_mesh(kind):
    check(kind, drawn(21), 8, MeshConfig(data=2, fsdp=2, tensor=2), 8)


def test_slots_that_a_mesh_does_not_divide():
    with pytest.raises(ValueError, match="slot_count 6 does not divide by the 4 shards"):
        check("t5", drawn(3), 6, MeshConfig(data=4), 4)
