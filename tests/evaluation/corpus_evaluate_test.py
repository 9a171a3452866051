"""An evaluation of records with a task of BLEU, from the files to every page that is written."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import sacrebleu

from cascade_jax import records
from cascade_jax.evaluation import summaries
from cascade_jax.report.plots import curves
from cascade_jax.task_metrics import corpus, quality
from cascade_jax.task_metrics.translation import Bleu, Chrf
from tests.support import markdown_tables
from tests.support.reports import evaluate_and_write
from tests.support.sentences import sentences, spoilt

N = 50


def lists(model, log_probs):
    return {
        f"{model}_tokens": [np.ones(len(of_row), np.int32) for of_row in log_probs],
        f"{model}_log_probs": log_probs,
        f"{model}_entropies": [-of_row for of_row in log_probs],
    }


def write(path, name, share, with_statistics=True, **more):
    """Records of a student that spoils a share of the words; one task of BLEU, one of accuracy."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(round(100 * share))
    targets = sentences(shared, N) + ["yes"] * N
    teacher = spoilt(shared, targets[:N], 0.2) + ["yes"] * (N - 5) + ["no"] * 5
    student = spoilt(rng, targets[:N], share) + list(rng.choice(["yes", "no"], N))
    task = ["to_english"] * N + ["yes_no"] * N
    columns = {
        "mixture": ["m"] * 2 * N,
        "task": task,
        "split": ["test"] * 2 * N,
        "example_id": [f"{t}/{i}" for i, t in enumerate(task)],
        "inputs": [f"in {row}" for row in range(2 * N)],
        "target": targets,
        "metric": ["sentence_bleu"] * N + ["accuracy"] * N,
        "student_flops_per_token": np.full(2 * N, 2e6),
        "teacher_flops_per_token": np.full(2 * N, 1e7),
        **lists("student", [-rng.random(1 + i % 4) for i in range(2 * N)]),
        **lists("teacher", [np.zeros(0)] * 2 * N),
    }
    figures = {"to_english": {}, "yes_no": {"f1": {}}}
    for model, answers in (("student", student), ("teacher", teacher)):
        of_tasks = [([Bleu(), Chrf()], slice(0, N)), ([quality.accuracy], slice(N, 2 * N))]
        columns[f"{model}_answer"] = answers
        columns[f"{model}_quality"] = np.concatenate(
            [quality.per_example_quality(fns, targets[r], answers[r])[1] for fns, r in of_tasks]
        )
        if with_statistics:
            counts = Bleu().statistics(targets[:N], answers[:N]).tolist()
            columns[f"{model}_statistics"] = counts + [[]] * N
        for (fns, rows), by_metric in zip(of_tasks, figures.values(), strict=True):
            result = quality.split_figures(fns, targets[rows], answers[rows])
            for metric, value in result.items():
                by_metric.setdefault(metric, {})[model] = value
        figures["yes_no"]["f1"][model] = 0.4321 if model == "student" else None
    metadata = {"name": name, "mixture": "m", "split": "test", **more}
    if with_statistics:
        metadata["corpus_metrics"] = {"to_english": corpus.describe(Bleu())}
        metadata["figures"] = figures
        metadata["decoding"] = {"to_english": "greedy", "yes_no": "rank_classification"}
    records.write(path, columns, metadata)
    return str(path)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus_evaluate")
    files = [write(folder / name, name, share) for name, share in (("xent", 0.7), ("cat", 0.5))]
    return (
        evaluate_and_write(files, folder / "report", bootstrap_samples=30),
        folder / "report",
        files,
    )


def mixed(rows, share):
    """sacrebleu's BLEU of what a cascade answers that defers a share, from a file's rows."""
    score = np.array([-np.mean(row["student_log_probs"]) for row in rows])
    deferred = set(np.argsort(-score)[: round(share * len(rows))].tolist())
    answers = [
        row["teacher_answer" if i in deferred else "student_answer"] for i, row in enumerate(rows)
    ]
    return sacrebleu.corpus_bleu(answers, [[row["target"] for row in rows]]).score / 100


def test_the_tasks_curve_is_corpus_bleu_from_the_records_alone(outcome):
    result, folder, files = outcome
    written = json.loads((folder / "metrics.json").read_text())
    panel = written["tasks"]["to_english"]
    assert panel["metric"] == "BLEU (corpus)" and panel["is_corpus"]
    for name, file in zip(("xent", "cat"), files, strict=True):
        rows = pq.read_table(file).to_pylist()[:N]
        got = panel["cascades"][name]
        assert set(got["curve"]) == {
            "rate", "quality", "cost", "thresholds", "is_realised",
        }  # fmt: skip
        for k in range(N + 1):
            expected = mixed(rows, k / N)
            assert got["curve"]["quality"][k] == pytest.approx(expected, abs=1e-9, rel=0)
        ends = [got["summary"][f"{model}_quality"]["value"] for model in ("student", "teacher")]
        assert ends == pytest.approx([mixed(rows, 0), mixed(rows, 1)], abs=1e-9, rel=0)
        assert got["summary"]["area"]["low"] < got["summary"]["area"]["value"]
        assert got["summary"]["ideal_area"] is None
    assert result.macro()["cat"]["area"] == pytest.approx(
        np.mean([p.summaries["cat"].area.value for p in result.tasks.values()])
    )


def test_the_pool_and_the_second_view_of_the_task_are_means(outcome):
    result, folder, files = outcome
    written = json.loads((folder / "metrics.json").read_text())
    table = records.read(files[1])
    assert written["pooled"]["metric"] == "sentence_bleu, accuracy"
    for panel, rows in (
        (written["pooled"], slice(None)),
        (written["per_example"]["to_english"], slice(0, N)),
    ):
        end = panel["cascades"]["cat"]["curve"]["quality"][0]
        assert end == pytest.approx(table.student_quality[rows].mean())
        assert not panel["is_corpus"]
    assert set(written["per_example"]) == {"to_english"}
    assert not written["tasks"]["yes_no"]["is_corpus"]


def test_figures_of_the_whole_split(outcome):
    result, folder, files = outcome
    actual = {(figure.task, figure.metric): figure for figure in result.figures}
    assert list(actual) == [
        ("to_english", "bleu"),
        ("to_english", "sentence_bleu"),
        ("to_english", "corpus_chrf"),
        ("yes_no", "accuracy"),
        ("yes_no", "f1"),
    ]
    rows = pq.read_table(files[0]).to_pylist()
    bleu = actual["to_english", "bleu"]
    assert (bleu.students["xent"], bleu.teacher) == pytest.approx(
        (mixed(rows[:N], 0), mixed(rows[:N], 1)), abs=1e-9
    )
    # A quarter of 50 lies between two thresholds.
    quarter = (mixed(rows[:N], 12 / N) + mixed(rows[:N], 13 / N)) / 2
    assert bleu.cascades["xent"][:2] == pytest.approx((quarter, mixed(rows[:N], 0.5)), abs=1e-9)
    chrf = actual["to_english", "corpus_chrf"]
    answers = [row["student_answer"] for row in rows[:N]]
    expected = sacrebleu.corpus_chrf(answers, [[row["target"] for row in rows[:N]]]).score / 100
    assert chrf.students["xent"] == pytest.approx(expected, abs=1e-9) and chrf.cascades == {}
    f1 = actual["yes_no", "f1"]
    assert f1.students == {"xent": 0.4321, "cat": 0.4321} and np.isnan(f1.teacher)
    accuracy = actual["yes_no", "accuracy"]
    right = np.mean([row["student_quality"] for row in rows[N:]])
    assert accuracy.students["xent"] == pytest.approx(right) and len(accuracy.cascades["cat"]) == 3
    assert {figure.task: figure.decoding for figure in result.figures} == {
        "to_english": "greedy",
        "yes_no": "rank_classification",
    }
    written = json.loads((folder / "metrics.json").read_text())["figures"]
    assert written[0]["cascades"]["xent"] == list(bleu.cascades["xent"])
    assert written[4]["teacher"] is None


def test_the_page_and_the_tables_show_them(outcome):
    result, folder, _ = outcome
    page = (folder / "report.html").read_text()
    text = re.sub(r"<[^>]*>", "\n", page)
    assert "Figures of the whole split" in text and "BLEU (corpus)" in text
    assert "Pooled quality is the mean over single examples" in text
    bleu = result.figures[0]
    shown = " / ".join(f"{value:.3f}" for value in bleu.cascades["cat"])
    assert shown in text and "rank classification" in text
    # What is shown by task is no column of the table of sources.
    assert "'class'" not in page and "corpus metrics</th>" not in page
    *_, tasks, figures = markdown_tables.tables((folder / "summary.md").read_text())
    assert tasks[2][:2] == ["to_english", "BLEU (corpus)"]
    assert figures[2][:3] == ["to_english", "bleu", "greedy"] and figures[2][-1] == shown
    assert figures[2][3:6] == [
        f"{v:.3f}" for v in (bleu.teacher, bleu.students["xent"], bleu.students["cat"])
    ]
    assert figures[6][3] == "–" and figures[6][-1] == "–"
    assert {len(row) for row in figures} == {8}


def test_the_grid_draws_the_corpus_curve_and_its_own_lines(outcome):
    result, _, _ = outcome
    panels = list(result.tasks.values())
    figure = curves.grid_figure(panels)
    bleu_axes, accuracy_axes = figure.axes[:2]
    assert bleu_axes.get_ylabel() == "BLEU (corpus)"
    drawn = [np.asarray(line.get_ydata(), float) for line in bleu_axes.lines]
    panel = result.tasks["to_english"]
    for expected in (panel.curves["cat"].quality, panel.randoms["cat"]):
        assert any(len(y) == N + 1 and np.allclose(y, expected) for y in drawn)
    assert len(bleu_axes.collections) == 0 and len(accuracy_axes.collections) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "largest gain first (corpus)" in labels and "ideal" in labels
    alone = [t.get_text() for t in curves.curve_figure(panel).legends[0].get_texts()]
    assert "ideal" not in alone and "largest gain first (corpus)" in alone


def test_one_task_of_a_corpus_metric_is_shown_by_itself(tmp_path):
    file = write(tmp_path / "a", "a", 0.5)
    table = pq.read_table(file).slice(0, N)
    pq.write_table(table, file)
    result = evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5)
    assert (tmp_path / "out" / "tasks.png").exists()
    assert "Per task" in (tmp_path / "out" / "report.html").read_text()
    assert result.tasks["to_english"].is_corpus


def test_records_without_statistics_leave_out_the_curve_and_say_so(outcome, tmp_path):
    old = write(tmp_path / "old", "old", 0.3, with_statistics=False)
    result = evaluate_and_write([outcome[2][0], old], tmp_path / "out", bootstrap_samples=5)
    assert not result.tasks["to_english"].is_corpus and result.per_example == {}
    note = "to_english has no curve of its corpus metric: no statistics in the records of old"
    assert result.notes == (note,)
    for name in ("report.html", "summary.md"):
        assert f"{note}." in (tmp_path / "out" / name).read_text()
    actual = {(figure.task, figure.metric): figure for figure in result.figures}
    bleu = actual["to_english", "bleu"]
    assert bleu.students["xent"] > 0 and np.isnan(bleu.students["old"]) and bleu.cascades == {}
    accuracy = actual["yes_no", "accuracy"]
    assert not np.isnan(accuracy.students["old"])
    alone = evaluate_and_write([old], tmp_path / "alone", bootstrap_samples=5)
    assert alone.notes == () and [f.metric for f in alone.figures] == ["sentence_bleu", "accuracy"]
    assert {figure.decoding for figure in alone.figures} == {""}


def test_a_figure_that_only_shares_the_name_of_the_quality_stands_beside_it(outcome, tmp_path):
    more = {"to_english": {"sentence_bleu": {"student": 9, "teacher": 9}}}
    file = write(tmp_path / "a", "a", 0.3)
    table = pq.read_table(file)
    metadata = json.loads(table.schema.metadata[b"cascade_jax"]) | {"figures": more}
    pq.write_table(table.replace_schema_metadata({"cascade_jax": json.dumps(metadata)}), file)
    result = evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5)
    actual = {figure.metric: figure for figure in result.figures if figure.task == "to_english"}
    assert list(actual) == ["bleu", "sentence_bleu (mean)", "sentence_bleu"]
    assert actual["sentence_bleu"].students["a"] == 9
    assert actual["sentence_bleu (mean)"].students["a"] < 1
    assert len(actual["bleu"].cascades["a"]) == len(summaries.REFERENCE_RATES)
