"""Scores of log-probs against NumPy row by row, their order, and what they refuse."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given

from cascade_jax.deferral import scores
from cascade_jax.deferral.scores import AnswerTokens, Average, Quantile
from tests.support.ragged import LISTS, answers_of, rows_of

OF_ONE_ROW = {
    scores.Average(): lambda row: -math.fsum(row) / len(row),
    scores.Sum(): lambda row: -math.fsum(row),
    scores.Minimum(): lambda row: -min(row),
    scores.Maximum(): lambda row: -max(row),
    scores.Quantile(0.0): lambda row: -np.quantile(row, 0.0),
    scores.Quantile(0.4): lambda row: -np.quantile(row, 0.4),
    scores.Quantile(0.8): lambda row: -np.quantile(row, 0.8),
    scores.Quantile(1.0): lambda row: -np.quantile(row, 1.0),
    scores.Perplexity(): lambda row: math.exp(-math.fsum(row) / len(row)),
    scores.GeometricMean(): lambda row: -(math.prod(np.exp(row)) ** (1 / len(row))),
}


@pytest.mark.parametrize("score", OF_ONE_ROW, ids=lambda score: score.name)
@given(lists=LISTS)
def test_every_score_is_what_numpy_has_row_by_row(score, lists):
    answers = answers_of(lists)
    expected = [OF_ONE_ROW[score](row) for row in rows_of(answers, answers.log_probs)]
    actual = score(answers)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@functools.cache
def _answers_of_several_blocks():
    rng = np.random.default_rng(0)
    lists = [-rng.exponential(size=n) for n in rng.integers(1, 30, 40)]
    lists[7] = -rng.exponential(size=600_000)  # longer than a block
    lists += [-rng.exponential(size=n) for n in rng.integers(1, 2000, 300)]
    return answers_of(lists, k=10)


@pytest.mark.parametrize("score", scores.FROM_TOKENS, ids=lambda score: score.name)
def test_answers_of_several_blocks_give_what_each_gives_alone(score):
    answers = _answers_of_several_blocks()
    alone = [score(answers.take(np.array([row])))[0] for row in (0, 6, 7, 8, 39, 40, 339)]
    np.testing.assert_allclose(
        score(answers)[[0, 6, 7, 8, 39, 40, 339]], alone, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("score", scores.FROM_TOKENS, ids=lambda score: score.name)
def test_the_order_of_examples_does_not_matter(score):
    rng = np.random.default_rng(1)
    answers = answers_of([-rng.exponential(size=n) for n in rng.integers(1, 9, 50)], k=10)
    order = rng.permutation(50)
    np.testing.assert_allclose(score(answers.take(order)), score(answers)[order], rtol=1e-12)


KURTOSES = ("kurtosis", "top-10 kurtosis")  # of the shape, not of how sure the model is


@pytest.mark.parametrize(
    "score", [s for s in scores.FROM_TOKENS if s.name not in KURTOSES], ids=lambda score: score.name
)
def test_a_surer_answer_has_a_lower_score(score):
    def answers(sharpness: float) -> AnswerTokens:
        logits = sharpness * np.array([[9.0, 7, 5, 4, 3, 3, 2, 2, 1, 1, 0, 0]] * 4)
        logits[1:] *= [[0.9], [0.7], [0.5]]
        log_probs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
        entropies = -np.sum(np.exp(log_probs) * log_probs, axis=1)
        return AnswerTokens(
            log_probs[:, 0], entropies, np.array([0, 4]), None, log_probs[:, :10].copy()
        )

    values = [score(answers(sharpness))[0] for sharpness in (2.0, 1.0, 0.5, 0.3)]
    assert np.all(np.diff(values) > 0), values


@given(lists=LISTS)
def test_perplexity_and_the_geometric_mean_order_as_the_average_does(lists):
    answers = answers_of(lists)
    average = Average()(answers)
    np.testing.assert_allclose(np.log(scores.Perplexity()(answers)), average, atol=1e-9)
    np.testing.assert_allclose(-np.log(-scores.GeometricMean()(answers)), average, atol=1e-9)


@given(lists=LISTS)
def test_a_higher_quantile_looks_at_surer_tokens(lists):
    answers = answers_of(lists)
    values = np.array([Quantile(q)(answers) for q in (0.0, 0.1, 0.4, 0.8, 1.0)])
    assert np.all(np.diff(values, axis=0) <= 1e-9)
    np.testing.assert_array_equal(values[0], scores.Minimum()(answers))
    np.testing.assert_array_equal(values[-1], scores.Maximum()(answers))


def test_the_worked_examples_of_the_docstrings():
    answers = answers_of([[-0.1, -0.3, -2.0]], dtype=np.float64)
    assert Quantile(0.4)(answers) == pytest.approx([0.64])
    assert scores.Minimum()(answers) == pytest.approx([2.0])
    assert scores.Maximum()(answers) == pytest.approx([0.1])
    two = answers_of([[-0.1, -0.3], [-0.1] * 4, [-0.1, -0.1]], dtype=np.float64)
    assert Average()(two) == pytest.approx([0.2, 0.1, 0.1])
    assert scores.Sum()(two)[:2] == pytest.approx([0.4, 0.4])
    assert scores.Perplexity()(two)[0] == pytest.approx(1.2214, abs=1e-4)
    assert scores.GeometricMean()(two)[0] == pytest.approx(-0.8187, abs=1e-4)


def test_one_token_gives_its_log_prob_to_all_rules_of_figure_6():
    answers = answers_of([[-0.5], [-2.0]], dtype=np.float64)
    for score in scores.STANDARD:
        np.testing.assert_allclose(score(answers), [0.5, 2.0])


def test_the_rules_of_figure_6():
    names = [score.name for score in scores.STANDARD]
    assert names == ["average", "minimum", "maximum", "sum", "quantile 0.4", "quantile 0.8"]


def test_average_does_not_depend_on_length_alone_and_the_sum_does():
    answers = answers_of([[-0.5], [-0.5] * 9])
    assert Average()(answers) == pytest.approx([0.5, 0.5])
    assert scores.Sum()(answers) == pytest.approx([0.5, 4.5])


def test_average_sums_in_float64():
    # In float32 a running sum of 0.1 over a million tokens is off by about one per cent.
    score = Average()(answers_of([[-0.1] * 1_000_000]))
    np.testing.assert_allclose(score, [float(np.float32(0.1))], rtol=1e-9)


@pytest.mark.parametrize("score", scores.FROM_TOKENS, ids=lambda score: score.name)
def test_no_examples_give_no_scores(score):
    assert score(answers_of([], k=10)).shape == (0,)


@pytest.mark.parametrize("score", scores.FROM_TOKENS, ids=lambda score: score.name)
def test_an_answer_without_tokens_is_named(score):
    answers = answers_of([[-1.0], [], [-1.0], []], ["a", "b", "c", "d"], k=10)
    with pytest.raises(ValueError, match=r"example 'b' \(row 1\) has an answer without tokens"):
        score(answers)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("score", scores.FROM_TOKENS, ids=lambda score: score.name)
def test_a_value_that_is_not_finite_is_named_with_its_token(score, bad):
    answers = answers_of([[-1.0], [-1.0, -2.0], [-1.0]], ["a", "b", "c"], k=10)
    values = getattr(answers, score.column_of(answers))
    values[2] = bad
    with pytest.raises(ValueError, match=r"example 'b' \(row 1\) has the [\w -]+ .* at token 1 "):
        score(answers)


def test_infinities_that_cancel_are_seen():
    with pytest.raises(ValueError, match=r"row 0 has the log-prob inf at token 0 \(2 such\)"):
        Average()(answers_of([[math.inf, -math.inf]]))


def test_without_ids_the_row_is_named():
    with pytest.raises(ValueError, match="^row 1 has an answer without tokens"):
        Average()(answers_of([[-1.0], []]))


def test_a_perplexity_beyond_all_numbers_is_refused():
    with pytest.raises(ValueError, match="row 1 has 800 nats per token.*'average' orders"):
        scores.Perplexity()(answers_of([[-1.0], [-800.0]]))


@pytest.mark.parametrize("q", [-0.1, 1.5, math.nan])
def test_a_quantile_outside_0_and_1_is_refused(q):
    with pytest.raises(ValueError, match=r"a quantile lies in \[0, 1\], got"):
        Quantile(q)


def test_what_can_be_had_of_which_answers():
    log_probs_only = answers_of([[-1.0]])
    names = [score.name for score in scores.available(log_probs_only)]
    needing_more = {"entropy", "margin", "entropy production rate", "top-10 kurtosis"}
    assert set(names) == {score.name for score in scores.FROM_TOKENS} - needing_more
    with_5 = [score.name for score in scores.available(answers_of([[-1.0]], k=5))]
    assert set(with_5) == set(names) | {"entropy", "margin"}
    assert scores.available(answers_of([[-1.0]], k=10)) == list(scores.FROM_TOKENS)


def test_names_differ_and_a_function_has_its_own():
    assert len({score.name for score in scores.ALL}) == len(scores.ALL)

    def longest(answers):
        return answers.lengths

    assert scores.name_of(longest) == "longest"
    assert scores.name_of(Quantile(0.25)) == "quantile 0.25"
    assert isinstance(Average(), scores.DeferralScore)
