"""Plots of scores and of confidence: reliability, histograms, and several scores side by side."""

import math
from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cascade_jax.evaluation import confusion
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.reliability import Reliability
from cascade_jax.evaluation.results import Panel
from cascade_jax.report.plots.curves import GREY, STYLE, multiples, shorten, styles, words

_RIGHT, _WRONG = "#0072B2", "#D55E00"


def reliability_figure(panel: Panel, columns: int = 4) -> Figure:
    """Mean quality in each bin of confidence, for every cascade, as it is and with a temperature.

    A calibrated confidence lies on the diagonal. Points are as large as their bins are full.
    """
    names = list(panel.summaries)
    with rc_context(STYLE):
        figure, grid = multiples(len(names), columns, (2.5, 2.5), sharey=True)
        for name, axes in zip(names, grid, strict=True):
            separation = panel.summaries[name].separation
            axes.plot([0, 1], [0, 1], linestyle="--", color=GREY, linewidth=0.9)
            _add_bins(axes, separation.reliability_scaled, _WRONG, "s", "--", filled=False)
            _add_bins(axes, separation.reliability, _RIGHT, "o", "-", filled=True)
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            axes.set_aspect("equal")
            text = f"{shorten(name, 24)}\nECE {_number(separation.ece)}, scaled "
            axes.set_title(text + _number(separation.ece_scaled), fontsize=8, loc="left")
            axes.tick_params(labelsize=7)
        figure.supxlabel("confidence of the small model's answer", fontsize=9)
        figure.supylabel(f"mean {shorten(words(panel.metric), 30)}", fontsize=9)
        marks = (("as it is", _RIGHT, "o", "-", _RIGHT), ("scaled", _WRONG, "s", "--", "white"))
        handles = [
            Line2D([], [], label=text, color=color, marker=marker, ls=dash, markerfacecolor=face)
            for text, color, marker, dash, face in marks
        ]
        handles.append(Line2D([], [], label="calibrated", color=GREY, linestyle="--"))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8)
    return figure


def _add_bins(
    axes: Axes, reliability: Reliability | None, color: str, marker: str, dash: str, filled: bool
) -> None:
    if reliability is None:
        return
    has_examples = reliability.count > 0
    x, y = reliability.confidence[has_examples], reliability.quality[has_examples]
    axes.plot(x, y, color=color, linestyle=dash, linewidth=1.2, zorder=3)
    sizes = 8 + 90 * reliability.count[has_examples] / reliability.count.sum()
    face = color if filled else "white"
    axes.scatter(x, y, s=sizes, marker=marker, color=face, edgecolors=color, zorder=4)


def histogram_figure(title: str, cascades: Mapping[str, Cascade], columns: int = 4) -> Figure:
    """How the deferral scores of right and of wrong answers of each small model are spread.

    Two outlines over one another, as shares of all answers; what lies far right is deferred first.
    """
    with rc_context(STYLE):
        figure, grid = multiples(len(cascades), columns, (2.5, 2.2), sharey=True)
        for (name, cascade), axes in zip(cascades.items(), grid, strict=True):
            histogram = confusion.histogram(cascade.score, cascade.student_quality)
            total = len(cascade.score)
            kinds = (histogram.right, _RIGHT, None), (histogram.wrong, _WRONG, "////")
            for counts, color, hatch in kinds:
                style = {"color": color, "linewidth": 1.2}
                axes.stairs(counts / total, histogram.edges, fill=True, alpha=0.25, color=color)
                axes.stairs(counts / total, histogram.edges, hatch=hatch, **style)
            axes.set_title(shorten(name, 26), fontsize=8, loc="left")
            axes.tick_params(labelsize=7)
            axes.locator_params(axis="x", nbins=5)
        figure.supxlabel("deferral score (higher = deferred first)", fontsize=9)
        figure.supylabel("share of all answers", fontsize=9)
        handles = [
            Patch(facecolor="#cfe3ef", edgecolor=_RIGHT, label="small model right"),
            Patch(facecolor="#f7ddcb", edgecolor=_WRONG, hatch="////", label="small model wrong"),
        ]
        place = {"loc": "outside upper left", "ncols": 2, "fontsize": 8}
        figure.legend(handles=handles, title=shorten(title, 60), **place)
    return figure


def scores_figure(panel: Panel, columns: int = 2) -> Figure:
    """The curves of all scores of each cascade over the deferral rate, best area first.

    Reference: Cascade-Aware Training of Language Models, figures 5 and 6.
    """
    scores = list(dict.fromkeys(score for by_score in panel.scores.values() for score in by_score))
    look = styles(scores)
    with rc_context(STYLE):
        figure, grid = multiples(len(panel.scores), columns, (3.9, 3.0), sharey=True)
        for (name, by_score), axes in zip(panel.scores.items(), grid, strict=True):
            curve = panel.curves[name]
            ends = curve.student_quality, curve.teacher_quality
            axes.plot([0, 100], ends, color=GREY, linestyle=":", linewidth=1.0)
            for score, summary in by_score.items():
                line = {"color": look[score]["color"], "linestyle": look[score]["linestyle"]}
                axes.plot(100 * summary.curve.rate, summary.curve.quality, linewidth=1.3, **line)
            best = max(by_score, key=lambda score: by_score[score].area.value)
            text = f"{shorten(name, 24)}: best {shorten(best, 22)} {by_score[best].area.value:.3f}"
            axes.set_title(text, fontsize=8, loc="left")
            axes.tick_params(labelsize=7)
            axes.set_xlim(0, 100)
        figure.supxlabel("deferral rate (%)", fontsize=9)
        figure.supylabel(shorten(words(panel.metric), 40), fontsize=9)
        handles = [
            Line2D([], [], label=shorten(score, 26), color=style["color"], ls=style["linestyle"])
            for score, style in look.items()
        ]
        handles.append(Line2D([], [], label="random deferral", color=GREY, linestyle=":"))
        figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return figure


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
