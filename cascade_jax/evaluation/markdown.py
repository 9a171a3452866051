"""An evaluation as Markdown tables, to be pasted into a document as it is."""

import math
from collections.abc import Sequence

from cascade_jax.evaluation import curves, figures, report
from cascade_jax.evaluation.metrics import Estimate, Evaluation, Panel

_CURVE_RATES = tuple(step / 10 for step in range(11))


def render(evaluation: Evaluation) -> str:
    """The pooled summary with intervals, its curves at every tenth, tasks, and all figures."""
    pooled = evaluation.pooled
    teacher = next(iter(pooled.summaries.values())).teacher_quality
    parts = [
        f"{pooled.title}: {pooled.num_examples:,} examples; quality is {pooled.metric}; the large "
        f"model alone has {_estimate(teacher)}. In brackets 95 % intervals "
        f"({evaluation.bootstrap_samples} bootstrap resamples of the examples).",
        _summary(pooled),
        "Quality at each deferral rate, all tasks pooled:",
        _curves(pooled),
        "Per task: quality of the large model, then of each small model alone / area under its "
        "curve:",
        _tasks(evaluation),
    ]
    if figures.say_more(evaluation):
        parts += ["Figures of the whole split, as far as records can tell:", _figures(evaluation)]
    parts += [f"{note}." for note in evaluation.notes]
    return "\n\n".join(parts) + "\n"


def _summary(panel: Panel) -> str:
    rates = [f"quality at {100 * rate:.0f} %" for rate in panel.references.rates]
    costs = [f"FLOPs per token to {value:.3f}" for value in panel.references.qualities.values()]
    head = ["cascade", "small model", *rates, "area", "area − first", *costs, "s_d", "AUROC"]
    rows = []
    for name, found in panel.summaries.items():
        cells = [_estimate(e) for e in (found.student_quality, *found.quality_at_rate, found.area)]
        difference = found.area_minus_first
        is_first = not rows
        cells.append("–" if is_first else _estimate(difference, signed=True))
        cells += [report.format_flops(cost.value) for cost in found.cost_at_quality.values()]
        rows.append([name, *cells, _number(found.s_d_ideal.value), _number(found.auroc)])
    return _table(head, rows)


def _curves(panel: Panel) -> str:
    head = ["cascade", *(f"{100 * rate:.0f} %" for rate in _CURVE_RATES)]
    rows = [
        [name, *(_number(float(curves.quality_at_rate(curve, rate))) for rate in _CURVE_RATES)]
        for name, curve in panel.curves.items()
    ]
    return _table(head, rows)


def _tasks(evaluation: Evaluation) -> str:
    names = list(evaluation.pooled.summaries)
    rows = []
    for task, panel in evaluation.tasks.items():
        found = [panel.summaries[name] for name in names]
        cells = [f"{_number(s.student_quality.value)} / {_number(s.area.value)}" for s in found]
        large = _number(found[0].teacher_quality.value)
        rows.append([task, panel.metric, f"{panel.num_examples:,}", large, *cells])
    return _table(["task", "metric", "examples", "large", *names], rows)


def _figures(evaluation: Evaluation) -> str:
    names = list(evaluation.pooled.summaries)
    return _table(figures.heads(names), [figures.cells(f, names) for f in evaluation.figures])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _estimate(estimate: Estimate, signed: bool = False) -> str:
    low, high = _number(estimate.low, signed), _number(estimate.high, signed)
    return f"{_number(estimate.value, signed)} [{low}, {high}]"
