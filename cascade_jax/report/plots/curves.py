"""Plots of deferral curves; matplotlib is imported in this folder alone, without pyplot."""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cascade_jax.evaluation import costs, curves
from cascade_jax.evaluation.policy_points import PolicyPoint
from cascade_jax.evaluation.results import Panel
from cascade_jax.evaluation.summaries import REFERENCE_RATES

# Okabe and Ito's palette without its yellow (too light for a line): safe for colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, BAND = "#222222", "#8a8a8a", "#e9e9e9"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlesize": 10,
    "text.parse_math": False,  # names are shown as they are, be there dollars in them
}
_POINTS = 401
_GAIN_DASH = (0, (5, 2, 1, 2))
_POINT = {"marker": "X", "ms": 11, "color": "#a00000", "markeredgecolor": "white", "ls": "none"}
_MARKED_RATES = (0.0, *REFERENCE_RATES)
# Names of an SVG's parts are made from this, so that the same figure gives the same file.
_SVG = {"svg.hashsalt": "cascade_jax"}


def styles(names: Sequence[str]) -> dict[str, dict]:
    """Colour, marker and line style of every cascade, the same in all plots of a report."""
    result = {}
    for i, name in enumerate(names):
        turn, at = divmod(i, len(PALETTE))
        dash = ("-", "--", "-.", ":")[turn % 4]
        result[name] = {"color": PALETTE[at], "marker": _MARKERS[at], "linestyle": dash}
    return result


def curve_figure(panel: Panel, points: Mapping[str, PolicyPoint] = MappingProxyType({})) -> Figure:
    """Quality over cost; the deferral rate along the top if it costs the same in all cascades.

    Args:
      panel: the cascades.
      points: by cascade name, where a certified policy stands; shown as crosses.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.3), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        scale, label = _cost_axis(panel)
        _draw(axes, panel, scale, with_markers=True)
        shown = [point for point in points.values() if math.isfinite(point.cost)]
        for point in shown:
            axes.plot(point.cost / scale, point.quality, **_POINT, zorder=7)
        head, bracket, end = label.rpartition(")")
        paid = "small model always paid"
        axes.set_xlabel(f"{head}, {paid})" if bracket and not end else f"{label} ({paid})")
        axes.set_ylabel(f"quality: {shorten(words(panel.metric), 48)}")
        axes.set_title(f"{panel.title}  (n = {panel.num_examples:,})", loc="left", pad=8)
        _add_rate_axis(axes, panel, scale)
        handles = _handles(panel)
        if shown:
            handles.append(Line2D([], [], label="certified policy", **_POINT))
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, borderpad=0.2)
    return figure


def grid_figure(panels: Sequence[Panel], columns: int = 4) -> Figure:
    """Small multiples: one curve plot per task, axes of their own, one legend above."""
    if not panels:
        raise ValueError("a grid needs at least one panel")
    with rc_context(STYLE):
        figure, grid = multiples(len(panels), columns, (2.35, 2.05), margin=(0.0, 0.75), least=4.7)
        scale, label = _cost_axis(panels[0])
        for axes, panel in zip(grid, panels, strict=True):
            _draw(axes, panel, scale, with_markers=False)
            axes.set_title(
                f"{shorten(panel.title)} ({panel.num_examples:,})", fontsize=8, loc="left"
            )
            axes.set_ylabel(shorten(words(panel.metric), 22), fontsize=7)
            axes.tick_params(labelsize=7)
            axes.locator_params(axis="x", nbins=4)
            axes.locator_params(axis="y", nbins=5)
        figure.supxlabel(label, fontsize=9)
        handles = _handles(panels[0], in_full=False) + _line_handles(panels)
        ncols = min(len(handles), 2 * min(columns, len(panels)) - 1)
        figure.legend(handles=handles, loc="outside upper left", ncols=ncols, fontsize=8)
    return figure


def decomposition_figure(panel: Panel) -> Figure:
    """A1 (kept answers) and A2 (deferred ones) over the deferral rate; they add up to quality."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.0), dpi=160, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for name, style in styles(list(panel.curves)).items():
            curve = panel.curves[name].thin(_POINTS)
            line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.6}
            left.plot(100 * curve.rate, curve.a1, **line)
            right.plot(100 * curve.rate, curve.a2, **line)
        left.set_title("A1: from answers kept by the small model", loc="left", fontsize=9)
        right.set_title("A2: from answers of the large model", loc="left", fontsize=9)
        left.set_ylabel(f"share of {words(panel.metric)}")
        for axes in (left, right):
            axes.set_xlabel("deferral rate (%)")
            axes.set_xlim(0, 100)
        handles = _handles(panel, in_full=False)
        figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return figure


def multiples(
    count: int,
    columns: int,
    cell: tuple[float, float],
    margin: tuple[float, float] = (0.4, 0.9),
    least: float = 4.6,
    **options: bool,
) -> tuple[Figure, list[Axes]]:
    """Small multiples: a figure and its first `count` axes; the rest of the last row is hidden.

    Args:
      count: number of axes.
      columns: the most in a row.
      cell, margin: width and height in inches, of one of the axes and of what is around them all.
      least: inches of the figure's width.
      **options: for `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (max(cell[0] * columns + margin[0], least), cell[1] * rows + margin[1])
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def write(pictures: Mapping[str, Figure | None], folder: pathlib.Path) -> dict[str, bytes]:
    """Writes figures as PNG and SVG, removes older files of those that are None; PNGs by name."""
    for name, picture in pictures.items():
        for kind, render in (("png", png), ("svg", svg)):
            path = folder / f"{name}.{kind}"
            if picture is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(render(picture))
    return {n: (folder / f"{n}.png").read_bytes() for n, made in pictures.items() if made}


def png(figure: Figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context(_SVG):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel, scale: float, with_markers: bool) -> None:
    """Band of the best possible (of a corpus metric, a good order's line), random lines, curves."""
    names = list(panel.curves)
    thin = {name: panel.curves[name].thin(_POINTS) for name in names}
    at = np.unique(np.concatenate([c.cost for c in thin.values()]))
    low, high = _best_band(panel, at)
    grey = {"color": GREY, "linewidth": 0.9, "zorder": 2}
    if panel.is_corpus:
        axes.plot(at / scale, high, linestyle=_GAIN_DASH, **grey)
    else:
        axes.fill_between(at / scale, low, high, color=BAND, linewidth=0, zorder=1)
        axes.plot(at / scale, low, linestyle="--", **grey)
    for name, style in styles(names).items():
        curve = thin[name]
        x = curve.cost / scale
        random = np.interp(curve.rate, panel.curves[name].rate, panel.randoms[name])
        dots = {"color": style["color"], "linewidth": 1.0, "linestyle": ":"}
        axes.plot(_random_cost(curve) / scale, random, **dots)
        line = {"color": style["color"], "linestyle": style["linestyle"], "zorder": 3}
        axes.plot(x, curve.quality, linewidth=1.8 if with_markers else 1.3, **line)
        if with_markers:
            full = panel.curves[name]
            marked = [np.interp(_MARKED_RATES, full.rate, y) for y in (full.cost, full.quality)]
            marks = style | {"linestyle": "none", "ms": 5.5, "markeredgecolor": "white"}
            axes.plot(marked[0] / scale, marked[1], **marks, markeredgewidth=0.7, zorder=4)
    if with_markers:
        end = max(thin.values(), key=lambda curve: curve.cost[-1])
        most, quality = end.cost[-1], end.quality[-1]
        star = {"marker": "*", "ms": 11, "color": INK, "linestyle": "none", "zorder": 6}
        axes.plot(most / scale, quality, clip_on=False, **star)
        alone = (most - end.cost[0]) / scale
        axes.plot(alone, quality, markerfacecolor="white", **star)
    axes.margins(x=0.03, y=0.08)


def _best_band(panel: Panel, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest ideal line and highest oracle of the panel's cascades, at each of the costs."""
    lows, highs = [], []
    for name, curve in panel.curves.items():
        inside = {"left": np.nan, "right": curve.teacher_quality}
        oracle = panel.oracles[name]
        x, ideal = oracle.cost, oracle.quality  # a corpus metric has no ideal line
        if not panel.is_corpus:
            ends = curve.student_quality, curve.teacher_quality
            x, ideal = _random_cost(curve), curves.ideal_quality(curve.rate, *ends)
        lows.append(np.interp(at, x, ideal, **inside))
        highs.append(np.interp(at, oracle.cost, oracle.quality, **inside))
    low = np.fmin.reduce(lows)
    # With graded quality the closed form is no bound and may pass the oracle.
    return low, np.fmax(low, np.fmax.reduce(highs))


def _random_cost(curve: curves.Curve) -> np.ndarray:
    """Cost of a line that does not say which examples are deferred: the mean at every rate."""
    return curve.cost[0] + curve.rate * (curve.cost[-1] - curve.cost[0])


def _add_rate_axis(axes: Axes, panel: Panel, scale: float) -> None:
    """Deferral rate in per cent along the top; left out where it differs between cascades.

    Evenly spaced where each example costs the same, else denser where cheap ones are deferred.
    """
    thin = [curve.thin(_POINTS) for curve in panel.curves.values()]
    rate, cost = 100 * thin[0].rate, thin[0].cost / scale
    if np.any(np.diff(cost) <= 0) or not all(
        np.allclose(curve.cost / scale, cost, rtol=1e-9) for curve in thin
    ):
        return
    # Beyond both ends, where the margins are, as steep as on the whole.
    span = cost[-1] - cost[0]
    rate = np.concatenate([[-100.0], rate, [200.0]])
    cost = np.concatenate([[cost[0] - span], cost, [cost[-1] + span]])
    both = (lambda x: np.interp(x, cost, rate), lambda r: np.interp(r, rate, cost))
    top = axes.secondary_xaxis("top", functions=both)
    top.set_xticks([0, 25, 50, 75, 100])
    top.set_xlabel("deferral rate (%)")
    top.spines["top"].set_visible(False)


def _handles(panel: Panel, in_full: bool = True) -> list[Line2D | Patch]:
    """Legend entries: a line per cascade; in full the best area first, then lines and stars."""
    look = styles(list(panel.curves))
    names = list(panel.curves)
    if in_full:
        names.sort(key=lambda name: -panel.summaries[name].area.value)
    handles: list[Line2D | Patch] = []
    for name in names:
        style = {"linewidth": 1.8, "ms": 5, "markeredgecolor": "white", **look[name]}
        label = shorten(name, 30)
        if in_full:
            label += f"\narea {panel.summaries[name].area.value:.3f}"
        else:
            del style["marker"]
        handles.append(Line2D([], [], label=label, **style))
    if in_full:
        handles += _line_handles([panel])
        star = {"marker": "*", "ms": 9, "color": INK, "linestyle": "none"}
        handles.append(Line2D([], [], label="all deferred", **star))
        handles.append(Line2D([], [], label="large model alone", markerfacecolor="white", **star))
    return handles


def _line_handles(panels: Sequence[Panel]) -> list[Line2D | Patch]:
    """Legend entries of the lines around the curves of the panels."""
    grey = {"color": GREY, "linewidth": 1.0}
    handles = [Line2D([], [], linestyle=":", label="random deferral", **grey)]
    if not all(panel.is_corpus for panel in panels):
        handles.append(Line2D([], [], linestyle="--", label="ideal", **grey))
        handles.append(Patch(color=BAND, label="ideal to oracle"))
    if any(panel.is_corpus for panel in panels):
        label = "largest gain first (corpus)"
        handles.append(Line2D([], [], linestyle=_GAIN_DASH, label=label, **grey))
    return handles


def _cost_axis(panel: Panel) -> tuple[float, str]:
    """What costs are divided by, and the text of their axis: ``MFLOPs per token (...)``."""
    most = max(curve.cost[-1] for curve in panel.curves.values())
    scale, prefix = costs.prefix_of(float(most), panel.cost_unit)
    return scale, prefix + panel.cost_label


def words(metric: str) -> str:
    """A metric's name with blanks."""
    return metric.replace("_", " ")


def shorten(text: str, limit: int = 26) -> str:
    """A text cut to a length, with an ellipsis for what is gone."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
