"""One self-contained HTML page of an evaluation: pictures, styles and texts are inside it."""

import base64
import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax.evaluation import figures, report_text
from cascade_jax.evaluation.metrics import Estimate, Evaluation, Panel
from cascade_jax.evaluation.records import SCHEMA_VERSION, Records
from cascade_jax.evaluation.records_schema import CORPUS_METRICS, DECODING, FIGURES

_TEXT_LIMIT = 280
_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_KINDS = (
    ("right", "deferred, the large model is better", 1, True),
    ("right", "kept, the small model is better", -1, False),
    ("wrong", "kept, the large model is better", 1, False),
    ("wrong", "deferred, the small model is better", -1, True),
)


@dataclasses.dataclass(frozen=True)
class Example:
    """An example on which the two models differ, and what the score made of it at 50 % deferral."""

    verdict: str
    what: str
    score: float
    task: str
    inputs: str
    target: str
    student_answer: str
    teacher_answer: str
    student_quality: float
    teacher_quality: float


def pick_examples(
    records: Records, score: Float[np.ndarray, " n"], per_kind: int = 2
) -> list[Example]:
    """The clearest right and wrong decisions of a score, where half of all examples are deferred.

    Right is to defer what the large model does better and to keep what the small one does better.
    Of each kind those come first whose scores lie farthest from the middle, then lower rows.
    """
    gain = records.teacher_quality - records.student_quality
    # Ranks by score, averaged over ties, so that 0 is the middle and the tied are treated alike.
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    urgency = ((np.cumsum(sizes) - (sizes - 1) / 2 - 0.5) / len(score) - 0.5)[group]
    picked = []
    for verdict, what, sign, is_deferred in _KINDS:
        rows = np.flatnonzero((sign * gain > 0) & ((urgency >= 0) == is_deferred))
        order = np.argsort(-np.abs(urgency[rows] * gain[rows]), kind="stable")
        for row in rows[order[:per_kind]]:
            texts = ("task", "inputs", "target", "student_answer", "teacher_answer")
            qualities = ("student_quality", "teacher_quality")
            picked.append(
                Example(
                    verdict=verdict,
                    what=what,
                    score=float(score[row]),
                    **{name: str(getattr(records, name)[row]) for name in texts},
                    **{name: float(getattr(records, name)[row]) for name in qualities},
                )
            )
    return picked


def render(
    evaluation: Evaluation,
    images: Mapping[str, bytes],
    examples: Mapping[str, Sequence[Example]],
) -> str:
    """The page.

    Args:
      evaluation: figures of all cascades.
      images: PNGs under "curve" and, where there are such, "decomposition" and "tasks".
      examples: by cascade name.

    Returns:
      HTML with no address in it that a browser would fetch.
    """
    pooled = evaluation.pooled
    title = f"Cascade evaluation: {pooled.title}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        _lead(evaluation),
        "<h2>Quality against cost, all tasks pooled</h2>",
        _figure(images["curve"], report_text.CURVE_CAPTION),
        "<h2>Summary</h2>",
        _quality_table(pooled),
        _cost_table(pooled),
        _interval_note(evaluation),
    ]
    if "decomposition" in images:
        parts += ["<h2>Where the quality comes from</h2>"]
        parts += [_figure(images["decomposition"], report_text.DECOMPOSITION_CAPTION)]
    if evaluation.shows_tasks:
        parts += ["<h2>Per task</h2>"]
        parts += [_figure(images["tasks"], report_text.TASKS_CAPTION)] if "tasks" in images else []
        parts += [_task_table(evaluation)]
        parts += [f'<p class="soft">{_text(note)}.</p>' for note in evaluation.notes]
    if figures.say_more(evaluation):
        parts += ["<h2>Figures of the whole split</h2>", _figures_table(evaluation)]
    parts += ["<h2>How to read this</h2>", report_text.READING]
    parts += ["<h2>Where the two models differ</h2>", _examples(examples)]
    parts += ["<h2>What was compared</h2>", _sources_table(evaluation), _footer(evaluation)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{report_text.CSS}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _lead(evaluation: Evaluation) -> str:
    pooled, names = evaluation.pooled, list(evaluation.pooled.summaries)
    best = max(names, key=lambda name: pooled.summaries[name].area.value)
    teacher = pooled.summaries[best].teacher_quality.value
    tasks = len(evaluation.tasks)
    split = str(evaluation.sources[0].metadata.get("split", ""))
    text = (
        f"{len(names)} cascade{'s' * (len(names) != 1)} on {pooled.num_examples:,} examples of "
        f"{tasks} task{'s' * (tasks != 1)}, split {split}; quality is {pooled.metric}. "
        f"The large model alone has {teacher:.3f}. "
    )
    if evaluation.per_example:
        text += "Pooled quality is the mean over single examples; corpus metrics stand per task. "
    if len(names) > 1:
        text += f"The largest area, {pooled.summaries[best].area.value:.3f}, is that of {best}."
    return f'<p class="soft">{_text(text)}</p>'


def _quality_table(panel: Panel) -> str:
    rates = [f"quality at {100 * rate:.0f} % deferred" for rate in panel.references.rates]
    best = _best(panel)
    rows = []
    for position, (name, s) in enumerate(panel.summaries.items()):
        cells = [f"<td>{_text(name)}</td>", _cell(s.student_quality)]
        cells += [_cell(estimate) for estimate in s.quality_at_rate]
        cells += [_cell(s.teacher_quality), _cell(s.area, is_best=name == best)]
        cells += [_cell(s.area_minus_first, signed=True) if position else "<td>–</td>"]
        rows.append("".join(cells))
    head = ["cascade", "small model alone", *rates, "large model", "area", "area − first row"]
    return _table(head, rows)


def _cost_table(panel: Panel) -> str:
    """Costs of the reference qualities and how good the score is."""
    labels = [
        f"FLOPs per token to {label} ({q:.3f})" for label, q in panel.references.qualities.items()
    ]
    rows = []
    for name, s in panel.summaries.items():
        cells = [f"<td>{_text(name)}</td>"]
        cells += [_cell(estimate, is_cost=True) for estimate in s.cost_at_quality.values()]
        cells += [_cell(s.s_d_ideal), _cell(s.s_d_oracle), f"<td>{_number(s.auroc)}</td>"]
        cells += [f"<td>{100 * s.student_better_share:.1f} %</td>"]
        rows.append("".join(cells))
    head = ["cascade", *labels, "s_d (ideal)", "s_d (oracle)", "AUROC", "small better than large"]
    return _table(head, rows)


def _task_table(evaluation: Evaluation) -> str:
    names = list(evaluation.pooled.summaries)
    head = ["task", "examples", "large model"]
    head += [f"{name}: {what}" for what in ("alone", "area") for name in names]
    rows = []
    for task, panel in evaluation.tasks.items():
        best = _best(panel)
        summaries = panel.summaries
        cells = [f"<td>{_text(task)}<small>{_text(panel.metric)}</small></td>"]
        cells += [f"<td>{panel.num_examples:,}</td>"]
        cells += [f"<td>{_number(summaries[names[0]].teacher_quality.value)}</td>"]
        cells += [f"<td>{_number(summaries[name].student_quality.value)}</td>" for name in names]
        cells += [_cell(summaries[name].area, is_best=name == best) for name in names]
        rows.append("".join(cells))
    macro = evaluation.macro()
    cells = ["<td><i>mean over tasks</i></td><td></td>"]
    cells += [f"<td>{_number(macro[names[0]]['teacher_quality'])}</td>"]
    cells += [f"<td>{_number(macro[name]['student_quality'])}</td>" for name in names]
    cells += [f"<td>{_number(macro[name]['area'])}</td>" for name in names]
    return _table(head, [*rows, "".join(cells)])


def _figures_table(evaluation: Evaluation) -> str:
    names = list(evaluation.pooled.summaries)
    rows = [
        "".join(f"<td>{_text(cell)}</td>" for cell in figures.cells(figure, names))
        for figure in evaluation.figures
    ]
    caption = f'<p class="soft">{_text(report_text.FIGURES_CAPTION)}</p>'
    return caption + _table(figures.heads(names), rows, "figures")


def _sources_table(evaluation: Evaluation) -> str:
    # The last three are shown by task, in the table of figures.
    skipped = {"name", "schema_version", CORPUS_METRICS, FIGURES, DECODING}
    keys = list(
        dict.fromkeys(k for s in evaluation.sources for k in s.metadata if k not in skipped)
    )
    rows = []
    for source in evaluation.sources:
        values = [source.name, *(source.metadata.get(key, "") for key in keys)]
        rows.append("".join(f"<td>{_text(_plain(value))}</td>" for value in values))
    return _table(["cascade", *(key.replace("_", " ") for key in keys)], rows)


def _examples(examples: Mapping[str, Sequence[Example]]) -> str:
    parts = ['<p class="soft">Decisions at 50 % deferral, the clearest of each kind first.</p>']
    head = ["the score was", "task", "input", "target", "small model", "large model", "score"]
    for position, (name, picked) in enumerate(examples.items()):
        rows = []
        for e in picked:
            texts = (e.task, e.inputs, e.target)
            row = f'<td><b class="{e.verdict}">{e.verdict}</b><small>{_text(e.what)}</small></td>'
            row += "".join(f"<td>{_text(_shorten(text))}</td>" for text in texts)
            answers = (e.student_answer, e.student_quality), (e.teacher_answer, e.teacher_quality)
            for answer, quality in answers:
                row += f"<td>{_text(_shorten(answer))}<small>quality {quality:.2f}</small></td>"
            rows.append(row + f"<td>{e.score:.3f}</td>")
        body = _table(head, rows, "texts") if rows else "<p>The models never differ in quality.</p>"
        state = " open" if position == 0 else ""
        parts.append(f"<details{state}><summary>{_text(name)}</summary>{body}</details>")
    return "\n".join(parts)


def _interval_note(evaluation: Evaluation) -> str:
    return (
        '<p class="soft">Small print under a value: 95 % bootstrap interval over examples '
        f"({evaluation.bootstrap_samples} resamples, seed {evaluation.seed}; differences paired). "
        "“∞” as an end: some resamples never reach that quality. “–”: undefined or never "
        "reached.</p>"
    )


def _footer(evaluation: Evaluation) -> str:
    files = "; ".join(f"{source.name} = {source.path}" for source in evaluation.sources)
    text = f"Records schema version {SCHEMA_VERSION}. Score: {evaluation.score}. Files: {files}."
    return f"<footer>{_text(text)}</footer>"


def _best(panel: Panel) -> str | None:
    """The name with the largest area; none where only one is shown."""
    summaries = panel.summaries
    if len(summaries) < 2:
        return None
    return max(summaries, key=lambda name: summaries[name].area.value)


def _table(head: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    header = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _cell(
    estimate: Estimate, *, is_best: bool = False, is_cost: bool = False, signed: bool = False
) -> str:
    def show(value: float) -> str:
        text = format_flops(value) if is_cost else _number(value)
        return f"+{text}" if signed and value > 0 and math.isfinite(value) else text

    known = not (math.isnan(estimate.low) or math.isnan(estimate.high))
    spread = f"<small>{show(estimate.low)} to {show(estimate.high)}</small>" if known else ""
    return f"<td{' class=best' if is_best else ''}>{show(estimate.value)}{spread}</td>"


def format_flops(value: float) -> str:
    """FLOPs with three digits and an SI prefix, e.g. ``2.21 M``; "–" for NaN, "∞" for inf."""
    if not math.isfinite(value):
        return _number(value)
    scale, prefix = next(((s, p) for s, p in _UNITS if abs(value) >= s), (1.0, ""))
    return f"{value / scale:.3g} {prefix}".strip()


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3f}"


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)
