"""Deferral curves of every loss: the mean over seeds, and a band of one standard deviation."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from cascade_jax.evaluation import costs
from cascade_jax.evaluation.claims import claim
from cascade_jax.evaluation.claims.losses import RATES, LossResult
from cascade_jax.report.plots.curves import GREY, INK, STYLE, styles

_WIDTH, _HEIGHT = 5.4, 4.0  # inches of a panel
_RANDOM, _LARGE = "random deferral (first loss)", "large model alone"
_QUALITY = {
    claim.POOL: "quality, one threshold for all",
    claim.TASKS: "quality, a threshold for each task",
}


def loss_figure(pair: str, results: Sequence[LossResult]) -> Figure:
    """Quality over cost, a line for each loss.

    A column of panels for each size of student; above for the pool, below for the mean of tasks.
    """
    sizes = list(dict.fromkeys(result.size for result in results))
    look = styles(list(dict.fromkeys(result.loss for result in results)))
    with rc_context(STYLE):
        shape = (len(_QUALITY), len(sizes))
        figsize = (_WIDTH * shape[1], _HEIGHT * shape[0])
        figure = Figure(figsize=figsize, dpi=160, layout="constrained")
        panels = figure.subplots(*shape, squeeze=False, sharey="row")
        for row, (place, label) in zip(panels, _QUALITY.items(), strict=True):
            for axes, size in zip(row, sizes, strict=True):
                _draw(axes, [result for result in results if result.size == size], place, look)
            row[0].set_ylabel(label)
        for axes, size in zip(panels[0], sizes, strict=True):
            axes.set_title(f"{pair}, student {size}", loc="left")
        handles = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
        names = [name for name in (*look, _RANDOM, _LARGE) if name in handles]
        entries = [handles[name] for name in names]
        figure.legend(handles=entries, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _draw(axes, results: Sequence[LossResult], place: str, look: dict[str, dict]) -> None:
    small, large = results[0].costs
    scale, prefix = costs.prefix_of(small + large, "FLOPs")
    x = (small + large * RATES) / scale
    for result in results:
        style = {k: look[result.loss][k] for k in ("color", "linestyle")}
        quality = result.places[place].quality
        mean = quality.mean(axis=0)
        axes.plot(x, mean, label=result.loss, linewidth=1.5, **style)
        if len(quality) > 1:
            spread = quality.std(axis=0, ddof=1)
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axes.fill_between(x, mean - spread, mean + spread, **band)
    first = results[0].places[place]
    ends = first.small.mean(), first.large
    axes.plot(x[[0, -1]], ends, label=_RANDOM, color=GREY, linewidth=1.0, linestyle=":")
    star = {"marker": "*", "ms": 9, "color": INK, "linestyle": "none", "markerfacecolor": "white"}
    axes.plot([large / scale], [first.large], label=_LARGE, **star)
    axes.set_xlabel(f"{prefix}FLOPs per token")
