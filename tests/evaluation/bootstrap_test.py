"""Bootstrap intervals against explicit resampling, and their coverage."""

import math

import numpy as np
import pytest

from cascade_jax.evaluation import bootstrap, curves
from cascade_jax.evaluation.cascades import Cascade


def _cascade(n, seed=0, levels=None):
    """Score that knows something of the student's errors; `levels` makes ties."""
    rng = np.random.default_rng(seed)
    student = (rng.random(n) < 0.5) * 1.0
    teacher = np.where(rng.random(n) < 0.8, 1.0, rng.random(n))
    score = rng.normal(size=n) - student
    return (score if levels is None else np.round(score * levels)), student, teacher


def _resample(score, student, teacher, inputs=None, **settings):
    """Resamples of one score, by means of quality."""
    cascade = Cascade(score, student, teacher, 1.0, 1.0, inputs=inputs)
    ((resamples,),) = bootstrap.resample_all([(cascade, (score,))], **settings)
    return resamples


@pytest.mark.parametrize("levels", [None, 2])
def test_statistics_are_those_of_explicitly_resampled_curves(levels):
    score, student, teacher = _cascade(25, levels=levels)
    rates, qualities = (0.1, 0.5), (0.55, 0.8, 0.99)
    got = _resample(score, student, teacher, rates=rates, qualities=qualities, samples=30, seed=4)
    rng = np.random.default_rng(4)
    for b in range(30):
        rows = rng.integers(25, size=25, dtype=np.int32)
        curve = curves.deferral_curve(score[rows], student[rows], teacher[rows], 1.0, 1.0)
        oracle = curves.deferral_curve(
            (teacher - student)[rows], student[rows], teacher[rows], 1.0, 1.0
        )
        ends = student[rows].mean(), teacher[rows].mean()
        assert got.student_quality[b] == pytest.approx(ends[0])
        assert got.teacher_quality[b] == pytest.approx(ends[1])
        assert got.area[b] == pytest.approx(curves.area(curve))
        assert got.oracle_area[b] == pytest.approx(curves.area(oracle))
        for column, rate in enumerate(rates):
            expected = curves.quality_at_rate(curve, rate)
            assert got.quality_at_rate[b, column] == pytest.approx(expected)
        for column, quality in enumerate(qualities):
            expected = curves.rate_at_quality(curve, quality)
            expected = math.inf if math.isnan(expected) else expected
            assert got.rate_at_quality[b, column] == pytest.approx(expected)
        areas = curves.area(curve), curves.random_area(*ends)
        for best, area in (("ideal", curves.ideal_area(*ends)), ("oracle", curves.area(oracle))):
            expected = curves.deferral_performance(*areas, area)
            value = got.deferral_performance(best)[b]
            assert value == pytest.approx(expected, nan_ok=True)


def test_chunks_do_not_change_the_result(monkeypatch):
    cascade = _cascade(50)
    whole = _resample(*cascade, rates=(0.5,), samples=20)
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", 150)
    parts = _resample(*cascade, rates=(0.5,), samples=20)
    np.testing.assert_array_equal(whole.quality_at_rate, parts.quality_at_rate)
    np.testing.assert_array_equal(whole.area, parts.area)


def test_one_seed_gives_one_result_and_another_seed_another():
    cascade = _cascade(50)
    first, again = (_resample(*cascade, samples=10, seed=1).area for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.any(_resample(*cascade, samples=10, seed=2).area != first)


def test_two_cascades_are_resampled_in_pairs():
    score, student, teacher = _cascade(50)
    one = _resample(score, student, teacher, samples=20)
    other = _resample(-score, student, teacher, samples=20)
    np.testing.assert_array_equal(one.student_quality, other.student_quality)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    population = _cascade(40_000, seed=5)
    truth = curves.deferral_curve(*population, 1.0, 1.0)
    rng = np.random.default_rng(6)
    trials, covered = 200, np.zeros(3)
    for trial in range(trials):
        rows = rng.integers(40_000, size=150)
        sample = _resample(
            *(part[rows] for part in population), rates=(0.3,), samples=200, seed=trial
        )
        values = (sample.student_quality, sample.area, sample.quality_at_rate[:, 0])
        expected = (
            truth.student_quality,
            curves.area(truth),
            curves.quality_at_rate(truth, 0.3),
        )
        for i, (value, right) in enumerate(zip(values, expected, strict=True)):
            low, high = bootstrap.interval(value)
            covered[i] += low <= right <= high
    # 95 % nominal; three standard errors of 200 trials are 5 points, and percentile intervals of
    # 150 examples are a little too short.
    assert np.all(covered / trials >= 0.88) and np.all(covered / trials <= 0.995)


def test_an_interval_is_of_values_that_occurred():
    # Of 999 values, 24.975 and 974.025 are cut off: the 25th and the 975th remain.
    low, high = bootstrap.interval(np.arange(999.0)[::-1])
    assert (low, high) == (24.0, 974.0)


def test_an_interval_is_open_where_resamples_never_reach():
    low, high = bootstrap.interval(np.array([1.0] * 90 + [math.inf] * 10))
    assert low == 1.0 and high == math.inf


def test_an_undefined_resample_makes_the_interval_undefined():
    assert all(map(math.isnan, bootstrap.interval(np.array([1.0, math.nan]))))


def test_refusals():
    with pytest.raises(ValueError, match="samples is 0; must be an integer of at least 1"):
        _resample(*_cascade(3), samples=0)
    with pytest.raises(ValueError, match="best is 'idal'; must be one of ideal, oracle; did"):
        _resample(*_cascade(3), samples=1).deferral_performance("idal")


def test_costs_of_single_examples_are_resampled_with_them():
    score, student, teacher = _cascade(20, levels=2)
    rng = np.random.default_rng(0)
    costs = rng.random(20) + 0.5, rng.random(20) + 2.0
    cascade = Cascade(score, student, teacher, *costs)
    settings = {"costs": (2.0, 3.0), "qualities": (0.6, 0.99), "samples": 25, "seed": 4}
    ((got,),) = bootstrap.resample_all([(cascade, (score,))], **settings)
    draws = np.random.default_rng(4)
    for b in range(25):
        rows = draws.integers(20, size=20, dtype=np.int32)
        parts = (part[rows] for part in (score, student, teacher, *costs))
        curve = curves.deferral_curve(*parts)
        for column, cost in enumerate(settings["costs"]):
            expected = curves.quality_at_cost(curve, cost)
            assert got.quality_at_cost[b, column] == pytest.approx(expected, nan_ok=True)
        for column, quality in enumerate(settings["qualities"]):
            expected = curves.cost_at_quality(curve, quality)
            expected = math.inf if math.isnan(expected) else expected
            assert got.cost_at_quality[b, column] == pytest.approx(expected)


@pytest.mark.parametrize("levels", [None, 1])
def test_blocks_between_nodes_give_what_one_sum_gives(levels, monkeypatch):
    cascade = _cascade(400, levels=levels)
    settings = {"rates": (0.3,), "qualities": (0.7,), "costs": (1.5,), "samples": 10}
    whole = _resample(*cascade, **settings)
    monkeypatch.setattr(bootstrap, "_SMALL", 300)
    blocks = _resample(*cascade, **settings)
    for field in vars(whole):
        np.testing.assert_allclose(getattr(blocks, field), getattr(whole, field), rtol=1e-6)


def test_fewer_nodes_change_little_and_nothing_at_the_ends(monkeypatch):
    cascade = _cascade(3000)
    coarse = _resample(*cascade, rates=(0.333,), qualities=(0.75,), samples=20)
    monkeypatch.setattr(bootstrap, "_NODES", 10_000)
    fine = _resample(*cascade, rates=(0.333,), qualities=(0.75,), samples=20)
    assert np.any(coarse.area != fine.area)
    np.testing.assert_allclose(coarse.area, fine.area, atol=2e-5)
    np.testing.assert_allclose(coarse.oracle_area, fine.oracle_area, atol=2e-5)
    np.testing.assert_allclose(coarse.quality_at_rate, fine.quality_at_rate, atol=1e-3)
    np.testing.assert_allclose(coarse.rate_at_quality, fine.rate_at_quality, atol=2e-3)
    np.testing.assert_array_equal(coarse.teacher_quality, fine.teacher_quality)


def test_several_scores_and_cascades_share_the_draws():
    score, student, teacher = _cascade(40)
    other = np.random.default_rng(1).normal(size=40)
    cascade = Cascade(score, student, teacher, 1.0, 1.0)
    both, (alone,) = bootstrap.resample_all(
        [(cascade, (score, other)), (cascade, (other,))], samples=15
    )
    for field in vars(alone):
        np.testing.assert_array_equal(getattr(both[1], field), getattr(alone, field))
    assert np.any(both[0].area != both[1].area)


def test_draws_are_those_of_the_generator():
    rng = np.random.default_rng(5)
    result = np.concatenate(list(bootstrap.draws(7, 40, 5)), axis=1)
    for column in result.T:
        drawn = rng.integers(7, size=7, dtype=np.int32)
        assert column.tolist() == [int(np.sum(drawn == i)) for i in range(7)]


def test_the_p_value_counts_resamples_as_far_from_the_observed_as_that_is_from_zero():
    values = np.array([0.1, 0.2, 0.3, 0.41, 0.2])
    # |d_b - 0.2| >= 0.2 holds for 0.41 alone.
    assert bootstrap.p_value(0.2, values) == 2 / 6
    assert bootstrap.p_value(0.0, np.zeros(9)) == 1.0
    for value, drawn in ((math.nan, values), (0.2, np.array([0.1, math.nan])), (0.2, np.zeros(0))):
        assert math.isnan(bootstrap.p_value(value, drawn))


# ---- examples that repeat an input


def _clusters(sizes):
    """Numbers of inputs, each with so many examples, in a mixed order."""
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return np.unique(numbers, return_inverse=True)[1]


def test_inputs_are_drawn_with_all_their_examples():
    """Against a cluster bootstrap that writes every resample out."""
    inputs = _clusters([1, 2, 3, 1, 5, 1, 2, 1, 1, 4])
    n, num_inputs = len(inputs), 10
    score, student, teacher = _cascade(n, levels=2)
    costs = np.linspace(1.0, 2.0, n), np.linspace(3.0, 2.0, n)
    cascade = Cascade(score, student, teacher, *costs, inputs=inputs)
    ((got,),) = bootstrap.resample_all(
        [(cascade, (score,))], rates=(0.3,), costs=(2.5,), samples=40, seed=3
    )
    rng = np.random.default_rng(3)
    for b in range(40):
        drawn = rng.integers(num_inputs, size=num_inputs, dtype=np.int32)
        rows = np.concatenate([np.flatnonzero(inputs == number) for number in drawn])
        parts = [values[rows] for values in (score, student, teacher, *costs)]
        curve = curves.deferral_curve(*parts)
        assert got.student_quality[b] == pytest.approx(parts[1].mean())
        assert got.area[b] == pytest.approx(curves.area(curve))
        assert got.quality_at_rate[b, 0] == pytest.approx(curves.quality_at_rate(curve, 0.3))
        at_cost = curves.quality_at_cost(curve, 2.5)
        assert got.quality_at_cost[b, 0] == pytest.approx(at_cost, nan_ok=True)


def test_copies_of_all_examples_change_no_resample():
    once = _cascade(40)
    single = _resample(*once, rates=(0.3,), qualities=(0.7,), samples=20)
    twice = [np.repeat(values, 2) for values in once]
    inputs = np.repeat(np.arange(40), 2)
    double = _resample(*twice, inputs, rates=(0.3,), qualities=(0.7,), samples=20)
    for field in vars(single):
        np.testing.assert_allclose(getattr(double, field), getattr(single, field), rtol=1e-12)


def test_different_inputs_are_drawn_as_examples_are():
    cascade = _cascade(50)
    plain, numbered = (
        _resample(*cascade, samples=20),
        _resample(*cascade, np.arange(50), samples=20),
    )
    for field in vars(plain):
        np.testing.assert_array_equal(getattr(numbered, field), getattr(plain, field))


def test_intervals_of_rows_that_stand_twice_cover_the_truth():
    """Drawn one by one, such rows are covered in 0.84 of the trials."""
    rng = np.random.default_rng(6)
    trials, n, covered = 200, 60, np.zeros(2)
    for trial in range(trials):
        student = np.repeat((rng.random(n) < 0.6) * 1.0, 2)
        score = np.repeat(rng.normal(size=n), 2)
        for kind, inputs in enumerate([np.repeat(np.arange(n), 2), None]):
            part = _resample(score, student, student, inputs, samples=200, seed=trial)
            low, high = bootstrap.interval(part.student_quality)
            covered[kind] += low <= 0.6 <= high
    by_input, by_row = covered / trials
    # Three standard errors of 200 trials about 0.95 are 0.05.
    assert 0.9 <= by_input <= 0.99
    assert by_row <= 0.89
