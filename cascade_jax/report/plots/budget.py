"""Pictures of a calibration: cost and quality against the budget, thresholds, search, positions."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.deferral.guarantees.budget_file import Budget
from cascade_jax.deferral.guarantees.budget_runs import COST, TriedThresholds
from cascade_jax.report.plots.curves import (
    GREY,
    INK,
    PALETTE,
    STYLE,
    multiples,
    shorten,
    styles,
    words,
    write,
)

_CASCADE, _SECOND, _LIMIT, _ACCEPTED = PALETTE[0], PALETTE[1], "#a00000", "#dcefe6"
_SPREAD = 0.18  # opacity of the band over repeats
_BASELINES = ((PALETTE[1], "s"), (PALETTE[3], "^"), (PALETTE[2], "D"), (PALETTE[5], "v"))
_LIMIT_LINE = {"color": _LIMIT, "linewidth": 1.2, "linestyle": "--"}
_END_LINE = {"color": GREY, "linewidth": 0.9}
_TEACHER_DASH, _STUDENT_DASH = (0, (5, 2)), (0, (1, 2))


def write_pictures(budget: Budget, folder: str | os.PathLike) -> dict[str, bytes]:
    """Writes every picture that the budget has figures for, as PNG and SVG.

    Pictures are ``budget`` (cost and quality against α), ``budget_thresholds``, ``budget_search``
    and ``budget_positions``; those of an earlier calibration that have no figures now are removed.
    Returns the PNGs by name.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shares, tried = budget.deferred_by_position, budget.candidates
    searched = any(math.isfinite(candidate.hypervolume) for candidate in tried)
    pictures = {
        "budget": alphas_figure(budget),
        "budget_thresholds": thresholds_figure(budget) if tried else None,
        "budget_search": search_figure(budget) if searched else None,
        "budget_positions": positions_figure({budget.name: np.array(shares)}) if shares else None,
    }
    return write(pictures, folder)


def alphas_figure(budget: Budget) -> Figure:
    """Mean cost against α with the budget line, and each metric against α with the baselines.

    Bands go from the lowest to the highest repeat.

    Reference: Budget-Constrained Learning to Defer for Autoregressive Models, figure 1.
    """
    rows = budget.over_alphas()
    alphas = np.array(budget.alphas)
    panels = 1 + len(budget.metrics) + (budget.promise != COST)
    with rc_context(STYLE):
        figure, grid = multiples(panels, 2 if panels in (2, 4) else 3, (3.6, 2.8))
        edge = _alpha_range(budget)
        _add_risk(grid[0], budget, edge)
        after = grid[1:]
        if budget.promise != COST:
            _add_spread(after[0], alphas, [at.cost for at in rows])
            after[0].set_ylabel(f"mean cost ({budget.cost_label})", fontsize=8)
            after = after[1:]
        for axes, metric in zip(after, budget.metrics, strict=True):
            _add_quality(axes, budget, metric)
        for axes in grid:
            axes.set_xlim(*edge)
            axes.set_xlabel("budget α")
        place = {"loc": "outside upper left", "ncols": 4, "fontsize": 8}
        figure.legend(handles=_alpha_handles(budget), **place)
    return figure


def _alpha_range(budget: Budget) -> Float[np.ndarray, "2"]:
    """From 0 (or the smallest α below it) to beyond the largest α."""
    low, high = min(0.0, budget.alphas[0]), max(0.0, budget.alphas[-1])
    return np.array([low - 0.06 * (high - low) * (low < 0), high + 0.06 * (high - low)])


def _add_risk(axes: Axes, budget: Budget, edge: Float[np.ndarray, "2"]) -> None:
    """What α limits, in every repeat, and the budget line."""
    _add_spread(axes, np.array(budget.alphas), [at.risk for at in budget.over_alphas()])
    risks = [(r.alpha, budget.risk_of(r.test)) for r in budget.runs if r.test is not None]
    if risks:
        axes.plot(*zip(*risks, strict=True), ".", color=_CASCADE, ms=4, alpha=0.45, zorder=3)
    axes.plot(edge, edge, **_LIMIT_LINE, zorder=2)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_ylabel(shorten(budget.risk_label, 48), fontsize=8)
    axes.set_title("what α limits, on the test split", loc="left", fontsize=9)


def _add_spread(axes: Axes, x: Float[np.ndarray, " A"], spreads: Sequence) -> None:
    """A line of means, with a band from the lowest to the highest."""
    low, high = [s.low for s in spreads], [s.high for s in spreads]
    axes.fill_between(x, low, high, color=_CASCADE, alpha=_SPREAD, linewidth=0, zorder=1)
    line = {"color": _CASCADE, "linewidth": 1.8, "marker": "o", "ms": 5, "zorder": 5}
    axes.plot(x, [s.mean for s in spreads], markeredgecolor="white", **line)


def _add_quality(axes: Axes, budget: Budget, metric: str) -> None:
    """A metric of the cascade, of what else costs as much, and of each model alone."""
    rows, alphas = budget.over_alphas(), np.array(budget.alphas)
    for name, (color, marker) in _looks(budget).items():
        line = {"color": color, "marker": marker, "ms": 4, "linewidth": 1.1, "zorder": 3}
        axes.plot(alphas, [at.baselines[name][metric] for at in rows], **line)
    _add_spread(axes, alphas, [at.quality[metric] for at in rows])
    axes.axhline(budget.ends.teacher.quality[metric], linestyle=_TEACHER_DASH, **_END_LINE)
    axes.axhline(budget.ends.student.quality[metric], linestyle=_STUDENT_DASH, **_END_LINE)
    chosen = ", the objective" if metric == budget.objective and len(budget.metrics) > 1 else ""
    axes.margins(y=0.08)  # no line on the frame
    axes.set_title(f"mean {shorten(words(metric), 30)}{chosen}", loc="left", fontsize=9)


def _looks(budget: Budget) -> dict[str, tuple[str, str]]:
    """Colour and marker of each baseline."""
    return {n: _BASELINES[i % len(_BASELINES)] for i, n in enumerate(budget.baselines)}


def _alpha_handles(budget: Budget) -> list[Line2D | Patch]:
    line = {"color": _CASCADE, "linewidth": 1.8, "marker": "o", "ms": 5}
    several = f", mean of {budget.repeats} repeats" if budget.repeats > 1 else ""
    handles: list[Line2D | Patch] = [
        Line2D([], [], label=f"{shorten(budget.name, 24)}{several}", **line),
        Line2D([], [], label="budget line", **_LIMIT_LINE),
        Line2D([], [], label="large model alone", linestyle=_TEACHER_DASH, **_END_LINE),
        Line2D([], [], label="small model alone", linestyle=_STUDENT_DASH, **_END_LINE),
    ]
    if budget.repeats > 1:
        label = "lowest to highest repeat"
        handles.insert(1, Patch(color=_CASCADE, alpha=_SPREAD, linewidth=0, label=label))
    for name, (color, marker) in _looks(budget).items():
        text = f"{words(name)}, {'in hindsight' if name == 'oracle' else 'equal cost'}"
        handles.append(Line2D([], [], color=color, marker=marker, ms=4, lw=1.1, label=text))
    return handles


def thresholds_figure(budget: Budget) -> Figure:
    """Cost and quality of every threshold on both splits, what is accepted, and what is chosen.

    Of repeat 0 and the largest α. Where each block of positions has a threshold of its own, the
    configurations stand in the order of their cost on the first split.
    """
    shown = sorted(budget.candidates, key=_by_threshold(budget.candidates))
    run = budget.first_run
    at = {id(c): i for i, c in enumerate(budget.candidates)}
    accepted = np.array([at[id(c)] in run.accepted for c in shown])
    x = _places(shown)
    costs = [c.cost for c in shown]
    qualities = [c.quality[budget.objective] for c in shown]
    chosen = [i for i, c in enumerate(shown) if run.certified and c.thresholds == run.thresholds]
    star = {"marker": "*", "ms": 13, "color": INK, "markeredgecolor": "white", "zorder": 6}
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.7), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, values in ((left, costs), (right, qualities)):
            _add_splits(axes, x, accepted, values)
            for i in chosen[:1]:
                axes.plot(x[i], values[i][1], linestyle="none", **star)
            _label_places(axes, shown, x, budget_file.uncertainty_label(budget.uncertainty))
        if budget.promise == COST:
            left.axhline(run.alpha, **_LIMIT_LINE, zorder=2)
        else:  # about: the large model's quality is that of the whole pool
            teacher = budget.ends.teacher.quality[budget.objective]
            right.axhline(teacher - run.alpha, **_LIMIT_LINE, zorder=2)
        left.set_ylabel(f"mean cost ({budget.cost_label})", fontsize=8)
        left.set_title("cost on both calibration splits", loc="left", fontsize=9)
        objective = shorten(words(budget.objective), 30)
        right.set_title(f"mean {objective}, the objective", loc="left", fontsize=9)
        handles = _threshold_handles(run.alpha, bool(chosen), bool(accepted.any()))
        figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=8)
    return figure


def _by_threshold(candidates: Sequence[TriedThresholds]):
    """What sorts configurations: the threshold, or with several of them the cost."""
    if len(candidates[0].thresholds) == 1:
        return lambda candidate: candidate.thresholds
    return lambda candidate: (-candidate.cost[0], candidate.thresholds)


def _places(shown: Sequence[TriedThresholds]) -> Float[np.ndarray, " C"]:
    """Where configurations stand on the axis; infinite thresholds a step beyond the others."""
    if len(shown[0].thresholds) > 1:
        return np.arange(len(shown), dtype=np.float64)
    values = np.array([candidate.thresholds[0] for candidate in shown])
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    step = 0.08 * (high - low or 1.0)
    return np.clip(values, low - step, high + step)


def _label_places(
    axes: Axes, shown: Sequence[TriedThresholds], x: Float[np.ndarray, " C"], uncertainty: str
) -> None:
    if len(shown[0].thresholds) > 1:
        text = "configurations of thresholds, from expensive to cheap (first split)"
        axes.set_xlabel(text, fontsize=8)
        return
    axes.set_xlabel(f"threshold λ: defer above it ({shorten(uncertainty, 40)})", fontsize=8)
    infinite = {
        float(place): "∞" if candidate.thresholds[0] > 0 else "−∞"
        for candidate, place in zip(shown, x, strict=True)
        if math.isinf(candidate.thresholds[0])
    }
    if not infinite:
        return
    span = float(np.ptp(x)) or 1.0
    axes.set_xlim(x.min() - 0.04 * span, x.max() + 0.04 * span)
    inside = [tick for tick in axes.get_xticks() if x.min() <= tick <= x.max()]
    near = [tick for tick in inside if all(abs(tick - at) > 0.06 * span for at in infinite)]
    texts = {tick: f"{tick:g}".replace("-", "−") for tick in near} | infinite
    axes.set_xticks(list(texts), list(texts.values()))


_MANY = 60  # configurations whose marks would hide each other


def _add_splits(
    axes: Axes,
    x: Float[np.ndarray, " C"],
    accepted: Bool[np.ndarray, " C"],
    values: Sequence[tuple[float, float]],
) -> None:
    """A line for each split, and the accepted configurations shaded up to midway to the others.

    Lines have gaps where nothing was measured.
    """
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    changes = np.flatnonzero(np.diff(np.concatenate([[False], accepted, [False]]).astype(int)))
    for start, end in zip(changes[::2], changes[1::2], strict=True):
        axes.axvspan(edges[start], edges[end], color=_ACCEPTED, linewidth=0, zorder=0)
    looks = ((_CASCADE, "o", "-"), (_SECOND, "s", "--"))
    for split, (color, marker, dash) in enumerate(looks):
        y = np.array([pair[split] for pair in values])
        face = color if split == 0 else "white"
        line = {"color": color, "marker": marker, "linestyle": dash, "markerfacecolor": face}
        size = 4.5 if len(x) <= _MANY else 2.2
        axes.plot(x, y, linewidth=1.3, ms=size, mew=size / 4.5, zorder=3 + split, **line)


def _threshold_handles(alpha: float, has_chosen: bool, has_accepted: bool) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_CASCADE, marker="o", ms=4.5, lw=1.3, label="first split (search)"),
        Line2D(
            [], [], color=_SECOND, marker="s", ms=4.5, lw=1.3, ls="--", markerfacecolor="white",
            label="second split (test)",
        ),
        Line2D([], [], label=f"budget α = {alpha:g}", **_LIMIT_LINE),
    ]  # fmt: skip
    if has_accepted:
        handles.append(Patch(color=_ACCEPTED, label="accepted (white: not, or never tested)"))
    if has_chosen:
        handles.append(Line2D([], [], color=INK, marker="*", ms=11, ls="none", label="chosen"))
    return handles


def search_figure(budget: Budget) -> Figure:
    """Hypervolume of everything evaluated until then, over the answers that it took.

    A point for each pass: all that it makes known counts at once.
    """
    candidates = sorted(budget.candidates, key=lambda c: c.order)
    values = np.array([c.hypervolume for c in candidates])
    x, label = np.array([c.answers for c in candidates]), "answers of each example"
    if not np.isfinite(x).all():
        x, label = np.arange(1, len(candidates) + 1), "thresholds evaluated"
    is_last = np.append(np.diff(x) > 0, True)
    x, values = x[is_last], values[is_last]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.0), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        axes.step(x, values, where="post", color=_CASCADE, linewidth=1.5)
        axes.plot(x, values, "o", color=_CASCADE, ms=4)
        axes.set_xlabel(f"{label}, first split")
        axes.set_ylabel("hypervolume of cost and quality", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"search: {len(candidates)} thresholds evaluated", loc="left", fontsize=9)
    return figure


def positions_figure(shares: Mapping[str, Float[np.ndarray, " _"]]) -> Figure:
    """Share of the tokens at each position that the large model wrote.

    Args:
      shares: by cascade name, one for each position.
    """
    look = styles(list(shares))
    longest = max(map(len, shares.values()))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.0), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        width = 0.84 / len(shares)
        for i, (name, values) in enumerate(shares.items()):
            at = np.arange(1, len(values) + 1) + (i - (len(shares) - 1) / 2) * width
            bars = {"width": width, "color": look[name]["color"], "label": shorten(name, 30)}
            axes.bar(at, 100 * np.nan_to_num(values), **bars)  # NaN: no answer reaches there
        axes.set_xlim(0.4, longest + 0.6)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("position of the token in the answer")
        axes.set_ylabel("deferred (% of tokens there)")
        axes.set_title("share of deferrals by position", loc="left", fontsize=9)
        if len(shares) > 1:
            figure.legend(loc="outside right upper", fontsize=8)
    return figure
