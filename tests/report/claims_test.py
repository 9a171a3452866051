"""Verdicts as files: the page, the JSON and the picture, by the command."""

import json
import re

import pytest

from cascade_jax.cli import main
from cascade_jax.evaluation.claims import papers, tables, verdicts
from cascade_jax.report import claims
from cascade_jax.report.plots import claims as plots
from tests.support import study_tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of two pairs; one has a single seed."""
    path = tmp_path_factory.mktemp("tables")
    runs = {(n, s): k for n, k in (("xent", 0.0), ("cat_xent", 0.9)) for s in range(4)}
    study_tables.write(path, runs)
    study_tables.write(path, {key: k for key, k in runs.items() if key[1] == 0}, pair="demo_1")
    return path


def compare(folder, output, *more):
    argv = ["compare", str(folder), "--claims=all", "--bootstrap=20", "--output", str(output)]
    return main.main([*argv, *more])


def test_the_command_writes_every_claim_of_every_pair(folder, tmp_path, capsys):
    assert compare(folder, tmp_path) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "claims.md").read_text()
    values = json.loads((tmp_path / "claims.json").read_text())
    assert set(values) == {"p", "demo_1"}
    for claim in papers.CLAIMS:
        assert claim.sentence in page and claim.id in printed and claim.id in values["p"]["claims"]
    area = values["p"]["claims"]["cat_xent_area"]
    assert area["verdict"] == "confirmed" and area["comparisons"][0]["effect"]["seeds"] == 4
    assert len(area["comparisons"][0]["by_seed"]) == 4
    alone = values["demo_1"]["claims"]["cat_xent_area"]
    assert alone["verdict"] == "not shown" and alone["p_for"] is None
    for text in (
        verdicts.RULE,
        "one seed says nothing of other seeds",
        "small: cat_dist; small: dist",
    ):
        assert text in page
    reached = {(r["loss"], len(r["pool"]["area"])) for r in values["p"]["losses"]}
    assert reached == {("xent", 4), ("cat_xent", 4)}
    assert re.search(r"\| small +\| cat_xent +\| 4 +\| 0\.\d{4} ± 0\.\d{4} \|", page)
    for pair in values:
        assert f"](losses_{pair}.png)" in page and (tmp_path / f"losses_{pair}.svg").exists()
        assert f"](claims_{pair}.png)" in page and (tmp_path / f"claims_{pair}.svg").exists()


def test_the_table_of_claims_has_a_column_for_each_pair(folder, tmp_path):
    assert compare(folder, tmp_path) == 0
    page = (tmp_path / "claims.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| CAT-Xent has a larger area")]
    (cells,) = [re.split(r" \| ", row.strip("| ")) for row in rows]
    assert len(cells) == 4 and cells[2].startswith("not shown: +") and cells[2].endswith("one seed")
    assert re.fullmatch(r"confirmed: \+0\.\d{4} \[\+0\.\d{4}, \+0\.\d{4}\], p = 0\.\d{4}", cells[3])


def test_one_claim_alone(folder, tmp_path):
    assert compare(folder, tmp_path, "--claims=cat_xent_area,gains_in_a1") == 0
    values = json.loads((tmp_path / "claims.json").read_text())
    assert set(values["p"]["claims"]) == {"cat_xent_area", "gains_in_a1"}


def test_the_picture_has_a_row_for_each_comparison(folder):
    study = verdicts.judge(tables.load([folder])["p"], papers.CLAIMS, 20)
    (axes,) = plots.forest_figure(study).axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[:3] == ["cat_xent_cost", "cat_xent_quality", "cat_xent_area"]
    assert "gains_in_a1: area of A1 − area of A2" in labels
    assert "easy_tasks: easy tasks − hard tasks" in labels
    expected = sum(len(v.outcomes) for v in study.verdicts)
    assert len(labels) == expected and claims.to_json(study)["num_examples"] == 120


def test_a_study_without_tables_for_any_claim(tmp_path):
    study_tables.write(tmp_path / "tables", {("mine", 0): 0.0})
    assert compare(tmp_path / "tables", tmp_path / "out") == 0
    assert not (tmp_path / "out" / "claims_p.png").exists()
    page = (tmp_path / "out" / "claims.md").read_text()
    assert page.count("no tables") == len(papers.CLAIMS) and "claims_p.png" not in page


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--claims=cat_xent_are", "cat_xent_are'.*did you mean 'cat_xent_area'"),
        ("--score=minimum", "--score does not go with --claims"),
        ("--split=test", "--split does not go with --claims"),
    ],
)
def test_mistakes_are_answered_in_one_line(folder, tmp_path, capsys, flag, message):
    assert compare(folder, tmp_path, flag) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and re.search(message, error), error
