"""From records files to metrics, plots and a report; never touches a model."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cascade_jax import files
from cascade_jax.deferral.scores import Average, DeferralScore
from cascade_jax.evaluation import figures, markdown, metrics, plots, records, report
from cascade_jax.evaluation.metrics import Evaluation, Panel

_MAX_POINTS = 201
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
      bootstrap_samples: resamples for the intervals.
      seed: of the resamples.
    """

    records_files: RecordsFiles = ()
    output_dir: str | os.PathLike = ""
    experiment_dir: str | os.PathLike = ""
    split: str = "validation"
    names: Sequence[str] = ()
    score: DeferralScore = Average()
    bootstrap_samples: int = 1000
    seed: int = 0

    def __post_init__(self):
        if self.experiment_dir:
            self._fill_in()
        if not self.records_files:
            raise ValueError("no records: give records_files, or experiment_dir and names")
        if not self.output_dir:
            raise ValueError("output_dir must be the path of a folder, got ''")
        if isinstance(self.score, type) or not callable(self.score):
            raise ValueError(
                f"score must be a deferral score such as Average(), got {self.score!r} (a class "
                "needs its brackets)"
            )
        if self.bootstrap_samples < 1:
            raise ValueError(f"bootstrap_samples must be at least 1, got {self.bootstrap_samples}")

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
    undefined or never reached), ``curve.png``, ``decomposition.png``, ``tasks.png`` (with two tasks
    or more, or a corpus metric), ``summary.md`` (tables to paste) and ``report.html``.

    Args:
      records_files: see `EvaluateConfig`; or a whole config, and then nothing else.
      output_dir: see `EvaluateConfig`.
      **settings: the other fields of `EvaluateConfig`.

    Returns:
      All figures; `format_table` shows them on a terminal.

    Raises:
      FileNotFoundError: a file is not there.
      RecordsError: a file can not be used, two can not be compared, or two have one name.
    """
    if not isinstance(records_files, EvaluateConfig):
        return evaluate(EvaluateConfig(records_files, output_dir, **settings))
    if output_dir or settings:
        raise ValueError("give a whole EvaluateConfig or its fields, not both")
    config = records_files
    tables = load(config.records_files)
    scores = {name: config.score(table.student) for name, table in tables.items()}
    evaluation = _compare(tables, scores, config)
    output_dir = pathlib.Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    images = {
        "curve": plots.png(plots.curve_figure(evaluation.pooled)),
        "decomposition": plots.png(plots.decomposition_figure(evaluation.pooled)),
    }
    if evaluation.shows_tasks:
        images["tasks"] = plots.png(plots.grid_figure(list(evaluation.tasks.values())))
    for name, image in images.items():
        (output_dir / f"{name}.png").write_bytes(image)
    text = json.dumps(to_json(evaluation), allow_nan=False)
    files.write_text(output_dir / "metrics.json", text + "\n")
    examples = {name: report.pick_examples(tables[name], scores[name]) for name in tables}
    page = report.render(evaluation, images, examples)
    files.write_text(output_dir / "report.html", page)
    files.write_text(output_dir / "summary.md", markdown.render(evaluation))
    return evaluation


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


def _compare(
    tables: Mapping[str, records.Records],
    scores: Mapping[str, np.ndarray],
    config: EvaluateConfig,
) -> Evaluation:
    """All panels: the pooled one, and one per task in the order the tasks first come."""
    first = next(iter(tables.values()))
    cascades = {
        name: metrics.Cascade(
            score=scores[name],
            student_quality=table.student_quality,
            teacher_quality=table.teacher_quality,
            student_flops_per_token=_one_cost(table, "student_flops_per_token"),
            teacher_flops_per_token=_one_cost(table, "teacher_flops_per_token"),
        )
        for name, table in tables.items()
    }

    def panel(title: str, metric: str, cascades: Mapping[str, metrics.Cascade]) -> Panel:
        samples, seed = config.bootstrap_samples, config.seed
        return metrics.compare(title, metric, cascades, bootstrap_samples=samples, seed=seed)

    tasks, per_example, notes = {}, {}, []
    for task in map(str, dict.fromkeys(first.task)):
        rows = np.flatnonzero(first.task == task)
        of_task = {name: cascade.take(rows) for name, cascade in cascades.items()}
        tasks[task] = panel(task, _metric_names(first, rows), of_task)
        found = {name: table.statistics(task) for name, table in tables.items()}
        lacking = [name for name, statistics in found.items() if statistics is None]
        if not lacking:
            per_example[task] = tasks[task]
            of_task = {n: dataclasses.replace(c, statistics=found[n]) for n, c in of_task.items()}
            label = next(iter(found.values())).metric.label
            tasks[task] = panel(task, f"{label} (corpus)", of_task)
        elif len(lacking) < len(tables):
            notes.append(
                f"{task} has no curve of its corpus metric: no statistics in the records of "
                + ", ".join(lacking)
            )
    everything = np.arange(len(first))
    return Evaluation(
        pooled=panel(str(first.metadata["mixture"]), _metric_names(first, everything), cascades),
        tasks=tasks,
        sources=tuple(
            metrics.Source(name, table.source, table.metadata) for name, table in tables.items()
        ),
        score=repr(config.score),
        bootstrap_samples=config.bootstrap_samples,
        seed=config.seed,
        per_example=per_example,
        figures=figures.of_split(tables, tasks, per_example),
        notes=tuple(notes),
    )


def _metric_names(table: records.Records, rows: np.ndarray) -> str:
    return ", ".join(dict.fromkeys(table.metric[rows]))


def _one_cost(table: records.Records, column: str) -> float:
    values = np.unique(getattr(table, column))
    if len(values) > 1:
        raise records.RecordsError(
            f"{table.source}: {column} varies from {values[0]:g} to {values[-1]:g} between rows; a "
            "cascade has one cost per token and model, 2 x parameters"
        )
    return float(values[0])


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure as JSON values; NaN and inf become null."""
    return _jsonable(
        {
            "schema_version": records.SCHEMA_VERSION,
            "score": evaluation.score,
            "bootstrap_samples": evaluation.bootstrap_samples,
            "seed": evaluation.seed,
            "sources": [dataclasses.asdict(source) for source in evaluation.sources],
            "pooled": _panel_json(evaluation.pooled),
            "macro": evaluation.macro(),
            "tasks": {task: _panel_json(panel) for task, panel in evaluation.tasks.items()},
            "per_example": {t: _panel_json(panel) for t, panel in evaluation.per_example.items()},
            "figures": [dataclasses.asdict(figure) for figure in evaluation.figures],
            "notes": evaluation.notes,
        }
    )


def _panel_json(panel: Panel) -> dict[str, Any]:
    cascades = {}
    for name, summary in panel.summaries.items():
        curve, oracle = panel.curves[name].thin(_MAX_POINTS), panel.oracles[name].thin(_MAX_POINTS)
        # A corpus metric is no sum of a kept and a deferred part.
        left_out = ("a1", "a2") if panel.is_corpus else ()
        points = {k: v for k, v in dataclasses.asdict(curve).items() if k not in left_out}
        cascades[name] = {
            "summary": dataclasses.asdict(summary),
            "curve": points,
            "oracle_quality": oracle.quality,
        }
    return {
        "title": panel.title,
        "metric": panel.metric,
        "is_corpus": panel.is_corpus,
        "num_examples": panel.num_examples,
        "references": dataclasses.asdict(panel.references),
        "cascades": cascades,
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(evaluation: Evaluation) -> str:
    """The pooled summary as an aligned plain-text table for a terminal."""
    pooled = evaluation.pooled
    label, quality = next(iter(pooled.references.qualities.items()))
    head = [
        "cascade",
        "small model",
        "area",
        *(f"at {100 * r:.0f} %" for r in pooled.references.rates),
    ]
    head += [f"FLOPs/token to {quality:.3f}", "s_d"]
    rows = [head]
    for name, summary in pooled.summaries.items():
        values = [summary.student_quality, summary.area, *summary.quality_at_rate]
        row = [name, *(f"{estimate.value:.3f}" for estimate in values)]
        s_d = summary.s_d_ideal.value
        row += [report.format_flops(summary.cost_at_quality[label].value)]
        rows.append([*row, "–" if math.isnan(s_d) else f"{s_d:.3f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    teacher = next(iter(pooled.summaries.values())).teacher_quality.value
    title = (
        f"{pooled.title}: {pooled.num_examples:,} examples, quality = {pooled.metric}, "
        f"large model {teacher:.3f}"
    )
    return "\n".join([title, "", *lines])
