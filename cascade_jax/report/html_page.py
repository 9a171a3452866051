"""One self-contained HTML page of an evaluation: styles, script, data and pictures are inside it.

Sentences and tables stand on it without JavaScript; the script in assets/ draws the curves, with a
threshold that moves, and shows a sample of the examples.
"""

import base64
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from html import escape

from cascade_jax.evaluation import split_figures
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.records.schema import SCHEMA_VERSION
from cascade_jax.report import budget, headline, page_data, tables, words
from cascade_jax.report.numbers import cost_text, repeats_text, threshold_text
from cascade_jax.text_table import Table, as_html, number, percent

_PAGE = pathlib.Path(__file__).parent / "assets"
_SCRIPTS = ("dom.js", "charts.js", "explore.js", "tokens.js", "examples.js", "report.js")
_BUDGET_SCRIPT, _BUDGET_STYLE = "budget.js", "budget.css"  # of pages with budgets


def render(evaluation: Evaluation, images: Mapping[str, bytes]) -> str:
    """The page, with no address in it that a browser would fetch.

    Args:
      evaluation: figures of all cascades; without its tables nothing on the page moves.
      images: PNGs by name; shown are "scores" and `budget.SEARCH_PICTURES`, which no script draws.
    """
    title = f"Cascade evaluation: {evaluation.pooled.title}"
    body = "\n".join([*_sections(evaluation, images), _footer(evaluation)])
    more = has_budget(evaluation)
    style = _page_file("report.css") + _page_file(_BUDGET_STYLE) * more
    scripts = ""
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'"
    if evaluation.tables:
        code = _script(more)
        data = page_data.element(page_data.build(evaluation))
        policy += f"; script-src '{_hash(code)}'"
        scripts = f"{data}\n<script>{code}</script>\n"
    policy += "; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n{scripts}</body></html>\n"
    )


def _sections(evaluation: Evaluation, images: Mapping[str, bytes]) -> list[str]:
    pooled = evaluation.pooled
    parts = [_lead(evaluation), words.NOSCRIPT, _headline(evaluation)]
    parts += [*budget.policies(evaluation), '<h2 id="summary">Summary</h2>']
    parts += map(as_html, (tables.quality(pooled), tables.cost(pooled), tables.separation(pooled)))
    if pooled.comparisons:
        parts += [as_html(tables.comparisons(pooled))]
    parts += [_interval_note(evaluation)]
    parts += ['<h2 id="curves">Quality against cost</h2>', '<div id="explore"></div>']
    parts += _budget_sections(evaluation, images)
    if evaluation.scores:
        parts += ['<h2 id="scores">Deferral scores</h2>', *_scores(evaluation)]
        costs = tables.score_costs(evaluation.scores)
        parts += [as_html(costs), words.SCORE_COSTS] * costs.has_rows
        parts += [f'<p class="soft">{escape(note)}.</p>' for note in evaluation.cost_notes]
        if "scores" in images:
            parts += [_picture(images["scores"], words.SCORES_CAPTION)]
    if evaluation.shows_tasks:
        parts += ['<h2 id="tasks">Per task</h2>', '<div id="multiples"></div>']
        parts += [as_html(tables.tasks(evaluation))]
        parts += [f'<p class="soft">{escape(note)}.</p>' for note in evaluation.notes]
    parts += ['<h2 id="examples">Examples</h2>', '<div id="browser"></div>']
    if split_figures.is_informative(evaluation):
        parts += ['<h2 id="figures">Figures of the whole split</h2>']
        parts += [f'<p class="soft">{words.FIGURES_CAPTION}</p>']
        parts += [as_html(tables.figures(evaluation), "figures")]
    parts += ['<h2 id="reading">Definitions</h2>', words.READING]
    if evaluation.tables:
        parts += [words.READING_PAGE]
    return [*parts, '<h2 id="sources">What was compared</h2>', as_html(tables.sources(evaluation))]


def _scores(evaluation: Evaluation) -> list[str]:
    """Every deferral score that was asked for: a table for each cascade, that of the best open."""
    parts = []
    for name, by_score in evaluation.scores.items():
        best = tables.best_score(by_score)
        columns = tables.scores({name: by_score}).columns[1:]
        body = as_html(Table(f"Scores of {name}, all tasks pooled", columns))
        state = " open" if name == headline.best(evaluation.pooled) else ""
        title = f"{name}: best by {best}, area {number(by_score[best].area.value)}"
        parts.append(f"<details{state}><summary>{escape(title)}</summary>{body}</details>")
    return parts


def has_budget(evaluation: Evaluation) -> bool:
    """Whether the page has a part about budgets, policies or live cascades."""
    return evaluation.budget is not None or bool(evaluation.live or evaluation.points)


def _budget_sections(evaluation: Evaluation, images: Mapping[str, bytes]) -> list[str]:
    """Sections on a calibration and on live cascades, if present."""
    parts: list[str] = []
    if evaluation.budget is not None:
        parts += budget.budget(evaluation.budget)
        captions = budget.SEARCH_PICTURES.items()
        pictures = [_picture(images[name], text) for name, text in captions if name in images]
        if pictures:
            head = "<summary>How thresholds were chosen</summary>"
            parts += [f"<details>{head}", *pictures, "</details>"]
    if evaluation.live:
        parts += budget.live(evaluation)
    return parts


def _lead(evaluation: Evaluation) -> str:
    pooled = evaluation.pooled
    names, tasks = list(pooled.summaries), len(evaluation.tasks)
    teacher = pooled.summaries[names[0]].teacher_quality.value
    split = str(evaluation.sources[0].metadata.get("split", ""))
    text = (
        f"{len(names)} cascade{'s' * (len(names) != 1)} on {pooled.num_examples:,} examples of "
        f"{tasks} task{'s' * (tasks != 1)}, split {split}; quality is {pooled.metric}. "
        f"The large model alone has {number(teacher)}."
    )
    if evaluation.per_example:
        text += " Pooled quality is the mean over single examples; corpus metrics stand per task."
    return f'<p class="soft">{escape(text)}</p>'


def _headline(evaluation: Evaluation) -> str:
    """The recommendation in a sentence, its numbers at a glance, and how sure they are."""
    panel = evaluation.pooled
    choice = headline.choose(panel)
    kept = choice.quality / choice.teacher_quality if choice.teacher_quality else 1.0
    cost = cost_text(panel, choice.cost)
    tiles = {
        "small model": (choice.name, "largest area"),
        "threshold τ": (threshold_text(choice.threshold), "defer scores above it"),
        "deferred": (percent(choice.rate), f"of {panel.num_examples:,} examples"),
        "quality": (number(choice.quality), f"{percent(kept)} of the large model's"),
        "cost": (percent(choice.share_of_cost), f"of the large model's: {cost}"),
    }
    listed = "".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd>"
        f'<dd class="soft">{escape(under)}</dd></div>'
        for term, (value, under) in tiles.items()
    )
    return (
        f'<section class="headline" aria-label="Recommendation">'
        f"<p>{escape(headline.recommendation(panel))}</p><dl>{listed}</dl>"
        f'<p class="soft">{escape(headline.caution(panel))}</p></section>'
    )


def _interval_note(evaluation: Evaluation) -> str:
    if not evaluation.bootstrap_samples:
        return '<p class="soft">Without intervals. “–”: undefined or never reached.</p>'
    pooled = evaluation.pooled
    what = "inputs" if pooled.num_repeats else "examples"
    sentences = [
        f"Small print under a value: 95 % bootstrap interval over {what} "
        f"({evaluation.bootstrap_samples} resamples, seed {evaluation.seed}; differences paired, "
        "p two-sided).",
        repeats_text(pooled),
        "“∞” as an end: some resamples never reach that quality.",
        "“–”: undefined or never reached.",
    ]
    return f'<p class="soft">{" ".join(filter(None, sentences))}</p>'


def _footer(evaluation: Evaluation) -> str:
    files = "; ".join(f"{source.name} = {source.path}" for source in evaluation.sources)
    text = f"Records schema version {SCHEMA_VERSION}. Score: {evaluation.score}. Files: {files}."
    return f"<footer>{escape(text)}</footer>"


def _picture(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    caption = escape(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f'<figure class="picture">{image}<figcaption>{caption}</figcaption></figure>'


@functools.cache
def _page_file(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _script(has_budget: bool) -> str:
    """The page's script: its files are parts of one function, so nothing of them is global."""
    names = _SCRIPTS[:-1] + (_BUDGET_SCRIPT,) * has_budget + _SCRIPTS[-1:]
    parts = "\n".join(map(_page_file, names))
    return f'"use strict";\n(async () => {{\n{parts}\n}})();'


def _hash(text: str) -> str:
    """The hash of an element's text, as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
