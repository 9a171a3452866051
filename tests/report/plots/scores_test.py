"""Plots of scores and confidence: what they show is what was computed."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cascade_jax.evaluation import confusion, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.report.plots import curves
from cascade_jax.report.plots import scores as plots_scores


def cascades(names=("xent", "cat"), n=300, right=None):
    result = {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        student = (rng.random(n) < 0.5) * 1.0 if right is None else np.full(n, right)
        score = rng.gamma(2.0, 0.3, n) + 0.3 * (1 - student)
        confidence = np.exp(-score)
        result[name] = Cascade(score, student, np.ones(n), 2.0, 9.0, confidence=confidence)
    return result


def panel_of(result, **more):
    return summaries.compare("a_task", "exact_match", result, bootstrap_samples=0, **more)


def test_reliability_shows_every_filled_bin_before_and_after():
    panel = panel_of(cascades())
    figure = plots_scores.reliability_figure(panel)
    for name, axes in zip(("xent", "cat"), figure.axes, strict=True):
        result = panel.summaries[name].separation
        drawn = [line.get_xydata() for line in axes.lines]
        for bins in (result.reliability, result.reliability_scaled):
            there = bins.count > 0
            expected = np.column_stack([bins.confidence[there], bins.quality[there]])
            assert any(np.array_equal(line, expected) for line in drawn)
        assert f"ECE {result.ece:.3f}, scaled {result.ece_scaled:.3f}" in axes.get_title("left")


def test_reliability_of_one_kind_of_answers_says_undefined_and_draws_the_rest():
    (axes,) = plots_scores.reliability_figure(panel_of(cascades(("one",), right=1.0))).axes
    assert "ECE undefined, scaled undefined" in axes.get_title("left")
    assert len(axes.collections) == 1


def test_the_histogram_holds_all_answers():
    result = cascades()
    figure = plots_scores.histogram_figure("a_task", result)
    for (_, cascade), axes in zip(result.items(), figure.axes, strict=True):
        counted = confusion.histogram(cascade.score, cascade.student_quality)
        filled = [patch for patch in axes.patches if patch.get_fill()]
        shown = [patch.get_data().values for patch in filled]
        np.testing.assert_allclose(shown[0], counted.right / 300)
        np.testing.assert_allclose(shown[1], counted.wrong / 300)
        assert sum(map(np.sum, shown)) == pytest.approx(1.0)


def test_scores_are_drawn_for_every_cascade_in_one_look():
    result = cascades()
    scores = {
        name: {"own": cascade.score, "turned": -cascade.score, "none": np.zeros(300)}
        for name, cascade in result.items()
    }
    panel = panel_of(result, scores=scores)
    figure = plots_scores.scores_figure(panel)
    look = curves.styles(["own", "turned", "none"])
    for name, axes in zip(result, figure.axes, strict=True):
        for score, summary in panel.scores[name].items():
            (line,) = [
                line
                for line in axes.lines
                if len(line.get_ydata()) == len(summary.curve.quality)
                and np.array_equal(line.get_ydata(), summary.curve.quality)
            ]
            assert line.get_color() == look[score]["color"]
            np.testing.assert_array_equal(line.get_xdata(), 100 * summary.curve.rate)
        assert "best own" in axes.get_title("left")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["own", "turned", "none", "random deferral"]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_legends_cover_no_plot(count):
    result = cascades([f"cascade_{i}" for i in range(count)], n=40)
    scores = {name: {f"score {i}": c.score + i for i in range(12)} for name, c in result.items()}
    panel = panel_of(result, scores=scores)
    for figure in (
        plots_scores.reliability_figure(panel),
        plots_scores.histogram_figure("a_task", result),
        plots_scores.scores_figure(panel),
    ):
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        shown = [axes for axes in figure.axes if axes.get_visible()]
        assert len(shown) == count
        assert not any(box.overlaps(axes.get_window_extent()) for axes in shown)


@pytest.mark.parametrize("n", [1, 2])
def test_a_handful_of_examples_can_be_drawn(n):
    result = cascades(("one",), n=n)
    panel = panel_of(result, scores={"one": {"own": result["one"].score}})
    for figure in (
        plots_scores.reliability_figure(panel),
        plots_scores.histogram_figure("a_task", result),
        plots_scores.scores_figure(panel),
    ):
        assert curves.png(figure).startswith(b"\x89PNG")
