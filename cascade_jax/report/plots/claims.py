"""A forest plot of claims: effects with their intervals, what is claimed to the right."""

import math

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cascade_jax.evaluation.claims import claim as claims
from cascade_jax.evaluation.claims import verdicts
from cascade_jax.evaluation.claims.verdicts import Outcome, StudyVerdicts, Verdict
from cascade_jax.report.plots.curves import BAND, GREY, INK, PALETTE, STYLE, shorten

_COLOURS = {
    verdicts.CONFIRMED: PALETTE[2],
    verdicts.NOT_SHOWN: GREY,
    verdicts.REFUTED: PALETTE[1],
}
_ROW = 0.19  # inches
_TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)
_LINEAR = 0.3  # up to here the axis is nearly linear, beyond nearly logarithmic


def forest_figure(study: StudyVerdicts) -> Figure | None:
    """Effects of all comparisons in hundredths, with 95 % intervals before any correction.

    An effect that is claimed to be less than 0 is drawn with the other sign, so that what a paper
    claims lies to the right; of two that are claimed to be close, the margin is shaded. None where
    no claim has tables.
    """
    rows = [(v, o) for v in study.verdicts for o in v.outcomes if not math.isnan(o.effect.value)]
    if not rows:
        return None
    ends = [abs(end) for _, o in rows for end in (o.effect.value, *_ends(o))]
    limit = 100 * min(1.2 * max(*ends, 0.005), 1.0)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.1 + _ROW * len(rows)), dpi=160, layout="constrained")
        axes = figure.subplots()
        for place, (verdict, outcome) in enumerate(rows):
            _draw(axes, place, outcome, _COLOURS[verdict.verdict], limit)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_label(v, o) for v, o in rows], fontsize=7)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xscale("asinh", linear_width=_LINEAR)
        ticks = [0, *(sign * tick for tick in _TICKS if tick <= limit for sign in (1, -1))]
        axes.set_xticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(-limit, limit)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("effect × 100; to the right as claimed (close: inside the shaded margin)")
        axes.set_title(
            f"{study.pair}: effects with 95 % intervals over seeds and examples", loc="left"
        )
        marks = {"marker": "o", "ms": 4, "linewidth": 1.4}
        handles = [Line2D([], [], color=c, label=name, **marks) for name, c in _COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=8)
    return figure


def _draw(axes, place: int, outcome: Outcome, colour: str, limit: float) -> None:
    """One row: margin, interval, effect; an arrow where it goes on beyond the edge."""
    comparison, effect = outcome.comparison, outcome.effect
    sign = -100 if comparison.expected == claims.LESS else 100
    low, high = sorted(sign * end for end in _ends(outcome))
    margin = 100 * comparison.smallest
    if comparison.expected == claims.CLOSE:
        axes.fill_betweenx([place - 0.4, place + 0.4], -margin, margin, color=BAND, linewidth=0)
    axes.plot([max(low, -limit), min(high, limit)], [place] * 2, color=colour, linewidth=1.4)
    for end, marker, is_beyond in ((limit, ">", high > limit), (-limit, "<", low < -limit)):
        if is_beyond:
            axes.plot([end], [place], marker=marker, color=colour, ms=4, clip_on=False)
    if abs(sign * effect.value) <= limit:
        axes.plot([sign * effect.value], [place], marker="o", color=colour, ms=4)


def _ends(outcome: Outcome) -> tuple[float, float]:
    """Of the interval; the effect itself where it has none."""
    low, high = outcome.effect.interval
    return (outcome.effect.value,) * 2 if math.isnan(low) else (low, high)


def _label(verdict: Verdict, outcome: Outcome) -> str:
    """The claim, and what sets one of its comparisons apart from the others."""
    every = [other.comparison for other in verdict.outcomes]
    if len(every) == 1:
        return verdict.claim.id
    own, parts = outcome.comparison, []
    if len({other.arms for other in verdict.outcomes}) > 1:
        parts.append(shorten(outcome.arms, 60))
    for name in ("figure", "place"):
        if len({getattr(other, name) for other in every}) > 1:
            parts.append(getattr(own, name))
    return f"{verdict.claim.id}: {', '.join(parts)}"
