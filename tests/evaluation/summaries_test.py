"""Summaries of cascades side by side."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.evaluation import curves, separation, summaries
from cascade_jax.evaluation.cascades import Cascade


def _cascade(n=60, seed=0, accuracy=0.5, student_flops=2.0, teacher=None):
    rng = np.random.default_rng(seed)
    student = (rng.random(n) < accuracy) * 1.0
    if teacher is None:
        teacher = (np.random.default_rng(99).random(n) < 0.9) * 1.0
    return Cascade(rng.normal(size=n) - student, student, teacher, student_flops, 10.0)


def _compare(*cascades, samples=50):
    named = {f"c{i}": cascade for i, cascade in enumerate(cascades)}
    return summaries.compare("task", "exact_match", named, bootstrap_samples=samples)


def _tied(values=(0.0, 0.5, 1.0)):
    """Scores of few values, and both models' qualities."""
    row = st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), *[st.sampled_from(values)] * 2)
    return st.lists(row, min_size=1, max_size=25).map(
        lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
    )


@given(_tied(), st.sampled_from([1.0, 3.0]))
def test_a_summary_is_that_of_the_thresholds_by_brute_force(parts, student_cost):
    score, student, teacher = parts
    teacher_cost = 1 + 4 * teacher[::-1]  # of single examples
    cascade = Cascade(score, student, teacher, student_cost, teacher_cost)
    panel = summaries.compare("t", "m", {"c": cascade}, bootstrap_samples=0)
    summary = panel.summaries["c"]
    # One point per threshold; between two of them a random order of the tied is straight.
    points = []
    for tau in [*sorted(set(score.tolist()), reverse=True), -math.inf]:
        deferred = [s > tau for s in score]
        quality = [t if d else s for s, t, d in zip(student, teacher, deferred, strict=True)]
        cost = [student_cost + c * d for c, d in zip(teacher_cost, deferred, strict=True)]
        points.append((np.mean(deferred), np.mean(quality), np.mean(cost)))
    rate, quality, cost = zip(*points, strict=True)
    area = sum(
        (rate[i + 1] - rate[i]) * (quality[i] + quality[i + 1]) / 2 for i in range(len(rate) - 1)
    )
    tight = {"abs": 1e-9, "rel": 0, "nan_ok": True}
    assert summary.area.value == pytest.approx(area, **tight)
    p_s, p_l = student.mean(), teacher.mean()
    error = 1 - p_s
    ideal = error * (p_s + p_l) / 2 + p_s * p_l
    room = ideal - (p_s + p_l) / 2
    s_d = (area - (p_s + p_l) / 2) / room if room > 1e-12 else math.nan
    assert summary.s_d_ideal.value == pytest.approx(s_d, **{**tight, "abs": 1e-6})
    for i, at in enumerate(panel.references.rates):
        assert summary.quality_at_rate[i].value == pytest.approx(
            np.interp(at, rate, quality), **tight
        )
    for i, at in enumerate(panel.references.costs):
        assert summary.quality_at_cost[i].value == pytest.approx(
            np.interp(at, cost, quality), **tight
        )
    assert summary.student_better_share == np.mean(student > teacher)


def test_without_resamples_there_are_values_and_no_intervals():
    cascade = _cascade()
    bare, full = _compare(cascade, samples=0), _compare(cascade)
    summary, other = bare.summaries["c0"], full.summaries["c0"]
    assert summary.area.value == other.area.value and math.isnan(summary.area.low)
    assert math.isfinite(other.area.low)
    assert math.isnan(summary.cost_at_quality["halfway"].high)


def test_auroc_of_a_perfect_score_is_one():
    assert separation.ranking(np.array([3.0, 2.0, 1.0]), np.array([0.0, 0.0, 1.0])).auroc == 1.0


def test_reference_points_are_joint():
    weak, strong = _cascade(seed=1, accuracy=0.3), _cascade(seed=2, accuracy=0.6, student_flops=4.0)
    points = summaries.references({"weak": weak, "strong": strong})
    teacher = weak.teacher_quality.mean()
    assert points.costs == (4 + 2.5, 4 + 5.0, 4 + 7.5)
    halfway = (strong.student_quality.mean() + teacher) / 2
    assert points.qualities == {
        "halfway": pytest.approx(halfway),
        "99 % of large": pytest.approx(0.99 * teacher),
    }


def test_figures_are_those_of_the_curve():
    weak, strong = _cascade(seed=1, accuracy=0.3), _cascade(seed=2, accuracy=0.6, student_flops=4.0)
    panel = _compare(weak, strong)
    assert panel.num_examples == 60
    for name, cascade in (("c0", weak), ("c1", strong)):
        summary, points = panel.summaries[name], panel.references
        curve = curves.deferral_curve(
            cascade.score,
            cascade.student_quality,
            cascade.teacher_quality,
            cascade.student_cost,
            10.0,
        )
        assert summary.area.value == curves.area(curve)
        for got, rate in zip(summary.quality_at_rate, points.rates, strict=True):
            assert got.value == curves.quality_at_rate(curve, rate)
        for got, cost in zip(summary.quality_at_cost, points.costs, strict=True):
            assert got.value == curves.quality_at_cost(curve, cost)
        for label, quality in points.qualities.items():
            cost = curves.cost_at_quality(curve, quality)
            assert summary.cost_at_quality[label].value == pytest.approx(cost, nan_ok=True)
            rate = curves.rate_at_quality(curve, quality)
            assert summary.rate_at_quality[label].value == pytest.approx(rate, nan_ok=True)
        right = (cascade.student_quality == 1) & (cascade.teacher_quality == 0)
        assert summary.student_better_share == right.mean()
        error = cascade.student_quality == 0
        assert summary.auroc == separation.ranking(cascade.score, 1.0 - error).auroc


def test_intervals_hold_their_values_and_those_of_costs_match_those_of_rates():
    summary = _compare(_cascade(300), samples=300).summaries["c0"]
    estimates = [summary.student_quality, summary.teacher_quality, summary.area]
    estimates += [summary.s_d_ideal, summary.s_d_oracle]
    estimates += [*summary.quality_at_rate, *summary.quality_at_cost]
    for estimate in estimates:
        assert estimate.low < estimate.value < estimate.high
    rate, cost = summary.rate_at_quality["halfway"], summary.cost_at_quality["halfway"]
    assert (cost.low, cost.high) == pytest.approx((2 + 10 * rate.low, 2 + 10 * rate.high))
    assert summary.quality_at_rate == summary.quality_at_cost  # one student, so the same points


def test_paired_differences_are_sharper_than_separate_intervals():
    first = _cascade(400, seed=3)
    nearly = Cascade(
        first.score + 0.05 * np.random.default_rng(0).normal(size=400),
        first.student_quality,
        first.teacher_quality,
        2.0,
        10.0,
    )
    panel = _compare(first, nearly, samples=200)
    zero, difference = (panel.summaries[name].area_minus_first for name in ("c0", "c1"))
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)
    areas = [panel.summaries[name].area for name in ("c0", "c1")]
    assert difference.value == pytest.approx(areas[1].value - areas[0].value)
    assert difference.high - difference.low < 0.5 * (areas[0].high - areas[0].low)


def test_a_perfect_score_wins_all_the_room_under_the_oracle():
    c = _cascade(100)
    perfect = Cascade(
        c.teacher_quality - c.student_quality, c.student_quality, c.teacher_quality, 2.0, 9.0
    )
    summary = _compare(perfect).summaries["c0"]
    assert summary.s_d_oracle.value == pytest.approx(1.0)
    assert summary.s_d_ideal.value > 1


def test_graded_quality_has_no_auroc():
    c = _cascade()
    graded = Cascade(c.score, c.student_quality * 0.7, c.teacher_quality, 2.0, 10.0)
    assert math.isnan(_compare(graded).summaries["c0"].auroc)


def test_a_quality_never_reached_has_no_cost():
    wrong = np.zeros(60)
    perfect, useless = _cascade(accuracy=1.0, teacher=wrong), _cascade(accuracy=0.2, teacher=wrong)
    panel = _compare(perfect, useless)
    assert panel.references.qualities["halfway"] == 0.5
    reached, never = (panel.summaries[name] for name in ("c0", "c1"))
    assert reached.rate_at_quality["halfway"].value == 0
    assert reached.cost_at_quality["halfway"].value == 2.0
    assert math.isnan(never.rate_at_quality["halfway"].value)
    assert math.isnan(never.cost_at_quality["halfway"].value)
    assert never.cost_at_quality["halfway"].high == math.inf


def test_a_teacher_that_is_no_better_leaves_the_performance_undefined():
    summary = _compare(_cascade(teacher=np.zeros(60))).summaries["c0"]
    assert math.isnan(summary.s_d_ideal.value) and math.isnan(summary.s_d_ideal.low)


def test_different_numbers_of_examples_are_refused():
    with pytest.raises(ValueError, match=r"the same examples, got \{'c0': 60, 'c1': 59\}"):
        _compare(_cascade(), _cascade().take(np.arange(59)))
