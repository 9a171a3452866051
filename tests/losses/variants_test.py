"""Every variant by the plain head: against the float64 oracle, and the properties it must have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_jax import metrics
from cascade_jax.losses import teachers, variants
from tests.support import cases, oracle

pytestmark = pytest.mark.medium

ROWS, LENGTH, VOCAB, TOP = 3, 5, 7, 3


def value_and_gradient(loss, student, teacher, targets, weights):
    """(LossSums, gradient of its loss_sum for the student's logits)."""

    student, teacher, targets, weights = jax.tree.map(
        jnp.asarray, (student, teacher, targets, weights)
    )

    def value(student):
        sums = loss(student, teacher, targets, weights)
        return sums.loss_sum, sums

    (_, sums), gradient = jax.value_and_grad(value, has_aux=True)(student)
    return sums, gradient


@jax.jit
def all_cases(student, teacher, top, right, targets, weights):
    """What each case finds with each kind of teacher, compiled as one program."""
    result = {}
    for case in cases.CASES:
        kinds = {"logits": teacher, "top_k": top}
        if case in cases.ARGMAX_CASES:
            kinds |= {"argmax": right}
        if cases.build(case).teacher_need == "nothing":
            kinds |= {"none": None}
        for kind, facts in kinds.items():
            result[case, kind] = value_and_gradient(
                cases.build(case), student, facts, targets, weights
            )
    return result


def run(student, teacher, targets, weights):
    """`all_cases` with the facts that belong to the teacher's logits, under (case, kind)."""
    log_probs, ids = cases.top_k(np.nan_to_num(teacher, posinf=0.0, neginf=0.0), TOP)
    label = np.take_along_axis(teacher, np.clip(targets, 0, VOCAB - 1)[..., None], -1)[..., 0]
    top, right = (
        teachers.TeacherTopK(log_probs, ids),
        teachers.TeacherArgmax(label >= teacher.max(-1)),
    )
    return all_cases(student, teacher, top, right, targets, weights)


def ragged(rng):
    """Random logits of both models, labels often right, and weights 0 after each row's length."""
    student, teacher = np.clip(rng.normal(size=(2, ROWS, LENGTH, VOCAB)) * 1.5, -4, 4)
    student, teacher = student.astype(np.float32), teacher.astype(np.float32)
    targets = cases.labels_often_right(rng, student, teacher)
    weights = np.arange(LENGTH) < rng.integers(0, LENGTH + 1, (ROWS, 1))
    return student, teacher, targets, weights.astype(np.float32)


def drawn(case_seed=3):
    """A fixed batch that has padding, and tokens of all four kinds of right and wrong."""
    student, teacher, targets, weights = ragged(np.random.default_rng(case_seed))
    weights[:, :2], weights[:, -1] = 1, 0
    return student, teacher, targets, weights


logits = hnp.arrays(
    np.float32,
    (ROWS, LENGTH, VOCAB),
    # Quarters make ties between logits likely.
    elements=st.integers(-12, 12).map(lambda i: i / 4),
)
lengths = hnp.arrays(np.int64, (ROWS, 1), elements=st.integers(0, LENGTH))
token_weights = hnp.arrays(np.float32, (ROWS, LENGTH), elements=st.sampled_from([0, 0.25, 1, 1, 2]))


@given(student=logits, teacher=logits, length=lengths, scale=token_weights, seed=st.integers(0, 99))
def test_value_metrics_and_gradient_equal_the_float64_oracle(student, teacher, length, scale, seed):
    targets = cases.labels_often_right(np.random.default_rng(seed), student, teacher)
    weights = (np.arange(LENGTH) < length) * scale
    log_probs, ids = cases.top_k(teacher, TOP)
    right = np.take_along_axis(teacher, targets[..., None], -1)[..., 0] >= teacher.max(-1)
    # Padding holds rubbish, in every array.
    shown = [array.copy() for array in (student, teacher, log_probs, ids, targets)]
    for array, rubbish in zip(shown, (np.nan, np.inf, np.nan, -7, -1), strict=True):
        array[weights == 0] = rubbish
    top = teachers.TeacherTopK(shown[2], shown[3])
    actual = all_cases(*shown[:2], top, teachers.TeacherArgmax(right), shown[4], weights)

    def flat(array):
        return array.reshape(ROWS * LENGTH, *array.shape[2:])

    facts = {
        "logits": oracle.Logits(flat(teacher)),
        "top_k": oracle.TopK(flat(log_probs), flat(ids)),
        "argmax": oracle.Argmax(flat(right)),
        "none": None,
    }
    for (case, kind), (sums, gradient) in actual.items():
        expected = oracle.sums(
            *cases.CASES[case], flat(student), facts[kind], flat(targets), flat(weights)
        )
        compare(sums, gradient, expected, f"{case}, teacher by {kind}")


def compare(sums, gradient, expected, message):
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5, err_msg=message)
    close(sums.loss_sum, expected.loss_sum)
    close(sums.count, expected.count)
    close(np.reshape(gradient, expected.gradient.shape), expected.gradient, rtol=1e-4, atol=2e-6)
    something_counted = len(expected.metrics) > 1
    assert not something_counted or sums.metrics.keys() == expected.metrics.keys(), message
    for name, ratio in sums.metrics.items():
        # A batch without a counted token has no metric in the oracle, and zeros here.
        above, below = expected.metrics.get(name, (0.0, 0.0))
        close(ratio.numerator, above)
        close(ratio.denominator, below)


@pytest.mark.parametrize("kind", ["logits", "top_k"])
@pytest.mark.parametrize("case", cases.CASES)
def test_the_oracle_s_gradient_is_its_finite_difference(case, kind):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, VOCAB))
    targets = cases.labels_often_right(rng, student, teacher)
    weights = np.array([1, 0.5, 2, 1, 0, 1])
    facts = oracle.Logits(teacher) if kind == "logits" else oracle.TopK(*cases.top_k(teacher, TOP))

    def total(student):
        return oracle.sums(*cases.CASES[case], student, facts, targets, weights).loss_sum

    expected = oracle.sums(*cases.CASES[case], student, facts, targets, weights).gradient
    h = 1e-6
    for i in np.ndindex(student.shape):
        up, down = student.copy(), student.copy()
        up[i], down[i] = student[i] + h, student[i] - h
        assert (total(up) - total(down)) / (2 * h) == pytest.approx(expected[i], abs=1e-7), i
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_padding_change_nothing(rubbish):
    student, teacher, targets, weights = drawn()
    padding = weights == 0
    clean = run(student, teacher, targets, weights)
    student[padding], teacher[padding], targets[padding] = rubbish, rubbish, 10**6
    for key, (sums, gradient) in run(student, teacher, targets, weights).items():
        jax.tree.map(np.testing.assert_array_equal, (sums, gradient), clean[key])
        gradient = np.asarray(gradient)
        assert not gradient[padding].any() and gradient[~padding].any(), key


def test_tokens_that_alpha_drops_give_no_loss_and_exactly_no_gradient():
    student, teacher, _, _ = drawn()
    targets = np.argmin(student + teacher, -1).astype(np.int32)  # nobody's first choice
    assert (targets != student.argmax(-1)).all() and (targets != teacher.argmax(-1)).all()
    ones = np.ones(targets.shape, np.float32)
    dropped = run(student, teacher, targets, ones)
    # One token that both get right is the only one left.
    targets[1, 2] = student[1, 2].argmax()
    teacher[1, 2, targets[1, 2]] = teacher[1, 2].max() + 1
    one_left = run(student, teacher, targets, ones)
    for key in (key for key in dropped if key[0].startswith("cat") and key[1] != "none"):
        sums, gradient = dropped[key]
        assert sums.loss_sum == 0 and not np.asarray(gradient).any(), key
        sums, gradient = one_left[key]
        assert sums.loss_sum > 0 and sums.metrics[metrics.KEPT].numerator == 1, key
        moved = np.asarray(gradient).any(-1)
        assert moved[1, 2] and moved.sum() == 1, key


def test_with_all_the_weight_on_the_label_dist_is_xent():
    batch = drawn()
    options = dict(label_smoothing=0.1, z_loss=0.01)
    ours = value_and_gradient(variants.Dist(label_weight=1.0, temperature=3.0, **options), *batch)
    xent = value_and_gradient(variants.Xent(**options), *batch)
    assert ours[0].loss_sum == pytest.approx(float(xent[0].loss_sum), rel=1e-6)
    np.testing.assert_allclose(ours[1], xent[1], rtol=1e-5, atol=1e-7)
    half, _ = value_and_gradient(variants.Dist(**options), *batch)
    assert half.loss_sum != xent[0].loss_sum


def test_with_a_of_one_the_gatekeeper_counts_only_right_tokens():
    batch = drawn()
    ours = value_and_gradient(variants.Gatekeeper(correct_weight=1.0), *batch)
    right_only = value_and_gradient(variants.CATXentS(), *batch)
    np.testing.assert_allclose(ours[0].loss_sum, right_only[0].loss_sum, rtol=1e-6)
    np.testing.assert_allclose(ours[1], right_only[1], atol=1e-7)


def test_with_a_of_zero_the_gatekeeper_counts_only_wrong_tokens():
    student, teacher, targets, weights = drawn()
    _, gradient = value_and_gradient(
        variants.Gatekeeper(correct_weight=0.0), student, teacher, targets, weights
    )
    right = student.argmax(-1) == targets
    np.testing.assert_array_equal(np.asarray(gradient).any(-1), ~right & (weights > 0))


@pytest.mark.parametrize("name", ["CATDist", "CATDistL"])
def test_when_all_are_kept_cat_dist_is_dist(name):
    student, teacher, _, weights = drawn()
    targets = teacher.argmax(-1).astype(np.int32)
    ours = value_and_gradient(getattr(variants, name)(), student, teacher, targets, weights)
    dist = value_and_gradient(variants.Dist(), student, teacher, targets, weights)
    assert ours[0].loss_sum == pytest.approx(float(dist[0].loss_sum), rel=1e-6)
    np.testing.assert_allclose(ours[1], dist[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("divergence", variants.DIVERGENCES[1:])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it(divergence, temperature):
    student, _, targets, weights = drawn()
    loss = variants.Dist(label_weight=0.0, temperature=temperature, divergence=divergence)
    sums, gradient = value_and_gradient(loss, student, student, targets, weights)
    assert sums.loss_sum == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert sums.metrics[metrics.TEACHER_KL].numerator == pytest.approx(0, abs=1e-6)


def test_a_constant_added_to_all_logits_changes_nothing():
    student, teacher, targets, weights = drawn()
    before = run(student, teacher, targets, weights)
    # Powers of two keep nearly all bits.
    after = run(student + np.float32(16), teacher - np.float32(32), targets, weights)
    shifted = [key for key in before if "z_loss" not in cases.CASES[key[0]][1]]
    assert len(shifted) > 20
    for key in shifted:
        loss_sum = before[key][0].loss_sum
        np.testing.assert_allclose(after[key][0].loss_sum, loss_sum, rtol=1e-5, err_msg=key)
        np.testing.assert_allclose(after[key][1], before[key][1], atol=1e-5, err_msg=key)


def test_a_constant_added_to_the_student_s_logits_changes_the_z_loss():
    student, teacher, targets, weights = drawn()
    before, after = (run(x, teacher, targets, weights) for x in (student, student + 1))
    for case in ("xent_smoothing_z", "cat_xent_kept_z", "gatekeeper_teacher"):
        difference = after[case, "logits"][0].loss_sum - before[case, "logits"][0].loss_sum
        assert difference > 0.01, case


def test_a_tie_with_the_label_is_right_for_both_models():
    tied, wrong = [[2.0, 2.0, 0.0]], [[0.0, 1.0, 3.0]]
    for target in (0, 1):
        targets, ones = np.array([target]), np.ones(1, np.float32)
        for name in ("CATXentS", "CATXent"):
            loss = getattr(variants, name)()
            sums, _ = value_and_gradient(loss, np.array(tied), np.array(wrong), targets, ones)
            assert sums.metrics[metrics.KEPT].value() == 1
        for name in ("CATXentL", "CATXent"):
            loss = getattr(variants, name)()
            sums, _ = value_and_gradient(loss, np.array(wrong), np.array(tied), targets, ones)
            assert sums.metrics[metrics.KEPT].value() == 1
            assert sums.metrics[metrics.RIGHT_TEACHER_ONLY].value() == 1
    # Of several most likely tokens of the teacher, the Gatekeeper takes the smallest id.
    loss = variants.Gatekeeper(labels="teacher", correct_weight=1.0)
    student = np.array([[3.0, 1.0, 0.0]])
    sums, _ = value_and_gradient(loss, student, np.array(tied), np.array([2]), np.ones(1))
    assert sums.loss_sum == pytest.approx(np.log(np.exp([3, 1, 0]).sum()) - 3)


def test_weights_multiply_loss_gradient_and_count():
    student, teacher, targets, _ = drawn()
    once = np.random.default_rng(0).random(targets.shape).astype(np.float32)
    twice, row = once.copy(), once.copy()
    twice[1] *= 2
    row[[0, 2]] = 0
    result = [run(student, teacher, targets, weights) for weights in (once, twice, row)]
    for key in result[0]:
        (a, d_a), (b, d_b), (c, _) = (each[key] for each in result)
        np.testing.assert_allclose(b.loss_sum, a.loss_sum + c.loss_sum, rtol=1e-5, err_msg=key)
        np.testing.assert_allclose(b.count, a.count + c.count, rtol=1e-5, err_msg=key)
        np.testing.assert_allclose(d_b[1], 2 * d_a[1], rtol=1e-5, err_msg=key)
        np.testing.assert_array_equal(d_b[0], d_a[0], err_msg=key)


def test_who_keeps_a_token_adds_up_to_the_kept_share():
    result = run(*drawn())["cat_xent", "logits"][0].metrics
    parts = [metrics.RIGHT_BOTH, metrics.RIGHT_STUDENT_ONLY, metrics.RIGHT_TEACHER_ONLY]
    values = [float(result[part].value()) for part in parts]
    assert min(values) > 0 and sum(values) == pytest.approx(float(result[metrics.KEPT].value()))


def test_the_same_metrics_whatever_the_variant():
    result = run(*drawn())
    own = {metrics.LOSS, metrics.KEPT}

    def shown(case):
        ratios = result[case, "logits"][0].metrics.items()
        return {name: float(ratio.value()) for name, ratio in ratios if name not in own}

    assert len(shown("xent")) == 9
    for case in cases.CASES:
        assert shown(case) == pytest.approx(shown("xent"))


def test_metrics_that_cost_time_can_be_left_out():
    batch = [jnp.asarray(array) for array in drawn()]
    assert metrics.TEACHER_KL in variants.CATXent()(*batch).metrics
    assert metrics.TEACHER_KL not in variants.CATXent()(*batch, every_metric=False).metrics
    assert metrics.TEACHER_KL in variants.CATDist()(*batch, every_metric=False).metrics


def test_low_precision_logits_are_summed_in_float32():
    student = jnp.zeros((1001, 2), jnp.bfloat16)
    targets, ones = jnp.zeros(1001, jnp.int32), jnp.ones(1001, jnp.bfloat16)
    sums = variants.Xent()(student, None, targets, ones)
    assert sums.loss_sum.dtype == sums.count.dtype == jnp.float32
    assert sums.count == 1001  # bfloat16 has no such number
    assert sums.loss_sum == pytest.approx(1001 * np.log(2), rel=1e-6)
