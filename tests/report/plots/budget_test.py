"""Pictures of a calibration: what is drawn is what the file says, and which files are written."""

import copy
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.report.plots import budget as plots_budget
from cascade_jax.report.plots import curves
from tests.support import synthetic_budget

NAMES = ("budget", "budget_thresholds", "budget_search", "budget_positions")


def budget(**changes):
    return budget_file.from_values(synthetic_budget.make(**changes))


def lines(axes):
    """Points of every line that has two or more."""
    result = [np.column_stack([line.get_xdata(), line.get_ydata()]) for line in axes.lines]
    return [points.astype(float) for points in result if len(points) > 1]


def has(axes, points):
    return any(line.shape == points.shape and np.allclose(line, points) for line in lines(axes))


def test_cost_and_quality_against_alpha_are_means_of_the_runs():
    made = synthetic_budget.make()
    figure = plots_budget.alphas_figure(budget_file.from_values(made))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 1 + 3
    alphas = np.array(made["alphas"])
    runs = [[run for run in made["runs"] if run["alpha"] == alpha] for alpha in alphas]
    costs = np.array([[run["test"]["cost"] for run in of_alpha] for of_alpha in runs])
    assert has(shown[0], np.column_stack([alphas, costs.mean(axis=1)]))
    dots = next(line for line in lines(shown[0]) if len(line) == 20)
    assert sorted(map(tuple, dots)) == sorted(zip(np.repeat(alphas, 5), costs.ravel(), strict=True))
    straight = next(line for line in lines(shown[0]) if len(line) == 2)
    assert np.allclose(straight[:, 0], straight[:, 1]) and straight[1, 0] > 0.2
    band = shown[0].collections[0].get_paths()[0].vertices
    for alpha, of_alpha in zip(alphas, costs, strict=True):
        heights = band[np.isclose(band[:, 0], alpha), 1]
        assert heights.min() == of_alpha.min() and heights.max() == of_alpha.max()
    for axes, metric in zip(shown[1:], made["metrics"], strict=True):
        assert metric in axes.get_title(loc="left")
        qualities = [np.mean([r["test"]["quality"][metric] for r in of]) for of in runs]
        assert has(axes, np.column_stack([alphas, qualities]))
        for name in ("random_tokens", "whole_answers", "oracle"):
            values = [np.mean([r["baselines"][name]["quality"][metric] for r in o]) for o in runs]
            assert has(axes, np.column_stack([alphas, values]))
        for end in made["ends"].values():
            assert has(axes, np.column_stack([[0, 1], [end["quality"][metric]] * 2]))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "random tokens, equal cost" in texts and "cat, mean of 5 repeats" in texts


@pytest.mark.parametrize(
    "changes", [{"repeats": 1}, {"metrics": ["rouge2"], "objective": "rouge2"}]
)
def test_one_repeat_or_one_metric(changes):
    figure = plots_budget.alphas_figure(budget(**changes))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("lowest to highest repeat" in texts) == ("repeats" not in changes)
    assert curves.png(figure)[:4] == b"\x89PNG"


def shaded(axes):
    """Where the background of what is accepted begins and ends."""
    fill = to_rgba("#dcefe6")
    result = [p.get_extents() for p in axes.patches if tuple(p.get_facecolor()) == fill]
    boxes = [axes.transData.inverted().transform_bbox(extents) for extents in result]
    return sorted((box.x0, box.x1) for box in boxes)


def test_thresholds_of_both_splits_the_accepted_and_the_chosen():
    made = synthetic_budget.make()
    figure = plots_budget.thresholds_figure(budget_file.from_values(made))
    figure.draw_without_rendering()
    cost, quality = figure.axes
    finite = [c for c in made["candidates"] if isinstance(c["thresholds"][0], float)]
    first = np.array(sorted((c["thresholds"][0], c["cost"][0]) for c in finite))
    drawn = next(line for line in lines(cost) if len(line) == 16)
    assert np.allclose(drawn[1:-1], first)  # between the two infinite ones
    assert drawn[0, 0] < first[0, 0] and drawn[-1, 0] > first[-1, 0]
    assert drawn[0, 1] == 0.8 and drawn[-1, 1] == 0
    second = sorted((c["thresholds"][0], c["cost"][1]) for c in finite if c["cost"][1] is not None)
    known = [line[np.isfinite(line[:, 1])] for line in lines(cost)]
    assert any(
        np.allclose(line[:-1], second) for line in known if len(line) == len(second) + 1
    )  # with gaps where nothing was measured
    run = next(r for r in made["runs"] if r["alpha"] == 0.2 and r["repeat"] == 0)
    places = np.array(sorted(c["thresholds"][0] for c in finite))
    accepted = [made["candidates"][i]["thresholds"][0] for i in run["accepted"]]
    least = min(value for value in accepted if value != "inf")
    before = places[places < least].max()
    for axes in (cost, quality):
        ((start, end),) = shaded(axes)
        assert start == pytest.approx((least + before) / 2) and end == pytest.approx(drawn[-1, 0])
    stars = [line for line in cost.lines if line.get_marker() == "*"]
    (star,) = stars
    chosen = next(c for c in made["candidates"] if c["thresholds"] == run["thresholds"])
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (
        chosen["thresholds"][0],
        chosen["cost"][1],
    )
    assert {"−∞", "∞"} <= {tick.get_text() for tick in cost.get_xticklabels()}


def test_gaps_in_what_is_accepted_are_not_shaded():
    made = synthetic_budget.make()
    run = next(r for r in made["runs"] if r["alpha"] == 0.2 and r["repeat"] == 0)
    run["accepted"], run["thresholds"] = [1, 2, 5], made["candidates"][5]["thresholds"]
    figure = plots_budget.thresholds_figure(budget_file.from_values(made))
    figure.draw_without_rendering()
    assert len(shaded(figure.axes[0])) == 2


def test_several_thresholds_stand_in_the_order_of_their_cost():
    made = synthetic_budget.make(blocks=3)
    figure = plots_budget.thresholds_figure(budget_file.from_values(made))
    drawn = next(line for line in lines(figure.axes[0]) if len(line) == 16)
    assert drawn[:, 0].tolist() == list(range(16))
    assert drawn[:, 1].tolist() == sorted((c["cost"][0] for c in made["candidates"]), reverse=True)


def test_nothing_certified_has_no_shade_and_no_star():
    made = copy.deepcopy(synthetic_budget.make())
    for run in made["runs"]:
        run |= {"accepted": [], "certified": False, "thresholds": None, "calibration": None}
        run |= {"test": None, "baselines": None}
    figure = plots_budget.thresholds_figure(budget_file.from_values(made))
    figure.draw_without_rendering()
    assert shaded(figure.axes[0]) == []
    assert not any(line.get_marker() == "*" for line in figure.axes[0].lines)


def test_the_search_is_drawn_in_the_order_of_the_evaluations():
    made = synthetic_budget.make()
    (axes,) = plots_budget.search_figure(budget_file.from_values(made)).axes
    values = {c["order"]: c["hypervolume"] for c in made["candidates"]}
    assert has(axes, np.array([[i + 1, values[i]] for i in range(16)]))


def test_the_search_has_a_point_for_each_pass():
    made = synthetic_budget.make()
    for candidate in made["candidates"]:  # four passes of four thresholds each
        candidate["answers"] = 0.5 + candidate["order"] // 4
    (axes,) = plots_budget.search_figure(budget_file.from_values(made)).axes
    values = {c["order"]: c["hypervolume"] for c in made["candidates"]}
    assert has(axes, np.array([[0.5 + i, values[4 * i + 3]] for i in range(4)]))


def test_bars_of_several_cascades_stand_beside_each_other():
    shares = {"a": np.array([0.5, 0.25]), "b": np.array([0.1, 0.2, 0.3, np.nan])}
    figure = plots_budget.positions_figure(shares)
    assert curves.png(figure)
    (axes,) = figure.axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in axes.patches]
    assert [height for _, height in bars] == pytest.approx([50, 25, 10, 20, 30, 0])
    assert [round(place) for place, _ in bars] == [1, 2, 1, 2, 3, 4]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in zip(edges, edges[1:], strict=False))


@pytest.mark.medium
def test_all_pictures_are_written_and_those_without_figures_removed(tmp_path):
    images = plots_budget.write_pictures(budget(), tmp_path / "a" / "b")
    assert tuple(images) == NAMES
    files = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert files == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    for name in NAMES:
        assert (tmp_path / "a" / "b" / f"{name}.png").read_bytes() == images[name]
    again = plots_budget.write_pictures(budget(), tmp_path / "c")
    assert again == images  # the same figures give the same bytes
    for name in NAMES:
        svgs = [(tmp_path / folder / f"{name}.svg").read_text() for folder in ("a/b", "c")]
        assert svgs[0] == svgs[1] and "<svg" in svgs[0]
    bare = synthetic_budget.make(deferred_by_position=[])
    for candidate in bare["candidates"]:
        candidate["hypervolume"] = None
    result = plots_budget.write_pictures(budget_file.from_values(bare), tmp_path / "c")
    assert tuple(result) == NAMES[:2]
    assert {path.stem for path in (tmp_path / "c").iterdir()} == set(NAMES[:2])
    assert math.isnan(budget_file.from_values(bare).candidates[0].hypervolume)
