"""Paired comparisons: against explicit resampling, under no difference, and with one."""

import math

import numpy as np
import pytest

from cascade_jax.evaluation import bootstrap, comparison, curves, summaries
from cascade_jax.evaluation.cascades import Cascade, curve_of

COSTS = (1.0, 4.0)


def compare_pair(first, other, *, rates=(), costs=(), bootstrap_samples=1000, seed=0):
    """Is `other` better than `first`, at these deferral rates, at these costs, in area?"""
    resamples = bootstrap.resample_all(
        [(first, (first.score,)), (other, (other.score,))],
        rates=rates,
        costs=costs,
        samples=bootstrap_samples,
        seed=seed,
    )
    both, lines = tuple(r[0] for r in resamples), (curve_of(first), curve_of(other))
    return comparison.compare_resamples("first", lines, both, rates, costs)


def pair(n, seed, better=0.0, per_example=False):
    """Two cascades of one teacher; the second's score knows its errors better by so much."""
    rng = np.random.default_rng(seed)
    teacher = (rng.random(n) < 0.9) * 1.0
    result = []
    for gain in (0.0, better):
        student = (rng.random(n) < 0.5) * 1.0
        score = rng.normal(size=n) - (1 + gain) * student
        costs = (rng.random(n) + 0.5, rng.random(n) + 3.5) if per_example else COSTS
        result.append(Cascade(score, student, teacher, *costs))
    return result


@pytest.mark.parametrize("per_example", [False, True])
def test_differences_are_those_of_explicitly_resampled_curves(per_example):
    first, other = pair(30, 1, 0.5, per_example)
    rates, costs, samples = (0.25, 0.6), (2.2, 3.4), 50
    result = compare_pair(first, other, rates=rates, costs=costs, bootstrap_samples=samples, seed=7)

    def read(rows):
        both = []
        for cascade in (first, other):
            part = cascade.take(rows)
            curve = curves.deferral_curve(
                part.score, part.student_quality, part.teacher_quality, *part.costs
            )
            both.append(
                [curves.quality_at_rate(curve, rate) for rate in rates]
                + [curves.quality_at_cost(curve, cost) for cost in costs]
                + [curves.area(curve)]
            )
        return np.subtract(both[1], both[0])

    rng = np.random.default_rng(7)
    drawn = [read(rng.integers(30, size=30, dtype=np.int32)) for _ in range(samples)]
    observed = read(np.arange(30))
    differences = (*result.at_rate, *result.at_cost, result.area)
    for value, values, got in zip(observed, np.transpose(drawn), differences, strict=True):
        assert got.value == pytest.approx(value, abs=1e-12)
        assert (got.low, got.high) == pytest.approx(bootstrap.interval(values), abs=1e-9)
        as_large = sum(abs(v - value) >= abs(value) - 1e-9 for v in values)
        assert got.p_value == pytest.approx((1 + as_large) / (samples + 1))


def test_where_there_is_no_difference_five_per_cent_are_found():
    p_values = [
        compare_pair(*pair(200, seed), bootstrap_samples=99, seed=seed).area.p_value
        for seed in range(300)
    ]
    # Three standard errors of 300 trials are 3.8 points.
    assert np.mean(np.array(p_values) <= 0.05) < 0.09
    assert 0.4 < np.mean(p_values) < 0.6


def test_a_difference_is_found_and_its_sign_is_right():
    actual = compare_pair(*pair(2000, 0, better=2.0), rates=(0.3,), bootstrap_samples=199)
    assert actual.area.p_value == 1 / 200 and actual.area.low > 0
    assert actual.at_rate[0].value > 0
    turned = compare_pair(*pair(2000, 0, better=2.0)[::-1], bootstrap_samples=199)
    assert turned.area.value == pytest.approx(-actual.area.value) and turned.area.high < 0


def test_a_cascade_does_not_differ_from_itself():
    first, _ = pair(50, 3)
    actual = compare_pair(first, first, rates=(0.5,), bootstrap_samples=20)
    assert actual.area == comparison.Difference(0.0, 0.0, 0.0, 1.0)


def test_below_the_small_models_cost_there_is_no_difference_to_tell():
    result = compare_pair(*pair(50, 3), costs=(0.5,), bootstrap_samples=20)
    (below,) = result.at_cost
    assert all(map(math.isnan, (below.value, below.low, below.high, below.p_value)))


def test_a_dearer_small_model_is_compared_at_the_same_cost():
    cheap, other = pair(400, 5)
    dear = Cascade(**(vars(other) | {"student_cost": 2.0}))
    panel = summaries.compare("t", "m", {"cheap": cheap, "dear": dear}, bootstrap_samples=30)
    actual = panel.comparisons["dear"]
    for i, cost in enumerate(panel.references.costs):
        ours, theirs = (
            curves.quality_at_cost(panel.curves[name], cost) for name in ("dear", "cheap")
        )
        assert actual.at_cost[i].value == pytest.approx(ours - theirs)
    assert actual.at_cost[0].value != actual.at_rate[0].value
