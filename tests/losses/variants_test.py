"""The four variants against a float64 oracle written from the formulas, on ragged batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_jax import metrics
from cascade_jax.losses import alpha, terms, variants

VARIANTS = {
    "xent": variants.Xent(),
    "dist": variants.Dist(),
    "dist_0.3": variants.Dist(label_weight=0.3),
    "cat_xent": variants.CATXent(),
    "cat_dist": variants.CATDist(),
    "cat_dist_kept": variants.CATDist(normalizer="kept"),
    "cat_xent_l": variants.CATXent(alpha_rule="teacher"),
    "cat_dist_s": variants.CATDist(alpha_rule="student"),
}


def draw(seed, rows=3, length=5, vocab=7):
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(rows, length, vocab)).astype(np.float32) * 2
    teacher = rng.normal(size=(rows, length, vocab)).astype(np.float32) * 2
    # Whole numbers, now and then: ties between logits must count as right.
    if seed % 3 == 0:
        student, teacher = np.round(student), np.round(teacher)
    targets = rng.integers(0, vocab, (rows, length))
    weights = (np.arange(length) < rng.integers(0, length + 1, (rows, 1))).astype(np.float32)
    return student, teacher, targets, weights


def oracle(loss, student, teacher, targets, weights):
    """(loss sum, count, gradient of the sum) token by token in float64, from CAT eq. 3, 7 and 8."""
    total, count, gradient = 0.0, 0.0, np.zeros(student.shape)
    for row, position in np.argwhere(weights > 0):
        s = student[row, position].astype(np.float64)
        t = teacher[row, position].astype(np.float64)
        y = targets[row, position]
        p_s = np.exp(s) / np.exp(s).sum()
        p_l = np.exp(t) / np.exp(t).sum()
        ok_s, ok_l = s[y] == s.max(), t[y] == t.max()
        keep = {None: True, "either": ok_s or ok_l, "teacher": ok_l, "student": ok_s}
        kept = keep[loss.alpha_rule]
        w = loss.label_weight
        total += kept * (-w * np.log(p_s[y]) - (1 - w) * (p_l * np.log(p_s)).sum())
        onehot = np.arange(len(s)) == y
        gradient[row, position] = kept * (p_s - w * onehot - (1 - w) * p_l)
        count += 1.0 if loss.normalizer == "tokens" else kept
    return total, count, gradient


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_value_and_gradient_equal_the_float64_oracle(name, seed):
    loss = VARIANTS[name]
    student, teacher, targets, weights = draw(seed)

    def value(student):
        sums = loss(student, jnp.asarray(teacher), jnp.asarray(targets), jnp.asarray(weights))
        return sums.loss_sum, sums

    (_, sums), gradient = jax.value_and_grad(value, has_aux=True)(jnp.asarray(student))
    total, count, expected = oracle(loss, student, teacher, targets, weights)
    np.testing.assert_allclose(sums.loss_sum, total, rtol=1e-5, atol=1e-5)
    assert sums.count == count
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_nan_in_padding_changes_nothing(name):
    student, teacher, targets, weights = draw(5)
    assert (weights == 0).any() and (weights > 0).any()
    padding = weights == 0

    def run(student, teacher):
        def value(student):
            sums = VARIANTS[name](student, teacher, jnp.asarray(targets), jnp.asarray(weights))
            return sums.loss_sum, sums

        return jax.grad(value, has_aux=True)(student)

    clean_gradient, clean = run(jnp.asarray(student), jnp.asarray(teacher))
    student[padding], teacher[padding] = np.nan, np.inf
    gradient, sums = run(jnp.asarray(student), jnp.asarray(teacher))
    assert sums.loss_sum == clean.loss_sum
    np.testing.assert_array_equal(gradient, clean_gradient)
    assert not np.asarray(gradient)[padding].any()


def test_nothing_counted_gives_zero_sums_and_no_made_up_metric():
    student, teacher, targets, weights = map(jnp.asarray, draw(1))
    sums = variants.CATDist(normalizer="kept")(student, teacher, targets, jnp.zeros_like(weights))
    assert sums.loss_sum == 0 and sums.count == 0
    assert np.isnan(sums.metrics[metrics.LOSS].value())


def test_kept_shares_add_up():
    student, teacher, targets, weights = map(jnp.asarray, draw(2))
    found = variants.CATXent()(student, teacher, targets, weights).metrics
    parts = (metrics.RIGHT_BOTH, metrics.RIGHT_STUDENT_ONLY, metrics.RIGHT_TEACHER_ONLY)
    assert found[metrics.KEPT].value() == pytest.approx(
        sum(float(found[part].value()) for part in parts)
    )


def test_teacher_token_with_zero_probability_keeps_the_gradient_finite():
    student = jnp.asarray([[1.0, 2.0, 0.5]])
    teacher = jnp.asarray([[1.0, -jnp.inf, 0.0]])
    gradient = jax.grad(lambda s: terms.soft_cross_entropy(s, teacher).sum())(student)
    expected = jax.nn.softmax(student) - jax.nn.softmax(teacher)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_worked_example_of_the_masks():
    student = jnp.asarray([1, 1, 0, 0, 1, 0], bool)
    teacher = jnp.asarray([1, 0, 1, 0, 1, 0], bool)
    found = {rule: alpha.token_mask(rule, student, teacher).tolist() for rule in alpha.RULES}
    assert found == {
        "either": [1, 1, 1, 0, 1, 0],
        "teacher": [1, 0, 1, 0, 1, 0],
        "student": [1, 1, 0, 0, 1, 0],
    }


@pytest.mark.parametrize(
    "settings_, message",
    [
        (dict(label_weight=1.5), r"label_weight 1.5 is not in \[0, 1\]"),
        (dict(alpha_rule="both"), "alpha_rule 'both' is not None or in"),
        (dict(normalizer="batch"), "normalizer 'batch' is not one of"),
    ],
)
def test_bad_settings_are_refused_when_built(settings_, message):
    with pytest.raises(ValueError, match=message):
        variants.CATDist(**settings_)


def test_a_variant_that_needs_a_teacher_says_so():
    student, _, targets, weights = map(jnp.asarray, draw(3))
    with pytest.raises(ValueError, match="CATXent needs the teacher's logits"):
        variants.CATXent()(student, None, targets, weights)
    assert variants.Xent()(student, None, targets, weights).loss_sum > 0
