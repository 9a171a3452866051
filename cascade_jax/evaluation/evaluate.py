"""From records files to metrics, plots and a report; never touches a model."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cascade_jax import files, records
from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.deferral.scores import Average
from cascade_jax.deferral.scores.base import DeferralScore, name_of
from cascade_jax.evaluation import live_cascades, panels, policy_points
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import CostModel, Parameters
from cascade_jax.evaluation.results import Evaluation
from cascade_jax.report import html_page, markdown, metrics_json
from cascade_jax.report.metrics_json import to_json
from cascade_jax.report.plots import budget as plots_budget
from cascade_jax.report.plots import curves
from cascade_jax.report.plots import scores as plots_scores

__all__ = ["EvaluateConfig", "evaluate", "load", "to_json", "write"]

RecordsFiles = str | os.PathLike | Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to compare and where to write: any records files, or the students of one experiment.

    Attributes:
      records_files: paths, or "NAME=PATH", or paths by name; a name replaces that of the metadata.
        Left out with an experiment: ``<experiment_dir>/records/<split>/<name>.parquet``.
      output_dir: made if it is not there; older files of the same names are replaced. Left out with
        an experiment: ``<experiment_dir>/report``.
      experiment_dir: the folder that collect wrote to.
      split, names: with an experiment, the split collected and the students to compare.
      score: what orders the examples.
      scores: more scores, to be laid beside it; or "available", all that the records hold enough
        for.
      cost: what an answer costs, `Parameters()` or another of costs.py.
      groups: by name, patterns of the tasks that are pooled as one set: ``{"wmt": ["wmt22_*"]}``.
      bootstrap_samples: resamples for the intervals.
      seed: of the resamples.
      budget: a budget.json of `cascade-jax calibrate`, to show beside; "" for none.
      policy: a certificate of it, whose point on the curve is shown with its promise; "" for none.
    """

    records_files: RecordsFiles = ()
    output_dir: str | os.PathLike = ""
    experiment_dir: str | os.PathLike = ""
    split: str = "validation"
    names: Sequence[str] = ()
    score: DeferralScore = Average()
    scores: Sequence[DeferralScore] | str = ()
    cost: CostModel = Parameters()
    groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    bootstrap_samples: int = 1000
    seed: int = 0
    budget: str | os.PathLike = ""
    policy: str | os.PathLike = ""

    def __post_init__(self):
        if self.experiment_dir:
            self._fill_in()
        if not self.records_files:
            raise ValueError("no records: give records_files, or experiment_dir and names")
        if not self.output_dir:
            raise ValueError("output_dir must be the path of a folder, got ''")
        self._check_scores()
        if isinstance(self.cost, type) or not isinstance(self.cost, CostModel):
            raise ValueError(
                f"cost must be a cost model such as Parameters(), got {self.cost!r} (a class needs "
                "its brackets)"
            )
        if self.bootstrap_samples < 1:
            raise ValueError(f"bootstrap_samples must be at least 1, got {self.bootstrap_samples}")

    def _check_scores(self) -> None:
        several = () if self.scores == panels.AVAILABLE else self.scores
        if isinstance(several, str):
            raise ValueError(f"scores must be scores, or {panels.AVAILABLE!r}, got {several!r}")
        for field, score in (("score", self.score), *(("scores", score) for score in several)):
            if isinstance(score, type) or not callable(score):
                raise ValueError(
                    f"{field} must be a deferral score such as Average(), got {score!r} (a class "
                    "needs its brackets)"
                )
        # The main score may be among the others: it is then shown once.
        names = [name_of(self.score)] + [name_of(s) for s in several if s != self.score]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two scores are named {name!r}; names must differ")

    def _fill_in(self) -> None:
        """Paths of the experiment, where none were given."""
        if self.records_files:
            raise ValueError("give records_files or experiment_dir, not both")
        folder = pathlib.Path(self.experiment_dir)
        files = [str(folder / "records" / self.split / f"{name}.parquet") for name in self.names]
        object.__setattr__(self, "records_files", files)
        object.__setattr__(self, "output_dir", self.output_dir or str(folder / "report"))


def evaluate(
    records_files: RecordsFiles | EvaluateConfig,
    output_dir: str | os.PathLike = "",
    **settings: Any,
) -> Evaluation:
    """Compares cascades by their records, pooled over the mixture and per task.

    Pooled quality is the mean of per-example quality. A task with a corpus metric (its records hold
    statistics) is shown by that metric, exact at every threshold.

    Writes ``metrics.json`` (every figure in full precision, curves thinned to 201 points; null =
    undefined or never reached), ``summary.md`` (tables to paste), ``report.html``, and as PNG and
    SVG the pictures ``curve``, ``decomposition``, ``reliability``, ``histogram``, ``tasks`` (with
    two tasks or more, or a corpus metric), ``groups`` and ``scores`` (where they are asked for).

    Args:
      records_files: see `EvaluateConfig`; or a whole config, and then nothing else.
      output_dir: see `EvaluateConfig`.
      **settings: the other fields of `EvaluateConfig`.

    Returns:
      All figures; `terminal.format_table` shows them on a terminal.

    Raises:
      FileNotFoundError: a file is not there.
      RecordsError: a file can not be used, two can not be compared, two have one name, or the cost
        needs a column that is not there.
      ValueError: a score needs what the records lack, a group's pattern matches no task, a budget
        file or certificate can not be used, or a certificate is of other models, data or scores.
    """
    if not isinstance(records_files, EvaluateConfig):
        return evaluate(EvaluateConfig(records_files, output_dir, **settings))
    if output_dir or settings:
        raise ValueError("give a whole EvaluateConfig or its fields, not both")
    config = records_files
    tables = load(config.records_files)
    settings = panels.Settings(
        config.score,
        config.cost,
        config.scores,
        config.groups,
        config.bootstrap_samples,
        config.seed,
    )
    budget = budget_file.load(config.budget) if config.budget else None
    cascades, by_score = panels.score_all(tables, settings)
    points = {}
    if config.policy:
        points = policy_points.points(config.policy, tables, cascades, config.score, config.cost)
    evaluation = panels.evaluate_tables(tables, cascades, by_score, settings)
    live = {name: live_cascades.of_records(table) for name, table in tables.items()}
    evaluation = dataclasses.replace(
        evaluation,
        live={name: found for name, found in live.items() if found},
        budget=budget,
        points=points,
    )
    write(evaluation, tables, cascades, config.output_dir)
    return evaluation


def write(
    evaluation: Evaluation,
    tables: Mapping[str, records.Records],
    cascades: Mapping[str, Cascade],
    output_dir: str | os.PathLike,
) -> None:
    """Writes all files of an evaluation; see `evaluate`.

    Args:
      evaluation: what to write.
      tables, cascades: what it is of, by cascade name.
      output_dir: made if it is not there.
    """
    output_dir = pathlib.Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    images = _write_pictures(evaluation, cascades, output_dir)
    files.write_text(output_dir / "metrics.json", metrics_json.dump(to_json(evaluation)))
    scores = {name: cascade.score for name, cascade in cascades.items()}
    examples = {name: html_page.pick_examples(tables[name], scores[name]) for name in tables}
    page = html_page.render(evaluation, images, examples, tables, scores)
    files.write_text(output_dir / "report.html", page)
    files.write_text(output_dir / "summary.md", markdown.render(evaluation))


def _write_pictures(
    evaluation: Evaluation, cascades: Mapping[str, Cascade], output_dir: pathlib.Path
) -> dict[str, bytes]:
    """Every picture as PNG and SVG; the PNGs are returned by name."""
    pooled = evaluation.pooled
    pictures = {
        "curve": curves.curve_figure(pooled, evaluation.points),
        "decomposition": curves.decomposition_figure(pooled),
        "reliability": plots_scores.reliability_figure(pooled),
        "histogram": plots_scores.histogram_figure(pooled.title, cascades),
    }
    if evaluation.shows_tasks:
        pictures["tasks"] = curves.grid_figure(list(evaluation.tasks.values()))
    if evaluation.groups:
        pictures["groups"] = curves.grid_figure(list(evaluation.groups.values()))
    if evaluation.scores:
        pictures["scores"] = plots_scores.scores_figure(pooled)
    if evaluation.live:
        shares = {name: found.by_position for name, found in evaluation.live.items()}
        pictures["live_positions"] = plots_budget.positions_figure(shares)
    for name in {"tasks", "groups", "scores", "live_positions"} - set(
        pictures
    ):  # of an evaluation before this one
        for kind in ("png", "svg"):
            (output_dir / f"{name}.{kind}").unlink(missing_ok=True)
    images = {}
    for name, picture in pictures.items():
        images[name] = curves.png(picture)
        (output_dir / f"{name}.png").write_bytes(images[name])
        (output_dir / f"{name}.svg").write_bytes(curves.svg(picture))
    if evaluation.budget is not None:
        images |= plots_budget.write_pictures(evaluation.budget, output_dir)
    return images


def load(records_files: RecordsFiles) -> dict[str, records.Records]:
    """Reads records, names them, checks that they compare, and puts their rows in one order.

    Raises:
      FileNotFoundError, RecordsError: see `evaluate`.
    """
    named = _named_files(records_files)
    tables: dict[str, records.Records] = {}
    for name, path in named:
        table = records.read(path)
        if len(table) == 0:
            raise records.RecordsError(f"{path}: the records hold no example")
        if name is not None:
            table = dataclasses.replace(table, metadata={**table.metadata, "name": name})
        if table.name in tables:
            raise records.RecordsError(
                f"two records are named {table.name!r}: {tables[table.name].source} and {path}; "
                f"name one of them anew, e.g. {table.name}_2={path}"
            )
        tables[table.name] = table
    return dict(zip(tables, records.align(list(tables.values())), strict=True))


def _named_files(files: RecordsFiles) -> list[tuple[str | None, str]]:
    if isinstance(files, Mapping):
        return [(name, os.fspath(path)) for name, path in files.items()]
    if isinstance(files, str | os.PathLike):
        files = [files]
    named: list[tuple[str | None, str]] = []
    for entry in map(os.fspath, files):
        name, equals, path = entry.partition("=")
        if equals and name and "/" not in name and not pathlib.Path(entry).exists():
            named.append((name, path))
        else:
            named.append((None, entry))
    return named
