"""Deferral scores against plain Python, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_jax.deferral.scores import AnswerTokens, Average

_LISTS = st.lists(
    st.lists(st.floats(-50, 0, allow_nan=False, width=32), min_size=1, max_size=7),
    min_size=1,
    max_size=20,
)


def _answers(lists, ids=None, dtype=np.float32):
    offsets = np.cumsum([0] + [len(part) for part in lists])
    values = np.array([x for part in lists for x in part], dtype)
    return AnswerTokens(values, None, offsets, ids)


@settings(max_examples=60, deadline=None)
@given(_LISTS)
def test_average_is_the_negative_mean_log_prob_of_each_answer(lists):
    expected = [-math.fsum(part) / len(part) for part in lists]
    np.testing.assert_allclose(Average()(_answers(lists)), expected, rtol=1e-12, atol=1e-12)


def test_average_is_higher_for_the_less_certain_answer():
    sure, unsure = Average()(_answers([[-0.01, -0.02], [-1.0, -3.0]]))
    assert unsure > sure >= 0


def test_average_does_not_depend_on_length_alone():
    one, many = Average()(_answers([[-0.5], [-0.5] * 9]))
    assert one == pytest.approx(many)


def test_average_sums_in_float64():
    # In float32 a running sum of 0.1 over a million tokens is off by about one per cent.
    score = Average()(_answers([[-0.1] * 1_000_000]))
    np.testing.assert_allclose(score, [float(np.float32(0.1))], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(_LISTS)
def test_padded_rows_give_what_lists_give(lists):
    width = max(map(len, lists)) + 2
    # Garbage behind the end of an answer must not be read.
    padded = np.full((len(lists), width), np.nan, np.float32)
    for row, part in enumerate(lists):
        padded[row, : len(part)] = part
    answers = AnswerTokens.from_padded(padded, np.array([len(part) for part in lists]))
    np.testing.assert_array_equal(Average()(answers), Average()(_answers(lists)))
    np.testing.assert_array_equal(answers.lengths, [len(part) for part in lists])


def test_no_examples_give_no_scores():
    assert Average()(_answers([])).shape == (0,)


def test_an_answer_without_tokens_is_named():
    with pytest.raises(ValueError, match=r"example 'b' \(row 1\) has an answer without tokens"):
        Average()(_answers([[-1.0], [], [-1.0], []], ["a", "b", "c", "d"]))


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_log_prob_that_is_not_finite_is_named_with_its_token(bad):
    with pytest.raises(ValueError, match=r"example 'b' \(row 1\) has the log-prob .* at token 1 "):
        Average()(_answers([[-1.0], [-1.0, bad], [-1.0]], ["a", "b", "c"]))


def test_without_ids_the_row_is_named():
    with pytest.raises(ValueError, match="^row 1 has an answer without tokens"):
        Average()(_answers([[-1.0], []]))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 2], "must start at 0"),
        ([0, 2, 1], "never fall"),
        ([0, 1], "log_probs holds 2 values, offsets end at 1"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(offsets, message):
    with pytest.raises(ValueError, match=message):
        AnswerTokens(np.zeros(2), None, np.array(offsets))


def test_lengths_beyond_the_row_are_refused():
    with pytest.raises(ValueError, match=r"lengths must lie in \[0, 3\]"):
        AnswerTokens.from_padded(np.zeros((1, 3)), np.array([4]))


def test_ids_of_another_number_are_refused():
    with pytest.raises(ValueError, match="2 example_ids for 1 examples"):
        AnswerTokens(np.zeros(1), None, np.array([0, 1]), ["a", "b"])
