"""Several scores, groups of tasks and costs of single examples, from records to what is written."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax.deferral.scores import Average, Maximum, Sum
from cascade_jax.evaluation import panels
from cascade_jax.evaluation.costs import Flops, Parameters, Price
from cascade_jax.evaluation.evaluate import load
from cascade_jax.records.table import RecordsError
from cascade_jax.report import metrics_json
from cascade_jax.report.terminal import format_table
from tests.support.evaluated import N, write
from tests.support.reports import evaluate_and_write

DRAWS, SEED = 20, 3
GROUPS = {"both": ["short", "long*"], "one": ["sh?rt"]}


def evaluated(files, score=None, cost=None, scores=(), groups=None):
    """An evaluation of which nothing is written or drawn."""
    settings = panels.Settings(
        score=score or Average(),
        cost=cost or Parameters(),
        scores=scores,
        groups=groups or {},
        bootstrap_samples=DRAWS,
        seed=SEED,
    )
    tables = load(files)
    return panels.evaluate_tables(tables, *panels.score_all(tables, settings), settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panels")
    return [write(folder / f"{name}.parquet", name, i) for i, name in enumerate(["xent", "cat"])]


@pytest.fixture(scope="module")
def outcome(files, tmp_path_factory):
    """One evaluation with three scores and two groups, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("report")
    result = evaluate_and_write(
        files,
        folder,
        scores=(Maximum(), Sum(), Average()),
        groups=GROUPS,
        bootstrap_samples=DRAWS,
        seed=SEED,
    )
    return result, folder, json.loads((folder / "metrics.json").read_text())


@pytest.mark.medium
def test_several_scores_stand_beside_the_first(outcome, files):
    result, folder, written = outcome
    assert (folder / "scores.png").exists() and (folder / "scores.svg").exists()
    assert list(result.scores) == ["xent", "cat"]
    assert list(result.scores["cat"]) == ["average", "maximum", "sum"]
    alone = evaluated(files, Sum()).pooled.summaries["cat"]
    actual = result.scores["cat"]["sum"]
    for field in ("area", "s_d_ideal", "s_d_oracle"):
        assert getattr(actual, field) == getattr(alone, field)
    for field in ("auroc", "auprc", "prr", "prr_half", "pearson", "spearman"):
        assert getattr(actual.ranking, field) == getattr(alone.separation, field)
    in_json = written["scores"]["cat"]["sum"]
    assert in_json["area"]["low"] == actual.area.low and in_json["auprc"] == actual.ranking.auprc
    assert in_json["curve"]["quality"][-1] == result.pooled.curves["cat"].teacher_quality
    assert "| cat | maximum |" in (folder / "summary.md").read_text()


def test_the_first_score_is_the_same_with_others_beside_it(outcome, files):
    result = outcome[0]
    alone, actual = evaluated(files).pooled.summaries["cat"], result.pooled.summaries["cat"]
    assert (alone.area, alone.quality_at_rate) == (actual.area, actual.quality_at_rate)
    assert result.scores["cat"]["average"].area == actual.area


def test_all_available_scores_are_those_that_every_table_can_give(files):
    names = list(evaluated(files, scores="available").scores["xent"])
    assert names[0] == "average" and {"entropy", "quantile 0.4", "sum"} < set(names)
    assert "margin" not in names


def test_a_score_that_lacks_a_column_is_refused(files):
    from cascade_jax.deferral.scores import Margin

    with pytest.raises(ValueError, match="student_top_log_probs.*cascade-jax collect"):
        evaluated(files, scores=(Margin(),))


def test_groups_are_pools_of_their_tasks(outcome):
    _, folder, written = outcome
    assert written["groups"]["both"]["tasks"] == ["short", "long/er task"]
    assert written["groups"]["both"]["cascades"] == written["pooled"]["cascades"]
    assert written["groups"]["one"]["cascades"] == written["tasks"]["short"]["cascades"]
    assert (folder / "groups.png").exists()
    assert "| both | exact_match | 60 |" in (folder / "summary.md").read_text()


def test_a_group_without_a_task_names_the_nearest(files, tmp_path):
    with pytest.raises(ValueError, match="group 'g': no task matches 'shrt'; nearest .*'short'"):
        evaluate_and_write(files, tmp_path / "o", groups={"g": ["shrt"]})
    assert not (tmp_path / "o").exists()


def test_rows_of_tasks_are_in_the_order_in_which_tasks_come():
    tasks = np.array(["b", "a", "b", "c", "a"], object)
    result = panels.rows_by_task(tasks)
    assert list(result) == ["b", "a", "c"]
    for task, rows in result.items():
        np.testing.assert_array_equal(rows, np.flatnonzero(tasks == task))


def test_costs_of_single_examples_give_the_cost_axis(tmp_path):
    rng = np.random.default_rng(0)
    student, teacher = rng.uniform(1e9, 2e9, N), rng.uniform(5e9, 5e10, N)
    flops = {"student_flops": student, "teacher_flops": teacher}
    file = write(tmp_path / "a", "a", changes=flops)
    result = evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5, cost=Flops())
    order = np.argsort(
        [np.mean(row["student_log_probs"]) for row in pq.read_table(file).to_pylist()]
    )
    curve = result.pooled.curves["a"]
    for k in range(N + 1):
        assert curve.cost[k] == pytest.approx((student.sum() + teacher[order[:k]].sum()) / N)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())["pooled"]
    assert written["cost_label"].startswith("FLOPs per example")
    assert written["cascades"]["a"]["curve"]["cost"] == curve.cost.tolist()
    assert "FLOPs per example to" in format_table(result)
    # The mean cost of deferring a quarter at random, not that of the quarter deferred first.
    quarter = student.mean() + teacher.mean() / 4
    assert result.pooled.references.costs[0] == pytest.approx(quarter)
    estimate = result.pooled.summaries["a"].quality_at_cost[0]
    assert estimate.value == pytest.approx(np.interp(quarter, curve.cost, curve.quality))


def test_costs_without_their_columns_name_the_command(files):
    for cost, column in ((Flops(), "student_flops"), (Price(1, 1, 1, 1), "student_input_tokens")):
        with pytest.raises(RecordsError, match=f"no column '{column}'.* `cascade-jax collect`"):
            evaluated(files, cost=cost)


def test_what_one_class_leaves_undefined_is_null_and_the_rest_is_there(tmp_path):
    file = write(tmp_path / "a", "a", changes={"student_quality": np.ones(N)})
    result = evaluate_and_write([file], tmp_path / "out", bootstrap_samples=5, scores=(Maximum(),))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    actual = written["pooled"]["cascades"]["a"]["summary"]["separation"]
    undefined = ("auroc", "auprc", "prr", "prr_half", "pearson", "spearman")
    undefined += ("overlap", "ece", "ece_scaled", "reliability_scaled")
    assert {actual[name] for name in undefined} == {None}
    assert sum(actual["reliability"]["count"]) == N and actual["error_share"] == 0
    assert written["scores"]["a"]["maximum"]["auroc"] is None
    assert math.isnan(result.macro()["a"]["auroc"])
    assert written["macro"]["a"]["ece"] is None


def test_macro_leaves_out_tasks_where_a_figure_is_undefined(tmp_path):
    # On the first task all answers are right: nothing to tell apart.
    student = np.where(np.arange(N) < N // 3, 1.0, np.arange(N) % 2)
    result = evaluated([write(tmp_path / "a", "a", changes={"student_quality": student})])
    other = result.tasks["long/er task"].summaries["a"].separation
    assert math.isnan(result.tasks["short"].summaries["a"].separation.auroc)
    macro = result.macro()["a"]
    for field in ("auroc", "auprc", "prr", "overlap", "ece", "ece_scaled"):
        assert macro[field] == getattr(other, field) and math.isfinite(macro[field])
    assert macro["student_quality"] == pytest.approx((1 + 0.5) / 2)


def test_the_json_is_the_whole_of_what_is_dumped(outcome):
    result, folder, written = outcome
    assert written == json.loads(json.dumps(metrics_json.to_json(result)))
    odd = {"a": [], "b": {}, "c": [{"d": [1, None]}, []], "e": 'ü\n"', "f": [[1], [2.5]]}
    assert json.loads(metrics_json.dump(odd)) == odd


# ---- examples that repeat an input


def test_repeated_inputs_are_drawn_together_and_counted(tmp_path):
    """Half of the inputs stand twice, in white space of their own."""
    inputs = [f"what is {row % 4}  ?" if row < 8 else f"what is {row}?" for row in range(N)]
    inputs[0] = "what  is 0 ?\n"
    repeated = write(tmp_path / "repeated.parquet", "xent", changes={"inputs": inputs})
    plain = write(tmp_path / "plain.parquet", "xent")
    result = evaluate_and_write([repeated], tmp_path / "report", bootstrap_samples=DRAWS, seed=SEED)
    assert (result.pooled.num_inputs, result.pooled.num_repeats) == (N - 4, 4)
    area, other = (r.pooled.summaries["xent"].area for r in (result, evaluated([plain])))
    assert area.value == other.value and (area.low, area.high) != (other.low, other.high)
    text = f"4 of the {N} examples repeat the input of another one: intervals and p-values draw the"
    assert text in (tmp_path / "report" / "summary.md").read_text()
    assert text in (tmp_path / "report" / "report.html").read_text()
    assert text in format_table(result)
    written = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert written["pooled"]["num_inputs"] == N - 4


def test_blank_inputs_are_not_known_and_one_input_has_no_interval(tmp_path):
    blank = evaluated([write(tmp_path / "b.parquet", "xent", changes={"inputs": [""] * N})])
    assert blank.pooled.num_repeats == 0 and blank.pooled.summaries["xent"].area.low > 0
    one = evaluated([write(tmp_path / "o.parquet", "xent", changes={"inputs": ["?"] * N})])
    assert math.isnan(one.pooled.summaries["xent"].area.low)
    assert "intervals and p-values are not defined" in format_table(one)
