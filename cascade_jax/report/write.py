"""Writes an evaluation as files: metrics.json, summary.md, report.html and pictures."""

import os
import pathlib

from cascade_jax import files
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report import html_page, markdown, metrics_json
from cascade_jax.report.plots import budget, curves, scores


def write(evaluation: Evaluation, output_dir: str | os.PathLike) -> None:
    """Writes all files of an evaluation into a folder, which is made if needed.

    ``metrics.json`` (every figure in full precision, curves thinned to 201 points; null = undefined
    or never reached), ``summary.md`` (tables to paste), ``report.html``, and as PNG and SVG the
    pictures ``curve``, ``decomposition``, ``reliability``, ``histogram``, ``tasks`` (with two tasks
    or more, or a corpus metric), ``groups`` and ``scores`` (where they are asked for).
    """
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images = curves.write(_pictures(evaluation), folder)
    if evaluation.budget is not None:
        images |= budget.write_pictures(evaluation.budget, folder)
    metrics = metrics_json.dump(metrics_json.to_json(evaluation))
    files.write_text(folder / "metrics.json", metrics)
    files.write_text(folder / "report.html", html_page.render(evaluation, images))
    files.write_text(folder / "summary.md", markdown.render(evaluation))


def _pictures(evaluation: Evaluation) -> dict[str, curves.Figure | None]:
    """Every picture by name; None for one that this evaluation does not have."""
    pooled, tasks = evaluation.pooled, list(evaluation.tasks.values())
    groups = list(evaluation.groups.values())
    shares = {name: live.by_position for name, live in evaluation.live.items()}
    return {
        "curve": curves.curve_figure(pooled, evaluation.points),
        "decomposition": curves.decomposition_figure(pooled),
        "reliability": scores.reliability_figure(pooled),
        "histogram": scores.histogram_figure(pooled.title, evaluation.cascades),
        "tasks": curves.grid_figure(tasks) if evaluation.shows_tasks else None,
        "groups": curves.grid_figure(groups) if groups else None,
        "scores": scores.scores_figure(pooled) if evaluation.scores else None,
        "live_positions": budget.positions_figure(shares) if shares else None,
    }
