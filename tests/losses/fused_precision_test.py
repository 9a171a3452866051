"""The fused head where rounding or infinities could spoil it: against plain head and float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.losses import fused, teachers, variants
from cascade_jax.unembedding import Unembedding
from tests.support import cases, oracle
from tests.support.loss_heads import fused_head, plain_head, value_and_gradients

pytestmark = pytest.mark.medium

HEADS = {"plain": plain_head, "fused": fused_head}
VOCAB = 24
# Whatever the logits' level: no z-loss, and temperatures that divide them without rounding.
LEVEL_FREE = (
    "xent", "dist", "dist_w0_t2", "dist_reverse", "dist_jsd", "cat_xent", "cat_dist", "gatekeeper",
    "gatekeeper_from",
)  # fmt: skip


@functools.partial(jax.jit, static_argnames="head")
def logits_as_hidden(head, student, teacher, targets, shift):
    """{case: (LossSums, gradients)}; by the unit matrix, logits are hidden states plus a shift."""
    size = student.shape[-1]
    unit = Unembedding(jnp.eye(size), jnp.full(size, shift))
    facts, ones = teachers.TeacherHidden(teacher, unit), jnp.ones(targets.shape)
    return {
        case: value_and_gradients(head, case, (student, unit), facts, targets, ones)
        for case in LEVEL_FREE
    }


@pytest.mark.parametrize("top", [30.0, 64.0, 100.0])
@pytest.mark.parametrize("ce", [1e-3, 1e-4, 1e-5])
def test_the_loss_of_confident_tokens_keeps_its_digits(top, ce):
    rng = np.random.default_rng(0)
    # 16 times the same token: errors do not cancel.
    row = (top + np.log(ce / VOCAB) + rng.normal(size=VOCAB) / 4).astype(np.float32)
    row[3] = top
    student = np.tile(row, (16, 1))
    teacher = np.tile(rng.normal(size=VOCAB).astype(np.float32), (16, 1))
    targets = np.full(16, 3)
    actual = logits_as_hidden(fused_head, student, teacher, targets, 0.0)
    for case in ("xent", "dist", "cat_xent", "gatekeeper"):
        expected = oracle.sums(
            *cases.CASES[case], student, oracle.Logits(teacher), targets, np.ones(16)
        )
        sums, (gradient, _) = actual[case]
        # One rounding of the sum of exponentials, just above 1, is 1.2e-7 at most.
        tolerance = 16 * 2.5e-7 + 1e-6 * expected.loss_sum
        assert sums.loss_sum == pytest.approx(expected.loss_sum, rel=0, abs=tolerance), case
        np.testing.assert_allclose(gradient, expected.gradient, rtol=0, atol=4e-7, err_msg=case)
        for name in ("cross_entropy", "student_entropy_right", "teacher_kl"):
            value = expected.metrics[name][0]
            found_value = sums.metrics[name].numerator
            # An entropy is a sum of such terms, each times a logit.
            assert found_value == pytest.approx(value, rel=2e-6, abs=16 * 1e-6), (case, name)


def test_logits_at_a_thousand_are_as_exact_as_by_the_plain_head():
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 32, VOCAB)).astype(np.float32) * 2
    targets = cases.labels_often_right(rng, student, teacher)
    # What float32 makes of the shifted logits is what both heads get.
    exact = [(x + np.float32(1000)).astype(np.float64) - 1000 for x in (student, teacher)]
    arguments = student, teacher, targets, 1000.0
    ours, plains = (logits_as_hidden(head, *arguments) for head in (fused_head, plain_head))
    for case in LEVEL_FREE:
        expected = oracle.sums(
            *cases.CASES[case], exact[0], oracle.Logits(exact[1]), targets, np.ones(32)
        )

        def errors(actual, expected=expected):
            sums, (gradient, _) = actual
            of_loss = abs(float(sums.loss_sum) - expected.loss_sum) / abs(expected.loss_sum)
            return of_loss, np.abs(np.asarray(gradient) - expected.gradient).max()

        for mine, theirs in zip(errors(ours[case]), errors(plains[case]), strict=True):
            assert mine <= 4 * theirs + 5e-7, (case, mine, theirs)


def test_a_constant_added_to_all_logits_changes_nothing():
    rng = np.random.default_rng(2)
    # Eighths keep all their bits.
    student, teacher = np.round(rng.normal(size=(2, 16, VOCAB)) * 16).astype(np.float32) / 8
    targets = cases.labels_often_right(rng, student, teacher)
    arguments = student, teacher, targets
    before = logits_as_hidden(fused_head, *arguments, 0.0)
    after = logits_as_hidden(fused_head, *arguments, 1024.0)
    for case in before:
        (sums, (d, _)), (shifted, (d_shifted, _)) = before[case], after[case]
        np.testing.assert_allclose(shifted.loss_sum, sums.loss_sum, rtol=1e-6, err_msg=case)
        np.testing.assert_allclose(d_shifted, d, rtol=0, atol=1e-6, err_msg=case)


SLOW = [pytest.param(c, marks=pytest.mark.slow) for c in ("dist_w0_t2", "dist_reverse_t2")]


@pytest.mark.parametrize("case", ["dist_jsd_t1.5", "cat_dist_l", *SLOW])
def test_top_k_of_the_whole_vocabulary_is_the_full_loss(case):
    problem = cases.Problem.draw(seed=21)
    assert problem.ours.columns > problem.VOCAB == problem.ours.num_ids
    facts = teachers.TeacherHidden(problem.theirs, problem.their_map)
    full, all_of_it = (
        value_and_gradients(
            fused_head, case, problem.arrays[0], teacher, problem.targets, problem.weights
        )
        for teacher in (facts, problem.top_k(problem.VOCAB))
    )
    assert all_of_it[0].loss_sum == pytest.approx(float(full[0].loss_sum), rel=3e-6)
    for a, b in zip(jax.tree.leaves(all_of_it[1]), jax.tree.leaves(full[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("normalizer", variants.NORMALIZERS)
def test_the_loss_metric_has_the_gradient_of_the_mean(normalizer):
    problem = cases.Problem.draw(seed=22)
    facts = teachers.TeacherHidden(problem.theirs, problem.their_map)
    loss = variants.CATDist(normalizer=normalizer)

    def sums(trained):
        return fused.loss_sums(loss, *trained, facts, problem.targets, problem.weights)

    def mean(trained):
        actual = sums(trained)
        return actual.loss_sum / actual.count

    metric = jax.jit(jax.grad(lambda trained: sums(trained).metrics["loss"].value()))
    expected = jax.jit(jax.grad(mean))(problem.arrays[0])
    actual = metric(problem.arrays[0])
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("case", ["xent", "gatekeeper"])
@pytest.mark.parametrize("soft_cap", [None, 4.0])
def test_a_bias_of_minus_infinity_bans_a_token(case, soft_cap):
    a, b = jax.random.split(jax.random.key(0))
    bias = jnp.zeros(8).at[5].set(-jnp.inf)
    head = Unembedding(jax.random.normal(a, (4, 8)), bias, soft_cap=soft_cap)
    hidden, targets = jax.random.normal(b, (12, 4)), jnp.arange(12) % 5
    actual, expected = (
        value_and_gradients(h, case, (hidden, head), None, targets, jnp.ones(12))
        for h in (fused_head, plain_head)
    )
    ours, plains = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, b in zip(ours, plains, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if soft_cap is None:  # a cap makes the ban a low logit
        assert not np.asarray(actual[1][1].kernel)[:, 5].any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["hidden", "top_k"])
def test_a_nan_of_the_teacher_shows_where_the_loss_needs_the_teacher(head, kind):
    problem = cases.Problem.draw(seed=23)
    names = "xent", "dist_w1", "cat_xent_s", "gatekeeper", "cat_xent", "dist", "gatekeeper_teacher"
    assert problem.weights[2, 0] == 1
    if kind == "hidden":
        facts = teachers.TeacherHidden(problem.theirs.at[2, 0, 3].set(jnp.nan), problem.their_map)
    else:
        top = problem.top_k()
        facts = top.replace(log_probs=top.log_probs.at[2, 0, 3].set(jnp.nan))

    @jax.jit
    def run_all(facts):
        return {
            case: HEADS[head](
                case, problem.hidden, problem.ours, facts, problem.targets, problem.weights
            ).loss_sum
            for case in names
        }

    result = run_all(facts)
    needs = {case: cases.build(case).needs_teacher for case in names}
    assert {case: bool(np.isnan(value)) for case, value in result.items()} == needs
    assert not needs["xent"] and needs["cat_xent"] and needs["dist"]


def test_a_bfloat16_gradient_is_multiplied_by_a_float32_cotangent():
    # 1/255 lies halfway between two numbers of bfloat16.
    rng = np.random.default_rng(3)
    head = cases.draw_map(rng, 32, 40)
    hidden = jnp.asarray(rng.normal(size=(15, 17, 32)), jnp.bfloat16)
    targets, ones = jnp.asarray(rng.integers(0, 40, (15, 17))), jnp.ones((15, 17))

    def gradient(run_head, hidden):
        def mean(hidden):
            sums = run_head("xent", hidden, head, None, targets, ones)
            return sums.loss_sum / sums.count

        return np.asarray(jax.jit(jax.grad(mean))(hidden), np.float64)

    exact = gradient(plain_head, hidden.astype(jnp.float32))
    ours, plains = (
        np.linalg.norm(gradient(h, hidden) - exact) / np.linalg.norm(exact)
        for h in (fused_head, plain_head)
    )
    assert 0 < ours <= 2 * plains


def test_a_batch_of_output_maps_is_differentiated_one_by_one():
    problem = cases.Problem.draw(seed=24)
    other = cases.Problem.draw(seed=25).ours
    facts = teachers.TeacherHidden(problem.theirs, problem.their_map)

    @jax.jit
    def gradient(ours):
        def loss_sum(ours):
            rest = facts, problem.targets, problem.weights
            return fused_head("cat_dist", problem.hidden, ours, *rest, chunk_tokens=13).loss_sum

        return jax.grad(loss_sum)(ours)

    both = jax.tree.map(lambda *x: jnp.stack(x), problem.ours, other)
    actual = jax.jit(jax.vmap(gradient))(both)
    for i, head in enumerate((problem.ours, other)):
        expected = gradient(head)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-5 * np.abs(b).max())
