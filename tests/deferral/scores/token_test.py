"""Scores of probabilities and distributions against NumPy and SciPy, row by row in float64."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given

from cascade_jax.deferral import scores
from tests.support.ragged import LISTS, answers_of, rows_of

OF_LOG_PROBS = {
    scores.ArithmeticMean(): lambda row: -np.mean(np.exp(row)),
    scores.MaxSoftmax(): lambda row: 1 - np.mean(np.exp(row)),
}
OF_TOP = {
    scores.MaxSoftmax(): lambda row: 1 - np.mean(np.exp(row[:, 0])),
    scores.Margin(): lambda row: np.mean([1 - np.exp(t[0]) + np.exp(t[1]) for t in row]),
    scores.EntropyProductionRate(): lambda row: np.mean([-np.sum(np.exp(t) * t) for t in row]),
    scores.EntropyProductionRate(k=3): lambda row: (
        -np.sum(np.exp(row) * row, 0)[:3].sum() / len(row)
    ),
    scores.TopKurtosis(): lambda row: -np.mean(scipy.stats.kurtosis(np.exp(row), axis=1)),
    scores.TopKurtosis(k=4): lambda row: -np.mean(scipy.stats.kurtosis(np.exp(row[:, :4]), axis=1)),
}


@pytest.mark.parametrize("score", OF_LOG_PROBS, ids=lambda score: score.name)
@given(lists=LISTS)
def test_scores_of_log_probs(score, lists):
    answers = answers_of(lists)
    expected = [OF_LOG_PROBS[score](row) for row in rows_of(answers, answers.log_probs)]
    np.testing.assert_allclose(score(answers), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("score", OF_TOP, ids=lambda score: score.name)
@given(lists=LISTS)
def test_scores_of_the_likeliest_tokens(score, lists):
    answers = answers_of(lists, k=10)
    expected = [OF_TOP[score](row) for row in rows_of(answers, answers.top_log_probs)]
    np.testing.assert_allclose(score(answers), expected, rtol=1e-9, atol=1e-12)


@given(lists=LISTS)
def test_entropy_is_the_mean_of_the_entropies(lists):
    answers = answers_of(lists, k=2)
    expected = [np.mean(row) for row in rows_of(answers, answers.entropies)]
    np.testing.assert_allclose(scores.Entropy()(answers), expected, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, -600.0])
def test_kurtosis_is_scipys(shift):
    """Also where probabilities to the fourth power are no longer numbers."""
    rng = np.random.default_rng(0)
    lists = [-rng.exponential(size=n) for n in rng.integers(2, 40, 200)]
    actual = scores.Kurtosis()(answers_of([row + shift for row in lists], dtype=np.float64))
    # Kurtosis does not change when all values are multiplied by one number.
    expected = [-scipy.stats.kurtosis(np.exp(row)) for row in lists]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_kurtosis_of_equal_probabilities_is_0():
    lists = [[-0.7], [-0.1] * 5, [-1e-30, -1e-31], [-5.0] * 3, [0.0], [-0.1, -3.0]]
    actual = scores.Kurtosis()(answers_of(lists))
    np.testing.assert_array_equal(actual[:5], np.zeros(5))
    assert actual[5] == pytest.approx(2.0)  # two values lie as far from the mean as can be
    top = answers_of([[-1.0]], k=10)
    top.top_log_probs[:] = -2.5
    assert scores.TopKurtosis()(top) == [0.0]


def test_the_worked_examples_of_the_docstrings():
    def value(score, probabilities):
        return score(answers_of([np.log(probabilities)], dtype=np.float64))[0]

    assert value(scores.ArithmeticMean(), [0.5, 0.9]) == pytest.approx(-0.7)
    assert value(scores.MaxSoftmax(), [0.5, 0.9]) == pytest.approx(0.3)
    assert value(scores.Kurtosis(), [0.1, 0.9, 0.1, 0.9]) == pytest.approx(2.0)
    assert value(scores.Kurtosis(), [0.9, 0.9, 0.9, 0.1]) == pytest.approx(0.667, abs=1e-3)

    def on_top(score, probabilities):
        rows = np.log(np.atleast_2d(probabilities))
        offsets = np.array([0, len(rows)])
        return score(scores.AnswerTokens(rows[:, 0].copy(), None, offsets, None, rows))[0]

    assert on_top(scores.Margin(), [[0.9, 0.05], [0.5, 0.4]]) == pytest.approx(0.525)
    rate = on_top(scores.EntropyProductionRate(k=2), [0.5, 0.25])
    assert rate == pytest.approx(0.6931, abs=1e-4)
    tiny = 1e-12
    kurtosis = on_top(scores.TopKurtosis(k=4), [0.9, 0.1, tiny, tiny])
    assert kurtosis == pytest.approx(0.700, abs=1e-3)
    assert on_top(scores.TopKurtosis(k=4), [0.4, 0.4, 0.1, 0.1]) == pytest.approx(2.0)


def test_the_rate_is_at_most_the_entropy_and_rises_with_k():
    answers = answers_of([[-1.0] * 5] * 20, k=10)
    rates = [scores.EntropyProductionRate(k=k)(answers) for k in (1, 4, 10)]
    assert np.all(np.diff(rates, axis=0) >= 0)
    assert np.all(rates[-1] <= scores.Entropy()(answers))


def test_max_softmax_of_a_greedy_answer_is_one_less_the_arithmetic_mean():
    answers = answers_of([[-1.0, -0.5], [-0.2]], k=10)
    answers.log_probs[:] = answers.top_log_probs[:, 0]
    actual = scores.MaxSoftmax()(answers)
    np.testing.assert_allclose(actual, 1 + scores.ArithmeticMean()(answers), rtol=1e-12)


def test_a_column_that_is_not_there_is_named_with_what_adds_it():
    without = answers_of([[-1.0]])
    with pytest.raises(ValueError, match="'entropy' needs the column student_entropies"):
        scores.Entropy()(without)
    expected = "largest log-probs of every token, column student_top_log_probs"
    with pytest.raises(ValueError, match=f"'margin' needs the 2 {expected}, and it is not there"):
        scores.Margin()(without)
    with pytest.raises(ValueError, match="these hold 5 per token; `cascade-jax collect` with TOP"):
        scores.EntropyProductionRate()(answers_of([[-1.0]], k=5))


def test_settings_that_are_not_allowed():
    with pytest.raises(ValueError, match="k is 0; must be an integer of at least 1"):
        scores.EntropyProductionRate(k=0)
    with pytest.raises(ValueError, match="k is 3; must be an integer of at least 4"):
        scores.TopKurtosis(k=3)
