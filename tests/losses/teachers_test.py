"""What may be known of a teacher in place of its logits: one argmax, or k log-probs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_jax.losses import teachers, terms, variants
from tests.support import cases

pytestmark = pytest.mark.medium

VOCAB = 7


def batch(seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, 3, 4, VOCAB)).astype(np.float32)
    targets = cases.labels_often_right(rng, student, teacher)
    weights = (rng.random(targets.shape) < 0.7).astype(np.float32)
    return [jnp.asarray(array) for array in (student, teacher, targets, weights)]


def run(loss, student, teacher, targets, weights):
    def value(student):
        sums = loss(student, teacher, targets, weights)
        return sums.loss_sum, sums

    return jax.value_and_grad(value, has_aux=True)(student)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c.startswith(("dist", "cat", "gate"))])
def test_all_tokens_of_the_vocabulary_as_top_k_are_the_full_loss(case):
    student, teacher, targets, weights = batch()
    loss = cases.build(case)
    log_probs, ids = cases.top_k(np.asarray(teacher), VOCAB)
    top = teachers.TeacherTopK(jnp.asarray(log_probs), jnp.asarray(ids))
    (value, sums), gradient = run(loss, student, top, targets, weights)
    (expected, full), expected_gradient = run(loss, student, teacher, targets, weights)
    assert value == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)
    for name, ratio in sums.metrics.items():
        assert ratio.value() == pytest.approx(float(full.metrics[name].value()), rel=1e-5), name


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_a_divergence_never_grows_when_tokens_are_put_in_one_bucket(divergence, seed):
    # The data-processing inequality: less is seen with fewer tokens told apart.
    student, teacher, targets, weights = batch(seed)
    loss = variants.Dist(label_weight=0.0, divergence=divergence)
    actual = []
    for k in (1, 3, VOCAB - 1):
        top = teachers.TeacherTopK(*map(jnp.asarray, cases.top_k(np.asarray(teacher), k)))
        actual.append(float(loss(student, top, targets, weights).loss_sum))
    actual.append(float(loss(student, teacher, targets, weights).loss_sum))
    assert 0 <= actual[0] and all(b >= a - 1e-5 for a, b in zip(actual, actual[1:], strict=False))
    # With six of seven tokens the rest is one token: nothing is lost.
    assert actual[-2] == pytest.approx(actual[-1], rel=1e-3, abs=1e-5)


def test_the_tail_is_one_more_bucket():
    probs = np.array([[0.5, 0.2], [0.6, 0.4], [0.7, 0.30000001]], np.float32)
    top = teachers.TeacherTopK(jnp.log(probs), jnp.zeros((3, 2), jnp.int32))
    actual = np.exp(top.buckets(5))
    assert actual[0] == pytest.approx([0.5, 0.2, 0.3], rel=1e-5)
    # Sums of 1, or a rounding above it, leave what float32 cannot tell from nothing.
    np.testing.assert_allclose(actual[1:, 2], 1e-7, rtol=2.0)
    assert (actual[:, 2] >= 0.99e-7).all()
    np.testing.assert_array_equal(top.buckets(2), top.log_probs)


def test_the_tail_reaches_the_gradient_of_every_other_token():
    student = jnp.zeros((1, 4))
    top = teachers.TeacherTopK(jnp.log(jnp.array([[0.7]])), jnp.array([[2]]))
    loss = variants.Dist(label_weight=0.0)
    _, gradient = run(loss, student, top, jnp.array([0]), jnp.ones(1))
    # p - q over the buckets is (0.25 - 0.7, 0.75 - 0.3); the tail's is shared by p.
    np.testing.assert_allclose(gradient, [[0.15, 0.15, -0.45, 0.15]], atol=1e-6)


def test_a_k_th_log_prob_of_minus_infinity_stays_finite():
    student, _, targets, weights = batch()
    log_probs = jnp.broadcast_to(jnp.array([-0.1, -jnp.inf]), (3, 4, 2))
    ids = jnp.broadcast_to(jnp.array([1, 4]), (3, 4, 2))
    top = teachers.TeacherTopK(log_probs, ids)
    for divergence in variants.DIVERGENCES:
        (value, _), gradient = run(
            variants.Dist(divergence=divergence), student, top, targets, weights
        )
        assert np.isfinite(value) and np.isfinite(gradient).all(), divergence


def test_who_is_right_and_most_likely_with_ties_and_in_any_order():
    log_probs = jnp.log(jnp.array([[0.3, 0.3, 0.1], [0.1, 0.5, 0.2], [0.2, 0.2, 0.2]]))
    ids = jnp.array([[5, 2, 0], [4, 3, 1], [6, 1, 3]])
    top = teachers.TeacherTopK(log_probs, ids)
    right = {target: top.is_correct(jnp.full(3, target)).tolist() for target in range(VOCAB)}
    assert [t for t in right if right[t][0]] == [2, 5]
    assert [t for t in right if right[t][1]] == [3]
    assert [t for t in right if right[t][2]] == [1, 3, 6]
    assert top.argmax().tolist() == [2, 3, 1]
    assert not top.is_correct(jnp.full(3, -1)).any()


@pytest.mark.parametrize("case", cases.ARGMAX_CASES)
def test_knowing_whether_the_argmax_was_the_label_is_enough(case):
    student, teacher, targets, weights = batch()
    facts = teachers.TeacherArgmax(terms.is_correct(teacher, targets))
    loss = cases.build(case)
    (value, sums), gradient = run(loss, student, facts, targets, weights)
    (expected, full), expected_gradient = run(loss, student, teacher, targets, weights)
    assert value == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    assert set(full.metrics) - set(sums.metrics) == {"teacher_kl"}
    for name, ratio in sums.metrics.items():
        assert ratio.value() == pytest.approx(float(full.metrics[name].value()), rel=1e-6), name


def test_a_harmless_top_k_takes_the_place_of_padding():
    real = jnp.log(jnp.array([0.5, 0.2, 0.1]))
    top = teachers.TeacherTopK(
        jnp.stack([real, jnp.full(3, jnp.nan)]), jnp.array([[4, 5, 6], [-9, -9, -9]])
    )
    actual = top.where(jnp.array([True, False]))
    np.testing.assert_array_equal(actual.log_probs[0], real)
    assert actual.ids.tolist() == [[4, 5, 6], [0, 1, 2]]
    assert np.exp(actual.buckets(9)[1]).sum() == pytest.approx(1, rel=1e-5)
