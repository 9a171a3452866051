"""Columns of the token-level cascade that ran live: round trips, rows taken, every refusal."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.records import columns
from cascade_jax.records.external import from_jsonl, to_jsonl
from cascade_jax.records.table import RecordsError
from cascade_jax.task_metrics import corpus
from cascade_jax.task_metrics.translation import Chrf
from tests.support import records_table
from tests.support.records_cascade import COLUMNS, POLICY, assert_holds, make_rows, write


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_round_trip(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(columns, "_ROWS", rows_at_once)
    monkeypatch.setattr(columns, "_VALUES", 2)
    read = write(tmp_path / "a")
    assert_holds(read, make_rows())
    assert read.cascade_is_deferred.dtype == bool and read.cascade_tokens.dtype == np.int32
    assert read.cascade_uncertainties.dtype == np.float32
    assert read.metadata["policy"] == POLICY and read.cascade_statistics is None


def test_rows_are_taken_whether_columns_were_used_before_or_not(tmp_path):
    rows = make_rows()
    for used in (True, False):
        read = write(tmp_path / "a")
        if used:
            assert_holds(read, rows)
        taken = read.take(np.array([5, 0, 1, 2])).take(np.array([3, 1, 1]))
        assert_holds(taken, [rows[i] for i in (2, 0, 0)])


def test_columns_and_rows_write_the_same_file_with_the_types_of_the_docs(tmp_path):
    rows = make_rows()
    write(tmp_path / "rows")
    write(tmp_path / "columns", rows={name: [row[name] for row in rows] for name in rows[0]})
    assert pq.read_table(tmp_path / "columns").equals(pq.read_table(tmp_path / "rows"))
    types = {field.name: field.type for field in pq.read_schema(tmp_path / "rows")}
    expected = (pa.string(), pa.list_(pa.int32()), pa.list_(pa.string()), pa.list_(pa.bool_()))
    expected += (pa.list_(pa.float32()), pa.float64(), pa.float64())
    assert [types[f"cascade_{name}"] for name in COLUMNS] == list(expected)


def test_a_table_without_them_has_none(tmp_path):
    read = records_table.write(tmp_path / "a")
    taken = read.take(np.array([1, 0]))
    for table in (read, taken):
        for name in (*COLUMNS, "offsets", "statistics"):
            actual = table.pieces("cascade", 0) if name == "pieces" else None
            assert actual is None if name == "pieces" else getattr(table, f"cascade_{name}") is None


def test_statistics_are_read_and_taken_with_those_of_the_models(tmp_path):
    rows = make_rows(statistics=True)
    described = {"t1": corpus.describe(Chrf())}
    read = write(tmp_path / "a", rows=rows, corpus_metrics=described)
    taken = read.take(np.array([5, 0, 1]))
    for table, order in ((read, range(6)), (taken, (5, 0, 1))):
        counts = [value for i in order for value in rows[i]["cascade_statistics"]]
        assert table.cascade_statistics.tolist() == counts and len(counts) % 18 == 0
        assert len(counts) == table.statistics_offsets[-1]
    rows[1]["cascade_statistics"] = [1] * 5
    with pytest.raises(RecordsError, match="'cascade_statistics' of row 1 has 5 values, 'stu"):
        write(tmp_path / "b", rows=rows, corpus_metrics=described)
    rows[1]["cascade_statistics"] = [-1] * 18
    with pytest.raises(RecordsError, match="cascade_statistics of example 't1/test/1' .* is -1"):
        write(tmp_path / "b", rows=rows, corpus_metrics=described)


@pytest.mark.parametrize("statistics", [True, False])
def test_they_come_back_from_a_plain_table_as_they_were(tmp_path, statistics):
    metadata = {"corpus_metrics": {"t1": corpus.describe(Chrf())}} if statistics else {}
    write(tmp_path / "a", rows=make_rows(statistics=statistics), **metadata)
    assert to_jsonl.to_jsonl(tmp_path / "a", tmp_path / "a.jsonl") == 6
    config = from_jsonl.FromJsonlConfig(str(tmp_path / "a.jsonl"), str(tmp_path / "b"))
    from_jsonl.from_jsonl(config)
    before, after = pq.read_table(tmp_path / "a"), pq.read_table(tmp_path / "b")
    for name in before.column_names:
        assert before[name].equals(after[name]), name
    assert records.read(tmp_path / "b").metadata["policy"] == POLICY


def test_a_metric_measures_the_cascade_anew(tmp_path):
    rows = make_rows()
    for row in rows[::2]:
        row["target"] = row["cascade_answer"]
    write(tmp_path / "a", rows=rows)
    to_jsonl.to_jsonl(tmp_path / "a", tmp_path / "a.jsonl")
    for metric in ("accuracy", "corpus_chrf"):
        config = from_jsonl.FromJsonlConfig(
            str(tmp_path / "a.jsonl"), str(tmp_path / metric), metric=metric
        )
        from_jsonl.from_jsonl(config)
    read = records.read(tmp_path / "accuracy")
    assert read.cascade_quality.tolist() == [1, 0] * 3 and read.cascade_statistics is None
    read = records.read(tmp_path / "corpus_chrf")
    expected = Chrf().statistics(
        [row["target"] for row in rows], [row["cascade_answer"] for row in rows]
    )
    np.testing.assert_array_equal(read.cascade_statistics.reshape(6, -1), expected)


def test_a_field_of_the_lines_is_the_quality_of_the_cascade_too(tmp_path):
    write(tmp_path / "a")
    to_jsonl.to_jsonl(tmp_path / "a", tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text.replace('"quality":', '"judged": 0.75, "quality":'))
    config = from_jsonl.FromJsonlConfig(f"{tmp_path}/a.jsonl", f"{tmp_path}/b", metric="judged")
    assert not from_jsonl.from_jsonl(config).left_out
    read = records.read(tmp_path / "b")
    assert set(read.cascade_quality) == set(read.student_quality) == {0.75}


def test_a_cascade_that_only_some_lines_have_is_left_out_and_said(tmp_path):
    write(tmp_path / "a")
    to_jsonl.to_jsonl(tmp_path / "a", tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text().replace('"cascade":', '"other":', 1)
    (tmp_path / "a.jsonl").write_text(text)
    config = from_jsonl.FromJsonlConfig(str(tmp_path / "a.jsonl"), str(tmp_path / "b"))
    left_out = from_jsonl.from_jsonl(config).left_out
    assert {name: left_out[f"cascade_{name}"] for name in COLUMNS} == dict.fromkeys(COLUMNS, 1)
    assert records.read(tmp_path / "b").cascade_answer is None
    (tmp_path / "a.jsonl").write_text(text.replace('"cascade": {', '"cascade": 3, "more": {', 1))
    with pytest.raises(from_jsonl.LineError, match=r"a.jsonl:3: cascade is 3; must be an object"):
        from_jsonl.from_jsonl(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {(1, "cascade_pieces"): ["a"]},
            "'cascade_pieces' of row 1 has 1 values, 'cascade_tokens' has 2",
        ),
        ({(1, "cascade_is_deferred"): [True]}, "'cascade_is_deferred' of row 1 has 1 values"),
        ({(1, "cascade_uncertainties"): [1.0] * 3}, "'cascade_uncertainties' of row 1 has 3 va"),
        (
            {(1, "cascade_uncertainties"): [0.5, float("nan")]},
            r"cascade_uncertainties of example 't1/test/1' \(row 1\) is nan, must be finite and 0",
        ),
        ({(1, "cascade_uncertainties"): [-0.5, 1.0]}, "is -0.5, must be finite and 0 or more"),
        ({(1, "cascade_is_deferred"): [None, True]}, "lists of column 'cascade_is_deferred' hold"),
        ({(2, "cascade_answer"): None}, "column 'cascade_answer' holds 1 nulls"),
        ({(2, "cascade_quality"): 1.5}, "cascade_quality .* is 1.5, must be in"),
        ({(2, "cascade_flops"): 0.0}, "cascade_flops of .* is 0.0, must be finite and positive"),
        ({(1, "cascade_is_deferred"): [0.5, 1]}, "'cascade_is_deferred' must hold list<"),
    ],
)
def test_values_that_are_refused(tmp_path, changes, message):
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", changes)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("left_out", COLUMNS)
def test_one_column_without_the_others_is_refused(tmp_path, left_out):
    rows = make_rows()
    for row in rows:
        del row[f"cascade_{left_out}"]
    with pytest.raises(RecordsError, match=f"column 'cascade_.* needs 'cascade_{left_out}' beside"):
        write(tmp_path / "a", rows=rows)


def test_statistics_alone_and_a_policy_that_is_no_object_are_refused(tmp_path):
    rows = make_rows()
    for row in rows:
        row["cascade_statistics"] = []
    message = "'cascade_statistics' needs 'student_statistics', 'teacher_statistics' beside it"
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", rows=rows)
    with pytest.raises(RecordsError, match="'policy' must be a certificate, an object, got 'x'"):
        write(tmp_path / "a", policy="x")
