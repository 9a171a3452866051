"""The optional columns of records: round trips, rows taken, and every refusal."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.records import columns
from cascade_jax.records.table import RecordsError
from tests.support import records_table
from tests.support.records_optional import TOP_K, assert_holds, make_rows

OPTIONAL = ("top_log_probs", "top_ids", "embedding", "input_tokens", "flops", "seconds")


def write(path, changes=None, rows=None, **metadata):
    rows = make_rows() if rows is None else rows
    return records_table.write(path, changes, rows, **{"top_k": TOP_K, **metadata})


def test_round_trip(tmp_path):
    read = write(tmp_path / "a")
    assert_holds(read, make_rows())
    assert read.student_top_log_probs.dtype == read.student_embedding.dtype == np.float32
    assert read.metadata["schema_version"] == 2


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_columns_are_read_in_parts(tmp_path, monkeypatch, rows_at_once):
    write(tmp_path / "a", rows=make_rows(9))
    monkeypatch.setattr(columns, "_ROWS", rows_at_once)
    monkeypatch.setattr(columns, "_VALUES", 2)
    assert_holds(records.read(tmp_path / "a"), make_rows(9))


def test_rows_are_taken_whether_columns_were_used_before_or_not(tmp_path):
    rows = make_rows()
    for used in (True, False):
        read = write(tmp_path / "a")
        if used:
            assert_holds(read, rows)
        taken = read.take(np.array([5, 0, 1, 2])).take(np.array([3, 1, 1]))
        assert_holds(taken, [rows[i] for i in (2, 0, 0)])
        expected = [rows[i] for i in (2, 0, 0)]
        assert taken.inputs.tolist() == [row["inputs"] for row in expected]
        tokens = [token for row in expected for token in row["teacher_tokens"]]
        assert taken.teacher_tokens.tolist() == tokens
        assert taken.teacher_offsets[-1] == len(tokens) == len(taken.teacher_log_probs)


def test_scores_get_what_is_there(tmp_path):
    read = write(tmp_path / "a")
    np.testing.assert_array_equal(read.student.top_log_probs, read.student_top_log_probs)
    np.testing.assert_array_equal(read.student.embeddings, read.student_embedding)
    bare = records_table.write(tmp_path / "b").student
    assert bare.top_log_probs is None and bare.embeddings is None and bare.entropies is not None


def test_what_is_not_there_is_none(tmp_path):
    read = records_table.write(tmp_path / "a")
    names = [f"student_{name}" for name in OPTIONAL]
    names += [f"teacher_{name}" for name in ("input_tokens", "flops", "seconds")]
    for table in (read, read.take(np.array([1, 0]))):
        assert {name: getattr(table, name) for name in names} == dict.fromkeys(names)
        assert table.pieces("student", 0) is table.pieces("teacher", 1) is None
    with pytest.raises(ValueError, match="model is 'small'; must be one of"):
        read.pieces("small", 0)


def test_tokens_and_entropies_may_be_unknown(tmp_path):
    rows = make_rows()
    for row in rows:
        row["student_entropies"], row["student_tokens"] = [], []
    read = write(tmp_path / "a", rows=rows)
    assert read.student_entropies is None and read.student_tokens is None
    assert read.student.entropies is None and len(read.student_log_probs) == 12
    assert read.teacher_entropies is not None
    assert read.take(np.array([3])).student_entropies is None
    rows = make_rows()
    rows[4]["student_entropies"] = []
    with pytest.raises(RecordsError, match="'student_entropies' of row 4 has 0 values, .* has 2"):
        write(tmp_path / "b", rows=rows)


def test_the_same_texts_are_one_object(tmp_path):
    read = write(tmp_path / "a", rows=make_rows(40))
    for name in ("mixture", "task", "target", "student_answer"):
        values = getattr(read, name)
        assert len({id(value) for value in values}) == len(set(values)) < 5


def test_records_without_an_answer_token_and_without_rows(tmp_path):
    rows = make_rows(3)
    for row in rows:
        for name, value in row.items():
            if name.startswith("student_") and isinstance(value, list):
                row[name] = value if name == "student_embedding" else []
    read = write(tmp_path / "a", rows=rows)
    assert read.student_top_log_probs.shape == (0, TOP_K) and len(read.student_tokens) == 0
    write(tmp_path / "b")
    table = pq.read_table(tmp_path / "b")
    pq.write_table(table.slice(0, 0), tmp_path / "b")
    read = records.read(tmp_path / "b")
    assert len(read) == len(read.student_embedding) == len(read.student_top_ids) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {(1, "student_top_log_probs"): [-1.0, -2.0, -1.5, -1.0, -2.0, -3.0]},
            r"student_top_log_probs of example 't1/test/1' \(row 1\) is -1.5, must be at most the "
            r"one before it: .* \(1 such\)",
        ),
        (
            {(1, "student_top_log_probs"): [-1.0, -2.0, float("nan")] * 2},
            r"student_top_log_probs of example 't1/test/1' \(row 1\) is nan, .*\(2 such\)",
        ),
        ({(1, "student_top_log_probs"): [0.5, -2.0, -3.0] * 2}, "is 0.5, must be finite and at m"),
        (
            {(1, "student_top_log_probs"): [-1.0] * 5},
            "top_log_probs' of row 1 has 5 values, 'student_log_probs' has 2 and top_k is 3",
        ),
        (
            {(0, "student_top_ids"): [1] * 6},
            "'student_top_ids' of row 0 has 6 values, .* has 1 and",
        ),
        ({(0, "student_top_ids"): [1, -2, 1]}, "student_top_ids of example .* is -2, must be 0 or"),
        ({(2, "student_pieces"): ["a"]}, "'student_pieces' of row 2 has 1 values, .* has 3"),
        ({(1, "teacher_pieces"): [None]}, "lists of column 'teacher_pieces' hold nulls"),
        (
            {(3, "student_embedding"): [1.0]},
            "'student_embedding' of row 3 has 1 values, .* 0 has 5",
        ),
        ({(3, "student_embedding"): [float("inf")] * 5}, "student_embedding of .* must be finite"),
        ({(0, "student_input_tokens"): -1}, "student_input_tokens .* is -1, must be finite and 0"),
        ({(0, "teacher_flops"): 0.0}, "teacher_flops of .* is 0.0, must be finite and positive"),
        ({(0, "student_seconds"): float("nan")}, "student_seconds .* is nan, must be finite and 0"),
        ({(0, "student_seconds"): None}, "column 'student_seconds' holds 1 nulls"),
        ({(0, "student_input_tokens"): 1.5}, "'student_input_tokens' must hold int32"),
    ],
)
def test_values_that_are_refused(tmp_path, changes, message):
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", changes)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("left_out", "top_k", "message"),
    [
        (["student_top_log_probs"], 3, "'student_top_ids' needs 'student_top_log_probs'"),
        (["student_top_log_probs", "student_top_ids"], 3, "top_k = 3 without a column 'student_to"),
        ([], 0, "top_k = 0 with a column 'student_top_log_probs'"),
        ([], -1, "'top_k' must be a whole number, 0 for none, got -1"),
        ([], 3.0, "'top_k' must be a whole number, 0 for none, got 3.0"),
        ([], 2, "has 3 values, 'student_log_probs' has 1 and top_k is 2"),
        (["teacher_flops"], 3, "'student_flops' needs 'teacher_flops'"),
        (["student_seconds"], 3, "'teacher_seconds' needs 'student_seconds'"),
        (["teacher_input_tokens"], 3, "'student_input_tokens' needs 'teach"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(tmp_path, left_out, top_k, message):
    rows = [{k: v for k, v in row.items() if k not in left_out} for row in make_rows()]
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", rows=rows, top_k=top_k)


def test_top_ids_and_other_columns_may_be_left_out_alone(tmp_path):
    gone = ("student_top_ids", "teacher_pieces")
    rows = [{k: v for k, v in row.items() if k not in gone} for row in make_rows()]
    read = write(tmp_path / "a", rows=rows)
    assert read.student_top_ids is None and read.student_top_log_probs is not None
    assert read.pieces("teacher", 0) is None and read.pieces("student", 0) is not None


def test_a_bad_column_of_another_program_is_refused_when_it_is_used(tmp_path):
    write(tmp_path / "a")
    rows = make_rows()
    bad = pa.array([row["student_top_log_probs"][::-1] for row in rows], pa.list_(pa.float32()))

    def change(table):
        at = table.schema.get_field_index("student_top_log_probs")
        return table.set_column(at, "student_top_log_probs", bad)

    records_table.rewrite(tmp_path / "a", change_table=change)
    read = records.read(tmp_path / "a")
    with pytest.raises(RecordsError, match="a: student_top_log_probs of example .* the largest"):
        _ = read.student


def test_a_file_that_was_replaced_is_still_the_one_that_was_opened(tmp_path):
    read = write(tmp_path / "a")
    write(tmp_path / "a", rows=make_rows(3))
    assert_holds(read, make_rows())
