"""Writes an evaluation as files: metrics.json, summary.md, report.html and pictures."""

import os
import pathlib

from cascade_jax import files
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report import html_page, markdown, metrics_json
from cascade_jax.report.plots import budget, curves, scores

# Pictures that only some evaluations have.
_OPTIONAL = ("tasks", "groups", "scores", "live_positions")


def write(evaluation: Evaluation, output_dir: str | os.PathLike) -> None:
    """Writes all files of an evaluation.

    ``metrics.json`` (every figure in full precision, curves thinned to 201 points; null = undefined
    or never reached), ``summary.md`` (tables to paste), ``report.html``, and as PNG and SVG the
    pictures ``curve``, ``decomposition``, ``reliability``, ``histogram``, ``tasks`` (with two tasks
    or more, or a corpus metric), ``groups`` and ``scores`` (where they are asked for).

    Args:
      evaluation: of `evaluate`.
      output_dir: made if it is not there.
    """
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    images = _write_pictures(evaluation, folder)
    metrics = metrics_json.dump(metrics_json.to_json(evaluation))
    files.write_text(folder / "metrics.json", metrics)
    files.write_text(folder / "report.html", html_page.render(evaluation, images))
    files.write_text(folder / "summary.md", markdown.render(evaluation))


def _write_pictures(evaluation: Evaluation, folder: pathlib.Path) -> dict[str, bytes]:
    """Every picture as PNG and SVG; the PNGs are returned by name."""
    pooled = evaluation.pooled
    pictures = {
        "curve": curves.curve_figure(pooled, evaluation.points),
        "decomposition": curves.decomposition_figure(pooled),
        "reliability": scores.reliability_figure(pooled),
        "histogram": scores.histogram_figure(pooled.title, evaluation.cascades),
    }
    if evaluation.shows_tasks:
        pictures["tasks"] = curves.grid_figure(list(evaluation.tasks.values()))
    if evaluation.groups:
        pictures["groups"] = curves.grid_figure(list(evaluation.groups.values()))
    if evaluation.scores:
        pictures["scores"] = scores.scores_figure(pooled)
    if evaluation.live:
        shares = {name: live.by_position for name, live in evaluation.live.items()}
        pictures["live_positions"] = budget.positions_figure(shares)
    for name in set(_OPTIONAL) - set(pictures):  # of an earlier evaluation
        for kind in ("png", "svg"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    images = {name: curves.png(picture) for name, picture in pictures.items()}
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(images[name])
        (folder / f"{name}.svg").write_bytes(curves.svg(picture))
    if evaluation.budget is not None:
        images |= budget.write_pictures(evaluation.budget, folder)
    return images
