"""The report: self-contained, escaped, complete with and without its script."""

import base64
import hashlib
import json
import math
import re

import numpy as np
import pytest

from cascade_jax.deferral.scores import Sum
from cascade_jax.evaluation import costs, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import Latency, Price
from cascade_jax.evaluation.evaluate import EvaluateConfig, evaluate
from cascade_jax.report import html_page, numbers
from tests.support import student_records
from tests.support.report_page import IMAGES, PNG, Page, small_evaluation

EVIL = "<script>alert('x')</script>&\""
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nobody fetches


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A page with its script, of real records, one prompt of which holds markup."""
    folder = tmp_path_factory.mktemp("report")
    file = student_records.write(folder / "xent.parquet", "xent", 0.4)
    config = EvaluateConfig(file, folder, bootstrap_samples=5, scores=[Sum()])
    return html_page.render(evaluate(config), IMAGES)


def check_page(page):
    """Every tag is closed, and nothing in it is an address outside."""
    parsed = Page(page)
    assert parsed.open == []
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in parsed.tags:
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes
    assert not re.search(r"https?://|url\(|@import", page.replace(NAMESPACE, ""))
    return parsed


def test_nothing_is_fetched_and_every_tag_is_closed(live):
    check_page(live)
    parsed = check_page(html_page.render(small_evaluation(), IMAGES))
    assert "script" not in {tag for tag, _ in parsed.tags}


def test_the_policy_allows_this_style_and_this_script_alone(live):
    parsed = Page(live)
    (policy,) = [a["content"] for tag, a in parsed.tags if "http-equiv" in a]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    # The policy stands before whatever it is about.
    assert live.index(policy) < live.index("<style>") < live.index("<script")
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", live, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert live.count("<script") == 2 and live.count("<style") == 1


def test_data_with_markup_reads_back_as_it_was(live):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', live, re.S)
    data = json.loads(text)
    assert student_records.EVIL in [row["inputs"] for row in data["examples"]["rows"]]
    assert data["panels"][0]["num_examples"] == 400


def test_the_script_builds_text_nodes_only():
    code = html_page._script(True)
    assert html_page._script(False) in code.replace(html_page._page_file("budget.js") + "\n", "")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", code
    )
    assert 'setAttribute("style"' not in code and "</script" not in code


def test_a_picture_that_the_script_does_not_draw_is_inside(live):
    sources = [attributes["src"] for tag, attributes in Page(live).tags if tag == "img"]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [PNG]


def test_without_javascript_the_page_says_where_the_rest_is(live):
    (text,) = re.findall(r"<noscript>(.*?)</noscript>", live, re.S)
    assert "summary.md" in text


def test_every_text_is_escaped():
    evaluation = small_evaluation((EVIL, "cat"), tasks=(EVIL, "t2"))
    page = html_page.render(evaluation, IMAGES)
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "<script" not in page
    # As text it is there, whole: the names in tables and headings.
    assert sum(EVIL in text for text in parsed.texts) >= 8


def test_every_figure_of_the_summary_is_in_the_table():
    evaluation = small_evaluation()
    text = " ".join(Page(html_page.render(evaluation, IMAGES)).texts)
    for summary in evaluation.pooled.summaries.values():
        values = [summary.student_quality, summary.area, summary.s_d_ideal, summary.s_d_oracle]
        assert f"{summary.separation.auroc:.3f}" in text
        for estimate in [*values, *summary.quality_at_rate]:
            assert f"{estimate.value:.3f}" in text
            assert f"{estimate.low:.3f} to {estimate.high:.3f}" in text
        for cost in summary.cost_at_quality.values():
            assert costs.format_cost(cost.value, "FLOPs") in text
    for task, panel in evaluation.tasks.items():
        assert task in text
        assert all(f"{s.area.value:.3f}" in text for s in panel.summaries.values())
    for needed in ("Records schema version", "runs/xent.parquet", "1,234,567", "Average()"):
        assert needed in text


def test_undefined_figures_are_a_dash_and_open_intervals_say_so():
    text = " ".join(Page(html_page.render(small_evaluation(teacher=0.0), IMAGES)).texts)
    assert "–" in text and "nan" not in text.lower().split() and " inf" not in text


def test_one_task_has_no_part_per_task():
    images = {"curve": PNG}
    page = html_page.render(small_evaluation(("one",), tasks=("t1",)), images)
    assert "Per task" not in page and "Where the quality comes from" not in page


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2_214_000.0, "FLOPs", "2.21 M"),
        (8.8e12, "FLOPs", "8.8 T"),
        (12.0, "FLOPs", "12"),
        (0.0253, "s", "25.3 ms"),
        (2.0, "s", "2 s"),
        (12.345, "USD", "12.3"),
        (math.nan, "FLOPs", "–"),
        (math.inf, "USD", "∞"),
    ],
)
def test_costs_are_short(value, unit, text):
    assert costs.format_cost(value, unit) == text


@pytest.mark.parametrize(
    ("cost", "value", "text"),
    [
        (Latency(), 0.0253, "25.3 ms per example"),
        (Price(1.0, 1.0, 1.0, 1.0), 0.0253, "0.0253 USD per million examples"),
    ],
)
def test_costs_in_words_have_their_unit(cost, value, text):
    cascade = Cascade(np.arange(4.0), np.ones(4), np.ones(4), 1.0, 2.0)
    panel = summaries.compare("t", "m", {"a": cascade}, bootstrap_samples=2, cost=cost)
    assert numbers.cost_text(panel, value) == text
