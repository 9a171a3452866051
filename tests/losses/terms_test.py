"""The public per-token terms: worked examples, peers (optax, SciPy, T5X's formula), bad logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import distance

from cascade_jax.losses import terms

STUDENT, TEACHER = jnp.log(jnp.array([0.8, 0.2])), jnp.log(jnp.array([0.5, 0.5]))
PAIRS = {
    "soft_cross_entropy": terms.soft_cross_entropy,
    "forward_kl": terms.forward_kl,
    "reverse_kl": terms.reverse_kl,
    "jensen_shannon": terms.jensen_shannon,
}
SINGLE = {"kl_to_uniform": terms.kl_to_uniform, "kl_from_uniform": terms.kl_from_uniform}
logits = hnp.arrays(np.float32, (4, 6), elements=st.floats(-8, 8, width=32))
labels = hnp.arrays(np.int32, (4,), elements=st.integers(0, 5))


def softmax(x):
    return scipy.special.softmax(np.asarray(x, np.float64), axis=-1)


def test_the_worked_examples_of_the_docstring():
    target = jnp.array(0)
    assert terms.cross_entropy(STUDENT, target) == pytest.approx(0.223, abs=5e-4)
    assert terms.soft_cross_entropy(STUDENT, TEACHER) == pytest.approx(0.916, abs=5e-4)
    assert terms.forward_kl(STUDENT, TEACHER) == pytest.approx(0.223, abs=5e-4)
    assert terms.reverse_kl(STUDENT, TEACHER) == pytest.approx(0.193, abs=5e-4)
    result = terms.top_k_log_probs(jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1])), jnp.array([0, 3]))
    np.testing.assert_allclose(np.exp(result), [0.5, 0.1, 0.4], rtol=1e-6)


def test_the_direction_of_each_kl_on_an_asymmetric_example():
    student, teacher = jnp.log(jnp.array([0.9, 0.05, 0.05])), jnp.log(jnp.array([0.5, 0.49, 0.01]))
    p, q = np.array([0.9, 0.05, 0.05]), np.array([0.5, 0.49, 0.01])
    forward, reverse = (q * np.log(q / p)).sum(), (p * np.log(p / q)).sum()
    assert abs(forward - reverse) > 0.2
    assert terms.forward_kl(student, teacher) == pytest.approx(forward, rel=1e-5)
    assert terms.reverse_kl(student, teacher) == pytest.approx(reverse, rel=1e-5)
    to, from_ = (p * np.log(3 * p)).sum(), -np.log(3 * p).mean()
    assert abs(to - from_) > 0.1
    assert terms.kl_to_uniform(student) == pytest.approx(to, rel=1e-5)
    assert terms.kl_from_uniform(student) == pytest.approx(from_, rel=1e-5)
    # beta weighs the teacher's divergence from the mixture.
    m = 0.2 * q + 0.8 * p
    jsd = 0.2 * (q * np.log(q / m)).sum() + 0.8 * (p * np.log(p / m)).sum()
    assert terms.jensen_shannon(student, teacher, beta=0.2) == pytest.approx(jsd, rel=1e-5)
    assert terms.jensen_shannon(teacher, student, beta=0.2) != pytest.approx(jsd, rel=1e-2)


@given(student=logits, teacher=logits, targets=labels)
def test_terms_equal_those_of_optax_and_scipy(student, teacher, targets):
    p, q = softmax(student), softmax(teacher)
    close = lambda actual, expected: np.testing.assert_allclose(  # noqa: E731
        actual, expected, rtol=2e-5, atol=3e-6
    )
    x, t, y = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(targets)
    close(terms.cross_entropy(x, y), optax.losses.softmax_cross_entropy_with_integer_labels(x, y))
    close(
        terms.soft_cross_entropy(x, t),
        optax.losses.softmax_cross_entropy(x, jnp.asarray(q, jnp.float32)),
    )
    close(
        terms.forward_kl(x, t),
        optax.losses.kl_divergence(jax.nn.log_softmax(x), jnp.asarray(q, jnp.float32)),
    )
    close(terms.forward_kl(x, t), scipy.special.rel_entr(q, p).sum(-1))
    close(terms.reverse_kl(x, t), scipy.special.rel_entr(p, q).sum(-1))
    close(terms.jensen_shannon(x, t), distance.jensenshannon(p, q, axis=-1) ** 2)
    close(terms.kl_to_uniform(x), scipy.special.rel_entr(p, 1 / 6).sum(-1))
    close(terms.kl_from_uniform(x), scipy.special.rel_entr(1 / 6, p).sum(-1))


@given(student=logits, teacher=logits, temperature=st.sampled_from([0.5, 2.0, 4.0]))
def test_a_temperature_divides_both_logits_and_adds_no_factor(student, teacher, temperature):
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    x, t = jnp.asarray(student), jnp.asarray(teacher)
    actual = terms.forward_kl(x, t, temperature=temperature)
    np.testing.assert_allclose(actual, scipy.special.rel_entr(q, p).sum(-1), rtol=1e-4, atol=5e-6)
    actual = terms.soft_cross_entropy(x, t, temperature=temperature)
    np.testing.assert_allclose(actual, -(q * np.log(p)).sum(-1), rtol=1e-4, atol=5e-6)


@given(student=logits, targets=labels, smoothing=st.sampled_from([0.01, 0.1, 0.5]))
def test_label_smoothing_and_z_loss_are_those_of_t5x(student, targets, smoothing):
    # T5X: soft targets, less the constant that a perfect prediction would cost, plus z * log(Z)^2.
    vocabulary, z_loss = 6, 0.03
    low = smoothing / (vocabulary - 1)
    soft = np.where(np.arange(vocabulary) == targets[:, None], 1 - smoothing, low)
    constant = -((1 - smoothing) * np.log(1 - smoothing) + (vocabulary - 1) * low * np.log(low))
    log_z = scipy.special.logsumexp(student.astype(np.float64), axis=-1)
    expected = -(soft * (student - log_z[:, None])).sum(-1) - constant + z_loss * log_z**2
    actual = terms.cross_entropy(
        jnp.asarray(student), jnp.asarray(targets), label_smoothing=smoothing, z_loss=z_loss
    )
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=3e-6)


def test_the_smoothed_label_itself_costs_nothing():
    x = jnp.log(jnp.array([0.02, 0.9, 0.02, 0.02, 0.02, 0.02]))
    assert terms.cross_entropy(x, jnp.array(1), label_smoothing=0.1) == pytest.approx(0, abs=1e-6)


@given(x=logits, beta=st.floats(0.01, 0.99))
def test_a_distribution_does_not_diverge_from_itself(x, beta):
    x = jnp.asarray(x)
    np.testing.assert_allclose(terms.forward_kl(x, x), 0, atol=2e-6)
    np.testing.assert_allclose(terms.reverse_kl(x, x), 0, atol=2e-6)
    np.testing.assert_allclose(terms.jensen_shannon(x, x, beta=beta), 0, atol=2e-6)
    flat = jnp.full((4, 6), x[0, 0])
    np.testing.assert_allclose(terms.kl_to_uniform(flat), 0, atol=2e-6)
    np.testing.assert_allclose(terms.kl_from_uniform(flat), 0, atol=2e-6)


@settings(max_examples=15)
@given(student=logits, teacher=logits)
def test_jensen_shannon_tends_to_the_kl_divergences(student, teacher):
    # Close logits: the next term of the series is small only where the ratios are.
    x, t = jnp.asarray(student / 8), jnp.asarray(teacher / 8)
    end = 0.01
    actual = terms.jensen_shannon(x, t, beta=end) / end
    np.testing.assert_allclose(actual, terms.forward_kl(x, t), rtol=0.1, atol=1e-4)
    actual = terms.jensen_shannon(x, t, beta=1 - end) / end
    np.testing.assert_allclose(actual, terms.reverse_kl(x, t), rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_adding_a_constant_to_the_logits_of_either_model_changes_nothing(name):
    x, t = jax.random.normal(jax.random.key(0), (2, 5, 6))
    before = PAIRS[name](x, t)
    np.testing.assert_allclose(PAIRS[name](x + 64, t - 32), before, atol=2e-5)
    assert not np.allclose(PAIRS[name](x.at[:, 0].add(1), t), before, atol=1e-3)


def test_axis_and_where_are_as_in_optax():
    x, t = jax.random.normal(jax.random.key(1), (2, 3, 6, 4)) * 2
    y = jax.random.randint(jax.random.key(2), (3, 4), 0, 5)
    where = jnp.arange(6)[None, :, None] < 5
    actual = terms.cross_entropy(x, y, axis=1, where=where)
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(x, y, axis=1, where=where)
    assert actual.shape == (3, 4)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    q = jax.nn.softmax(t, axis=1, where=where)
    expected = optax.losses.softmax_cross_entropy(x, q, axis=1, where=where)
    np.testing.assert_allclose(
        terms.soft_cross_entropy(x, t, axis=1, where=where), expected, rtol=1e-5
    )


@pytest.mark.parametrize("name", [*PAIRS, *SINGLE, "cross_entropy", "is_correct"])
def test_where_is_the_same_as_cutting_the_columns_off(name):
    x, t = jax.random.normal(jax.random.key(3), (2, 3, 6)) * 2
    kept = jnp.array([True, True, False, True, True, False])
    y, moved = jnp.array([0, 1, 3]), jnp.array([0, 1, 2])  # before and after the cut
    function = {
        **{k: lambda x, t, y, f=f, **rest: f(x, t, **rest) for k, f in PAIRS.items()},
        **{k: lambda x, t, y, f=f, **rest: f(x, **rest) for k, f in SINGLE.items()},
        "cross_entropy": lambda x, t, y, **rest: terms.cross_entropy(
            x, y, label_smoothing=0.1, z_loss=0.1, **rest
        ),
        "is_correct": lambda x, t, y, **rest: terms.is_correct(x, y, **rest),
    }[name]
    expected = function(x[:, kept], t[:, kept], moved)
    spoilt = jnp.where(kept, x, 99.0), jnp.where(kept, t, jnp.nan if name in PAIRS else 0.0)
    np.testing.assert_allclose(function(*spoilt, y, where=kept), expected, rtol=1e-5, atol=1e-6)
    turned = [jnp.moveaxis(array, -1, 0) for array in spoilt]
    actual = function(*turned, y, where=kept[:, None], axis=0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_logits_of_minus_infinity_keep_values_and_gradients_finite(name, whose):
    holes = jnp.array([[0.0, -jnp.inf, -jnp.inf], [0.0, 0.0, 0.0]])
    x, t = jnp.array([[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]]), jnp.array([[0.5, 0.1, 3.0], [2.0, 0, 1]])
    x = x + holes if whose != "teacher" else x
    t = t + holes if whose != "student" else t
    value, gradient = jax.value_and_grad(lambda x: PAIRS[name](x, t).sum())(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    if whose != "student":  # p_L is 0 there and the student's logits are what they are
        p, q = softmax(x), softmax(t)
        if name in ("soft_cross_entropy", "forward_kl"):
            np.testing.assert_allclose(gradient, p - q, atol=1e-6)


@pytest.mark.parametrize("name", [*SINGLE, "cross_entropy"])
def test_a_student_s_logit_of_minus_infinity_keeps_the_other_terms_finite(name):
    x = jnp.array([1.0, -jnp.inf, 0.5])
    function = SINGLE.get(name, lambda x: terms.cross_entropy(x, jnp.array(0), z_loss=0.1))
    value, gradient = jax.value_and_grad(function)(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    p = softmax([1.0, 0.5])
    if name == "kl_to_uniform":
        assert value == pytest.approx((p * np.log(3 * p)).sum(), rel=1e-5)


@pytest.mark.parametrize("target", [-1, 3, 2**31 - 1])
def test_a_label_outside_the_vocabulary_gives_nan_and_is_not_right(target):
    x, y = jnp.array([[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]]), jnp.array([target, 1])
    for options in ({}, dict(label_smoothing=0.1), dict(z_loss=0.1)):
        result = terms.cross_entropy(x, y, **options)
        assert np.isnan(result).tolist() == [True, False]
    assert terms.is_correct(x, y).tolist() == [False, True]


def test_a_tie_with_the_label_is_right():
    x = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert terms.is_correct(x, jnp.array([0, 1, 2, 2])).tolist() == [True, True, False, True]
    assert terms.is_correct(jnp.full((1, 3), -jnp.inf), jnp.array([1])).tolist() == [True]


@given(x=logits, k=st.integers(1, 6), seed=st.integers(0, 99))
def test_top_k_log_probs_are_k_probabilities_and_the_rest(x, k, seed):
    ids = np.array([np.random.default_rng((seed, i)).permutation(6)[:k] for i in range(4)])
    actual = terms.top_k_log_probs(jnp.asarray(x), jnp.asarray(ids, jnp.int32))
    picked = np.take_along_axis(softmax(x), ids, -1)
    rest = np.delete(softmax(x)[0], ids[0]).sum()
    assert actual.shape == (4, k + (k < 6))
    np.testing.assert_allclose(np.exp(actual[:, :k]), picked, rtol=2e-5)
    if k < 6:  # the tail, exact even where 1 - sum would have lost its digits
        assert np.exp(actual[0, -1]) == pytest.approx(rest, rel=1e-4)
    np.testing.assert_allclose(np.exp(actual).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_logits_are_worked_on_in_float32(dtype):
    try:
        x, t = jax.random.normal(jax.random.key(4), (2, 3, 6)).astype(dtype)
    except jax.errors.JaxRuntimeError as error:
        if "materialize symbols" not in str(error):
            raise
        pytest.skip(f"XLA does not convert to {dtype} with these instructions (SSE4_2 alone)")
    for function in PAIRS.values():
        actual = function(x, t)
        assert actual.dtype == jnp.float32
        expected = function(x.astype(jnp.float32), t.astype(jnp.float32))
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_logits_of_two_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"student logits \(2, 3\) and teacher logits \(2, 4\)"):
        terms.forward_kl(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
