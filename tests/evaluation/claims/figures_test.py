"""Figures of runs: those of `evaluate` on the examples, and of drawn examples written out."""

import math

import numpy as np
import pytest

from cascade_jax.deferral import scores
from cascade_jax.evaluation import bootstrap, curves, overlap, reliability
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.claims import claim, figures, tables
from cascade_jax.evaluation.separation import separation
from cascade_jax.evaluation.summaries import compare
from tests.support import study_tables


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")

    def tie(columns):  # some equal scores, and two examples of one input
        columns["student_log_probs"][5] = columns["student_log_probs"][8]
        columns["inputs"][9] = columns["inputs"][0]

    study_tables.write(folder, {("xent", 0): 0.0, ("cat_xent", 0): 0.3}, change=tie)
    return figures.Sampled(tables.load([folder])["p"], samples=30)


def entry_of(sampled, loss="xent"):
    return next(entry for run, entry in sampled.study.tables.items() if run.loss == loss)


def cascade_of(table, rows=None):
    confidence = reliability.confidence_of(table.student)
    qualities = table.student_quality, table.teacher_quality
    made = Cascade(scores.Average()(table.student), *qualities, 1e8, 4e8, confidence=confidence)
    return made if rows is None else made.take(rows)


def test_on_the_examples_they_are_those_of_evaluate(sampled):
    entry = entry_of(sampled)
    cascade = cascade_of(entry.table)
    panel = compare("", "", {"a": cascade}, bootstrap_samples=0)
    summary = panel.summaries["a"]
    expected = {
        "area": summary.area.value,
        "s_d": summary.s_d_ideal.value,
        "small model": summary.student_quality.value,
        "quality at cost": np.mean([e.value for e in summary.quality_at_rate]),
        "area of A1": np.trapezoid(panel.curves["a"].a1, panel.curves["a"].rate),
    }
    for name, value in expected.items():
        assert sampled.value(name, entry, "average", claim.POOL)[0] == pytest.approx(value), name
    s_o = separation(cascade).overlap
    assert sampled.value("s_o", entry, "average", claim.POOL)[0] == pytest.approx(s_o, abs=3e-3)


def test_a_draw_is_the_figure_of_the_drawn_examples(sampled):
    entry = entry_of(sampled)
    counts = sampled._counts[:, 7]
    rows = np.repeat(np.arange(len(counts)), counts)
    panel = compare("", "", {"a": cascade_of(entry.table, rows)}, bootstrap_samples=0)
    summary = panel.summaries["a"]
    values = {
        name: sampled.value(name, entry, "average", claim.POOL)[7] for name in ("area", "s_d")
    }
    assert values["area"] == pytest.approx(summary.area.value)
    assert values["s_d"] == pytest.approx(summary.s_d_ideal.value)
    quality = sampled.value("quality at cost", entry, "average", claim.POOL)[7]
    assert quality == pytest.approx(np.mean([e.value for e in summary.quality_at_rate]))


def test_draws_keep_the_size_of_every_task_and_draw_whole_inputs(sampled):
    counts = sampled._counts
    ids = sampled.study.first.example_id.tolist()
    np.testing.assert_array_equal(counts[ids.index("easy/0")], counts[ids.index("easy/9")])
    (hard,) = [rows for task, rows in sampled.study.rows_by_task().items() if task == "hard"]
    assert set(counts[hard].sum(axis=0)) == {len(hard)}
    assert set(counts[:, 0]) == {1} and len(np.unique(counts[:, 1:], axis=1).T) == 30


def test_places(sampled):
    tasks, places = sampled.study.first.task, sampled.places
    names = {place: [set(tasks[rows]) for rows in sets] for place, sets in places.items()}
    assert names[claim.EASY] == [{"easy"}] and names[claim.HARD] == [{"hard"}]
    assert names[claim.TASKS] == [{"easy"}, {"middle"}, {"hard"}]
    assert names[claim.CLASSES] == [{"easy", "middle"}] and names[claim.WRITTEN] == [{"hard"}]
    entry = entry_of(sampled)
    per_task = [
        curves.area(curves.deferral_curve(c.score, c.student_quality, c.teacher_quality, 1, 1))
        for c in (cascade_of(entry.table, rows) for rows in places[claim.TASKS])
    ]
    assert sampled.value("area", entry, "average", claim.TASKS)[0] == pytest.approx(
        np.mean(per_task)
    )


def test_cost_saved_is_read_off_both_curves(sampled):
    first, second = entry_of(sampled), entry_of(sampled, "cat_xent")
    pairs = (second, "average"), (first, "average")
    curve = {
        name: curves.deferral_curve(
            c.score, c.student_quality, c.teacher_quality, c.student_cost, c.teacher_cost
        )
        for name, c in (("first", cascade_of(first.table)), ("second", cascade_of(second.table)))
    }
    small, large = curve["first"].student_quality, curve["first"].teacher_quality
    levels = [small + share * (large - small) for share in (0.25, 0.5, 0.75)]
    saved = [
        1 - curves.cost_at_quality(curve["second"], q) / curves.cost_at_quality(curve["first"], q)
        for q in levels
    ]
    assert sampled.saved(*pairs, claim.POOL)[0] == pytest.approx(np.mean(saved))
    assert np.mean(saved) > 0.05


def test_cost_saved_is_undefined_where_the_large_model_is_not_better():
    rate = np.array([[0.0, 0.5, 1.0]])
    falling = figures.SampledCurve(rate, np.array([[0.8, 0.7, 0.6]]), rate)
    assert np.isnan(figures.cost_saved(falling, falling, (1.0, 4.0))).all()


@pytest.mark.parametrize("nodes", [25, 1000])
def test_thinned_curves_are_near_the_whole_ones(nodes):
    rng = np.random.default_rng(0)
    size, score = 600, rng.normal(size=600)
    small = (score + rng.normal(size=size) < 0).astype(float)
    columns = np.stack([np.ones(size), 1 - small, small])
    order, ends = curves.deferral_order(score)
    counts = np.ones((size, 1), np.uint8)
    curve = figures.sampled_curve(counts, columns, order, bootstrap.thinned(ends, nodes))
    expected = curves.area(curves.deferral_curve(score, small, np.ones(size), 1, 1))
    assert figures.area(curve)[0] == pytest.approx(expected, abs=1e-12 if nodes == 1000 else 2e-3)


def test_the_overlap_of_draws_is_that_of_drawn_examples():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.6
    confidence = np.where(right, rng.beta(6, 2, 400), rng.beta(3, 4, 400))
    counts = np.ones((400, 3), np.uint8)
    counts[:, 1] = np.bincount(rng.integers(400, size=400), minlength=400)
    counts[right, 2] = 0
    one, drawn, none = overlap.resampled(confidence, right, counts)
    rows = np.repeat(np.arange(400), counts[:, 1])
    assert one == pytest.approx(overlap.overlap(confidence, right), abs=2e-3)
    assert drawn == pytest.approx(overlap.overlap(confidence[rows], right[rows]), abs=2e-2)
    assert math.isnan(none)
    assert np.isnan(overlap.resampled(confidence, np.ones(400, bool), counts)).all()
