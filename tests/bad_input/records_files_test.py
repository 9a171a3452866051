"""Records files that changed after they were written, and those of other programs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.records.table import RecordsError
from tests.support import records_optional, records_table


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "a"
    records_table.write(file, None, records_optional.make_rows(40), top_k=records_optional.TOP_K)
    return file


def read_all(file):
    """Every column; what a report or a score would read."""
    read = records.read(file)
    return {name: read.columns[name] for name in read.columns.fields if name in read.columns}


def test_a_page_that_changed_is_refused(whole, tmp_path):
    """Every 61st byte of the data, changed by itself."""
    content, length = whole.read_bytes(), pq.read_metadata(whole).serialized_size
    before, refused = read_all(whole), 0
    for place in range(4, len(content) - length - 8, 61):
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "a").write_bytes(changed)
        try:
            after = read_all(tmp_path / "a")
        except RecordsError as error:
            text = str(error)
            assert str(tmp_path / "a") in text and "\n" not in text
            refused += 1
        else:  # a place that nothing is read from, such as statistics of a page
            for name, values in before.items():
                assert str(values) == str(after[name]), (place, name)
    assert refused > 25


def test_checksums_are_in_the_file(whole, tmp_path):
    without = tmp_path / "without"
    pq.write_table(pq.read_table(whole), without)
    assert whole.stat().st_size > without.stat().st_size
    assert records.read(without).example_id.tolist() == records.read(whole).example_id.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"PAR1",
        lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1",
        lambda content: content[:-300] + bytes(292) + content[-8:],
        lambda content: b"{}" * 50,
    ],
)
def test_files_that_are_cut_or_are_none(whole, tmp_path, change):
    (tmp_path / "a").write_bytes(change(whole.read_bytes()))
    with pytest.raises(RecordsError, match=r"/a\b.*") as refused:
        read_all(tmp_path / "a")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("has_arrow_metadata", [True, False])
def test_metadata_beside_the_arrow_schema(whole, tmp_path, has_arrow_metadata):
    """polars writes them into the file's metadata, and an Arrow schema that has none."""
    table = pq.read_table(whole)
    text = table.schema.metadata[b"cascade_jax"]
    more = {"other": "x"} if has_arrow_metadata else None
    with pq.ParquetWriter(tmp_path / "a", table.schema.with_metadata(more)) as writer:
        writer.write_table(table.replace_schema_metadata(more))
        writer.add_key_value_metadata({"cascade_jax": text})
    assert b"cascade_jax" not in (pq.read_schema(tmp_path / "a").metadata or {})
    read = records.read(tmp_path / "a")
    assert read.metadata == records.read(whole).metadata


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', 'the metadata are not JSON: has the key "a" twice'),
        (b"\xff\xfe", "the metadata are not JSON: not UTF-8"),
        (b'{"top_k": 1e999}', "holds the number 1e999"),
        (b"[" * 9999, "nested too deeply"),
        (b"[1]", "must be a JSON object"),
    ],
)
def test_metadata_that_are_none(whole, tmp_path, text, message):
    table = pq.read_table(whole).replace_schema_metadata({b"cascade_jax": text})
    pq.write_table(table, tmp_path / "a")
    with pytest.raises(RecordsError, match=message):
        records.read(tmp_path / "a")


def changed(whole, file, **columns):
    """A copy with other columns, written without our checks."""
    table = pq.read_table(whole)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(at, table.schema.field(name), column)
    pq.write_table(table, file)
    return file


def test_sizes_that_can_not_be(whole, tmp_path):
    table = pq.read_table(whole)
    lists = table["student_top_log_probs"].to_pylist()
    lists[3][: records_optional.TOP_K] = [-0.1] * records_optional.TOP_K
    file = changed(whole, tmp_path / "a", student_top_log_probs=lists)
    with pytest.raises(RecordsError, match=r"student_top_log_probs of .* at most 1 .*\(1 such\)"):
        read_all(file)
    for name, value in (("student_entropies", -0.5), ("student_tokens", -7)):
        lists = table[name].to_pylist()
        lists[5][0] = value
        file = changed(whole, tmp_path / "a", **{name: lists})
        with pytest.raises(RecordsError, match=f"{name} of .* is {value}, must be .*0 or more"):
            read_all(file)


def test_texts_that_are_not_utf_8(whole, tmp_path):
    table = pq.read_table(whole)
    at = table.schema.get_field_index("student_answer")
    damaged = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    pq.write_table(table.set_column(at, table.schema.field(at), damaged), tmp_path / "a")
    with pytest.raises(RecordsError, match="'student_answer' can't be read: .*UTF"):
        read_all(tmp_path / "a")


def test_rounding_of_probabilities_is_allowed(tmp_path):
    rows = records_optional.make_rows(4)
    count = len(rows[0]["student_tokens"])
    top = np.log(np.array([0.9, 0.1004, 1e-9], np.float32))
    rows[0]["student_top_log_probs"] = np.tile(top, count).tolist()
    rows[0]["student_entropies"] = [-1e-7] * count
    records_table.write(tmp_path / "a", None, rows, top_k=records_optional.TOP_K)
    assert json.dumps(records.read(tmp_path / "a").metadata["top_k"]) == "3"
