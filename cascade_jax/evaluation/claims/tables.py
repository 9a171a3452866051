"""The tables of a study's runs, by pair of models: read, checked, and brought into one order."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Real

from cascade_jax import records
from cascade_jax.deferral import scores
from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.deferral.guarantees.budget_file import Budget
from cascade_jax.deferral.scores import name_of
from cascade_jax.evaluation import panels
from cascade_jax.names import check_choice
from cascade_jax.records import RecordsError, run_table
from cascade_jax.records.run_table import Run
from cascade_jax.records.table import Records

_BUDGETS = (".token.budget.json", ".answer.budget.json")
_SCORES = {name_of(score): score for score in scores.ALL}


@dataclasses.dataclass(frozen=True, eq=False)
class RunTable:
    """One run's table, its rows in the order of their ids, and its budgets if it has any."""

    run: Run
    table: Records
    budgets: tuple[Budget, ...] = ()

    @property
    def costs(self) -> tuple[float, float]:
        """FLOPs per token of both models."""
        table = self.table
        return float(table.student_flops_per_token[0]), float(table.teacher_flops_per_token[0])

    def has_score(self, name: str) -> bool:
        """Whether the table gives a score, by its columns or because it holds it."""
        if name in _SCORES:
            return not _SCORES[name].lack(self.table.student)
        return run_table.stored_score(self.table, name) is not None

    def score(self, name: str) -> Real[np.ndarray, " n"]:
        """A deferral score by its name.

        Raises:
          ValueError: the table does not have it, or an answer has none.
        """
        if name in _SCORES:
            try:
                return np.asarray(_SCORES[name](self.table.student))
            except ValueError as error:
                raise ValueError(f"{self.table.source}: {error}") from None
        stored = run_table.stored_score(self.table, name)
        if stored is None:
            check_choice("a score", name, _SCORES)
        return stored


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """All runs of one pair of models, tested on the same examples.

    Attributes:
      pair: its name.
      tables: by run.
    """

    pair: str
    tables: dict[Run, RunTable]

    @property
    def first(self) -> Records:
        """A table, for what all have in common."""
        return next(iter(self.tables.values())).table

    @property
    def sizes(self) -> tuple[str, ...]:
        """Sizes of students, in order of their names."""
        return tuple(sorted({run.size for run in self.tables}))

    def table(self, size: str, loss: str, seed: int) -> RunTable:
        """That of one run."""
        return self.tables[Run(self.pair, size, loss, seed)]

    def losses(self, size: str) -> dict[str, tuple[int, ...]]:
        """Seeds of each loss of a size."""
        seeds: dict[str, list[int]] = {}
        for run in sorted(self.tables):
            if run.size == size:
                seeds.setdefault(run.loss, []).append(run.seed)
        return {loss: tuple(several) for loss, several in seeds.items()}

    def rows_by_task(self) -> dict[str, Int[np.ndarray, " rows"]]:
        """Rows of each task."""
        return panels.rows_by_task(self.first.task)


def load(paths: Sequence[str | os.PathLike]) -> dict[str, Study]:
    """Reads the tables of runs, and checks that those of a pair are about the same examples.

    Args:
      paths: tables, and folders in and below which all ``*.parquet`` are tables. Beside a table
        ``a.parquet`` may lie ``a.token.budget.json`` and ``a.answer.budget.json``.

    Returns:
      By pair, in order of the names.

    Raises:
      FileNotFoundError: no such file or folder, or a folder without a table.
      RecordsError: a table that does not say which run it is of, two of one run, examples or
        answers of the large model that differ between runs of a pair or a seed.
    """
    read: dict[Run, RunTable] = {}
    for path in _files(paths):
        table = records.read(path)
        run = run_table.run_of(table)
        if run is None:
            raise RecordsError(
                f"{path}: the metadata do not say which run of a study it is; make a table that "
                "does with `cascade-jax records without-text`"
            )
        if run in read:
            raise RecordsError(f"{path} and {read[run].table.source} are both of {run}")
        read[run] = RunTable(run, table, _budgets(path))
    pairs: dict[str, list[RunTable]] = {}
    for run in sorted(read):
        pairs.setdefault(run.pair, []).append(read[run])
    return {pair: Study(pair, _aligned(tables)) for pair, tables in pairs.items()}


def _files(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
    files: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            below = sorted(path.rglob("*.parquet"))
            if not below:
                raise FileNotFoundError(f"{path}: no table (*.parquet) in this folder or below it")
            files += below
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _budgets(path: pathlib.Path) -> tuple[Budget, ...]:
    files = [path.with_name(path.stem + end) for end in _BUDGETS]
    return tuple(budget_file.load(file) for file in files if file.is_file())


def _aligned(tables: Sequence[RunTable]) -> dict[Run, RunTable]:
    """Tables of one pair, rows by id: the same examples in all, one large model for each seed."""
    first = tables[0].table
    by_seed: dict[int, list[Records]] = {}
    for entry in tables:
        table = entry.table
        prints = [t.metadata.get(run_table.EXAMPLES) for t in (first, table)]
        if prints[0] != prints[1] and set(first.example_id) == set(table.example_id):
            raise RecordsError(
                f"{table.source} has the ids of {first.source}, but other inputs or targets: their "
                f"fingerprints under {run_table.EXAMPLES!r} are {prints[1]} and {prints[0]}"
            )
        order = np.argsort(table.example_id.astype(str), kind="stable")
        named = dataclasses.replace(
            table.take(order), metadata={**table.metadata, "name": str(entry.run)}
        )
        by_seed.setdefault(entry.run.seed, []).append(named)
    result, reference = {}, None
    entries = {entry.table.source: entry for entry in tables}
    for same_seed in by_seed.values():
        reference = reference or same_seed[0]
        if not np.array_equal(reference.example_id, same_seed[0].example_id):
            records.align([reference, same_seed[0]])  # says which ids differ
        for table in records.align(same_seed):
            entry = entries[table.source]
            result[entry.run] = dataclasses.replace(entry, table=table)
    return dict(sorted(result.items()))
