"""From records files to metrics.json, plots, the report and the terminal table."""

import dataclasses
import json
import math
from typing import ClassVar
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax.deferral.scores import AnswerTokens, Average, Sum
from cascade_jax.evaluation import evaluate as evaluate_module
from cascade_jax.evaluation.costs import Parameters, Price
from cascade_jax.evaluation.evaluate import EvaluateConfig, evaluate
from cascade_jax.records.table import RecordsError
from cascade_jax.report import html_page
from cascade_jax.report.metrics_json import to_json
from cascade_jax.report.terminal import format_table
from tests.support import student_records
from tests.support.evaluated import N, write
from tests.support.reports import evaluate_and_write


@dataclasses.dataclass(frozen=True)
class _Named:
    """Scores of one name that differ, as two saved routers of one kind do."""

    which: int
    name: ClassVar[str] = "router"

    def __call__(self, answers):
        return np.zeros(answers.num_examples)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One evaluation of two cascades, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("evaluate")
    files = [write(folder / f"{name}.parquet", name, i) for i, name in enumerate(["xent", "cat"])]
    result = evaluate_and_write(files, folder / "report", bootstrap_samples=40, seed=3)
    return result, folder / "report", files


def test_the_files_are_there(outcome):
    _, folder, _ = outcome
    pictures = {"curve", "decomposition", "tasks", "reliability", "histogram"}
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json",
        "report.html",
        "summary.md",
        *(f"{picture}.{kind}" for picture in pictures for kind in ("png", "svg")),
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert "<!DOCTYPE html>" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_curve_is_that_of_the_records_by_brute_force(outcome):
    result, folder, files = outcome
    written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for name, file in zip(("xent", "cat"), files, strict=True):
        rows = pq.read_table(file).to_pylist()
        score = np.array([-np.mean(row["student_log_probs"]) for row in rows])
        student = np.array([row["student_quality"] for row in rows])
        teacher = np.array([row["teacher_quality"] for row in rows])
        for title, chosen in (
            ("demo", np.ones(N, bool)),
            ("short", np.arange(N) < N // 3),
            ("long/er task", np.arange(N) >= N // 3),
        ):
            panel = result.pooled if title == "demo" else result.tasks[title]
            place = written["pooled"] if title == "demo" else written["tasks"][title]
            order = np.argsort(-score[chosen])
            for k in range(len(order) + 1):
                quality = np.where(
                    np.arange(len(order)) < k, teacher[chosen][order], student[chosen][order]
                ).mean()
                assert panel.curves[name].quality[k] == pytest.approx(quality)
                got = place["cascades"][name]["curve"]
                assert got["quality"][k] == pytest.approx(quality)
                assert got["cost"][k] == pytest.approx(2e6 + 1e7 * k / len(order))


def test_the_json_holds_every_figure_in_full(outcome):
    result, folder, _ = outcome
    written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(to_json(result)))
    summary = result.pooled.summaries["cat"]
    got = written["pooled"]["cascades"]["cat"]["summary"]
    assert got["area"] == {
        "value": summary.area.value,
        "low": summary.area.low,
        "high": summary.area.high,
    }
    assert set(got) == set(summary.__dataclass_fields__)
    assert got["cost_at_quality"]["halfway"]["value"] == summary.cost_at_quality["halfway"].value
    assert written["seed"] == 3 and written["bootstrap_samples"] == 40
    assert [source["name"] for source in written["sources"]] == ["xent", "cat"]


def test_what_is_undefined_is_null_in_the_json(tmp_path):
    file = write(tmp_path / "a", "a", changes={"teacher_quality": np.zeros(N)})
    evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5)
    written = json.loads(
        (tmp_path / "out" / "metrics.json").read_text(), parse_constant=pytest.fail
    )
    summary = written["pooled"]["cascades"]["a"]["summary"]
    assert summary["s_d_ideal"] == {"value": None, "low": None, "high": None}
    assert written["pooled"]["cascades"]["a"]["curve"]["thresholds"][-1] is None


def test_long_curves_are_thinned(tmp_path):
    file = write(tmp_path / "a", "a", n=900)
    evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    curve = written["pooled"]["cascades"]["a"]["curve"]
    assert {len(points) for points in curve.values()} == {201}
    assert curve["rate"][0] == 0 and curve["rate"][-1] == 1


def test_macro_weighs_tasks_the_same(outcome):
    result, _, _ = outcome
    areas = [panel.summaries["cat"].area.value for panel in result.tasks.values()]
    assert [panel.num_examples for panel in result.tasks.values()] == [20, 40]
    assert result.macro()["cat"]["area"] == pytest.approx(sum(areas) / 2)
    rocs = [panel.summaries["cat"].separation.auroc for panel in result.tasks.values()]
    assert result.macro()["cat"]["auroc"] == pytest.approx(sum(rocs) / 2)


def test_the_same_again_gives_the_same_files(outcome, tmp_path):
    _, folder, files = outcome
    evaluate_and_write(files, tmp_path / "again", bootstrap_samples=40, seed=3)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_the_order_of_rows_changes_nothing(outcome, tmp_path):
    result, _, files = outcome
    table = pq.read_table(files[1])
    pq.write_table(table.take(np.arange(N)[::-1]), tmp_path / "turned")
    turned = evaluate_and_write(
        [files[0], tmp_path / "turned"], tmp_path / "o", bootstrap_samples=40, seed=3
    )
    ours, theirs = to_json(turned), to_json(result)
    assert ours["pooled"] == theirs["pooled"] and ours["tasks"] == theirs["tasks"]


def test_pictures_of_an_evaluation_before_are_taken_away(outcome, tmp_path):
    evaluation, folder, *_ = outcome
    for name in ("scores.png", "scores.svg", "mine.png"):
        (tmp_path / name).write_text("old")
    files = {source.name: source.path for source in evaluation.sources}
    evaluate_and_write(files, tmp_path, bootstrap_samples=5)
    assert not (tmp_path / "scores.png").exists() and not (tmp_path / "scores.svg").exists()
    assert (tmp_path / "mine.png").exists()


def test_the_table_is_aligned_and_holds_the_figures(outcome):
    result, _, _ = outcome
    title, _, head, rule, *rows = format_table(result).split("\n")
    assert title.startswith("demo: 60 examples, quality = exact_match, large model 0.")
    assert len(rows) == 2 and set(rule) == {"-"}
    assert {len(line) for line in (head, rule, *rows)} == {len(head)}
    for row, (name, summary) in zip(rows, result.pooled.summaries.items(), strict=True):
        cells = row.split()
        assert cells[0] == name
        values = [summary.student_quality, summary.area, *summary.quality_at_rate]
        assert cells[1:6] == [f"{estimate.value:.3f}" for estimate in values]
        assert cells[-1] == f"{summary.s_d_ideal.value:.3f}"


def test_another_score_can_be_given(outcome, tmp_path):
    def longest(answers: AnswerTokens):
        return answers.lengths.astype(float)

    result = evaluate_and_write(outcome[2], tmp_path, score=longest, bootstrap_samples=5)
    curve = result.pooled.curves["xent"]
    # Three lengths, so only three thresholds and "none" can be realised.
    assert np.flatnonzero(curve.is_realised).tolist() == [0, 20, 40, 60]


def test_names_can_be_given(outcome, tmp_path):
    xent, cat = outcome[2]
    loaded = evaluate_module.load({"first": xent, "second": cat})
    assert list(loaded) == ["first", "second"]
    assert list(evaluate_module.load([f"first={xent}", cat])) == ["first", "cat"]
    assert list(evaluate_module.load(xent)) == ["xent"]
    odd = write(tmp_path / "lr=3.parquet", "odd")
    assert list(evaluate_module.load([odd])) == ["odd"]


def test_an_experiment_finds_its_records_and_report(tmp_path):
    for name in ("xent", "cat"):
        (tmp_path / "records" / "test").mkdir(parents=True, exist_ok=True)
        write(tmp_path / "records" / "test" / f"{name}.parquet", name)
    config = EvaluateConfig(
        experiment_dir=str(tmp_path), split="test", names=("cat", "xent"), bootstrap_samples=5
    )
    assert list(evaluate(config).pooled.summaries) == ["cat", "xent"]
    assert config.output_dir == str(tmp_path / "report")


def test_two_records_of_one_name_show_how_to_rename(outcome, tmp_path):
    xent = outcome[2][0]
    other = write(tmp_path / "b.parquet", "xent", seed=5)
    with pytest.raises(RecordsError, match="two records are named 'xent': .*xent_2=.*b.parquet"):
        evaluate_and_write([xent, other], tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.parquet: no such records file"):
        evaluate_and_write([tmp_path / "gone.parquet"], tmp_path)


def test_two_schema_versions(outcome, tmp_path):
    path = tmp_path / "old.parquet"
    table = pq.read_table(outcome[2][0])
    metadata = json.loads(table.schema.metadata[b"cascade_jax"]) | {"schema_version": 0}
    pq.write_table(table.replace_schema_metadata({"cascade_jax": json.dumps(metadata)}), path)
    with pytest.raises(RecordsError, match="old.parquet: records schema version 0, .* versions 1"):
        evaluate_and_write([outcome[2][1], path], tmp_path)


def test_different_examples(outcome, tmp_path):
    fewer = write(tmp_path / "fewer", "fewer", n=30)
    with pytest.raises(RecordsError, match="different examples, .*: missing '.*; more '"):
        evaluate_and_write([outcome[2][0], fewer], tmp_path)


def test_costs_that_vary_are_refused(tmp_path):
    file = write(tmp_path / "a", "a", changes={"student_flops_per_token": np.arange(1.0, N + 1)})
    with pytest.raises(RecordsError, match="student_flops_per_token varies from 1 to 60"):
        evaluate_and_write([file], tmp_path)


def test_an_answer_without_tokens_is_named(tmp_path):
    empty = {f"student_{c}": [[]] * N for c in ("tokens", "log_probs", "entropies")}
    file = write(tmp_path / "a", "a", changes=empty)
    with pytest.raises(ValueError, match="example 'short/test/0' .* answer without tokens"):
        evaluate_and_write([file], tmp_path)


def test_a_table_without_rows_is_refused(tmp_path):
    file = write(tmp_path / "a", "a")
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(RecordsError, match="hold no example"):
        evaluate_and_write([file], tmp_path)


def test_nothing_is_written_when_the_input_is_bad(tmp_path):
    with pytest.raises(FileNotFoundError):
        evaluate_and_write([tmp_path / "gone"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no records: give records_files, or experiment_dir and names"),
        ({"experiment_dir": "e"}, "no records"),
        ({"records_files": ["a"]}, "output_dir is ''; must be the path of a folder"),
        ({"records_files": ["a"], "experiment_dir": "e"}, "not both"),
        (
            {"records_files": ["a"], "output_dir": "o", "score": Average},
            "score is .* must be .* brackets",
        ),
        (
            {"records_files": ["a"], "output_dir": "o", "cost": Parameters},
            "cost is .* must be a cost model .* brackets",
        ),
        (
            {"records_files": ["a"], "output_dir": "o", "scores": [Sum(), Average]},
            "scores is .* must be .* brackets",
        ),
        (
            {"records_files": ["a"], "output_dir": "o", "scores": "al"},
            "scores is 'al'; must be scores, or 'available'",
        ),
        (
            {"records_files": ["a"], "output_dir": "o", "scores": [Sum(), Sum()]},
            "two scores are named 'sum'",
        ),
        (
            {
                "records_files": ["a"],
                "output_dir": "o",
                "score": _Named(1),
                "scores": [Sum(), _Named(2)],
            },
            "two scores are named 'router'",
        ),
        (
            {"records_files": ["a"], "output_dir": "o", "bootstrap_samples": 0},
            "bootstrap_samples is 0; must be an integer of at least 1",
        ),
    ],
)
def test_configs_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**settings)


def test_undefined_figures_in_the_table_are_a_dash(tmp_path):
    file = write(tmp_path / "a", "a", changes={"teacher_quality": np.zeros(N)})
    result = evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5)
    assert math.isnan(result.pooled.summaries["a"].s_d_ideal.value)
    assert format_table(result).split()[-1] == "–"


def test_a_cascade_is_compared_with_the_first_in_pairs(outcome):
    result, folder, _ = outcome
    actual = result.pooled.comparisons
    assert list(actual) == ["cat"] and actual["cat"].first == "xent"
    cat, xent = (result.pooled.summaries[name] for name in ("cat", "xent"))
    pairs = zip(actual["cat"].at_rate, cat.quality_at_rate, xent.quality_at_rate, strict=True)
    for difference, ours, theirs in pairs:
        assert difference.value == pytest.approx(ours.value - theirs.value)
        assert difference.low <= difference.high and 1 / 41 <= difference.p_value <= 1
    area = actual["cat"].area
    assert (area.value, area.low, area.high) == (
        cat.area_minus_first.value,
        cat.area_minus_first.low,
        cat.area_minus_first.high,
    )
    written = json.loads((folder / "metrics.json").read_text())["pooled"]["comparisons"]
    assert written["cat"]["area"]["p_value"] == area.p_value


def test_the_json_can_be_read_by_eye(outcome):
    lines = (outcome[1] / "metrics.json").read_text().splitlines()
    # A curve has a line for each of its columns, and keys stand one below the other.
    assert sum(line.strip().startswith('"thresholds": [') for line in lines) == 6
    assert all(line.count('":') <= 1 for line in lines)


def test_prices_have_no_prefix_in_the_table(tmp_path):
    tokens = {f"{model}_input_tokens": np.full(N, 9) for model in ("student", "teacher")}
    file = write(tmp_path / "a", "a", changes=tokens)
    result = evaluate_and_write(
        file, tmp_path / "o", cost=Price(2e5, 0, 1e6, 0), bootstrap_samples=2
    )
    (label, cost), *_ = result.pooled.summaries["a"].cost_at_quality.items()
    assert cost.value > 1e6, label
    assert f" {cost.value:.3g} " in format_table(result)
    assert f"| {cost.value:.3g} |" in (tmp_path / "o" / "summary.md").read_text(encoding="utf-8")


def test_models_of_any_name_give_the_same_figures_and_page(tmp_path):
    figures = {"to_english": {"bleu": {"student": 0.1, "teacher": 0.3}}}
    plain = student_records.write(tmp_path / "a", "cat", 0.4, live=True, figures=figures)
    own = student_records.rename_models(plain, tmp_path / "b", "small", "large")
    settings = {"output_dir": str(tmp_path), "bootstrap_samples": 1, "scores": "available"}
    results = [evaluate(EvaluateConfig(records_files=[file], **settings)) for file in (plain, own)]
    pages = [html_page.render(result, {}) for result in results]
    written = [to_json(result) for result in results]
    for values in written:
        values.pop("sources")
    assert written[0] == written[1]
    assert any(figure["metric"] == "bleu" for figure in written[0]["figures"])
    data = [page.partition('id="data">')[2].partition("</script>")[0] for page in pages]
    assert data[0] == data[1] != ""
