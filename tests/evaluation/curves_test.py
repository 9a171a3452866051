"""Deferral curves against brute force over thresholds, subsets, orders, and closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_jax.evaluation import curves

COSTS = (3.0, 20.0)


def _cascades(max_size=30, tied=False):
    """(score, student, teacher) of one length; scores distinct, or from three values."""

    def build(n):
        quality = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n)
        distinct = st.permutations(range(n)).map(lambda p: [x / 8 - 1 for x in p])
        few = st.lists(st.sampled_from([-1.0, 0.5, 2.0]), min_size=n, max_size=n)
        return st.tuples(few if tied else distinct, quality, quality).map(
            lambda parts: tuple(np.array(part) for part in parts)
        )

    return st.integers(1, max_size).flatmap(build)


def _curve(score, student, teacher):
    return curves.deferral_curve(score, student, teacher, *COSTS)


def _oracle(student, teacher):
    """Those first that gain most."""
    return _curve(teacher - student, student, teacher)


@given(_cascades())
def test_every_threshold_gives_its_point_by_brute_force(cascade):
    score, student, teacher = cascade
    curve = _curve(*cascade)
    assert curve.is_realised.all() and len(curve.rate) == len(score) + 1
    for k, tau in enumerate(curve.thresholds):
        is_deferred = score > tau
        assert is_deferred.sum() == k
        answered = np.where(is_deferred, teacher, student)
        cost = np.mean(COSTS[0] + is_deferred * COSTS[1])
        expected = [
            np.mean(is_deferred),
            np.mean(answered),
            cost,
            np.mean(student * ~is_deferred),
            np.mean(teacher * is_deferred),
        ]
        got = [curve.rate[k], curve.quality[k], curve.cost[k], curve.a1[k], curve.a2[k]]
        np.testing.assert_allclose(got, expected, atol=1e-12)


@given(_cascades(max_size=6, tied=True))
def test_ties_are_the_mean_over_all_orders(cascade):
    score, student, teacher = cascade
    n = len(score)
    total, count = np.zeros(n + 1), 0
    for order in itertools.permutations(range(n)):
        ordered = score[list(order)]
        if np.any(ordered[:-1] < ordered[1:]):
            continue
        for k in range(n + 1):
            kept, deferred = list(order[k:]), list(order[:k])
            total[k] += (student[kept].sum() + teacher[deferred].sum()) / n
        count += 1
    np.testing.assert_allclose(_curve(*cascade).quality, total / count, atol=1e-12)


def _costly(tied=False, max_size=12):
    """A cascade, and costs of single examples."""
    cost = st.sampled_from([0.5, 1.0, 7.0])
    return _cascades(max_size, tied).flatmap(
        lambda parts: st.tuples(
            st.just(parts),
            *[
                st.lists(cost, min_size=len(parts[0]), max_size=len(parts[0])).map(np.array)
                for _ in range(2)
            ],
        )
    )


@given(_costly())
def test_costs_of_single_examples_are_those_of_the_deferred(actual):
    cascade, student_cost, teacher_cost = actual
    curve = curves.deferral_curve(*cascade, student_cost, teacher_cost)
    for k, tau in enumerate(curve.thresholds):
        expected = np.mean(student_cost + (cascade[0] > tau) * teacher_cost)
        assert curve.cost[k] == pytest.approx(expected, abs=1e-9)
    for quality in (0.3, 0.6):
        cost = curves.cost_at_quality(curve, quality)
        if not math.isnan(cost):
            assert curves.quality_at_cost(curve, cost) >= quality - 1e-9


@settings(max_examples=20)
@given(_costly(tied=True, max_size=6))
def test_costs_of_ties_are_the_mean_over_all_orders(actual):
    (score, student, teacher), student_cost, teacher_cost = actual
    n = len(score)
    orders = [
        list(order)
        for order in itertools.permutations(range(n))
        if np.all(np.diff(score[list(order)]) <= 0)
    ]
    curve = curves.deferral_curve(score, student, teacher, student_cost, teacher_cost)
    sums = [np.append(0, np.cumsum(teacher_cost[order])) for order in orders]
    expected = student_cost.mean() + np.mean(sums, axis=0) / n
    np.testing.assert_allclose(curve.cost, expected, atol=1e-9)


def test_one_cost_for_all_examples_is_that_cost():
    parts = np.array([2.0, 1.0, 3.0]), np.array([0.0, 1.0, 1.0]), np.ones(3)
    alike = curves.deferral_curve(*parts, np.full(3, 0.1), np.full(3, 0.7))
    np.testing.assert_array_equal(alike.cost, curves.deferral_curve(*parts, 0.1, 0.7).cost)


def test_costs_that_are_none_are_refused():
    parts = np.array([2.0, 1.0]), np.array([0.0, 1.0]), np.ones(2)
    for bad in (-1.0, math.nan, np.array([1.0, math.inf])):
        with pytest.raises(ValueError, match="teacher cost must be finite and 0 or more"):
            curves.deferral_curve(*parts, 1.0, bad)


@given(_cascades(tied=True))
def test_realised_points_are_those_of_a_threshold(cascade):
    score, student, teacher = cascade
    curve = _curve(*cascade)
    counts = {int(np.sum(score > tau)) for tau in [-np.inf, *score]}
    assert set(np.flatnonzero(curve.is_realised)) == counts
    for k in counts:
        tau = curve.thresholds[k]
        assert np.sum(score > tau) == k
        expected = np.mean(np.where(score > tau, teacher, student))
        assert curve.quality[k] == pytest.approx(expected, abs=1e-12)


@given(_cascades(tied=True))
def test_ends_are_the_two_models(cascade):
    _, student, teacher = cascade
    curve = _curve(*cascade)
    assert curve.student_quality == pytest.approx(student.mean(), abs=1e-12)
    assert curve.teacher_quality == pytest.approx(teacher.mean(), abs=1e-12)
    assert curve.cost[0] == COSTS[0]
    assert curve.cost[-1] == sum(COSTS)
    assert curve.a1[-1] == 0 and curve.a2[0] == 0


@given(_cascades(tied=True))
def test_kept_and_deferred_parts_add_up(cascade):
    curve = _curve(*cascade)
    np.testing.assert_array_equal(curve.a1 + curve.a2, curve.quality)
    assert np.all(np.diff(curve.a1) <= 1e-12) and np.all(np.diff(curve.a2) >= -1e-12)


@given(_cascades(tied=True))
def test_only_the_order_of_scores_matters(cascade):
    score, student, teacher = cascade
    np.testing.assert_array_equal(
        _curve(np.exp(3 * score) - 7, student, teacher).quality, _curve(*cascade).quality
    )


@given(_cascades(tied=True), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(cascade, random):
    rows = list(range(len(cascade[0])))
    random.shuffle(rows)
    shuffled = _curve(*(part[rows] for part in cascade))
    np.testing.assert_allclose(shuffled.quality, _curve(*cascade).quality, atol=1e-12)


def test_one_score_for_all_is_the_random_line():
    rng = np.random.default_rng(0)
    student, teacher = rng.random(40), rng.random(40)
    curve = _curve(np.ones(40), student, teacher)
    line = curves.random_quality(curve.rate, student.mean(), teacher.mean())
    np.testing.assert_allclose(curve.quality, line, atol=1e-12)


def test_random_scores_average_the_random_line():
    rng = np.random.default_rng(1)
    student, teacher = (rng.random(20) < 0.4) * 1.0, (rng.random(20) < 0.8) * 1.0
    mean = np.mean([_curve(rng.random(20), student, teacher).quality for _ in range(4000)], axis=0)
    line = curves.random_quality(np.linspace(0, 1, 21), student.mean(), teacher.mean())
    # A point's standard error is below 0.12 / sqrt(4000) = 0.002.
    np.testing.assert_allclose(mean, line, atol=0.01)


@settings(max_examples=20)
@given(_cascades(max_size=8))
def test_the_oracle_is_the_best_subset_of_every_size(cascade):
    _, student, teacher = cascade
    n = len(student)
    oracle = _oracle(student, teacher)
    for k in range(n + 1):
        sets = itertools.combinations(range(n), k)
        best = max(student.sum() + sum(teacher[i] - student[i] for i in s) for s in sets)
        assert oracle.quality[k] == pytest.approx(best / n, abs=1e-12)


@given(_cascades(tied=True))
def test_no_score_passes_the_oracle(cascade):
    oracle = _oracle(*cascade[1:])
    assert np.all(_curve(*cascade).quality <= oracle.quality + 1e-12)


def test_ideal_is_the_oracle_where_the_teacher_never_errs_alone():
    # The teacher has right all that the student has right, and 7 of its 12 errors.
    student = np.repeat([1.0, 0.0], [8, 12])
    teacher = np.repeat([1.0, 0.0], [15, 5])
    ends = student.mean(), teacher.mean()
    # A score that only knows the student's errors: ties inside both groups.
    curve = _curve(1 - student, student, teacher)
    np.testing.assert_allclose(curve.quality, curves.ideal_quality(curve.rate, *ends), atol=1e-12)
    performance = curves.deferral_performance(
        curves.area(curve), curves.random_area(*ends), curves.ideal_area(*ends)
    )
    assert performance == pytest.approx(1.0)


def test_against_ideal_the_performance_can_pass_one_and_against_the_oracle_not():
    # Right alone: student on 3, teacher on 5 examples.
    student = np.repeat([1.0, 1.0, 0.0, 0.0], [3, 2, 5, 2])
    teacher = np.repeat([0.0, 1.0, 1.0, 0.0], [3, 2, 5, 2])
    oracle = _oracle(student, teacher)
    ends = student.mean(), teacher.mean()
    areas = curves.area(oracle), curves.random_area(*ends)
    assert curves.deferral_performance(*areas, curves.ideal_area(*ends)) > 1
    assert curves.deferral_performance(*areas, curves.area(oracle)) == pytest.approx(1.0)


@given(st.floats(0, 1), st.floats(0, 1))
def test_areas_of_the_lines_are_their_integrals(student, teacher):
    rate = np.union1d(np.linspace(0, 1, 11), [1 - student])
    ideal = curves.ideal_quality(rate, student, teacher)
    if 1 - student > 1e-6:
        area = np.trapezoid(ideal, rate)
        assert curves.ideal_area(student, teacher) == pytest.approx(area, abs=1e-9)
    line = curves.random_quality(rate, student, teacher)
    assert curves.random_area(student, teacher) == pytest.approx(
        np.trapezoid(line, rate), abs=1e-12
    )


def test_ideal_of_a_student_without_errors():
    ideal = curves.ideal_quality(np.array([0.0, 0.5, 1.0]), 1.0, 0.9)
    np.testing.assert_array_equal(ideal, [1.0, 0.9, 0.9])


def test_performance_is_undefined_without_room():
    assert math.isnan(curves.deferral_performance(0.5, 0.5, 0.5))
    assert math.isnan(curves.deferral_performance(0.5, 0.5, 0.4))


@given(_cascades(tied=True))
def test_the_area_is_the_mean_over_rates(cascade):
    curve = _curve(*cascade)
    rates = (np.arange(20_000) + 0.5) / 20_000
    mean = np.mean([np.interp(rates, curve.rate, curve.quality)])
    assert curves.area(curve) == pytest.approx(mean, abs=1e-4)


@given(_cascades(tied=True), st.floats(0, 1.1))
def test_the_rate_at_a_quality_is_the_smallest_that_reaches_it(cascade, quality):
    curve = _curve(*cascade)
    rate = curves.rate_at_quality(curve, quality)
    if math.isnan(rate):
        assert curve.quality.max() < quality
        assert math.isnan(curves.cost_at_quality(curve, quality))
        return
    assert curves.quality_at_rate(curve, rate) >= quality - 1e-9
    earlier = rate * np.linspace(0, 1, 50, endpoint=False)
    if rate > 0:
        assert np.all(np.interp(earlier, curve.rate, curve.quality) < quality)
    cost = curves.cost_at_quality(curve, quality)
    assert cost == pytest.approx(COSTS[0] + rate * COSTS[1])
    assert curves.quality_at_cost(curve, cost) >= quality - 1e-9


def test_quality_at_costs_outside_the_curve():
    curve = _curve(np.array([2.0, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    assert math.isnan(curves.quality_at_cost(curve, 2.9))
    assert curves.quality_at_cost(curve, 1e9) == 1.0
    assert curves.quality_at_cost(curve, 3 + 20 * 0.25) == pytest.approx(0.75)


def test_thinning_keeps_points_and_both_ends():
    rng = np.random.default_rng(2)
    curve = _curve(rng.random(1000), rng.random(1000), rng.random(1000))
    thin = curve.thin(201)
    assert len(thin.rate) == 201
    assert thin.rate[0] == 0 and thin.rate[-1] == 1
    kept = np.searchsorted(curve.rate, thin.rate)
    np.testing.assert_array_equal(thin.quality, curve.quality[kept])
    np.testing.assert_array_equal(thin.thresholds, curve.thresholds[kept])
    assert len(curve.thin(5000).rate) == 1001
    with pytest.raises(ValueError, match="max_points is .*; must be an integer of at least 2"):
        curve.thin(1)


@pytest.mark.parametrize(
    ("score", "student", "message"),
    [
        ([], [], "at least one example"),
        ([0.0, math.nan], [0.0, 0.0], "the deferral score of row 1 is nan"),
        ([0.0, math.inf], [0.0, 0.0], "the deferral score of row 1 is inf"),
        ([0.0, 1.0], [0.0, math.nan], "student quality must be finite"),
    ],
)
def test_refusals(score, student, message):
    with pytest.raises(ValueError, match=message):
        _curve(np.array(score), np.array(student), np.zeros(len(score)))


def test_lengths_that_differ_are_refused():
    # With run-time shape checks on, those speak first.
    with pytest.raises((ValueError, TypeError), match="2 scores, but 1 values|Type-check error"):
        _curve(np.array([0.0, 1.0]), np.zeros(1), np.zeros(2))


def test_a_rate_outside_zero_to_one_is_refused():
    curve = _curve(np.array([1.0]), np.array([0.0]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"rate is 1.5; must be in \[0, 1\]"):
        curves.quality_at_rate(curve, 1.5)


@pytest.mark.parametrize("score", [np.array([0, 1, 3], np.uint8), np.array([-(2**63), 0, 1])])
def test_whole_numbers_are_in_order_too(score):
    order, ends = curves.deferral_order(score)
    assert order.tolist() == list(range(len(score)))[::-1]
    assert ends.tolist() == list(range(1, len(score) + 1))
