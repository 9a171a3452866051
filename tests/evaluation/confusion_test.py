"""Counts of right and wrong, kept and deferred, against counting them one by one."""

import itertools

import numpy as np
import pytest

from cascade_jax.evaluation import confusion, curves


def by_counting(order, k, student, teacher):
    """All six counts where the first k of an order are deferred."""
    deferred = np.isin(np.arange(len(order)), order[:k])
    right, large = student >= 0.5, teacher >= 0.5
    return np.array(
        [
            np.sum(right & ~deferred),
            np.sum(~right & ~deferred),
            np.sum(right & deferred),
            np.sum(~right & deferred),
            np.sum(~right & large & deferred),
            np.sum(right & ~large & deferred),
        ]
    )


def as_rows(result):
    return np.stack(
        [
            result.right_kept,
            result.wrong_kept,
            result.right_deferred,
            result.wrong_deferred,
            result.corrected,
            result.regressed,
        ],
        axis=1,
    )


@pytest.mark.parametrize("graded", [False, True])
def test_counts_are_those_of_every_threshold(graded):
    rng = np.random.default_rng(0)
    n = 40
    score = rng.permutation(n) * 1.0
    student, teacher = rng.random((2, n)) if graded else (rng.random((2, n)) < 0.6) * 1.0
    actual = confusion.confusion(score, student, teacher, np.arange(n + 1))
    order = np.argsort(-score)
    for k in range(n + 1):
        assert as_rows(actual)[k].tolist() == by_counting(order, k, student, teacher).tolist()
    np.testing.assert_array_equal(actual.rate_at_threshold, np.arange(n + 1) / n)


def test_tied_counts_are_means_over_all_orders_of_the_tied():
    score = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    student = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    teacher = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    actual = confusion.confusion(score, student, teacher, np.arange(6))
    for k in range(6):
        orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
        expected = np.mean([by_counting(order, k, student, teacher) for order in orders], axis=0)
        np.testing.assert_allclose(as_rows(actual)[k], expected)
    # A threshold defers nothing of a tied group that it would have to divide.
    thresholds = curves.deferral_curve(score, student, teacher, 1.0, 1.0).thresholds
    assert thresholds.tolist() == [2, 1, 1, 1, 0, -np.inf]
    expected = [np.mean(score > threshold) for threshold in thresholds]
    np.testing.assert_allclose(actual.rate_at_threshold, expected)


def test_right_and_kept_is_a1_of_the_curve():
    rng = np.random.default_rng(1)
    n = 60
    score = rng.integers(0, 9, n) * 1.0
    student, teacher = (rng.random((2, n)) < 0.5) * 1.0
    curve = curves.deferral_curve(score, student, teacher, 1.0, 10.0)
    actual = confusion.confusion(score, student, teacher, np.arange(n + 1))
    np.testing.assert_allclose(actual.right_kept / n, curve.a1, atol=1e-12)
    np.testing.assert_allclose(
        (actual.corrected + actual.right_deferred - actual.regressed) / n, curve.a2, atol=1e-12
    )


def test_more_than_all_can_not_be_deferred():
    one = np.ones(2)
    with pytest.raises(ValueError, match=r"ks must lie in \[0, 2\], got 0 to 3"):
        confusion.confusion(one, one, one, np.array([0, 3]))


def test_every_score_is_in_one_bin_and_outliers_in_the_last():
    rng = np.random.default_rng(2)
    score = np.append(rng.exponential(size=999), 1e6)
    student = (rng.random(1000) < 0.7) * 1.0
    actual = confusion.histogram(score, student)
    assert actual.right.sum() == student.sum() and actual.wrong.sum() == 1000 - student.sum()
    assert actual.edges[-1] < 20 and actual.edges[0] == score.min()
    assert actual.num_above == np.sum(score > np.quantile(score, 0.995))
    middle = slice(0, -1)
    for right in (True, False):
        of_kind = score[(student == 1) == right]
        expected = [
            np.sum((of_kind >= low) & (of_kind < high))
            for low, high in itertools.pairwise(actual.edges)
        ]
        assert (actual.right if right else actual.wrong)[middle].tolist() == expected[middle]


def test_one_score_for_all_has_a_histogram():
    actual = confusion.histogram(np.full(5, 3.0), np.array([0.0, 1, 1, 1, 0]))
    assert (actual.right[0], actual.wrong[0], actual.num_above) == (3, 2, 0)
