"""A cost is printed in its own unit by every renderer of a report."""

import dataclasses
import re

import numpy as np
import pytest

from cascade_jax.evaluation import summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import Flops, Latency, Parameters, Price
from cascade_jax.report import html_page, markdown, terminal
from tests.report import budget_test

CASES = [
    (Parameters(), 2e6, "2 M", "5 MFLOPs per token"),
    (Flops(), 2e9, "2 G", "5 GFLOPs per example"),
    (Latency(), 2e-3, "2 ms", "5 ms per example"),
    (Price(1.0, 1.0, 1.0, 1.0), 2.0, "2", "5 USD per million examples"),
]


@pytest.mark.parametrize(("cost", "scale", "cell", "words"), CASES)
def test_costs_have_their_own_unit(cost, scale, cell, words):
    """The small model already has the quality asked for, at its own cost."""
    names = ("xent", "cat")
    cascade = Cascade(np.arange(4.0), np.ones(4), np.ones(4), scale, 4 * scale)
    panel = summaries.compare(
        "t", "m", dict.fromkeys(names, cascade), bootstrap_samples=2, cost=cost
    )
    point = budget_test.point(cost=2.5 * scale, level="answer")
    evaluation = dataclasses.replace(
        budget_test.evaluation(live={}, budget=None, points={"cat": point}), pooled=panel
    )

    _, _, head, _, row, *_ = terminal.format_table(evaluation).split("\n")
    label = cost.label.partition(" (")[0]
    assert re.split("  +", head)[-2] == f"{label} to 1.000"
    assert re.split("  +", row)[-2] == cell
    assert f"cost {words}" in terminal.below(evaluation, "o")
    text = markdown.render(evaluation)
    assert f"| {cell} | {cell} |" in text and f"{label} to 1.000" in text
    (policy,) = [line for line in text.splitlines() if "of answers" in line]
    assert policy.split(" | ")[4] == cell.replace("2", "5")
    page = html_page.render(evaluation, {})
    assert page.count(f"<td>{cell}<small>{cell} to {cell}</small></td>") == 4
    assert f"at {words}" in page


def test_a_cost_that_is_not_known_is_not_printed():
    evaluation = budget_test.evaluation(points={"cat": budget_test.point(cost=float("nan"))})
    assert ", cost" not in terminal.below(evaluation, "o")
    evaluation = dataclasses.replace(evaluation, live={}, budget=None)
    assert "nan" not in html_page.render(evaluation, {})
