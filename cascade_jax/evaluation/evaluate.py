"""From records files to curves, figures and comparisons; never touches a model."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from cascade_jax import checks, records
from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.evaluation import live_cascades, panels, policy_points
from cascade_jax.evaluation.results import Evaluation

RecordsFiles = str | os.PathLike | Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(panels.Settings):
    """What to compare and where to write: any records files, or the students of one experiment.

    Attributes:
      records_files: paths, or "NAME=PATH", or paths by name; a name replaces that of the metadata.
        Left out with an experiment: ``<experiment_dir>/records/<split>/<name>.parquet``.
      output_dir: made if it is not there; older files of the same names are replaced. Left out with
        an experiment: ``<experiment_dir>/report``.
      experiment_dir: the folder that collect wrote to.
      split, names: with an experiment, the split collected and the students to compare.
      score, scores, cost, groups, bootstrap_samples, seed: see `panels.Settings`.
      budget: a budget.json of `cascade-jax calibrate`, to show beside; "" for none.
      policy: a certificate of it, whose point on the curve is shown with its promise; "" for none.
      token_values: quantities by which the report's examples can be coloured, beside those that the
        records have: functions from `AnswerTokens` to a number for each token.
    """

    records_files: RecordsFiles = ()
    output_dir: str | os.PathLike = ""
    experiment_dir: str | os.PathLike = ""
    split: str = "validation"
    names: Sequence[str] = ()
    budget: str | os.PathLike = ""
    policy: str | os.PathLike = ""
    token_values: Sequence[Callable] = ()

    def __post_init__(self):
        is_list = isinstance(self.token_values, list | tuple)
        checks.require(is_list, "token_values", self.token_values, "a list of functions of answers")
        for value in self.token_values:
            is_function = callable(value) and not isinstance(value, type)
            allowed = "a function of answers (a class needs its brackets)"
            checks.require(is_function, "token_values", value, allowed)
        if self.experiment_dir:
            self._fill_in()
        if not self.records_files:
            raise ValueError("no records: give records_files, or experiment_dir and names")
        checks.require(bool(self.output_dir), "output_dir", self.output_dir, "the path of a folder")
        super().__post_init__()

    def _fill_in(self) -> None:
        """Paths of the experiment, where none were given."""
        if self.records_files:
            raise ValueError("give records_files or experiment_dir, not both")
        folder = pathlib.Path(self.experiment_dir)
        files = [str(folder / "records" / self.split / f"{name}.parquet") for name in self.names]
        object.__setattr__(self, "records_files", files)
        object.__setattr__(self, "output_dir", self.output_dir or str(folder / "report"))


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Compares cascades by their records, pooled over the mixture and per task.

    Pooled quality is the mean of per-example quality. A task with a corpus metric (its records hold
    statistics) is shown by that metric, exact at every threshold.

    Returns:
      All figures; `report.write.write` writes them as files, `terminal.format_table` as text.

    Raises:
      FileNotFoundError: a file is not there.
      RecordsError: a file can not be used, two can not be compared, two have one name, or the cost
        needs a column that is not there.
      ValueError: a score needs what the records lack, a group's pattern matches no task, a budget
        file or certificate can not be used, or a certificate is of other models, data or scores.
    """
    tables = load(config.records_files)
    budget = budget_file.load(config.budget) if config.budget else None
    cascades, by_score, spent = panels.score_all(tables, config)
    points = {}
    if config.policy:
        points = policy_points.points(config.policy, tables, cascades, config.score, config.cost)
    live = {name: live_cascades.from_records(table) for name, table in tables.items()}
    return dataclasses.replace(
        panels.evaluate_tables(tables, cascades, by_score, spent, config),
        live={name: cascade for name, cascade in live.items() if cascade},
        budget=budget,
        points=points,
        token_values=config.token_values,
    )


def load(records_files: RecordsFiles) -> dict[str, records.Records]:
    """Reads records, names them, checks that they compare, and puts their rows in one order.

    Raises:
      FileNotFoundError, RecordsError: see `evaluate`.
    """
    tables: dict[str, records.Records] = {}
    for name, path in _named_files(records_files):
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
        name, _, path = entry.partition("=")
        is_named = path and name and "/" not in name and not pathlib.Path(entry).exists()
        named.append((name, path) if is_named else (None, entry))
    return named
