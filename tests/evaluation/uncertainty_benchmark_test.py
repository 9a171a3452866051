"""tests/benchmarks/uncertainty.py: a row for every score, and the figures of the evaluation."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.deferral import scores
from cascade_jax.evaluation import costs, panels
from tests.benchmarks import uncertainty
from tests.support import evaluated
from tests.support.evaluated import write_sampled

OPTIONS = argparse.Namespace(tasks=None, cost="flops", bootstrap=4, seed=0)


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_score_has_a_row(tmp_path):
    file = Path(write_sampled(tmp_path / "a.parquet"))
    text = uncertainty.report(file, None, OPTIONS)
    heads, _, *rows = rows_of(text)
    answers = records.read(file).student
    names = {score.name for score in scores.available(answers)}
    assert {row[0] for row in rows} == names and len(rows) == len(names)
    by_name = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    assert by_name["average"]["− average"] == "–"
    assert by_name["average"]["own FLOPs per example"] == "0"
    own = costs.format_cost(records.read(file).student_sample_flops.mean(), "FLOPs")
    assert by_name["disagreement"]["own FLOPs per example"] == own
    settings = panels.Settings(cost=costs.Flops(), scores=(scores.Disagreement(),))
    panel, *_ = uncertainty.panel_of(records.read(file), [], settings)
    value = panel.scores[""]["disagreement"].own_cost.area.value
    assert by_name["disagreement"]["area at equal cost"].startswith(f"{value:.3f} [")
    areas = [float(row[5].split()[0]) for row in rows]
    assert areas == sorted(areas, reverse=True)
    assert "xent, split test: 60 examples" in text and "oracle" in text


def test_tasks_can_be_chosen_and_free_scores_have_areas_too(tmp_path):
    changes = {"student_flops": np.full(60, 10.0), "teacher_flops": np.full(60, 100.0)}
    file = Path(evaluated.write(tmp_path / "a.parquet", "xent", changes=changes))
    options = argparse.Namespace(**(vars(OPTIONS) | {"tasks": ["sh*"]}))
    text = uncertainty.report(file, None, options)
    assert "20 examples" in text
    for row in rows_of(text)[2:]:  # one cost for all, and none of its own: the area over the rate
        assert row[3] == row[5] and row[4] == "0"


@pytest.mark.medium
def test_routers_of_another_split_stand_in_the_table(tmp_path):
    file = Path(write_sampled(tmp_path / "a.parquet"))
    changes = {
        "split": ["validation"] * 60,
        "example_id": [f"v/{i}" for i in range(60)],
        "inputs": [f"another question {i}" for i in range(60)],
    }
    other = evaluated.write(
        tmp_path / "b.parquet", "xent", 1, changes, metadata={"split": "validation"}
    )
    rows = rows_of(uncertainty.report(file, Path(other), OPTIONS))
    assert {"logistic router", "MLP router", "boosted router"} < {row[0] for row in rows}
