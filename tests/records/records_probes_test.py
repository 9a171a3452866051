"""Columns of probes in records: round trips, JSONL, tables without text, and refusals."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.deferral import scores
from cascade_jax.records.external import from_jsonl, to_jsonl
from cascade_jax.records.table import RecordsError
from tests.support import records_table

LAYERS = 2
PER_TOKEN = ("mean_log_probs", "self_attention_logs", "relevances", "surface_log_probs")


def make_rows(n=5):
    rng = np.random.default_rng(n)
    rows = records_table.make_rows(n)
    for row in rows:
        count = len(row["student_log_probs"])
        for name in PER_TOKEN:
            sign = 1 if name == "relevances" else -1
            row[f"student_{name}"] = (sign * rng.random(count)).astype(np.float32)
        row["student_previous_attention"] = rng.random((count, LAYERS)).astype(np.float32)
        row["student_vocab_size"] = 32
        row["student_probe_flops"] = 1e6
        row["student_input_state_flops"] = [1e15 + 1]
        for name in ("input_state", "answer_state"):
            row[f"student_{name}"] = rng.normal(size=3).astype(np.float32)
    return rows


def assert_holds(table, rows):
    offsets = table.student_offsets
    for i, row in enumerate(rows):
        span = slice(offsets[i], offsets[i + 1])
        for name in (*PER_TOKEN, "previous_attention"):
            np.testing.assert_array_equal(
                getattr(table, f"student_{name}")[span], row[f"student_{name}"]
            )
        for name in (
            "input_state",
            "input_state_flops",
            "answer_state",
            "vocab_size",
            "probe_flops",
        ):
            np.testing.assert_array_equal(
                getattr(table, f"student_{name}")[i], row[f"student_{name}"]
            )


def test_round_trips(tmp_path):
    rows = make_rows()
    table = records_table.write(tmp_path / "a.parquet", None, rows)
    assert_holds(table, rows)
    assert_holds(table.take(np.array([3, 0])), [rows[3], rows[0]])
    assert set(table.student.per_token) == {*PER_TOKEN, "previous_attention"}
    assert set(table.student.per_example) == {"vocab_size", "probe_flops"}
    to_jsonl.to_jsonl(tmp_path / "a.parquet", tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert np.shape(lines[1]["student"]["previous_attention"])[1] == LAYERS
    output = str(tmp_path / "b.parquet")
    config = from_jsonl.FromJsonlConfig(student=str(tmp_path / "a.jsonl"), output=output)
    from_jsonl.from_jsonl(config)
    again = records.read(output)
    assert_holds(again, rows)
    for score in scores.FROM_PROBES:
        if not score.lack(again.student):
            np.testing.assert_array_equal(score(again.student), score(table.student))


def test_no_rows_and_an_answer_of_another_model_without_tokens(tmp_path):
    records_table.write(tmp_path / "a.parquet", None, make_rows())
    empty = pq.read_table(tmp_path / "a.parquet").slice(0, 0)
    pq.write_table(empty, tmp_path / "b.parquet")
    assert records.read(tmp_path / "b.parquet").student_previous_attention.shape == (0, 1)


@pytest.mark.parametrize(
    "name, value, message",
    [
        (
            "mean_log_probs",
            [0.5],
            "student_mean_log_probs of example .* is 0.5, must be finite and",
        ),
        ("previous_attention", [[0.5, 1.5]], r"is 1.5, must be in \[0, 1\] \(1 such\)"),
        (
            "previous_attention",
            [[0.5]],
            r"of row 1 has 1 values, 'student_log_probs' has 1 and a t",
        ),
        ("relevances", [-0.5], "is -0.5, must be finite and 0 or more"),
        ("vocab_size", 0, "student_vocab_size of example .* is 0, must be finite and positive"),
    ],
)
def test_values_that_are_refused(tmp_path, name, value, message):
    rows = make_rows()
    row = rows[1]
    for key, values in row.items():
        if key.startswith("student_") and isinstance(values, list | np.ndarray):
            row[key] = values if key.endswith("_state") else values[:1]
    row[f"student_{name}"] = np.array(value) if isinstance(value, list) else value
    with pytest.raises(RecordsError, match=message):
        records_table.write(tmp_path / "a.parquet", None, rows)


def test_lines_whose_tokens_have_other_numbers_of_layers_are_refused(tmp_path):
    records_table.write(tmp_path / "a.parquet", None, make_rows())
    to_jsonl.to_jsonl(tmp_path / "a.parquet", tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    last["student"]["previous_attention"][0].append(0.5)
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]))
    output = str(tmp_path / "b.parquet")
    config = from_jsonl.FromJsonlConfig(student=str(tmp_path / "a.jsonl"), output=output)
    with pytest.raises(ValueError, match="previous_attention has 2 to 3 values at a token"):
        from_jsonl.from_jsonl(config)


def test_states_of_several_layers(tmp_path):
    """Those of a row lie end to end; the metadata say of which layers they are."""
    rows = make_rows()
    for i, row in enumerate(rows):
        row["student_input_state_flops"] = [10.0 * i, 20.0, 1e15 + i]
    stated = {"state_layers": [1, 4, 6], "student_saved": "2026-01-01"}
    table = records_table.write(tmp_path / "a.parquet", None, rows, **stated)
    states = table.student.states
    assert states.layers == (1, 4, 6) and states.model == "2026-01-01"
    for i, row in enumerate(rows):
        assert states.input[i].ravel().tolist() == row["student_input_state"].tolist()
        assert states.answer[i, 1].tolist() == [row["student_answer_state"][1]]
    taken = table.student.take(np.array([3, 0])).states
    np.testing.assert_array_equal(taken.answer, states.answer[[3, 0]])
    assert taken.input_flops.tolist() == [[30.0, 20.0, 1e15 + 3], [0.0, 20.0, 1e15]]
    with pytest.raises(RecordsError, match="input_state_flops has 3 values in each row, not as ma"):
        _ = records_table.write(tmp_path / "d.parquet", None, rows).student.states
    for row in rows:
        del row["student_input_state_flops"]
    unknown = records_table.write(tmp_path / "b.parquet", None, rows).student.states
    assert unknown.layers is None and unknown.model == "" and unknown.input.shape == (5, 1, 3)
    without = records_table.write(tmp_path / "c.parquet").student
    assert without.states is None and without.take(np.array([0])).states is None


@pytest.mark.parametrize("layers", [[], [3, 1], [1, 1], [-1], [True], [1.5], "1", 3])
def test_layers_of_states_that_are_no_list(tmp_path, layers):
    with pytest.raises(RecordsError, match="'state_layers' must be a rising list of layers, count"):
        records_table.write(tmp_path / "a.parquet", None, make_rows(), state_layers=layers)


def test_states_that_are_no_whole_vectors(tmp_path):
    table = records_table.write(tmp_path / "a.parquet", None, make_rows(), state_layers=[1, 2])
    message = "student_answer_state has 3 values in each row, not as many for each of 2 layers"
    with pytest.raises(RecordsError, match=message):
        _ = table.student.states
