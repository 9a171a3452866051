"""What the tables of a report hold; `text_table` renders them as text, Markdown and HTML."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from cascade_jax.evaluation import curves
from cascade_jax.evaluation.comparison import Difference
from cascade_jax.evaluation.costs import format_cost, short_label
from cascade_jax.evaluation.results import Estimate, Evaluation, OwnCost, Panel, ScoreSummary
from cascade_jax.evaluation.summaries import BASELINE, REFERENCE_RATES
from cascade_jax.records.schema import CORPUS_METRICS, DECODING, FIGURES, MODELS, POLICY
from cascade_jax.report import headline
from cascade_jax.report.numbers import cost_text, promise_text
from cascade_jax.text_table import NOT_MEASURED, Cell, Column, Table, number, percent, signed

_CURVE_RATES = tuple(step / 10 for step in range(11))


def estimate(value: Estimate, is_best: bool = False) -> Cell:
    """A value with its interval."""
    return Cell(value.value, value.low, value.high, is_best=is_best)


def difference(value: Difference) -> Cell:
    """A difference with its interval and p-value."""
    note = "p < 0.001" if value.p_value < 0.001 else f"p {number(value.p_value)}"
    return Cell(value.value, value.low, value.high, note)


def _summary(panel: Panel) -> dict[str, list[Column]]:
    """Columns with the figures of every cascade, of which each table shows some."""
    rows = panel.summaries.values()
    points, best = panel.references, _best(panel)

    def estimates(head: str, read: Callable, show: Callable = number) -> Column:
        return Column(head, [estimate(read(row)) for row in rows], show)

    cost = functools.partial(format_cost, unit=panel.cost_unit)
    label = short_label(panel.cost_label)
    differences = [estimate(row.area_minus_first) for row in rows]
    return {
        "cascade": [Column("cascade", list(panel.summaries))],
        "small": [estimates("small model", lambda row: row.student_quality)],
        "rates": [
            estimates(f"quality at {100 * rate:.0f} %", lambda row, i=i: row.quality_at_rate[i])
            for i, rate in enumerate(points.rates)
        ],
        "large": [estimates("large model", lambda row: row.teacher_quality)],
        "area": [
            Column("area", [estimate(r.area, name == best) for name, r in panel.summaries.items()])
        ],
        "difference": [Column("area − first", [NOT_MEASURED, *differences[1:]], signed)],
        "costs": [
            estimates(
                f"{label} to {quality:.3f}", lambda row, key=key: row.cost_at_quality[key], cost
            )
            for key, quality in points.qualities.items()
        ],
        "s_d": [
            estimates("s_d (ideal)", lambda row: row.s_d_ideal),
            estimates("s_d (oracle)", lambda row: row.s_d_oracle),
        ],
        "better": [
            Column("small better than large", [r.student_better_share for r in rows], percent)
        ],
        "auroc": [Column("AUROC", [row.auroc for row in rows])],
    }


def summary(panel: Panel) -> Table:
    """The figures of every cascade that matter most."""
    columns = _summary(panel)
    keys = ("cascade", "small", "rates", "area", "difference")
    shown = [column for key in keys for column in columns[key]]
    shown += [column.plain() for column in columns["costs"]]
    return Table("", [*shown, columns["s_d"][0].plain("s_d"), *columns["auroc"]])


def brief(panel: Panel) -> Table:
    """The same without intervals, narrow enough for a terminal."""
    columns = _summary(panel)
    shown = [columns["cascade"][0], columns["small"][0].plain(), columns["area"][0].plain()]
    shown += [column.plain(column.head.removeprefix("quality ")) for column in columns["rates"]]
    return Table("", [*shown, columns["costs"][0].plain(), columns["s_d"][0].plain("s_d")])


def quality(panel: Panel) -> Table:
    """Quality of every cascade at the reference rates, and its area."""
    keys = ("cascade", "small", "rates", "large", "area", "difference")
    columns = _summary(panel)
    shown = [column for key in keys for column in columns[key]]
    return Table("Quality, by the share of examples deferred", shown)


def cost(panel: Panel) -> Table:
    """Costs of the reference qualities, and the share of the possible gain that is reached."""
    columns = _summary(panel)
    shown = [column for key in ("cascade", "costs", "s_d", "better") for column in columns[key]]
    title = "Cost of reaching a quality, and the share of the possible gain that the score reaches"
    return Table(title, shown)


_SEPARATION = {
    "auroc": "AUROC", "auprc": "AUPRC", "error_share": "share of errors", "prr": "PRR",
    "prr_half": "PRR to 50 %", "pearson": "Pearson", "spearman": "Spearman", "overlap": "s_o",
    "ece": "ECE", "ece_scaled": "ECE scaled",
}  # fmt: skip
_RANKING = ("auroc", "auprc", "prr", "prr_half", "pearson", "spearman")


def _read(fields: Iterable[str], rows: Sequence[object]) -> list[Column]:
    return [Column(_SEPARATION[field], [getattr(row, field) for row in rows]) for field in fields]


def separation(panel: Panel) -> Table:
    """How well each score tells errors, and confidence the truth."""
    rows = [row.separation for row in panel.summaries.values()]
    columns = _read(_SEPARATION, rows)
    title = "How well the score tells the small model's errors, and its confidence the truth"
    return Table(title, [Column("cascade", list(panel.summaries)), *columns])


def comparisons(panel: Panel) -> Table:
    """Each cascade against the first, paired, with p-values."""
    rows = panel.comparisons.values()
    points = panel.references
    heads = [f"at {100 * rate:.0f} %" for rate in points.rates]
    heads += [f"at {cost_text(panel, value)}" for value in points.costs]
    cells = [map(difference, (*row.at_rate, *row.at_cost, row.area)) for row in rows]
    heads_and_cells = zip([*heads, "area"], zip(*cells, strict=True), strict=True)
    columns = [Column(head, column, signed) for head, column in heads_and_cells]
    title = f"Quality minus that of {next(iter(panel.summaries))} on the same examples, with a "
    title += "two-sided p-value of there being no difference"
    return Table(title, [Column("cascade", list(panel.comparisons)), *columns])


def comparison(panel: Panel, name: str) -> Table:
    """One cascade against the first, a row for each place."""
    against_first = panel.comparisons[name]
    places = ["area", *(f"at {100 * rate:.0f} % deferred" for rate in panel.references.rates)]
    differences = [against_first.area, *against_first.at_rate]
    columns = [
        Column("", places),
        Column("difference", [Cell(d.value, d.low, d.high) for d in differences], signed),
        Column("p", [d.p_value for d in differences], "{:.2g}".format),
    ]
    return Table(f"{name} minus {against_first.first}", columns)


def scores(scores_of: Mapping[str, Mapping[str, ScoreSummary]]) -> Table:
    """Area and ranking of errors by each of several scores, a row for each cascade and score."""
    rows = [(name, score, row) for name, by in scores_of.items() for score, row in by.items()]
    best = {name: best_score(by) for name, by in scores_of.items()}
    areas = [estimate(row.area, score == best[name]) for name, score, row in rows]
    return Table(
        "Other scores, all tasks pooled",
        [
            Column("cascade", [name for name, _, _ in rows]),
            Column("score", [score for _, score, _ in rows]),
            Column("area", areas),
            Column("s_d (ideal)", [estimate(row.s_d_ideal) for _, _, row in rows]),
            Column("s_d (oracle)", [estimate(row.s_d_oracle) for _, _, row in rows]),
            *_read(_RANKING, [row.ranking for _, _, row in rows]),
        ],
    )


def score_costs(scores_of: Mapping[str, Mapping[str, ScoreSummary]]) -> Table:
    """What each score spends itself, and whether that pays; empty where all are free."""
    rows = [(name, score, row) for name, by in scores_of.items() for score, row in by.items()]
    rows = [(name, score, row, row.own_cost) for name, score, row in rows if row.own_cost]
    flops = functools.partial(format_cost, unit="FLOPs")
    against = [
        NOT_MEASURED if score == BASELINE or math.isnan(own.area.value)
        else difference(own.area_minus_average)
        for _, score, _, own in rows
    ]  # fmt: skip
    return Table(
        "What scores themselves cost, and whether that pays",
        [
            Column("cascade", [name for name, *_ in rows]),
            Column("score", [score for _, score, *_ in rows]),
            *_read(("auroc", "prr"), [row.ranking for _, _, row, _ in rows]),
            Column("area", [row.area.value for _, _, row, _ in rows]),
            Column("own FLOPs per example", [own.flops for *_, own in rows], flops),
            Column("area at equal cost", [estimate(own.area) for *_, own in rows]),
            Column(f"− {BASELINE}", against, signed),
            Column(
                "pays for itself from",
                [
                    NOT_MEASURED if score == BASELINE else _pays_from(own)
                    for _, score, _, own in rows
                ],
            ),
        ],
    )


def _pays_from(own: OwnCost) -> str:
    if own.pays_from == math.inf:
        return "never"
    is_known = not math.isnan(own.pays_from)
    return f"{percent(own.pays_from)} to {percent(own.pays_until)}" if is_known else NOT_MEASURED


def best_score(by_score: Mapping[str, ScoreSummary]) -> str:
    """The name of the score with the largest area."""
    return max(by_score, key=lambda score: by_score[score].area.value)


def areas_by_score(panel: Panel) -> Table:
    """Area under the curve of each score, a column for each cascade."""
    names = list(next(iter(panel.scores.values())))
    columns = [
        Column(cascade, [by_score[score].area.value for score in names])
        for cascade, by_score in panel.scores.items()
    ]
    return Table("", [Column("area by score", names), *columns])


def curve(panel: Panel) -> Table:
    """Quality at every tenth of deferred examples."""
    shown = panel.curves.values()
    columns = [
        Column(f"{100 * rate:.0f} %", [float(curves.quality_at_rate(c, rate)) for c in shown])
        for rate in _CURVE_RATES
    ]
    title = "Quality at each deferral rate, all tasks pooled"
    return Table(title, [Column("cascade", list(panel.curves)), *columns])


def policies(evaluation: Evaluation) -> Table:
    """What a certified policy comes to on these records."""
    points, panel = evaluation.points.values(), evaluation.pooled
    show_cost = functools.partial(format_cost, unit=panel.cost_unit)
    return Table(
        "The certified policy on these examples",
        [
            Column("cascade", list(evaluation.points)),
            Column("certificate", [f"{point.path} ({point.status})" for point in points]),
            Column("deferred", [f"{percent(p.rate)} of {p.level}s" for p in points]),
            Column("quality", [point.quality for point in points]),
            Column(short_label(panel.cost_label), [point.cost for point in points], show_cost),
            Column("promise", ["; ".join(map(promise_text, point.kept)) for point in points]),
        ],
    )


def tasks(evaluation: Evaluation) -> Table:
    """Both models alone and the areas, by task and group, and the mean over tasks."""
    names = list(evaluation.pooled.summaries)
    groups = {f"group {name}": panel for name, panel in evaluation.groups.items()}
    panels, macro = evaluation.tasks | groups, evaluation.macro()
    first = names[0]

    def column(head: str, name: str, field: str, *, interval: bool = False) -> Column:
        cells = []
        for panel in panels.values():
            value = getattr(panel.summaries[name], field)
            cells.append(estimate(value, name == _best(panel)) if interval else value.value)
        return Column(head, [*cells, macro[name][field]])

    titles = [Cell(title, note=panel.metric) for title, panel in panels.items()]
    counts = [f"{panel.num_examples:,}" for panel in panels.values()]
    return Table(
        "Each task by itself",
        [
            Column("task", [*titles, "mean over tasks"]),
            Column("examples", [*counts, ""]),
            column("large model", first, "teacher_quality"),
            *(column(f"{name}: alone", name, "student_quality") for name in names),
            *(column(f"{name}: area", name, "area", interval=True) for name in names),
        ],
    )


def alone_and_area(title: str, kind: str, panels: Mapping[str, Panel]) -> Table:
    """The tasks or groups in few columns: each small model alone / the area under its curve."""
    summaries = [panel.summaries for panel in panels.values()]
    names = list(summaries[0])

    def pairs(name: str) -> list[str]:
        rows = [row[name] for row in summaries]
        return [f"{number(r.student_quality.value)} / {number(r.area.value)}" for r in rows]

    large = [row[names[0]].teacher_quality.value for row in summaries]
    return Table(
        title,
        [
            Column(kind, list(panels)),
            Column("metric", [panel.metric for panel in panels.values()]),
            Column("examples", [f"{panel.num_examples:,}" for panel in panels.values()]),
            Column("large", large),
            *(Column(name, pairs(name)) for name in names),
        ],
    )


def figures(evaluation: Evaluation) -> Table:
    """Every metric of every task over the whole split."""
    names, rows = list(evaluation.pooled.summaries), evaluation.figures
    rates = " / ".join(f"{100 * rate:.0f}" for rate in REFERENCE_RATES)

    def cascade(name: str) -> list[str]:
        qualities = [row.cascades.get(name, ()) for row in rows]
        return [" / ".join(map(number, values)) or NOT_MEASURED for values in qualities]

    return Table(
        "Figures of the whole split, as far as records can tell",
        [
            Column("task", [row.task for row in rows]),
            Column("metric", [row.metric for row in rows]),
            Column("answers", [row.decoding.replace("_", " ") or NOT_MEASURED for row in rows]),
            Column("large model", [row.teacher for row in rows]),
            *(Column(name, [row.students[name] for row in rows]) for name in names),
            *(Column(f"{name}: cascade at {rates} %", cascade(name)) for name in names),
        ],
    )


def sources(evaluation: Evaluation) -> Table:
    """What the records say of themselves."""
    # Three are shown by task, in the table of figures; a certificate is a file of its own.
    skipped = {"name", "schema_version", MODELS, CORPUS_METRICS, FIGURES, DECODING, POLICY}
    records = evaluation.sources
    keys = dict.fromkeys(key for s in records for key in s.metadata if key not in skipped)
    columns = [
        Column(key.replace("_", " "), [_plain(s.metadata.get(key, "")) for s in records])
        for key in keys
    ]
    return Table("Records", [Column("cascade", [s.name for s in records]), *columns])


def _best(panel: Panel) -> str | None:
    """The name with the largest area; none where only one is shown, or two have it."""
    areas = [row.area.value for row in panel.summaries.values()]
    return headline.best(panel) if 1 == areas.count(max(areas)) < len(areas) else None


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
