"""Plots: what they show is the curve, and nothing hides it."""

import io
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cascade_jax.evaluation import costs, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.report.plots import curves


def _panel(names=("xent", "cat"), n=80, flops=None, title="a_task"):
    cascades = {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        student = (rng.random(n) < 0.5) * 1.0
        teacher = (np.random.default_rng(99).random(n) < 0.9) * 1.0
        cost = (flops or {}).get(name, 2e6)
        cascades[name] = Cascade(rng.normal(size=n) - student, student, teacher, cost, 1e7)
    return summaries.compare(title, "exact_match", cascades, bootstrap_samples=5)


def _line(axes, curve, scale):
    """The drawn line with the data of a curve."""
    for line in axes.lines:
        x, y = (np.asarray(data, dtype=float) for data in line.get_data())
        if len(x) == len(curve.rate) and np.allclose(x * scale, curve.cost):
            if np.allclose(y, curve.quality):
                return line
    raise AssertionError("the curve is not drawn")


def test_every_curve_is_drawn_in_its_colour_in_every_plot():
    panel = _panel()
    curve_axes = curves.curve_figure(panel).axes[0]
    grid_axes = curves.grid_figure([panel, panel]).axes[1]
    for name, style in curves.styles(["xent", "cat"]).items():
        for axes in (curve_axes, grid_axes):
            assert _line(axes, panel.curves[name], 1e6).get_color() == style["color"]


def test_axes_say_what_and_in_which_unit():
    figure = curves.curve_figure(_panel())
    axes = figure.axes[0]
    assert axes.get_xlabel().startswith("MFLOPs per token (2 × parameters")
    assert axes.get_ylabel() == "quality: exact match"
    assert axes.get_title("left") == "a_task  (n = 80)"


def test_the_rate_axis_lines_up_with_the_costs():
    axes = curves.curve_figure(_panel()).axes[0]
    (top,) = [child for child in axes.child_axes]
    to_rate, _ = top._functions
    np.testing.assert_allclose(to_rate(np.array([2.0, 7.0, 12.0])), [0, 50, 100])


def test_the_rate_axis_follows_costs_that_differ_by_example():
    rng = np.random.default_rng(0)
    score, student = rng.random(50), (rng.random(50) < 0.5) * 1.0
    cascade = Cascade(score, student, np.ones(50), 2e6, 1e6 * (1 + 9 * score))
    panel = summaries.compare("t", "m", {"one": cascade}, bootstrap_samples=0)
    axes = curves.curve_figure(panel).axes[0]
    (top,) = axes.child_axes
    to_rate, to_cost = top._functions
    curve = panel.curves["one"]
    np.testing.assert_allclose(to_rate(curve.cost / 1e6), 100 * curve.rate)
    np.testing.assert_allclose(to_cost(np.array([0.0, 50.0])), curve.cost[[0, 25]] / 1e6)
    # The dear ones are deferred first: half the rate takes more than half the way.
    assert to_cost(50.0) > curve.cost[[0, -1]].mean() / 1e6
    # Random deferral does not know which are dear.
    straight = [line for line in axes.lines if line.get_linestyle() == ":"]
    x = straight[0].get_xdata() * 1e6
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0])


def test_the_axis_is_that_of_the_cost():
    (cascade,) = [Cascade(np.arange(4.0), np.eye(4)[0], np.ones(4), 0.02, 0.1)]
    for cost, label in (
        (costs.Latency(), "s per example (measured while collecting, small model always paid)"),
        (costs.Price(1, 1, 1, 1), "USD per million examples (price of tokens, small model"),
        (costs.Flops(), "mFLOPs per example"),
    ):
        panel = summaries.compare("t", "m", {"one": cascade}, bootstrap_samples=0, cost=cost)
        label = "m" + label if isinstance(cost, costs.Latency) else label
        assert curves.curve_figure(panel).axes[0].get_xlabel().startswith(label)


def test_no_rate_axis_where_students_cost_differently():
    axes = curves.curve_figure(_panel(flops={"cat": 4e6})).axes[0]
    assert axes.child_axes == []


@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_legend_names_every_cascade_and_covers_no_plot(count):
    names = [f"cascade_{i}" for i in range(count)]
    panel = _panel(names, n=30)
    for figure in (curves.curve_figure(panel), curves.grid_figure([panel] * 3)):
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
        texts = [text.get_text().split("\n")[0] for text in legend.get_texts()]
        assert set(names) <= set(texts)


def test_many_cascades_look_different():
    looks = [
        tuple(sorted(style.items())) for style in curves.styles(list("abcdefghijklmn")).values()
    ]
    assert len(set(looks)) == 14


def test_a_grid_has_a_panel_per_task_and_hides_the_rest():
    panels = [_panel(("one",), n=20, title=f"task_{i}") for i in range(5)]
    figure = curves.grid_figure(panels, columns=3)
    shown = [axes.get_title("left") for axes in figure.axes if axes.get_visible()]
    assert shown == [f"task_{i} (20)" for i in range(5)]
    with pytest.raises(ValueError, match="at least one panel"):
        curves.grid_figure([])


def test_the_two_parts_add_up_to_the_quality():
    panel = _panel(("one",))
    left, right = curves.decomposition_figure(panel).axes
    total = left.lines[0].get_ydata() + right.lines[0].get_ydata()
    np.testing.assert_allclose(total, panel.curves["one"].quality)


def test_a_png_is_a_picture_and_the_same_again():
    panel = _panel()
    image = curves.png(curves.curve_figure(panel))
    assert image == curves.png(curves.curve_figure(panel))
    pixels = matplotlib.image.imread(io.BytesIO(image))
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    assert np.ptp(pixels[..., :3]) == 1.0  # from white to black


def test_an_svg_is_a_drawing_and_the_same_again():
    panel = _panel()
    drawing = curves.svg(curves.curve_figure(panel))
    assert drawing == curves.svg(curves.curve_figure(panel))
    assert ElementTree.fromstring(drawing).tag.endswith("svg")


@pytest.mark.parametrize("n", [1, 2])
def test_a_handful_of_examples_can_be_drawn(n):
    assert curves.png(curves.curve_figure(_panel(n=n))).startswith(b"\x89PNG")


def test_pyplot_and_its_global_state_stay_out():
    code = (
        "import sys, cascade_jax.report.plots.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_with_dollars_are_shown_as_they_are():
    panel = _panel(names=("a$_$", "b"), title="costs $1 and $^$")
    drawn = curves.svg(curves.curve_figure(panel))
    assert curves.png(curves.grid_figure([panel])).startswith(b"\x89PNG")
    assert "a$_$" in drawn.decode() and "$^$" in drawn.decode()
