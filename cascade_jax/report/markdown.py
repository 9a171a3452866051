"""An evaluation as Markdown tables, to be pasted into a document as it is."""

import math
from collections.abc import Mapping, Sequence

from cascade_jax.evaluation import curves, split_figures
from cascade_jax.evaluation.comparison import Difference
from cascade_jax.evaluation.costs import short_label
from cascade_jax.evaluation.results import Estimate, Evaluation, Panel
from cascade_jax.report.numbers import cost as _cost
from cascade_jax.report.numbers import cost_text, kept_text, percent

_CURVE_RATES = tuple(step / 10 for step in range(11))


def render(evaluation: Evaluation) -> str:
    """The pooled summary with intervals, scores, comparisons, curves, groups, tasks, figures."""
    pooled = evaluation.pooled
    teacher = next(iter(pooled.summaries.values())).teacher_quality
    parts = [
        f"{pooled.title}: {pooled.num_examples:,} examples; quality is {pooled.metric}; the large "
        f"model alone has {_estimate(teacher)}. In brackets 95 % intervals "
        f"({evaluation.bootstrap_samples} bootstrap resamples of the examples).",
        _summary(pooled),
        *_policies(evaluation),
        "How well the score tells the small model's errors, and its confidence the truth:",
        _separation(pooled),
    ]
    if evaluation.scores:
        parts += ["Other scores, all tasks pooled:", _scores(pooled)]
    if pooled.comparisons:
        first = next(iter(pooled.summaries))
        parts += [
            f"Quality minus that of {first} on the same examples, with a two-sided p-value of "
            "there being no difference:",
            _comparisons(pooled),
        ]
    parts += ["Quality at each deferral rate, all tasks pooled:", _curves(pooled)]
    if evaluation.groups:
        parts += ["Per group of tasks, as the table of tasks below:", _groups(evaluation)]
    parts += [
        "Per task: quality of the large model, then of each small model alone / area under its "
        "curve:",
        _tasks(evaluation),
    ]
    if split_figures.say_more(evaluation):
        parts += ["Figures of the whole split, as far as records can tell:", _figures(evaluation)]
    parts += [f"{note}." for note in evaluation.notes]
    return "\n\n".join(parts) + "\n"


def _summary(panel: Panel) -> str:
    rates = [f"quality at {100 * rate:.0f} %" for rate in panel.references.rates]
    label = short_label(panel.cost_label)
    costs = [f"{label} to {value:.3f}" for value in panel.references.qualities.values()]
    head = ["cascade", "small model", *rates, "area", "area − first", *costs, "s_d", "AUROC"]
    rows = []
    for name, found in panel.summaries.items():
        cells = [_estimate(e) for e in (found.student_quality, *found.quality_at_rate, found.area)]
        difference = found.area_minus_first
        is_first = not rows
        cells.append("–" if is_first else _estimate(difference, signed=True))
        cells += [_cost(e.value, panel.cost_unit) for e in found.cost_at_quality.values()]
        rows.append([name, *cells, _number(found.s_d_ideal.value), _number(found.auroc)])
    return _table(head, rows)


def _policies(evaluation: Evaluation) -> list[str]:
    """What a certified policy comes to on these records; nothing without one."""
    if not evaluation.points:
        return []
    head = [
        "cascade",
        "certificate",
        "deferred",
        "quality",
        short_label(evaluation.pooled.cost_label),
    ]
    rows, warnings = [], []
    for name, point in evaluation.points.items():
        deferred = f"{percent(point.rate)} of {point.level}s"
        cost = _cost(point.cost, evaluation.pooled.cost_unit)
        kept = "; ".join(map(kept_text, point.kept))
        rows.append(
            [name, f"{point.path} ({point.status})", deferred, _number(point.quality), cost, kept]
        )
        warnings += [warning for warning in point.warnings if warning not in warnings]
    table = _table([*head, "promise"], rows)
    return ["The certified policy on these examples:", table, *warnings]


def _separation(panel: Panel) -> str:
    head = ["cascade", "AUROC", "AUPRC", "share of errors", "PRR", "PRR to 50 %", "Pearson"]
    head += ["Spearman", "s_o", "ECE", "ECE scaled"]
    rows = []
    for name, summary in panel.summaries.items():
        s = summary.separation
        values = [s.auroc, s.auprc, s.error_share, s.prr, s.prr_half, s.pearson, s.spearman]
        rows.append([name, *map(_number, [*values, s.overlap, s.ece, s.ece_scaled])])
    return _table(head, rows)


def _scores(panel: Panel) -> str:
    head = ["cascade", "score", "area", "s_d (ideal)", "s_d (oracle)", "AUROC", "AUPRC", "PRR"]
    rows = []
    for name, by_score in panel.scores.items():
        for score, found in by_score.items():
            values = [found.s_d_ideal.value, found.s_d_oracle.value]
            values += [found.ranking.auroc, found.ranking.auprc, found.ranking.prr]
            rows.append([name, score, _estimate(found.area), *map(_number, values)])
    return _table(head, rows)


def _comparisons(panel: Panel) -> str:
    points = panel.references
    head = ["cascade", *(f"at {100 * rate:.0f} %" for rate in points.rates)]
    head += [f"at {cost_text(panel, value)}" for value in points.costs]
    rows = [
        [name, *map(_difference, (*found.at_rate, *found.at_cost, found.area))]
        for name, found in panel.comparisons.items()
    ]
    return _table([*head, "area"], rows)


def _curves(panel: Panel) -> str:
    head = ["cascade", *(f"{100 * rate:.0f} %" for rate in _CURVE_RATES)]
    rows = [
        [name, *(_number(float(curves.quality_at_rate(curve, rate))) for rate in _CURVE_RATES)]
        for name, curve in panel.curves.items()
    ]
    return _table(head, rows)


def _groups(evaluation: Evaluation) -> str:
    return _alone_and_area(evaluation, evaluation.groups, "group")


def _tasks(evaluation: Evaluation) -> str:
    return _alone_and_area(evaluation, evaluation.tasks, "task")


def _alone_and_area(evaluation: Evaluation, panels: Mapping[str, Panel], kind: str) -> str:
    names = list(evaluation.pooled.summaries)
    rows = []
    for task, panel in panels.items():
        found = [panel.summaries[name] for name in names]
        cells = [f"{_number(s.student_quality.value)} / {_number(s.area.value)}" for s in found]
        large = _number(found[0].teacher_quality.value)
        rows.append([task, panel.metric, f"{panel.num_examples:,}", large, *cells])
    return _table([kind, "metric", "examples", "large", *names], rows)


def _figures(evaluation: Evaluation) -> str:
    names = list(evaluation.pooled.summaries)
    return _table(
        split_figures.heads(names), [split_figures.cells(f, names) for f in evaluation.figures]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    plain = [[cell.replace("|", r"\|") for cell in cells] for cells in (head, *rows)]
    lines = [plain[0], ["---"] * len(head), *plain[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _estimate(estimate: Estimate, signed: bool = False) -> str:
    low, high = _number(estimate.low, signed), _number(estimate.high, signed)
    return f"{_number(estimate.value, signed)} [{low}, {high}]"


def _difference(found: Difference) -> str:
    p = f"p {_number(found.p_value)}" if not found.p_value < 0.001 else "p < 0.001"
    return f"{_estimate(Estimate(found.value, found.low, found.high), signed=True)}, {p}"
