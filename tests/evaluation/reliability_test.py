"""Reliability, ECE and temperature scaling against loops and scipy's minimiser."""

import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.deferral.scores import AnswerTokens
from cascade_jax.evaluation import reliability

ANSWERS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.4, 1.0])), min_size=1, max_size=40
).map(lambda result: tuple(np.array(column) for column in zip(*result, strict=True)))


@given(ANSWERS, st.sampled_from([1, 4, 10]))
def test_bins_and_ece_by_brute_force(answers, bins):
    confidence, quality = answers
    actual = reliability.reliability(confidence, quality, bins)
    ece = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if min(int(c * bins), bins - 1) == b]
        assert actual.count[b] == len(inside)
        if not inside:
            assert math.isnan(actual.confidence[b]) and math.isnan(actual.quality[b])
            continue
        means = confidence[inside].mean(), quality[inside].mean()
        assert (actual.confidence[b], actual.quality[b]) == pytest.approx(means, abs=1e-12)
        ece += len(inside) / len(quality) * abs(means[0] - means[1])
    assert actual.ece == pytest.approx(ece, abs=1e-9)


def made_up(n=4000, temperature=3.0, seed=0):
    """A confidence whose logit is `temperature` times that of the truth."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.5, 1.0, n)
    quality = (rng.random(n) < 1 / (1 + np.exp(-z))) * 1.0
    return 1 / (1 + np.exp(-temperature * z)), quality


def negative_log_likelihood(log_inverse, confidence, quality):
    c = np.clip(confidence, 1e-6, 1 - 1e-6)
    z = np.exp(log_inverse) * np.log(c / (1 - c))
    return np.mean(quality * np.logaddexp(0, -z) + (1 - quality) * np.logaddexp(0, z))


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_is_scipys_minimum(seed):
    confidence, quality = made_up(300, [0.2, 1.0, 3.0, 9.0][seed], seed)
    if seed == 2:
        quality = 0.8 * quality + 0.1  # graded
    best = scipy.optimize.minimize_scalar(
        negative_log_likelihood,
        args=(confidence, quality),
        bounds=(-6, 6),
        method="bounded",
        options={"xatol": 1e-10},
    )
    result = reliability.temperature(confidence, quality)
    assert -math.log(result) == pytest.approx(best.x, abs=1e-5)
    ours = negative_log_likelihood(-math.log(result), confidence, quality)
    assert ours <= best.fun + 1e-14


def test_scaling_mends_a_confidence_that_is_too_extreme():
    confidence, quality = made_up()
    actual = reliability.calibration(confidence, quality)
    assert actual.ece > 0.1 and actual.ece_scaled < 0.03
    assert all(2.5 < t < 3.5 for t in actual.temperatures)
    assert actual.reliability.count.sum() == actual.reliability_scaled.count.sum() == len(quality)


def test_each_half_is_scaled_by_the_others_temperature():
    confidence, quality = made_up(500)
    actual = reliability.calibration(confidence, quality)
    # Fit on what is in one half by refitting all pairs of halves that the bins allow for: the two
    # temperatures must be those of a half each, and the ECE that of their exchange.
    is_first = np.random.default_rng(0).permutation(np.arange(500) < 250)
    first, second = (
        reliability.temperature(confidence[h], quality[h]) for h in (is_first, ~is_first)
    )
    assert actual.temperatures == pytest.approx((first, second))
    logit = np.log(confidence) - np.log1p(-confidence)
    scaled = 1 / (1 + np.exp(-logit / np.where(is_first, second, first)))
    assert actual.ece_scaled == pytest.approx(reliability.reliability(scaled, quality).ece)


def test_where_no_temperature_helps_the_ends_are_taken():
    right = np.array([0.0, 1.0] * 50)
    assert reliability.temperature(np.where(right == 1, 0.1, 0.9), right) == pytest.approx(1000)
    assert reliability.temperature(np.where(right == 1, 0.9, 0.1), right) == pytest.approx(0.001)
    assert math.isnan(reliability.temperature(np.array([0.2, 0.8]), np.ones(2)))


@given(ANSWERS)
def test_any_answers_can_be_judged(answers):
    confidence, quality = answers
    actual = reliability.calibration(confidence, quality)
    if np.ptp(quality) == 0:
        assert (
            math.isnan(actual.ece)
            and math.isnan(actual.ece_scaled)
            and actual.reliability_scaled is None
        )
    else:
        assert 0 <= actual.ece <= 1
        assert math.isnan(actual.ece_scaled) == any(map(math.isnan, actual.temperatures))
        assert actual.reliability_scaled is None or 0 <= actual.ece_scaled <= 1


def test_the_confidence_is_the_geometric_mean_of_the_tokens():
    probabilities = [[0.5, 0.125], [1.0], [], [0.9, 0.9, 0.9]]
    answers = AnswerTokens(
        np.log(np.concatenate(probabilities)),
        None,
        np.concatenate([[0], np.cumsum([len(p) for p in probabilities])]),
    )
    actual = reliability.confidence_of(answers)
    np.testing.assert_allclose(actual, [0.25, 1.0, 1.0, 0.9], rtol=1e-12)
    # Rounding can leave log-probs a little above 0.
    above = AnswerTokens(np.array([1e-4]), None, np.array([0, 1]))
    assert reliability.confidence_of(above)[0] == 1.0
    assert len(reliability.confidence_of(AnswerTokens(np.zeros(0), None, np.array([0])))) == 0
