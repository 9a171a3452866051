"""Verdicts on claims as files: claims.md, claims.json, and a picture for each pair of models."""

import math
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax import files
from cascade_jax.evaluation.claims import claim as claims
from cascade_jax.evaluation.claims import verdicts
from cascade_jax.evaluation.claims.effects import Effect
from cascade_jax.evaluation.claims.losses import LossResult
from cascade_jax.evaluation.claims.verdicts import Outcome, StudyVerdicts, Verdict
from cascade_jax.json_file import finite_or_null, to_values
from cascade_jax.report import metrics_json
from cascade_jax.report.plots import claims as plots
from cascade_jax.report.plots import curves, loss_curves
from cascade_jax.text_table import NOT_MEASURED, Column, Table, as_markdown, as_text, markdown_text

_HEAD = (
    "Made by `cascade-jax compare TABLES --claims all` from tables of runs. The claims and their "
    "smallest effects of interest are those of `cascade_jax/evaluation/claims/papers.py`; of a "
    "claim of several comparisons the table shows the weakest."
)
_BASELINE = "xent"


def write(studies: Sequence[StudyVerdicts], output_dir: str | os.PathLike) -> None:
    """Writes all files into a folder, which is made if needed.

    ``claims.md`` (the rule, a row for each claim, every comparison), ``claims.json`` (every figure
    in full precision; null = undefined), and for each pair ``claims_<pair>.png`` and ``.svg``, and
    ``losses_<pair>`` with the deferral curves.
    """
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {_picture("claims", study): plots.forest_figure(study) for study in studies}
    pictures |= {_picture("losses", s): loss_curves.loss_figure(s.pair, s.losses) for s in studies}
    curves.write(pictures, folder)
    values = {study.pair: to_json(study) for study in studies}
    files.write_text(folder / "claims.json", metrics_json.dump(values))
    files.write_text(folder / "claims.md", render(studies))


def _picture(kind: str, study: StudyVerdicts) -> str:
    """A file's name, whatever the pair's is."""
    return f"{kind}_" + re.sub(r"[^\w.-]", "_", study.pair)


def to_json(study: StudyVerdicts) -> dict:
    """All figures of a study as JSON values."""
    apart = {"verdicts": None, "losses": [_loss_values(result) for result in study.losses]}
    values = to_values(vars(study) | apart, finite_or_null)
    del values["verdicts"]
    return {**values, "claims": {v.claim.id: _verdict_values(v) for v in study.verdicts}}


def _loss_values(result: LossResult) -> dict:
    named = {"size": result.size, "loss": result.loss, "seeds": result.seeds}
    figures = "small", "area", "quality_at_cost"
    return named | {
        place: {name: getattr(of_place, name).tolist() for name in figures}
        for place, of_place in result.places.items()
    }


def _verdict_values(verdict: Verdict) -> dict:
    figures = {"p_for": verdict.p_for, "p_against": verdict.p_against}
    return to_values(
        {
            "sentence": verdict.claim.sentence,
            "source": verdict.claim.source,
            "verdict": verdict.verdict,
            **figures,
            "lacking": verdict.lacking,
            "notes": verdict.notes,
            "comparisons": [_outcome_values(outcome) for outcome in verdict.outcomes],
        },
        finite_or_null,
    )


def _outcome_values(outcome: Outcome) -> dict:
    comparison = outcome.comparison
    return {
        "figure": comparison.figure,
        "on": comparison.on,
        "minus_on": comparison.minus_on,
        "arms": outcome.arms,
        "expected": comparison.expected,
        "smallest": comparison.smallest,
        "effect": _effect_values(outcome.effect),
        "by_size": {size: _effect_values(effect) for size, effect in outcome.by_size.items()},
        "by_seed": outcome.by_seed,
        "p_for": outcome.p_for,
        "p_against": outcome.p_against,
    }


def _effect_values(effect: Effect) -> dict:
    low, high = effect.interval
    return {**vars(effect), "low": low, "high": high}


# ------------------------------------------------------------------ text


def for_terminal(studies: Sequence[StudyVerdicts]) -> str:
    """The verdicts of each study as aligned columns."""
    return "\n\n".join(
        as_text(
            Table(
                f"{study.pair}, {study.num_examples:,} examples",
                [
                    Column("claim", [v.claim.id for v in study.verdicts]),
                    Column("verdict", [_in_short(v) for v in study.verdicts]),
                    Column("lacks", ["; ".join(v.lacking) for v in study.verdicts]),
                ],
            )
        )
        for study in studies
    )


def render(studies: Sequence[StudyVerdicts]) -> str:
    """The page, as Markdown to be pasted into a document."""
    parts = ["# Claims of the papers", _HEAD, verdicts.RULE, as_markdown(_summary(studies))]
    for study in studies:
        parts += [f"## {markdown_text(study.pair)}", _about(study)]
        parts += [f"![curves of every loss]({_picture('losses', study)}.png)"]
        parts += [as_markdown(_reached(study)), as_markdown(_by_task(study))]
        if any(verdict.outcomes for verdict in study.verdicts):
            parts.append(f"![effects of every claim]({_picture('claims', study)}.png)")
            parts.append(as_markdown(_comparisons(study)))
        parts += _lists(study)
    return "\n\n".join(parts) + "\n"


def _summary(studies: Sequence[StudyVerdicts]) -> Table:
    """A row for each claim, and a column for each pair."""
    rows = studies[0].verdicts
    return Table(
        "",
        [
            Column("claim", [v.claim.sentence for v in rows]),
            Column("source", [v.claim.source for v in rows]),
            *(Column(s.pair, [_in_short(v) for v in s.verdicts]) for s in studies),
        ],
    )


def _in_short(verdict: Verdict) -> str:
    if verdict.weakest is None:
        return verdict.verdict
    p = f"p = {_p(verdict.p_for)}" if not math.isnan(verdict.p_for) else "one seed"
    if math.isnan(verdict.weakest.effect.value):
        p = "undefined"
    if verdict.verdict == verdicts.REFUTED:
        p = f"p (against) = {_p(verdict.p_against)}"
    return f"{verdict.verdict}: {_interval(verdict.weakest.effect)}, {p}"


def _about(study: StudyVerdicts) -> str:
    lines = [
        f"{study.num_examples:,} examples of {len(study.tasks)} tasks; {study.samples} bootstrap "
        f"draws of the examples (seed {study.seed}). Seeds with a table:"
    ]
    losses = dict.fromkeys(loss for of_size in study.sizes.values() for loss in of_size)
    columns = [Column("loss", list(losses))]
    for size, of_size in study.sizes.items():
        seeds = [", ".join(map(str, of_size.get(loss, ()))) or NOT_MEASURED for loss in losses]
        columns.append(Column(size, seeds))
    return "\n\n".join([*lines, as_markdown(Table("", columns))])


def _reached(study: StudyVerdicts) -> Table:
    """What each size and loss reaches."""
    results = study.losses
    columns = [
        Column("student", [r.size for r in results]),
        Column("loss", [r.loss for r in results]),
        Column("seeds", [str(len(r.seeds)) for r in results]),
    ]
    large = []
    for place, of_place in results[0].places.items():
        of_loss = [result.places[place] for result in results]
        large.append(f"{of_place.large:.4f} ({place})")
        columns += [
            Column(f"small model, {place}", [_spread(r.small) for r in of_loss]),
            Column(f"area, {place}", [_spread(r.area) for r in of_loss]),
        ]
    head = "What each loss reaches, mean ± standard deviation over seeds; the large model alone "
    return Table(head + ", ".join(large), columns)


def _by_task(study: StudyVerdicts) -> Table:
    """What both models reach alone on each task, under the loss that others are compared with."""
    of_size = {}
    for result in study.losses:
        if result.size not in of_size or result.loss == _BASELINE:
            of_size[result.size] = result
    tasks = next(iter(of_size.values())).tasks
    columns = [
        Column("task", list(tasks)),
        Column("examples", list(map(str, study.tasks.values()))),
    ]
    for size, result in of_size.items():
        values = [_spread(of_task.small) for of_task in result.tasks.values()]
        columns.append(Column(f"{size}, {result.loss}", values))
    columns.append(Column("large model", [f"{t.large:.4f}" for t in tasks.values()]))
    return Table("Quality of each model alone, by task", columns)


def _spread(values: Float[np.ndarray, " seeds"]) -> str:
    mean = f"{values.mean():.4f}"
    return f"{mean} ± {values.std(ddof=1):.4f}" if len(values) > 1 else mean


def _comparisons(study: StudyVerdicts) -> Table:
    """Every comparison of every claim; p-values here are not corrected."""
    rows = [(v, outcome) for v in study.verdicts for outcome in v.outcomes]
    sizes = list(study.sizes) if len(study.sizes) > 1 else []
    outcomes = [outcome for _, outcome in rows]
    columns = [
        Column("claim", [v.claim.id for v, _ in rows]),
        Column("figure", [o.comparison.figure for o in outcomes]),
        Column("on", [o.comparison.place for o in outcomes]),
        Column("of", [o.arms for o in outcomes]),
        Column("claimed", [_expected(o) for o in outcomes]),
        Column("effect", [_interval(o.effect) for o in outcomes]),
        Column("seeds", [str(o.effect.seeds) for o in outcomes]),
        Column("p (for)", [_p(o.p_for) for o in outcomes]),
        Column("p (against)", [_p(o.p_against) for o in outcomes]),
    ]
    for size in sizes:
        effects = [o.by_size.get(size) for o in outcomes]
        columns.append(Column(size, [_interval(e) if e else NOT_MEASURED for e in effects]))
    return Table("Every comparison, with its 95 % interval and p-values before Holm", columns)


def _lists(study: StudyVerdicts) -> list[str]:
    """Tables that are lacking by claim, and claims by note."""
    lacking = {v.claim.id: v.lacking for v in study.verdicts if v.lacking}
    notes: dict[str, list[str]] = {}
    for verdict in study.verdicts:
        for note in verdict.notes:
            notes.setdefault(note, []).append(verdict.claim.id)
    lists = {
        "Without tables, and what they lack:": [(k, "; ".join(v)) for k, v in lacking.items()],
        "Notes:": [(", ".join(ids), note) for note, ids in notes.items()],
    }
    return [
        "\n".join([head, "", *(f"- {markdown_text(k)}: {markdown_text(v)}" for k, v in lines)])
        for head, lines in lists.items()
        if lines
    ]


def _expected(outcome: Outcome) -> str:
    comparison = outcome.comparison
    if comparison.expected == claims.CLOSE:
        return f"within ±{comparison.smallest:g}"
    sign = "≥ +" if comparison.expected == claims.GREATER else "≤ −"
    if not comparison.smallest:
        return "> 0" if comparison.expected == claims.GREATER else "< 0"
    return f"{sign}{comparison.smallest:g}"


def _interval(effect: Effect) -> str:
    if math.isnan(effect.value):
        return NOT_MEASURED
    low, high = effect.interval
    if math.isnan(low):
        return f"{effect.value:+.4f}"
    return f"{effect.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _p(value: float) -> str:
    if math.isnan(value):
        return NOT_MEASURED
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
