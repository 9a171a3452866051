"""One row of COLUMNS is a column everywhere; three models; samples; files of schema 1."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.evaluation import curves
from cascade_jax.records import columns as columns_lib
from cascade_jax.records import schema
from cascade_jax.records.external import answers, from_jsonl, to_jsonl
from cascade_jax.records.external.lines import LineError
from cascade_jax.records.table import RecordsError
from tests.records import votes_score
from tests.support import records_cascade, records_optional, records_table
from tests.support.reports import evaluate_and_write

METADATA = {"name": "small", "mixture": "m", "split": "test"}
OWN = (
    schema.Column(
        "votes",
        pa.float64(),
        "share of judges that vote for the answer",
        owner=schema.DEFERRING_MODEL,
        check=schema.IN_UNIT_INTERVAL,
        is_for_scores=True,
    ),
    schema.Column(
        "roughness",
        pa.list_(pa.float32()),
        "of the sound of each token",
        owner=schema.DEFERRING_MODEL,
        shape=schema.PER_TOKEN,
        check=schema.NOT_NEGATIVE,
        is_for_scores=True,
    ),
    schema.Column("weather", pa.int32(), "degrees on the day it was asked"),
)


def exchanged(path):
    """Records of a file after a way through JSONL, beside the file."""
    to_jsonl.to_jsonl(path, f"{path}.jsonl")
    from_jsonl.from_jsonl(from_jsonl.FromJsonlConfig(f"{path}.jsonl", f"{path}.again"))
    first, second = pq.read_table(path), pq.read_table(f"{path}.again")
    assert set(first.column_names) == set(second.column_names)
    for name in first.column_names:
        assert first[name].to_pylist() == second[name].to_pylist(), name
    again = records.read(f"{path}.again")
    assert again.metadata == records.read(path).metadata
    return again


@pytest.fixture
def rows(monkeypatch):
    """Rows with columns of a user's own, each declared by one row of COLUMNS."""
    monkeypatch.setattr(schema, "COLUMNS", schema.COLUMNS + OWN)
    answers.columns_about.cache_clear()
    rng = np.random.default_rng(0)
    rows = records_table.make_rows(12)
    for row in rows:
        count = len(row["student_tokens"])
        row["student_votes"] = float(rng.random())
        row["student_roughness"] = rng.random(count).astype(np.float32).tolist()
        row["weather"] = int(rng.integers(-9, 30))
    yield rows
    answers.columns_about.cache_clear()


def test_a_new_column_is_written_read_exchanged_and_evaluated_by_a_score_of_its_own(tmp_path, rows):
    records.write(tmp_path / "a", rows, METADATA)
    for read in (records.read(tmp_path / "a"), exchanged(tmp_path / "a")):
        assert read.student_votes.tolist() == [row["student_votes"] for row in rows]
        assert read.weather.tolist() == [row["weather"] for row in rows]
        assert read.take(np.array([3])).student_roughness.tolist() == rows[3]["student_roughness"]
        expected = [1 - row["student_votes"] + max(row["student_roughness"]) for row in rows]
        score = votes_score.Disagreement()(read.student)
        np.testing.assert_allclose(score, expected)
        taken = votes_score.Disagreement()(read.student.take(np.array([4, 2])))
        np.testing.assert_allclose(taken, [expected[4], expected[2]])
    actual = evaluate_and_write(
        tmp_path / "a", tmp_path / "report", score=votes_score.Disagreement(), bootstrap_samples=5
    )
    curve, qualities = actual.pooled.curves["small"], (read.student_quality, read.teacher_quality)
    reference = curves.deferral_curve(score, *qualities, 10.0, 80.0)
    np.testing.assert_array_equal(curve.quality, reference.quality)
    assert len(set(curve.quality)) > 2
    assert (tmp_path / "report" / "report.html").exists()


def test_values_of_a_new_column_are_checked(tmp_path, rows):
    rows[2]["student_votes"] = 1.5
    message = r"student_votes of example 't0/test/2' \(row 2\) is 1.5, must be in \[0, 1\]"
    with pytest.raises(RecordsError, match=message):
        records.write(tmp_path / "a", rows, METADATA)
    rows[2]["student_votes"], rows[2]["student_roughness"] = 0.5, [0.1]
    message = "'student_roughness' of row 2 has 1 values, 'student_log_probs' has 3"
    with pytest.raises(RecordsError, match=message):
        records.write(tmp_path / "a", rows, METADATA)
    rows[2]["student_roughness"] = [0.1] * 3
    records.write(tmp_path / "a", rows, METADATA)
    to_jsonl.to_jsonl(tmp_path / "a", tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text.replace('"votes": 0.5', '"votes": "most"'))
    with pytest.raises(LineError, match=r'a.jsonl:4, student .*: votes is "most"; must be a n'):
        from_jsonl.from_jsonl(from_jsonl.FromJsonlConfig(f"{tmp_path}/a.jsonl", f"{tmp_path}/b"))
    (tmp_path / "a.jsonl").write_text(text.replace('"votes": 0.5, ', ""))
    made = from_jsonl.from_jsonl(from_jsonl.FromJsonlConfig(f"{tmp_path}/a.jsonl", f"{tmp_path}/b"))
    assert made.left_out == {"student_votes": 1}
    assert records.read(tmp_path / "b").student_votes is None


# ------------------------------------------------------------------ three models

MODELS = ["small", "medium", "large"]


def three_rows():
    """Rows of three models with every optional column that each may have."""
    names = {"student": ("small", "medium"), "teacher": ("large",)}
    made = []
    for row in records_optional.make_rows(6):
        changed = {}
        for name, value in row.items():
            model, _, kind = name.partition("_")
            changed |= {f"{m}_{kind}" if m else name: value for m in names.get(model, ("",))}
        changed["medium_quality"], changed["medium_flops_per_token"] = 0.25, 20.0
        changed["medium_embedding"] = [0.5, 0.25]
        made.append(changed)
    return made


def test_answers_of_three_models_are_written_read_taken_and_exchanged(tmp_path):
    rows, metadata = three_rows(), {**METADATA, "models": MODELS, "top_k": 3}
    records.write(tmp_path / "a", rows, metadata)
    for read in (records.read(tmp_path / "a"), exchanged(tmp_path / "a")):
        assert read.models == tuple(MODELS)
        for table, order in ((read, range(6)), (read.take(np.array([4, 1])), (4, 1))):
            for i, row in enumerate(order):
                for model in MODELS:
                    span = slice(*getattr(table, f"{model}_offsets")[i : i + 2])
                    assert (
                        getattr(table, f"{model}_tokens")[span].tolist()
                        == (rows[row][f"{model}_tokens"])
                    )
                    assert table.pieces(model, i) == rows[row][f"{model}_pieces"]
                    assert getattr(table, f"{model}_flops")[i] == rows[row][f"{model}_flops"]
        assert read.answers("medium").top_k == 3 and read.answers("large").top_k == 0
        np.testing.assert_array_equal(read.answers("medium").embeddings, [[0.5, 0.25]] * 6)
        np.testing.assert_array_equal(read.student.log_probs, read.small_log_probs)
    with pytest.raises(RecordsError, match="answers of 3: small, medium, large"):
        evaluate_and_write(tmp_path / "a", tmp_path / "report")


def test_every_larger_model_must_be_the_same_to_be_compared(tmp_path):
    rows, metadata = three_rows(), {**METADATA, "models": MODELS, "top_k": 3}
    records.write(tmp_path / "a", rows, metadata)
    rows[3]["medium_quality"] = 0.5
    records.write(tmp_path / "b", rows, {**metadata, "name": "other"})
    tables = [records.read(tmp_path / name) for name in "ab"]
    with pytest.raises(RecordsError, match="medium_quality differs on 1 of 6 .* teacher checkpoin"):
        records.align(tables)


def test_two_models_of_any_name_are_a_student_and_a_teacher(tmp_path):
    rows = [
        {k.replace("student_", "gemma_1b_").replace("teacher_", "gemma_27b_"): v}
        for row in records_table.make_rows(8)
        for k, v in row.items()
    ]
    size = len(records_table.make_rows(1)[0])
    rows = [
        {k: v for part in rows[i : i + size] for k, v in part.items()}
        for i in range(0, len(rows), size)
    ]
    records.write(tmp_path / "a", rows, {**METADATA, "models": ["gemma_1b", "gemma_27b"]})
    read = exchanged(tmp_path / "a")
    np.testing.assert_array_equal(read.student_quality, read.gemma_1b_quality)
    np.testing.assert_array_equal(read.teacher_offsets, read.gemma_27b_offsets)
    result = evaluate_and_write(tmp_path / "a", tmp_path / "report", bootstrap_samples=5)
    assert result.pooled.num_examples == 8
    with pytest.raises(AttributeError, match="no column 'student_qualty'; did you mean 'gemma"):
        _ = read.student_qualty


@pytest.mark.parametrize(
    "models", [["one"], ["a", "a"], "ab", ["a", "B"], ["a", "cascade"], ["a", ""], [1, 2], None]
)
def test_names_of_models_that_are_refused(tmp_path, models):
    with pytest.raises(RecordsError, match="models is .*; must be two or more different names"):
        records.write(tmp_path / "a", records_table.make_rows(), {**METADATA, "models": models})


def test_models_that_make_two_columns_one_are_refused(tmp_path):
    with pytest.raises(RecordsError, match="two columns would be called 'a_top_log_probs'"):
        records.write(tmp_path / "a", [], {**METADATA, "models": ["a", "a_top", "b"]})


# ------------------------------------------------------------------ samples


def sampled_rows():
    """Rows with none, one or more samples for each model, some of them without a token."""
    rng = np.random.default_rng(3)
    rows = records_table.make_rows(6)
    for i, row in enumerate(rows):
        for model, count in (("student", i % 4), ("teacher", 2)):
            lengths = rng.integers(0, 4, count)
            row[f"{model}_sample_answers"] = [f"sample é{k}" for k in range(count)]
            row[f"{model}_sample_tokens"] = [rng.integers(0, 99, n).tolist() for n in lengths]
            row[f"{model}_sample_flops"] = 1e9 + i
            for name in ("sample_log_probs", "sample_drawn_log_probs"):
                row[f"{model}_{name}"] = [
                    (-rng.exponential(size=n)).astype(np.float32).tolist() for n in lengths
                ]
    return rows


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_samples_of_each_example_are_written_read_taken_and_exchanged(
    tmp_path, monkeypatch, rows_at_once
):
    monkeypatch.setattr(columns_lib, "_ROWS", rows_at_once)
    rows = sampled_rows()
    records.write(tmp_path / "a", rows, METADATA)
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "a")}
    assert types["student_sample_tokens"].count("list<") == 2
    for read in (records.read(tmp_path / "a"), exchanged(tmp_path / "a")):
        for table, order in ((read, range(6)), (read.take(np.array([3, 0, 5])), (3, 0, 5))):
            for model in ("student", "teacher"):
                samples = getattr(table, f"{model}_sample_offsets")
                tokens = getattr(table, f"{model}_sample_token_offsets")
                for i, row in enumerate(order):
                    of_row = range(samples[i], samples[i + 1])
                    texts = getattr(table, f"{model}_sample_answers")[samples[i] : samples[i + 1]]
                    assert texts.tolist() == rows[row][f"{model}_sample_answers"]
                    assert getattr(table, f"{model}_sample_flops")[i] == 1e9 + row
                    for kind in ("tokens", "log_probs", "drawn_log_probs"):
                        values = getattr(table, f"{model}_sample_{kind}")
                        assert [values[tokens[s] : tokens[s + 1]].tolist() for s in of_row] == (
                            rows[row][f"{model}_sample_{kind}"]
                        )
    assert records_table.write(tmp_path / "b").student_sample_offsets is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student_sample_answers": ["a"]},
            "'student_sample_log_probs' of row 2 has 2 values, 'student_sample_answers' has 1",
        ),
        (
            {"student_sample_tokens": [[1]]},
            "'student_sample_tokens' of row 2 has 1 values, 'student_sample_answers' has 2",
        ),
        (
            {"student_sample_log_probs": [[-1.0], [-1.0]], "student_sample_tokens": [[1], [1, 2]]},
            "'student_sample_tokens' of sample 2 has 2 values, 'student_sample_log_probs' has 1",
        ),
        (
            {"student_sample_log_probs": [[-1.0], [0.5]], "student_sample_tokens": [[1], [1]]},
            r"student_sample_log_probs of example 't0/test/2' \(row 2\) is 0.5, must be finite and",
        ),
        ({"student_sample_answers": ["a", None]}, "'student_sample_answers' hold nulls"),
        ({"student_sample_tokens": [[None], None]}, "'student_sample_tokens' hold nulls"),
    ],
)
def test_samples_that_are_refused(tmp_path, changes, message):
    rows = sampled_rows()
    rows[2] |= changes
    with pytest.raises(RecordsError, match=message):
        records.write(tmp_path / "a", rows, METADATA)


def test_sampled_tokens_need_their_log_probs_and_those_the_answers(tmp_path):
    pairs = ("answers", "log_probs"), ("log_probs", "tokens"), ("log_probs", "drawn_log_probs")
    for gone, needing in pairs:
        rows = [
            {k: v for k, v in row.items() if k != f"student_sample_{gone}"}
            for row in sampled_rows()
        ]
        for row in rows:
            if needing == "drawn_log_probs":
                del row["student_sample_tokens"]
        message = f"column 'student_sample_{needing}' needs 'student_sample_{gone}' beside it"
        with pytest.raises(RecordsError, match=message):
            records.write(tmp_path / "a", rows, METADATA)


# ------------------------------------------------------------------ schema 1


def test_files_of_schema_1_are_read_as_they_were(tmp_path):
    rows = records_cascade.make_rows()
    for row, more in zip(rows, records_optional.make_rows(), strict=True):
        row |= {name: value for name, value in more.items() if name not in row}
    metadata = {**METADATA, "top_k": 3, "schema_version": 1}
    table = pa.Table.from_pylist(rows, schema=SCHEMA_1)
    pq.write_table(
        table.replace_schema_metadata({"cascade_jax": json.dumps(metadata)}), tmp_path / "old"
    )
    read = records.read(tmp_path / "old")
    assert read.models == schema.PAIR and read.metadata["schema_version"] == 2
    records_optional.assert_holds(read, rows)
    records_cascade.assert_holds(read, rows)
    records.write(tmp_path / "new", rows, metadata)
    assert pq.read_table(tmp_path / "new").select(table.column_names).equals(table)
    records.align([read, records.read(tmp_path / "new")])


_INTS, _FLOATS, _TEXTS = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.string())
SCHEMA_1 = pa.schema(
    [
        *(
            (name, pa.string())
            for name in (
                *("mixture", "task", "split", "example_id", "inputs", "target", "metric"),
                *("student_answer", "teacher_answer", "cascade_answer"),
            )
        ),
        *((f"{model}_tokens", _INTS) for model in ("student", "teacher", "cascade")),
        *((f"{model}_log_probs", _FLOATS) for model in schema.PAIR),
        *((f"{model}_entropies", _FLOATS) for model in schema.PAIR),
        *((f"{model}_quality", pa.float64()) for model in ("student", "teacher", "cascade")),
        *((f"{model}_flops_per_token", pa.float64()) for model in schema.PAIR),
        ("student_top_log_probs", _FLOATS),
        ("student_top_ids", _INTS),
        ("student_embedding", _FLOATS),
        *((f"{model}_pieces", _TEXTS) for model in ("student", "teacher", "cascade")),
        *((f"{model}_input_tokens", pa.int32()) for model in schema.PAIR),
        *((f"{model}_flops", pa.float64()) for model in ("student", "teacher", "cascade")),
        *((f"{model}_seconds", pa.float64()) for model in schema.PAIR),
        ("cascade_is_deferred", pa.list_(pa.bool_())),
        ("cascade_uncertainties", _FLOATS),
    ]
)
