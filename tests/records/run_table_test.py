"""Tables of runs: what stays of records and what does not, and that every text is gone."""

import dataclasses
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.cli import main
from cascade_jax.deferral import scores
from cascade_jax.evaluation import curves
from cascade_jax.evaluation.evaluate import EvaluateConfig, evaluate
from cascade_jax.records import RecordsError, run_table
from tests.support import records_optional, records_statistics, records_table

RUN = run_table.Run("demo", "small", "cat_xent", 3)


@pytest.fixture
def full(tmp_path):
    """Records with every optional column, and counts of a corpus metric; two inputs are equal."""
    rows = [
        {**optional, **{k: v for k, v in counted.items() if k.endswith("_statistics")}}
        for optional, counted in zip(
            records_optional.make_rows(6), records_statistics.make_rows(6), strict=True
        )
    ]
    rows[4]["inputs"] = rows[1]["inputs"]
    metadata = {"corpus_metrics": records_statistics.DESCRIBED, "top_k": records_optional.TOP_K}
    metadata |= {"student_checkpoint": "/home/me/runs/a", "student_saved": 5}
    return records_table.write(tmp_path / "full.parquet", rows=rows, **metadata)


def made(full, tmp_path, **more):
    return run_table.write(full.source, tmp_path / "run.parquet", RUN, **more)


def test_numbers_stay_and_say_which_run_they_are_of(full, tmp_path):
    table = made(full, tmp_path)
    assert run_table.run_of(table) == RUN and run_table.run_of(full) is None
    exact = ["example_id", "task", "metric", "student_quality", "teacher_quality", "student_flops"]
    exact += ["teacher_flops", "teacher_input_tokens", "student_offsets", "student_statistics"]
    for name in exact:
        np.testing.assert_array_equal(getattr(table, name), getattr(full, name), err_msg=name)
    for name in ("student_log_probs", "student_entropies", "student_seconds"):
        np.testing.assert_allclose(getattr(table, name), getattr(full, name), rtol=2**-13)
    assert table.metadata["corpus_metrics"] == full.metadata["corpus_metrics"]
    assert table.metadata["student_saved"] == 5


def test_no_text_of_the_data_and_no_path_stays(full, tmp_path):
    table = made(full, tmp_path)
    content = (tmp_path / "run.parquet").read_bytes() + repr(dict(table.metadata)).encode()
    assert b"/home/me" not in content
    texts = [column for column in pq.read_table(tmp_path / "run.parquet").columns]
    values = {str(v) for column in texts for v in column.to_pylist()}
    for name in ("inputs", "target", "student_answer", "teacher_answer"):
        assert not values & (set(map(str, getattr(full, name))) - {""}), name
    assert set(map(len, pq.read_table(tmp_path / "run.parquet")["student_tokens"])) == {0}


def test_equal_inputs_are_still_known_to_be_equal(full, tmp_path):
    table = made(full, tmp_path)
    first = min(full.example_id[1], full.example_id[4])
    assert table.inputs.tolist() == ["", first, "", "", first, ""]


def test_examples_have_one_fingerprint_in_any_order(full, tmp_path):
    print_of = made(full, tmp_path).metadata["examples"]
    names = [name for name in full.columns.fields if name in full.columns]
    rows = [{n: full.columns.value(n, i) for n in names} for i in (5, 2, 0, 1, 4, 3)]
    other = records_table.write(tmp_path / "other.parquet", rows=rows, **full.metadata)
    assert made(other, tmp_path).metadata["examples"] == print_of
    rows[2]["target"] = "another"
    other = records_table.write(tmp_path / "other.parquet", rows=rows, **full.metadata)
    assert made(other, tmp_path).metadata["examples"] != print_of


def test_scores_are_kept_under_their_names(full, tmp_path):
    table = made(full, tmp_path, scores={"a": scores.Sum(), "b": scores.Entropy()})
    expected = scores.Entropy()(full.student)
    np.testing.assert_allclose(run_table.stored_score(table, "b"), expected, rtol=1e-6)
    assert run_table.stored_score(table, "c") is run_table.stored_score(full, "a") is None


def test_twelve_bits_of_mantissa():
    values = -np.exp(np.random.default_rng(0).normal(0, 8, 1000)).astype(np.float32)
    rounded = run_table.rounded(values)
    np.testing.assert_allclose(rounded, values, rtol=2**-13)
    assert not np.any(rounded.view(np.uint32) & 0x7FF)
    assert run_table.rounded(np.zeros(2)).tolist() == [0, 0]


def test_the_command_makes_a_table_that_evaluate_reads(full, tmp_path, capsys):
    output = str(tmp_path / "run.parquet")
    argv = ["records", "without-text", "--records", full.source, "--output", output]
    argv += ["--pair=demo", "--size=small", "--loss=cat_xent", "--seed=3"]
    assert main.main(argv) == 0
    assert "6 examples of demo, small, cat_xent, seed 3" in capsys.readouterr().out
    settings = EvaluateConfig([output], tmp_path, bootstrap_samples=5)
    (summary,) = evaluate(settings).pooled.summaries.values()
    table = records.read(output)
    score = scores.Average()(full.student)
    qualities = full.student_quality, full.teacher_quality
    expected = curves.area(curves.deferral_curve(score, *qualities, 1, 1))
    assert summary.area.value == pytest.approx(expected) and len(table) == 6


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seed=-1", "'-1' is not an integer of at least 0"),
        ("--size=", "size.*a text"),
        ("--scores=a", "'a' is not NAME=FILE"),
        ("--output={source}", "full.parquet"),
    ],
)
def test_mistakes_are_answered_in_one_line(full, tmp_path, capsys, flag, message):
    argv = ["records", "without-text", f"--records={full.source}", f"--output={tmp_path}/o.parquet"]
    argv += ["--pair=demo", "--size=small", "--loss=cat_xent", "--seed=3"]
    assert main.main([*argv, flag.format(source=full.source)]) != 0
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error


def test_metadata_that_are_no_run_are_refused(full, tmp_path):
    table = made(full, tmp_path)
    wrong = {**table.metadata, "run": {**dataclasses.asdict(RUN), "seed": "3"}}
    with pytest.raises(RecordsError, match="'run'.*seed"):
        run_table.run_of(dataclasses.replace(table, metadata=wrong))
