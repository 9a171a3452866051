"""Deferral curves of every loss: the mean over seeds, and a band of one standard deviation."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from cascade_jax.evaluation import costs
from cascade_jax.evaluation.claims.losses import RATES, LossResult
from cascade_jax.report.plots.curves import GREY, INK, STYLE, styles

_WIDTH, _HEIGHT = 5.4, 4.4  # inches of a panel


def loss_figure(pair: str, results: Sequence[LossResult]) -> Figure:
    """Quality over cost in a panel for each size of student, with a line for each loss."""
    sizes = list(dict.fromkeys(result.size for result in results))
    look = styles(list(dict.fromkeys(result.loss for result in results)))
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH * len(sizes), _HEIGHT), dpi=160, layout="constrained")
        panels = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
        for axes, size in zip(panels, sizes, strict=True):
            of_size = [result for result in results if result.size == size]
            _draw(axes, of_size, look)
            axes.set_title(f"{pair}, student {size}", loc="left")
        panels[0].set_ylabel("mean quality of all examples")
        handles = {line.get_label(): line for axes in panels for line in axes.get_lines()}
        names = [name for name in (*look, _RANDOM, _LARGE) if name in handles]
        entries = [handles[name] for name in names]
        figure.legend(handles=entries, loc="outside lower center", ncols=6, fontsize=8)
    return figure


_RANDOM, _LARGE = "random deferral (first loss)", "large model alone"


def _draw(axes, results: Sequence[LossResult], look: dict[str, dict]) -> None:
    small, large = results[0].costs
    scale, prefix = costs.prefix_of(small + large, "FLOPs")
    x = (small + large * RATES) / scale
    for result in results:
        style = {k: look[result.loss][k] for k in ("color", "linestyle")}
        mean = result.quality.mean(axis=0)
        axes.plot(x, mean, label=result.loss, linewidth=1.5, **style)
        if len(result.seeds) > 1:
            spread = result.quality.std(axis=0, ddof=1)
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axes.fill_between(x, mean - spread, mean + spread, **band)
    first = results[0]
    ends = first.small.mean(), first.large
    axes.plot(x[[0, -1]], ends, label=_RANDOM, color=GREY, linewidth=1.0, linestyle=":")
    star = {"marker": "*", "ms": 9, "color": INK, "linestyle": "none", "markerfacecolor": "white"}
    axes.plot([large / scale], [first.large], label=_LARGE, **star)
    axes.set_xlabel(f"{prefix}FLOPs per token")
