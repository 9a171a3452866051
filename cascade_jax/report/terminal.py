"""What `cascade-jax evaluate` and `fit-router` print."""

import dataclasses
import math
import os
from pathlib import Path

from cascade_jax.deferral.policy import ANSWER
from cascade_jax.deferral.routers import StateFeatures
from cascade_jax.evaluation import curves
from cascade_jax.evaluation.fit_router import RouterRun
from cascade_jax.evaluation.policy_points import PolicyPoint
from cascade_jax.evaluation.results import Evaluation, Panel
from cascade_jax.report import tables
from cascade_jax.report.numbers import cost_text, promise_text, repeats_text
from cascade_jax.text_table import Column, Table, as_text, one_line


def format_table(evaluation: Evaluation) -> str:
    """The pooled summary as an aligned plain-text table for a terminal."""
    pooled = evaluation.pooled
    teacher = next(iter(pooled.summaries.values())).teacher_quality.value
    title = (
        f"{pooled.title}: {pooled.num_examples:,} examples, quality = {pooled.metric}, "
        f"large model {teacher:.3f}"
    )
    parts = [
        one_line(title),
        *filter(None, [repeats_text(pooled)]),
        as_text(tables.brief(pooled), rule=True),
    ]
    return "\n\n".join(parts)


def below(evaluation: Evaluation, output_dir: str | os.PathLike) -> str:
    """A policy, scores beside the main one, differences to the first cascade, and the report.

    Where a score costs something itself, the scores are shown with that.
    """
    pooled = evaluation.pooled
    parts = [_policy(pooled, name, point) for name, point in evaluation.points.items()]
    costs = tables.score_costs(pooled.scores)
    if costs.has_rows:
        parts += [as_text(dataclasses.replace(costs, columns=[c.plain() for c in costs.columns]))]
        parts += [one_line(f"{note}.") for note in evaluation.cost_notes]
    elif pooled.scores:
        parts += [as_text(tables.areas_by_score(pooled))]
    parts += [_comparison(pooled, name) for name in pooled.comparisons]
    return "\n\n".join([*parts, f"Open {Path(output_dir) / 'report.html'}"])


def _policy(panel: Panel, name: str, point: PolicyPoint) -> str:
    """A certified policy on these records, and whether its promise is kept."""
    what = "answers" if point.level == ANSWER else "tokens"
    cost = "" if math.isnan(point.cost) else f", cost {cost_text(panel, point.cost)}"
    lines = [
        f"{name} by {point.path} ({point.status}):",
        f"  {100 * point.rate:.1f} % of {what} deferred, quality {point.quality:.3f}{cost}",
    ]
    lines += [f"  {promise_text(kept)}" for kept in point.kept]
    return "\n".join(lines + [f"  ! {warning}" for warning in point.warnings])


def _comparison(panel: Panel, name: str) -> str:
    """Whether one cascade is better than the first."""
    table = tables.comparison(panel, name)
    lines = [f"  {place:<16} {difference}  p {p}" for place, difference, p in table.texts[1:]]
    return "\n".join([f"{table.title}:", *lines])


def format_router(run: RouterRun) -> str:
    """A fitted router beside every score that its records hold enough for, best area first.

    Of a router on hidden states also the layer that it has chosen.
    """
    table, router = run.table, run.router
    student, teacher = float(table.student_quality.mean()), float(table.teacher_quality.mean())
    names = sorted(run.areas, key=lambda name: -run.areas[name])
    labels = [name + f" ({run.folds}-fold)" * (name == router.name) for name in names]
    is_defined = not math.isnan(run.aurocs[router.name])
    areas = [*(run.areas[name] for name in names), curves.random_area(student, teacher)]
    aurocs = [*(run.aurocs[name] for name in names), 0.5 if is_defined else math.nan]
    labels.append("deferring at random")
    columns = [Column("score", labels), Column("area", areas), Column("AUROC", aurocs)]
    title = (
        f"{table.name}, {table.metadata['mixture']}, split {router.split!r}: {len(table):,} "
        f"examples, small model {student:.3f}, large model {teacher:.3f}"
    )
    text = f"{title}\n\n{as_text(Table('', columns), rule=True)}"
    if isinstance(router.features, StateFeatures) and router.features.layer is not None:
        layers = ", ".join(map(str, table.student.states.layers))
        chosen = f"state after layer {router.features.layer} ({router.features.state})"
        text += f"\n\nreads: {chosen}, of the layers {layers}"
    return text
