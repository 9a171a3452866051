"""The answers that scores read: padded, taken, and checked."""

import numpy as np
import pytest
from hypothesis import given

from cascade_jax.deferral.scores import Average
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from tests.support.ragged import LISTS, answers_of, rows_of


@given(LISTS)
def test_padded_rows_give_what_lists_give(lists):
    width = max(map(len, lists)) + 2
    # Garbage behind the end of an answer must not be read.
    padded = np.full((len(lists), width), np.nan, np.float32)
    for row, part in enumerate(lists):
        padded[row, : len(part)] = part
    top = np.stack([padded, padded - 1], axis=2)
    embeddings = np.ones((len(lists), 3))
    lengths = np.array([len(part) for part in lists])
    answers = AnswerTokens.from_padded(padded, lengths, padded, None, top, embeddings)
    np.testing.assert_array_equal(Average()(answers), Average()(answers_of(lists)))
    np.testing.assert_array_equal(answers.lengths, lengths)
    np.testing.assert_array_equal(answers.entropies, answers.log_probs)
    np.testing.assert_array_equal(answers.top_log_probs[:, 0], answers.log_probs)
    assert answers.top_k == 2 and answers.embeddings is embeddings


def full(seed=0, n=12) -> AnswerTokens:
    rng = np.random.default_rng(seed)
    lists = [-rng.exponential(size=length) for length in rng.integers(1, 6, n)]
    result = answers_of(lists, [f"e{i}" for i in range(n)], k=4)
    return AnswerTokens(
        result.log_probs,
        result.entropies,
        result.offsets,
        result.example_ids,
        result.top_log_probs,
        rng.normal(size=(n, 3)),
    )


def assert_rows(actual: AnswerTokens, whole: AnswerTokens, rows) -> None:
    for name in ("log_probs", "entropies", "top_log_probs"):
        parts = rows_of(whole, getattr(whole, name))
        expected = np.concatenate([parts[row] for row in rows])
        np.testing.assert_array_equal(getattr(actual, name), expected)
    np.testing.assert_array_equal(actual.embeddings, whole.embeddings[rows])
    np.testing.assert_array_equal(actual.lengths, whole.lengths[rows])
    assert list(actual.example_ids) == [whole.example_ids[row] for row in rows]


def test_taken_rows_have_all_that_is_theirs():
    whole, rows = full(), [7, 0, 0, 11]
    assert_rows(whole.take(np.array(rows)), whole, rows)


def test_a_part_has_its_rows():
    whole = full()
    assert_rows(whole.part(3, 8), whole, [3, 4, 5, 6, 7])
    assert np.shares_memory(whole.part(3, 8).top_log_probs, whole.top_log_probs)


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


def test_ids_and_embeddings_of_another_number_are_refused():
    with pytest.raises(ValueError, match="2 example_ids for 1 examples"):
        AnswerTokens(np.zeros(1), None, np.array([0, 1]), ["a", "b"])
    with pytest.raises(ValueError, match="3 embeddings for 1 examples"):
        AnswerTokens(np.zeros(1), None, np.array([0, 1]), None, None, np.zeros((3, 2)))
