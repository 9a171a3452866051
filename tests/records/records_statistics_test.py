"""The optional columns and metadata of records: statistics, figures, decoding."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.records.table import RecordsError
from cascade_jax.task_metrics import corpus
from cascade_jax.task_metrics.translation import Bleu, Chrf
from tests.support import records_table
from tests.support.records_statistics import make_rows, write


def test_round_trip(tmp_path):
    read, rows = write(tmp_path / "a"), make_rows()
    actual = read.statistics("t1")
    assert actual.metric == Chrf() and read.statistics("t0") is None
    assert actual.student.tolist() == [rows[i]["student_statistics"] for i in (1, 3, 5)]
    assert actual.teacher.tolist() == [rows[i]["teacher_statistics"] for i in (1, 3, 5)]
    types = {field.name: field.type for field in pq.read_schema(tmp_path / "a")}
    assert types["student_statistics"] == types["teacher_statistics"] == pa.list_(pa.int64())


def test_columns_and_rows_write_the_same_file(tmp_path):
    rows = make_rows()
    write(tmp_path / "rows")
    write(tmp_path / "columns", rows={name: [row[name] for row in rows] for name in rows[0]})
    assert pq.read_table(tmp_path / "columns").equals(pq.read_table(tmp_path / "rows"))


def test_a_table_without_them_is_what_it_was(tmp_path):
    read = records_table.write(tmp_path / "a")
    assert set(pq.read_schema(tmp_path / "a").names) == set(records.SCHEMA.names)
    assert read.statistics("t1") is read.student_statistics is None
    assert read.take(np.array([2, 1])).statistics_offsets is None


def test_take_takes_them_along(tmp_path):
    read, rows = write(tmp_path / "a"), make_rows()
    taken = read.take(np.array([5, 0, 1, 2]))
    assert taken.statistics("t1").student.tolist() == [
        rows[i]["student_statistics"] for i in (5, 1)
    ]
    assert np.diff(taken.statistics_offsets).tolist() == [18, 0, 18, 0]


def test_aligning_brings_them_into_order(tmp_path):
    first = write(tmp_path / "a")
    other = write(tmp_path / "b", rows=make_rows()[::-1], name="other")
    aligned = records.align([first, other])[1].statistics("t1")
    np.testing.assert_array_equal(aligned.student, first.statistics("t1").student)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {(1, c): [1] * 17 for c in ("student_statistics", "teacher_statistics")},
            r"example 't1/test/1' \(row 1\) has 17 statistics, must have 18: its task 't1' "
            r"corpus_metrics has Chrf\(word_order=0\) \(1 such rows\)",
        ),
        (
            {(3, c): [] for c in ("student_statistics", "teacher_statistics")},
            r"example 't1/test/3' \(row 3\) has 0 statistics, must have 18",
        ),
        (
            {(2, c): [1] * 18 for c in ("student_statistics", "teacher_statistics")},
            r"\(row 2\) has 18 statistics, must have 0: its task 't0' has no corpus metric",
        ),
        (
            {(3, "teacher_statistics"): [1] * 5},
            "'teacher_statistics' of row 3 has 5 values, 'student_statistics' has 18",
        ),
        (
            {(3, "student_statistics"): [1] * 17 + [-1]},
            r"student_statistics of example 't1/test/3' \(row 3\) is -1, must be 0 or more",
        ),
        ({(0, "student_statistics"): None}, "column 'student_statistics' holds 1 nulls"),
        ({(1, "student_statistics"): [None] * 18}, "lists of column 'student_statistics' hold"),
        ({(1, "student_statistics"): [0.5] * 18}, "'student_statistics' must hold list<"),
    ],
)
def test_values_that_are_refused(tmp_path, changes, message):
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", changes)
    assert not (tmp_path / "a").exists()


def test_a_metric_without_statistics_and_one_column_alone_are_refused(tmp_path):
    with pytest.raises(RecordsError, match="has 0 statistics, must have 18"):
        write(tmp_path / "a", rows=records_table.make_rows())
    rows = make_rows()
    for row in rows:
        del row["teacher_statistics"]
    with pytest.raises(
        RecordsError, match="column 'student_statistics' needs 'teacher_statistics' beside it"
    ):
        write(tmp_path / "a", rows=rows)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"corpus_metrics": {"t1": {"name": "ter", "class": "Ter", "options": {}}}},
            "a: corpus_metrics of task 't1': class is 'Ter'; must be one of Bleu, Chrf",
        ),
        ({"corpus_metrics": "bleu"}, "corpus_metrics must be metrics by task, got 'bleu'"),
        ({"decoding": ["greedy"]}, "'decoding' must be a text, or texts by task"),
        ({"figures": {"t1": {"bleu": 0.3}}}, "figures of task 't1' must be numbers of all models"),
        ({"figures": {"t1": {"bleu": {"student": 0.3}}}}, "figures of task 't1'"),
        ({"figures": {"t1": {"bleu": {"student": "x", "teacher": 0}}}}, "figures of task 't1'"),
        ({"figures": {"t1": 3}}, "figures of task 't1'"),
        ({"figures": []}, "figures of task ''"),
    ],
)
def test_metadata_that_are_refused_written_or_read(tmp_path, metadata, message):
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", **metadata)
    write(tmp_path / "a")
    records_table.rewrite(tmp_path / "a", metadata)
    with pytest.raises(RecordsError, match=message):
        records.read(tmp_path / "a")


def test_metadata_that_are_read(tmp_path):
    figures = {"t1": {"corpus_chrf": {"student": 0.2, "teacher": None}}}
    read = write(tmp_path / "a", figures=figures, decoding={"t0": "rank_classification"})
    assert read.metadata["figures"] == figures
    assert read.decoding("t0") == "rank_classification" and read.decoding("t1") == ""
    assert write(tmp_path / "b", decoding="greedy").decoding("t1") == "greedy"
    assert json.loads(json.dumps(read.metadata)) == read.metadata


def test_what_can_not_be_compared(tmp_path):
    first = write(tmp_path / "a", decoding="greedy")
    changed = write(tmp_path / "b", {(3, "teacher_statistics"): [1] * 18}, name="other")
    with pytest.raises(
        RecordsError, match="teacher_statistics differ on 1 of 3 .* task 't1'; coll"
    ):
        records.align([first, changed])
    rows = make_rows()
    for row in rows[1::2]:
        row["student_statistics"] = row["teacher_statistics"] = [1] * 10
    described = {"t1": corpus.describe(Bleu())}
    bleu = write(tmp_path / "c", rows=rows, name="other", corpus_metrics=described)
    with pytest.raises(RecordsError, match=r"metric of task 't1' is Bleu\(.*\), not Chrf\("):
        records.align([first, bleu])
    ranked = write(tmp_path / "d", name="other", decoding={"t1": "rank_classification"})
    message = "answers to task 't1' are by rank_classification, not by greedy"
    with pytest.raises(RecordsError, match=message):
        records.align([first, ranked])
    # Records that do not say, or have none, are not held against each other.
    records.align([first, write(tmp_path / "e", name="other")])
    bare = records_table.write(tmp_path / "f", rows=records_table.make_rows(6), name="other")
    records.align([first, bare])
