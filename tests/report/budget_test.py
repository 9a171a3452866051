"""The report's parts about budgets, policies and live cascades; none of them without such."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.evaluation import policy_points
from cascade_jax.evaluation.live_cascades import LiveCascade
from cascade_jax.evaluation.results import RecordsSource
from cascade_jax.report import budget as report_budget
from cascade_jax.report import examples, html_page, metrics_json
from tests.support import student_records, synthetic_budget
from tests.support.report_page import IMAGES, PNG, Page, small_evaluation

LIVE = LiveCascade(
    40,
    0.71234,
    0.0625,
    0.25,
    1.5e7,
    20,
    True,
    np.array([0.5, 0.125]),
    np.array([40, 8]),
    (0.8,),
    "log_prob",
    {"t1": 0.5},
    {"t1": 0.25},
)
PNGS = {name: PNG for name in ("budget", "budget_thresholds", "live_positions")}


def point(**changes):
    kept = (
        policy_points.RiskCheck("deferred tokens / 20", 0.2, 0.1875, True),
        policy_points.RiskCheck("loss", 0.01, 0.02, False),
        policy_points.RiskCheck("other", 0.01, math.nan, None),
    )
    result = policy_points.PolicyPoint(
        "runs/<c>.json", "token", "certified", "On new examples, kept.", "log_prob",
        (0.8, math.inf), 0.1, 40, 30, 0.25, 0.71234, 4e6, 1.5e7, kept,
        ("Chosen on <these> examples.",),
    )  # fmt: skip
    return dataclasses.replace(result, **changes)


def evaluation(**changes):
    budget = budget_file.from_values(synthetic_budget.make())
    result = {"budget": budget, "live": {"cat": LIVE}, "points": {"cat": point()}}
    return dataclasses.replace(small_evaluation(), **(result | changes))


def cells(page, caption):
    """Rows of the table whose caption begins so, as texts."""
    (table,) = re.findall(rf"<caption>{caption}.*?</table>", page, re.S)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]


def test_the_papers_bound_is_shown_with_its_condition():
    for bound, words in ((None, "examples. Cost"), ("wsr", "examples. Cost"),
                         ("paper", "examples, if all tokens were independent. Cost")):  # fmt: skip
        made = synthetic_budget.make() | ({"bound": bound} if bound else {})
        shown = "".join(report_budget.budget(budget_file.from_values(made)))
        assert f"over the calibration {words}" in shown


def test_every_row_of_the_budget_says_what_was_promised_and_measured():
    page = html_page.render(evaluation(), {**IMAGES, **PNGS})
    assert Page(page).open == []
    head, *rows = cells(page, "Test splits")
    assert len(rows) == 4 and head[:2] == ["budget α", "promised mean cost"]
    made = synthetic_budget.make()
    for row in rows:
        alpha = float(row[0])
        runs = [run for run in made["runs"] if run["alpha"] == alpha]
        costs = [run["test"]["cost"] for run in runs]
        assert row[1].startswith(f"≤ {alpha:g}<small>chance ≥ 90")
        low, high = f"{min(costs):.3f}", f"{max(costs):.3f}"
        assert row[2] == f"{np.mean(costs):.3f}<small>{low} to {high}</small>"
        assert row[3].split("\xa0")[0] == f"{100 * np.mean(np.array(costs) <= alpha):.3g}"
        assert row[4].split("\xa0")[0] == f"{20 * sum(run['certified'] for run in runs):.3g}"
        assert row[5].startswith(f"{np.mean([r['test']['quality']['rouge1'] for r in runs]):.3f}")
        for name, cell in zip(("random_tokens", "whole_answers", "oracle"), row[6:], strict=True):
            values = [run["baselines"][name]["quality"]["rouge1"] for run in runs]
            assert cell == f"{np.mean(values):.3f}"


def test_live_cascades_and_policies_are_told_in_full():
    page = html_page.render(evaluation(), {**IMAGES, **PNGS})
    ((_, *_), row) = cells(page, "Mean quality")
    summary = evaluation().pooled.summaries["cat"]
    ends = [f"{e.value:.3f}" for e in (summary.student_quality, summary.teacher_quality)]
    assert row == ["cat", ends[0], "0.712", ends[1], "25\xa0%", "0.062", "15 M", "0.8"]
    head, *rows = cells(page, "Per task")
    assert [row[:3] for row in rows] == [[t, "cat", "exact_match"] for t in ("t1", "t2")]
    assert rows[0][4] == "0.500" and rows[1][4] == "–" and rows[0][6] == "25\xa0%"
    (box,) = re.findall(r'<section class="policy.*?</section>', page, re.S)
    assert 'class="policy broken warned"' in box and "> 0.8, ∞" in box.replace("&gt;", ">")
    for words in (
        "25\xa0% of the tokens deferred, quality 0.712 at 4 MFLOPs per token",
        "✓ mean deferred tokens / 20 promised ≤ 0.2, measured 0.188: within",
        "✗ mean loss promised ≤ 0.01, measured 0.020: above it",
        "mean other promised ≤ 0.01, these records can not tell",
        "Chosen on &lt;these&gt; examples.",
        "On new examples, kept. (runs/&lt;c&gt;.json)",
    ):
        assert words in box
    assert page.index("<h2") > page.index('<section class="policy')  # it is told at the top


@pytest.mark.parametrize("changes", [{}, {"budget": None}, {"live": {}}, {"points": {}}])
def test_each_part_is_there_exactly_if_its_figures_are(changes):
    page = html_page.render(evaluation(**changes), IMAGES)
    assert ('id="budgets"' in page) == ("budget" not in changes)
    assert ('id="positions"' in page) == ("live" not in changes)
    assert ('class="policy' in page) == ("points" not in changes)
    assert ".by-large" in page


def test_a_page_without_any_of_them_has_no_word_of_them(tmp_path):
    bare = evaluation(budget=None, live={}, points={})
    page = html_page.render(bare, IMAGES)
    for word in ("budget", "by-large", "policy broken", "positions", "certif"):
        assert word not in page.replace("Content-Security-Policy", "")
    assert page == html_page.render(small_evaluation(), IMAGES)
    written = metrics_json.to_json(bare)
    assert "live" not in written and "policy" not in written
    assert report_budget.page_data(bare) == report_budget.page_points(bare) == {}
    table = records.read(student_records.write(tmp_path / "a", "a", 0.3, n=8))
    (row, *_) = examples.sample({"a": table}, {"a": np.zeros(8)})["rows"]
    assert "live" not in row["answers"]["a"]


def test_figures_are_written_in_full_precision():
    written = json.loads(json.dumps(metrics_json.to_json(evaluation())))
    assert written["live"]["cat"]["by_position"] == [0.5, 0.125]
    assert written["live"]["cat"]["quality"] == 0.71234
    assert written["policy"]["cat"]["thresholds"] == [0.8, None]
    assert written["policy"]["cat"]["kept"][2]["measured"] is None


def test_the_certificate_in_the_records_is_not_written_out_again():
    policy = {"thresholds": [0.8], "seen": ["a"] * 400, "candidates": [{}] * 100}
    source = RecordsSource("cat", "cat.parquet", {"split": "test", "policy": policy})
    (written,) = metrics_json.to_json(evaluation(sources=(source,)))["sources"]
    assert written["metadata"] == {"split": "test", "policy": {"thresholds": [0.8]}}
    assert len(policy["seen"]) == 400


def test_what_the_page_draws_is_what_the_file_says():
    actual = report_budget.page_data(evaluation())
    made = synthetic_budget.make()
    drawn = actual["budget"]
    assert drawn["alphas"] == made["alphas"] and drawn["metrics"][0] == "rouge1"
    risks = [[run["alpha"], run["test"]["cost"]] for run in made["runs"]]
    np.testing.assert_allclose(drawn["risks"], risks, rtol=1e-5)
    ends = [made["ends"][name]["quality"] for name in ("student", "teacher")]
    assert drawn["ends"] == ends
    assert actual["live"]["cat"] == {"by_position": [0.5, 0.125], "reached": [40, 8]}
    (mark,) = report_budget.page_points(evaluation())["points"]
    assert mark == {"name": "cat", "cost": 4e6, "rate": None, "quality": 0.71234}
    of_answers = evaluation(points={"cat": point(level="answer")})
    assert report_budget.page_points(of_answers)["points"][0]["rate"] == 0.25


def test_nothing_certified_and_no_policy_is_said():
    made = synthetic_budget.make(repeats=1, promise="quality")
    for run in made["runs"]:
        run |= dict.fromkeys(("thresholds", "calibration", "test", "baselines"))
        run |= {"certified": False, "accepted": []}
    page = html_page.render(evaluation(budget=budget_file.from_values(made)), IMAGES)
    assert "no policy is known to keep α = 0.2" in page
    rows = cells(page, "Test splits")
    assert rows[0][1] == "promised mean loss" and rows[1][2:] == ["–", "–", "0\xa0%", "–", "–"]


def test_the_examples_hold_who_wrote_what(tmp_path):
    path = student_records.write(tmp_path / "a", "a", 0.3, n=12, live=True)
    table = records.read(path)
    rows = examples.sample({"a": table}, {"a": np.zeros(12)})["rows"]
    assert len(rows) == 12
    for i, row in enumerate(rows):
        live = row["answers"]["a"]["live"]
        span = slice(table.cascade_offsets[i], table.cascade_offsets[i + 1])
        assert live["pieces"] == table.pieces("cascade", i)
        assert live["deferred"] == [int(v) for v in table.cascade_is_deferred[span]]
        np.testing.assert_allclose(
            live["uncertainties"], table.cascade_uncertainties[span], atol=6e-4
        )
        assert live["quality"] == table.cascade_quality[i] and "more_tokens" not in live


def test_of_a_long_answer_the_first_tokens_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "_TOKEN_LIMIT", 3)
    table = records.read(student_records.write(tmp_path / "a", "a", 0.3, n=4, live=True))
    live = examples.sample({"a": table}, {"a": np.zeros(4)})["rows"][0]["answers"]["a"]["live"]
    lists = [live[name] for name in ("pieces", "deferred", "uncertainties")]
    assert [len(values) for values in lists] == [3, 3, 3] and live["more_tokens"] == 4
