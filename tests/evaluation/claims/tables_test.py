"""Tables of a study: found in folders, in one order, refused where they do not belong together."""

import json

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.evaluation.claims import tables
from cascade_jax.records import RecordsError, run_table
from cascade_jax.records.run_table import Run
from tests.support import study_tables, synthetic_budget

BOTH = {("xent", 0): 0.0, ("cat_xent", 0): 0.2}


def test_runs_are_found_below_folders_by_pair(tmp_path):
    study_tables.write(tmp_path / "a" / "deep", {("xent", 0): 0.0, ("xent", 2): 0.0})
    study_tables.write(tmp_path / "b", BOTH, pair="q", size="tiny")
    studies = tables.load([tmp_path / "a", *(tmp_path / "b").glob("*.parquet")])
    assert list(studies) == ["p", "q"]
    assert studies["p"].losses("small") == {"xent": (0, 2)}
    assert studies["q"].sizes == ("tiny",) and len(studies["q"].tables) == 2


def test_rows_are_brought_into_one_order(tmp_path):
    study_tables.write(tmp_path, {("xent", 0): 0.0})
    order = np.random.default_rng(0).permutation(120)

    def shuffle(columns):
        for name, values in columns.items():
            columns[name] = [values[i] for i in order]

    study_tables.write(tmp_path, {("dist", 0): 0.0}, change=shuffle)
    first, second = (e.table for e in tables.load([tmp_path])["p"].tables.values())
    assert first.example_id.tolist() == second.example_id.tolist()
    np.testing.assert_array_equal(first.student_quality, second.student_quality)


def test_budgets_lie_beside_their_table(tmp_path):
    study_tables.write(tmp_path, BOTH)
    path = tmp_path / "p.small.xent.0.token.budget.json"
    path.write_text(json.dumps(synthetic_budget.make()))
    xent, cat = (tables.load([tmp_path])["p"].tables[Run("p", "small", n, 0)] for n, _ in BOTH)
    assert len(xent.budgets) == 1 and not cat.budgets


def test_scores_by_name(tmp_path):
    study_tables.write(tmp_path, BOTH, scores={"mine": lambda answers: np.arange(120.0)})
    entry = next(iter(tables.load([tmp_path])["p"].tables.values()))
    assert entry.has_score("mine") and entry.has_score("average") and not entry.has_score("entropy")
    assert sorted(entry.score("mine")) == list(range(120))
    with pytest.raises(ValueError, match="a score is 'averag'.*did you mean 'average'"):
        entry.score("averag")


def other_target(columns):
    columns["target"][3] = "another"


def one_less(columns):
    for name in columns:
        columns[name] = columns[name][:-1]


def other_teacher(columns):
    columns["teacher_quality"] = 1 - columns["teacher_quality"]


@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        (other_target, 1, "xent.0.parquet has the ids of .*cat_xent.1.parquet, but other inputs"),
        (one_less, 1, "different examples, 1 of 120 missing|and 1 more"),
        (other_teacher, 0, "teacher_quality differs on 120 of 120 examples"),
    ],
)
def test_tables_of_different_examples_or_large_models_are_refused(tmp_path, change, seed, message):
    study_tables.write(tmp_path, {("xent", 0): 0.0})
    study_tables.write(tmp_path, {("cat_xent", seed): 0.0}, change=change)
    with pytest.raises(RecordsError, match=message):
        tables.load([tmp_path])


def test_a_large_model_of_its_own_for_each_seed_is_allowed(tmp_path):
    study_tables.write(tmp_path, {("xent", 0): 0.0})
    study_tables.write(tmp_path, {("xent", 1): 0.0}, change=other_teacher)
    assert len(tables.load([tmp_path])["p"].tables) == 2


def test_two_tables_of_one_run_and_one_of_none_are_refused(tmp_path):
    study_tables.write(tmp_path / "a", {("xent", 0): 0.0})
    study_tables.write(tmp_path / "b", {("xent", 0): 0.0})
    with pytest.raises(RecordsError, match="b/.* and .*a/.* are both of p, small, xent, seed 0"):
        tables.load([tmp_path])
    file = tmp_path / "c.parquet"
    metadata = {"name": "xent", "mixture": "m", "split": "test"}
    records.write(file, study_tables.make_columns(0.0, 0), metadata)
    assert run_table.run_of(records.read(file)) is None
    with pytest.raises(RecordsError, match="c.parquet: .*do not say which run.*without-text"):
        tables.load([file])


def test_folders_without_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table"):
        tables.load([tmp_path])
    with pytest.raises(FileNotFoundError, match="no such records file"):
        tables.load([tmp_path / "missing"])
