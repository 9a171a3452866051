"""The records table: round trip, atomic writing, and every refusal."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.deferral.scores import Average
from cascade_jax.records.table import RecordsError
from tests.support.records_table import METADATA, make_rows, rewrite, write


def test_round_trip_of_rows(tmp_path):
    rows = make_rows(7)
    read = write(tmp_path / "a.parquet", rows=make_rows(7))
    assert len(read) == 7
    assert read.metadata == METADATA | {
        "schema_version": records.SCHEMA_VERSION,
        "models": ["student", "teacher"],
    }
    for name in records.SCHEMA.names:
        for i, row in enumerate(rows):
            value = getattr(read, name)
            if isinstance(row[name], list):
                offsets = getattr(read, f"{name.split('_')[0]}_offsets")
                assert value[offsets[i] : offsets[i + 1]].tolist() == row[name]
            else:
                assert value[i] == row[name]


def test_columns_and_rows_write_the_same_file(tmp_path):
    rows = make_rows()
    columns = {name: [row[name] for row in rows] for name in records.SCHEMA.names}
    columns["student_quality"] = np.array(columns["student_quality"])
    columns["student_tokens"] = [np.array(v, np.int32) for v in columns["student_tokens"]]
    columns["teacher_quality"] = pa.array(columns["teacher_quality"], pa.float32())
    columns["not_ours"] = [0] * len(rows)
    records.write(tmp_path / "columns", columns, METADATA)
    records.write(tmp_path / "rows", rows, METADATA)
    assert pq.read_table(tmp_path / "columns").equals(pq.read_table(tmp_path / "rows"))


def test_files_of_other_programs_with_wider_types_are_read(tmp_path):
    write(tmp_path / "a")
    wide = {pa.string(): pa.large_string(), pa.list_(pa.int32()): pa.large_list(pa.int64())}
    schema = [(f.name, wide.get(f.type, f.type)) for f in records.SCHEMA]
    rewrite(tmp_path / "a", change_table=lambda table: table.cast(pa.schema(schema)))
    assert records.read(tmp_path / "a").student_answer[1] == "naïve 日本\n"


def test_many_row_groups_are_one_table(tmp_path):
    whole = write(tmp_path / "a", rows=make_rows(9))
    table = pq.read_table(tmp_path / "a")
    pq.write_table(table, tmp_path / "b", row_group_size=2)
    read = records.read(tmp_path / "b")
    np.testing.assert_array_equal(read.student_offsets, whole.student_offsets)
    np.testing.assert_array_equal(read.student_log_probs, whole.student_log_probs)


def test_the_student_side_feeds_a_score(tmp_path):
    read = write(tmp_path / "a")
    np.testing.assert_allclose(Average()(read.student), [0.25, 0.5, 0.75, 1.0])


def test_take_gives_the_rows_in_order(tmp_path):
    read = write(tmp_path / "a", rows=make_rows(6))
    rows = make_rows(6)
    order = [5, 0, 2]
    expected = write(tmp_path / "b", rows=[rows[i] for i in order])
    taken = read.take(np.array(order))
    for name in (*records.SCHEMA.names, "student_offsets", "teacher_offsets"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(expected, name))


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write(path)
    before = path.read_bytes()

    def disk_full(table, target, **_):
        target.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write(path, rows=make_rows(3))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.parquet: no such records file"):
        records.read(tmp_path / "gone.parquet")


def test_not_parquet(tmp_path):
    (tmp_path / "a").write_text("hello")
    with pytest.raises(RecordsError, match="a is not a records file: not Parquet"):
        records.read(tmp_path / "a")


def test_parquet_of_something_else(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a")
    with pytest.raises(
        RecordsError, match="a is not a records file: .* lack the key 'cascade_jax'"
    ):
        records.read(tmp_path / "a")


@pytest.mark.parametrize("version", [99, None])
def test_another_schema_version_or_none(version, tmp_path):
    write(tmp_path / "old.parquet")
    rewrite(tmp_path / "old.parquet", {"schema_version": version})
    with pytest.raises(
        RecordsError, match=f"old.parquet: records schema version {version}, .* versions 1 and 2"
    ):
        records.read(tmp_path / "old.parquet")


def test_a_missing_column_names_the_nearest_there(tmp_path):
    write(tmp_path / "a")
    names = [{"student_quality": "student_qualty"}.get(n, n) for n in records.SCHEMA.names]
    rewrite(tmp_path / "a", change_table=lambda table: table.rename_columns(names))
    with pytest.raises(
        RecordsError, match=r"missing column 'student_quality' \(nearest there: 'student_qualty'\)"
    ):
        records.read(tmp_path / "a")


def test_a_row_that_lacks_a_column_is_refused(tmp_path):
    rows = make_rows()
    del rows[2]["target"]
    with pytest.raises(RecordsError, match="row 2 lacks 'target'"):
        records.write(tmp_path / "a", rows, METADATA)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "student_log_probs",
            [-1.0, float("nan")],
            r"student_log_probs of example 't1/test/1' .*nan",
        ),
        ("teacher_log_probs", [float("-inf")], r"teacher_log_probs of example .* is -inf"),
        ("student_log_probs", [-1.0, 0.7], r"is 0\.69.*, must be finite and at most 0"),
        ("student_entropies", [float("inf"), 0.0], "student_entropies .* must be finite"),
        (
            "student_quality",
            1.5,
            r"student_quality of example 't1/test/1' \(row 1\) is 1.5, .*\[0, 1\]",
        ),
        ("teacher_quality", -0.1, r"teacher_quality .* is -0.1"),
        ("student_quality", float("nan"), "student_quality .* is nan"),
        ("student_flops_per_token", 0.0, "student_flops_per_token .* must be finite and positive"),
        ("example_id", "t0/test/0", "example_id 't0/test/0' comes twice"),
        ("student_answer", None, "column 'student_answer' holds 1 nulls"),
        ("student_log_probs", [-1.0, None], "lists of column 'student_log_probs' hold nulls"),
        ("student_log_probs", [-1.0], "tokens' of row 1 has 2 values, 'student_log_probs' has 1"),
        ("student_tokens", ["x", "y"], "column 'student_tokens' must hold list<"),
    ],
)
def test_values_that_are_refused(tmp_path, column, value, message):
    with pytest.raises(RecordsError, match=message):
        write(tmp_path / "a", {(1, column): value})
    assert not (tmp_path / "a").exists()


def test_bad_values_of_other_programs_are_refused_when_read(tmp_path):
    write(tmp_path / "a")
    index = records.SCHEMA.get_field_index("student_quality")
    bad = pa.array([0.0, 2.0, 1.0, 1.0])
    rewrite(tmp_path / "a", change_table=lambda t: t.set_column(index, "student_quality", bad))
    with pytest.raises(RecordsError, match="a: student_quality .* is 2.0"):
        records.read(tmp_path / "a")


def test_a_column_of_another_type_is_refused_when_read(tmp_path):
    write(tmp_path / "a")
    index = records.SCHEMA.get_field_index("student_quality")
    bad = pa.array(["good"] * 4)
    rewrite(tmp_path / "a", change_table=lambda t: t.set_column(index, "student_quality", bad))
    with pytest.raises(RecordsError, match="'student_quality' is string, must be double"):
        records.read(tmp_path / "a")


def test_columns_of_different_lengths(tmp_path):
    columns = {name: [row[name] for row in make_rows()] for name in records.SCHEMA.names}
    columns["target"] = columns["target"][:2]
    with pytest.raises(RecordsError, match="columns of different lengths"):
        records.write(tmp_path / "a", columns, METADATA)


def test_metadata_that_are_refused(tmp_path):
    with pytest.raises(RecordsError, match="metadata under 'name' must be a text, got ''"):
        write(tmp_path / "a", name="")
    with pytest.raises(RecordsError, match="the metadata must be JSON values"):
        write(tmp_path / "a", more=object())


def test_the_same_examples_in_another_order_are_comparable(tmp_path):
    first = write(tmp_path / "a", rows=make_rows(6))
    other = write(tmp_path / "b", rows=make_rows(6)[::-1], name="other")
    aligned = records.align([first, other])
    assert aligned[0] is first
    np.testing.assert_array_equal(aligned[1].example_id, first.example_id)
    np.testing.assert_array_equal(aligned[1].student_log_probs, first.student_log_probs)


@pytest.mark.parametrize(
    ("changes", "metadata", "message"),
    [
        ({}, {"split": "train"}, "split is 'train', not 'test'"),
        ({}, {"mixture": "m2"}, "mixture is 'm2', not 'm'"),
        (
            {(1, "example_id"): "t1/test/77"},
            {},
            "different examples, 1 of 4 missing and 1 more: missing 't1/test/1'; more '",
        ),
        (
            {(2, "teacher_quality"): 0.75},
            {},
            r"teacher_quality differs on 1 of 4 examples, first on 't0/test/2' \(0.75, not 0.5\); "
            "collect all of them with one teacher checkpoint",
        ),
        ({(0, "teacher_flops_per_token"): 1.0}, {}, "teacher_flops_per_token differs on 1 of 4"),
        ({(3, "target"): "new"}, {}, r"target differs on 1 of 4 .* \('new', not '🙂'\)"),
        ({(3, "inputs"): "new"}, {}, "inputs differs on 1 of 4"),
        ({(0, "metric"): "f1"}, {}, "metric differs on 1 of 4"),
    ],
)
def test_records_that_can_not_be_compared(tmp_path, changes, metadata, message):
    first = write(tmp_path / "a")
    other = write(tmp_path / "b", changes, **{"name": "other", **metadata})
    with pytest.raises(RecordsError, match=message) as error:
        records.align([first, other])
    assert "'other'" in str(error.value) and "'xent'" in str(error.value)


def test_a_missing_example_is_counted(tmp_path):
    first = write(tmp_path / "a")
    other = write(tmp_path / "b", rows=make_rows(2))
    with pytest.raises(
        RecordsError, match="2 of 4 missing and 0 more: missing 't0/test/2', 't.*/test/.*'$"
    ):
        records.align([first, other])


def test_two_schema_versions_in_memory_can_not_be_compared(tmp_path):
    first, other = write(tmp_path / "a"), write(tmp_path / "b")
    other.metadata["schema_version"] = 3
    with pytest.raises(RecordsError, match="schema_version is 3, not 2"):
        records.align([first, other])


@pytest.mark.parametrize("text", ["{oops", "[1]"])
def test_metadata_that_are_no_object_are_refused(tmp_path, text):
    write(tmp_path / "a")
    table = pq.read_table(tmp_path / "a")
    pq.write_table(table.replace_schema_metadata({"cascade_jax": text}), tmp_path / "a")
    with pytest.raises(RecordsError, match="/a: the metadata (are not JSON|must be a JSON object)"):
        records.read(tmp_path / "a")
