"""Scores of samples out of a records file are those of the lists; others never read the samples."""

import numpy as np

from cascade_jax import records
from cascade_jax.deferral import scores
from tests.support import records_table
from tests.support.sampled import answers_of, random_lists

METADATA = {"name": "small", "mixture": "m", "split": "test"}


def write(path, count=12):
    """(records, their samples as lists): texts, log-probs, token ids, greedy answers."""
    texts, log_probs, tokens, greedy = random_lists(8, count, counts=(1, 4))
    rows = records_table.make_rows(count)
    for i, row in enumerate(rows):
        row["student_answer"] = greedy[i]
        row["student_sample_answers"] = texts[i]
        row["student_sample_log_probs"] = log_probs[i]
        row["student_sample_tokens"] = tokens[i]
    records.write(path, rows, METADATA)
    return records.read(path), (texts, log_probs, tokens, greedy)


def test_scores_of_a_file_are_those_of_its_lists(tmp_path):
    table, lists = write(tmp_path / "a")
    expected = answers_of(*lists)
    rows = np.array([5, 0, 11, 3])
    weight = scores.SAR(relevance=lambda text, tokens: np.asarray(tokens, np.float64))
    for score in (*scores.FROM_SAMPLES, weight):
        np.testing.assert_allclose(score(table.student), score(expected), rtol=1e-5, atol=1e-6)
        for part in (table.take(rows).student, table.student.take(rows)):
            np.testing.assert_allclose(score(part), score(table.student)[rows], rtol=1e-12)
    assert set(scores.FROM_SAMPLES) <= set(scores.available(table.student))
    assert table.answers("teacher").samples is None


def test_samples_are_read_only_when_a_score_asks_for_them(tmp_path):
    table, _ = write(tmp_path / "a")
    scores.Average()(table.student)
    scores.Sum()(table.student.take(np.array([2, 1])))
    read = table.columns._columns._made
    assert "student_log_probs" in read and "student_sample_answers" not in read
    scores.Deg()(table.student)
    assert "student_sample_answers" in read


def test_texts_alone_are_enough_for_scores_of_texts(tmp_path):
    rows = records_table.make_rows(3)
    for row in rows:
        row["student_sample_answers"] = ["a", "b"]
    records.write(tmp_path / "a", rows, METADATA)
    answers = records.read(tmp_path / "a").student
    np.testing.assert_array_equal(scores.Deg()(answers), [0.5] * 3)
    assert "column student_sample_log_probs, which" in scores.SAR().lack(answers)
