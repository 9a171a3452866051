"""The tables of a report as HTML: they stand on the page with and without JavaScript."""

from collections.abc import Iterable, Mapping, Sequence

from cascade_jax.evaluation import split_figures as figures
from cascade_jax.evaluation.costs import short_label
from cascade_jax.evaluation.results import Evaluation, Panel
from cascade_jax.records.schema import CORPUS_METRICS, DECODING, FIGURES, POLICY
from cascade_jax.report import headline
from cascade_jax.report.examples import Example
from cascade_jax.report.numbers import cost_text, difference_cell, escaped, estimate_cell, number

_TEXT_LIMIT = 280


def quality(panel: Panel) -> str:
    """Quality of every cascade at the reference rates, and its area."""
    rates = [f"quality at {100 * rate:.0f} % deferred" for rate in panel.references.rates]
    best = _best(panel)
    rows = []
    for position, (name, s) in enumerate(panel.summaries.items()):
        cells = [_head(name), estimate_cell(s.student_quality)]
        cells += [estimate_cell(estimate) for estimate in s.quality_at_rate]
        cells += [estimate_cell(s.teacher_quality), estimate_cell(s.area, is_best=name == best)]
        cells += [estimate_cell(s.area_minus_first, signed=True) if position else "<td>–</td>"]
        rows.append("".join(cells))
    head = ["cascade", "small model alone", *rates, "large model", "area", "area − first row"]
    return table("Quality", head, rows)


def cost(panel: Panel) -> str:
    """Costs of the reference qualities, and how much of the room the score wins."""
    labels = [
        f"{short_label(panel.cost_label)} to {label} ({q:.3f})"
        for label, q in panel.references.qualities.items()
    ]
    rows = []
    for name, s in panel.summaries.items():
        unit = panel.cost_unit
        cells = [_head(name)]
        cells += [estimate_cell(e, cost_unit=unit) for e in s.cost_at_quality.values()]
        cells += [estimate_cell(s.s_d_ideal), estimate_cell(s.s_d_oracle)]
        cells += [f"<td>{100 * s.student_better_share:.1f} %</td>"]
        rows.append("".join(cells))
    head = ["cascade", *labels, "s_d (ideal)", "s_d (oracle)", "small better than large"]
    return table("Cost, and how much of what can be won the score wins", head, rows)


_RANKING = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "prr": "PRR",
    "prr_half": "PRR, half",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
_SEPARATION = _RANKING | {
    "overlap": "overlap s_o",
    "ece": "ECE",
    "ece_scaled": "ECE, scaled",
    "error_share": "share of errors",
}


def separation(panel: Panel) -> str:
    """How well each score tells errors, and confidence the truth."""
    rows = [
        _head(name) + _numbers(getattr(s.separation, field) for field in _SEPARATION)
        for name, s in panel.summaries.items()
    ]
    return table("How well the score tells errors", ["cascade", *_SEPARATION.values()], rows)


def comparisons(panel: Panel) -> str:
    """Each cascade against the first, paired, with p-values."""
    first = next(iter(panel.summaries))
    rows = []
    for name, found in panel.comparisons.items():
        of_row = [*found.at_rate, *found.at_cost, found.area]
        rows.append(_head(name) + "".join(map(difference_cell, of_row)))
    head = ["quality of", *(f"at {100 * rate:.0f} % deferred" for rate in panel.references.rates)]
    head += [f"at {cost_text(panel, value)}" for value in panel.references.costs]
    return table(f"Each cascade minus {first}, on the same examples", [*head, "area"], rows)


def scores(evaluation: Evaluation) -> str:
    """Every deferral score that was asked for: a table for each cascade, that of the best open."""
    head = ["score", "area", "s_d (ideal)", "s_d (oracle)", *_RANKING.values()]
    parts = []
    for name, of_cascade in evaluation.scores.items():
        best = max(of_cascade, key=lambda score: of_cascade[score].area.value)
        rows = []
        for score, s in of_cascade.items():
            cells = _head(score) + estimate_cell(s.area, is_best=score == best)
            cells += estimate_cell(s.s_d_ideal) + estimate_cell(s.s_d_oracle)
            rows.append(cells + _numbers(getattr(s.ranking, field) for field in _RANKING))
        body = table(f"Scores of {name}, all tasks pooled", head, rows)
        state = " open" if name == headline.best(evaluation.pooled) else ""
        title = f"{name}: best by {best}, area {number(of_cascade[best].area.value)}"
        parts.append(f"<details{state}><summary>{escaped(title)}</summary>{body}</details>")
    return "\n".join(parts)


def tasks(evaluation: Evaluation) -> str:
    """Both models alone and the areas, by task."""
    names = list(evaluation.pooled.summaries)
    head = ["task", "examples", "large model"]
    head += [f"{name}: {what}" for what in ("alone", "area") for name in names]
    rows = []
    for title, panel in (evaluation.tasks | _named_groups(evaluation)).items():
        best = _best(panel)
        summaries = panel.summaries
        cells = [_head(title, panel.metric), f"<td>{panel.num_examples:,}</td>"]
        cells += [f"<td>{number(summaries[names[0]].teacher_quality.value)}</td>"]
        cells += [f"<td>{number(summaries[name].student_quality.value)}</td>" for name in names]
        cells += [estimate_cell(summaries[name].area, is_best=name == best) for name in names]
        rows.append("".join(cells))
    macro = evaluation.macro()
    cells = [_head("mean over tasks"), "<td></td>"]
    cells += [f"<td>{number(macro[names[0]]['teacher_quality'])}</td>"]
    cells += [f"<td>{number(macro[name]['student_quality'])}</td>" for name in names]
    cells += [f"<td>{number(macro[name]['area'])}</td>" for name in names]
    return table("Each task by itself", head, [*rows, "".join(cells)])


def _named_groups(evaluation: Evaluation) -> dict[str, Panel]:
    return {f"group {name}": panel for name, panel in evaluation.groups.items()}


def split_figures(evaluation: Evaluation) -> str:
    """Every metric of every task."""
    names = list(evaluation.pooled.summaries)
    rows = []
    for figure in evaluation.figures:
        task, *cells = figures.cells(figure, names)
        rows.append(_head(task) + "".join(f"<td>{escaped(cell)}</td>" for cell in cells))
    return table("Every metric of every task", figures.heads(names), rows, "figures")


def sources(evaluation: Evaluation) -> str:
    """What the records say of themselves."""
    # Three are shown by task, in the table of figures; a certificate is a file of its own.
    skipped = {"name", "schema_version", CORPUS_METRICS, FIGURES, DECODING, POLICY}
    keys = list(
        dict.fromkeys(k for s in evaluation.sources for k in s.metadata if k not in skipped)
    )
    rows = []
    for source in evaluation.sources:
        values = [source.metadata.get(key, "") for key in keys]
        rows.append(
            _head(source.name) + "".join(f"<td>{escaped(_plain(value))}</td>" for value in values)
        )
    return table("Records", ["cascade", *(key.replace("_", " ") for key in keys)], rows)


def examples(picked: Mapping[str, Sequence[Example]]) -> str:
    """The clearest decisions of each cascade, one table for each."""
    parts = []
    head = ["the score was", "task", "input", "target", "small model", "large model", "score"]
    for position, (name, of_cascade) in enumerate(picked.items()):
        rows = []
        for e in of_cascade:
            texts = (e.task, e.inputs, e.target)
            row = f'<td><b class="{e.verdict}">{e.verdict}</b><small>{escaped(e.what)}</small></td>'
            row += "".join(f"<td>{escaped(_shorten(text))}</td>" for text in texts)
            answers = (e.student_answer, e.student_quality), (e.teacher_answer, e.teacher_quality)
            for answer, quality in answers:
                row += f"<td>{escaped(_shorten(answer))}<small>quality {quality:.2f}</small></td>"
            rows.append(row + f"<td>{e.score:.3f}</td>")
        body = "<p>The models never differ in quality.</p>"
        if rows:
            body = table(f"Decisions of {name}", head, rows, "texts")
        state = " open" if position == 0 else ""
        parts.append(f"<details{state}><summary>{escaped(name)}</summary>{body}</details>")
    return "\n".join(parts)


def table(caption: str, head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table that scrolls sideways by itself where it is too wide; rows are HTML cells."""
    header = "".join(f'<th scope="col">{escaped(cell)}</th>' for cell in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    name = escaped(caption)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{name}">'
        f'<table class="{kind}"><caption>{name}</caption><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _best(panel: Panel) -> str | None:
    """The name with the largest area; none where only one is shown, or two have it."""
    areas = [summary.area.value for summary in panel.summaries.values()]
    return headline.best(panel) if 1 == areas.count(max(areas)) < len(areas) else None


def _numbers(values: Iterable[float]) -> str:
    return "".join(f"<td>{number(value)}</td>" for value in values)


def _head(text: str, small: str = "") -> str:
    under = f"<small>{escaped(small)}</small>" if small else ""
    return f'<th scope="row">{escaped(text)}{under}</th>'


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"
