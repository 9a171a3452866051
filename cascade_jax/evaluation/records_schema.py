"""Columns and metadata of the records table, and every check on them; see records.py."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cascade_jax.evaluation import corpus

SCHEMA_VERSION = 1
METADATA_KEY = "cascade_jax"
REQUIRED_METADATA = ("name", "mixture", "split")
CORPUS_METRICS, FIGURES, DECODING = "corpus_metrics", "figures", "decoding"  # optional, by task
GREEDY, RANK = "greedy", "rank_classification"  # what `collect` writes under the last

TEXTS = ("mixture", "task", "split", "example_id", "inputs", "target", "metric")
TEXTS += ("student_answer", "teacher_answer")
_TOKENS = ("student_tokens", "teacher_tokens")
_PER_TOKEN = ("student_log_probs", "student_entropies", "teacher_log_probs", "teacher_entropies")
NUMBERS = ("student_quality", "teacher_quality")
NUMBERS += ("student_flops_per_token", "teacher_flops_per_token")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in TEXTS]
    + [(name, pa.list_(pa.int32())) for name in _TOKENS]
    + [(name, pa.list_(pa.float32())) for name in _PER_TOKEN]
    + [(name, pa.float64()) for name in NUMBERS]
)
STATISTICS = ("student_statistics", "teacher_statistics")
OPTIONAL_SCHEMA = pa.schema([(name, pa.list_(pa.int64())) for name in STATISTICS])
# List columns that have one length per row, by the name of their offsets.
LISTS = {
    f"{model}_offsets": tuple(f"{model}_{kind}" for kind in ("tokens", "log_probs", "entropies"))
    for model in ("student", "teacher")
} | {"statistics_offsets": STATISTICS}
_OFFSETS_OF = {column: offsets for offsets, columns in LISTS.items() for column in columns}
# Log-softmax rounding can leave a log-prob a little above 0; a probability is far above.
_LARGEST_LOG_PROB = 1e-3


class RecordsError(ValueError):
    """A records file, or a set of them, that can not be used; the message says which and why."""


def check_metadata(metadata: Mapping[str, Any], source: str) -> None:
    """Refuses metadata of another version, without a required text, or with odd optional keys."""
    version = metadata.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RecordsError(
            f"{source}: records schema version {version!r}, this program reads version "
            f"{SCHEMA_VERSION}; collect the records again"
        )
    for key in REQUIRED_METADATA:
        if not isinstance(metadata.get(key), str) or not metadata[key]:
            raise RecordsError(
                f"{source}: metadata must hold a text under {key!r}, got {metadata.get(key)!r}"
            )
    corpus_metrics(metadata, source)
    decoding = metadata.get(DECODING, "")
    if not isinstance(decoding, str | Mapping):
        raise RecordsError(
            f"{source}: metadata under {DECODING!r} must be a text, or texts by task, got "
            f"{decoding!r}"
        )
    _check_figures(metadata.get(FIGURES, {}), source)


def corpus_metrics(metadata: Mapping[str, Any], source: str) -> dict[str, corpus.CorpusMetric]:
    """By task, the metric that its statistics are of.

    Raises:
      RecordsError: one that can not be built; the message says what is known.
    """
    described = metadata.get(CORPUS_METRICS, {})
    if not isinstance(described, Mapping):
        raise RecordsError(f"{source}: {CORPUS_METRICS} must be metrics by task, got {described!r}")
    built = {}
    for task, description in described.items():
        try:
            built[task] = corpus.build(description)
        except ValueError as error:
            raise RecordsError(f"{source}: {CORPUS_METRICS} of task {task!r}: {error}") from None
    return built


def _check_figures(figures: Any, source: str) -> None:
    """By task and metric, a number (or None: undefined) for each model."""

    def is_pair(pair: Any) -> bool:
        return (
            isinstance(pair, Mapping)
            and set(pair) == {"student", "teacher"}
            and all(value is None or type(value) in (int, float) for value in pair.values())
        )

    tasks = figures.items() if isinstance(figures, Mapping) else [("", figures)]
    for task, by_metric in tasks:
        pairs = by_metric.values() if isinstance(by_metric, Mapping) else [None]
        if not all(map(is_pair, pairs)):
            raise RecordsError(
                f"{source}: {FIGURES} of task {task!r} must be numbers of both models by metric, "
                f"{{'bleu': {{'student': 0.31, 'teacher': 0.4}}}}, got {by_metric!r}"
            )


def check_columns(names: Iterable[str], source: str) -> None:
    """Refuses a table that lacks a column, or has the statistics of one model only."""
    names = list(names)
    missing = [name for name in SCHEMA.names if name not in names]
    if missing:
        near = difflib.get_close_matches(missing[0], set(names) - set(SCHEMA.names), n=1)
        hint = f" (nearest there: {near[0]!r})" if near else ""
        raise RecordsError(f"{source}: missing column {', '.join(map(repr, missing))}{hint}")
    there = [name for name in STATISTICS if name in names]
    if len(there) == 1:
        raise RecordsError(f"{source}: column {there[0]!r} needs its pair of {STATISTICS}")


def present_schema(names: Iterable[str]) -> pa.Schema:
    """The required columns, and the optional ones that are among the names."""
    names = set(names)
    return pa.schema([*SCHEMA, *(field for field in OPTIONAL_SCHEMA if field.name in names)])


def to_table(rows: Mapping[str, Any] | Iterable[Mapping[str, Any]], source: str) -> pa.Table:
    """An Arrow table of the schema's columns and types."""
    if not isinstance(rows, Mapping):
        rows = list(rows)
        check_columns(rows[0] if rows else SCHEMA.names, source)
        names = present_schema(rows[0] if rows else ()).names
        for number, row in enumerate(rows):
            if lacking := [name for name in names if name not in row]:
                raise RecordsError(f"{source}: row {number} lacks {', '.join(map(repr, lacking))}")
        rows = {name: [row[name] for row in rows] for name in names}
    check_columns(rows, source)
    schema, arrays = present_schema(rows), []
    for field in schema:
        try:
            arrays.append(_to_array(rows[field.name], field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RecordsError(
                f"{source}: column {field.name!r} must hold {field.type}: {error}"
            ) from None
    lengths = {name: len(array) for name, array in zip(schema.names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise RecordsError(f"{source}: columns of different lengths: {lengths}")
    return pa.table(arrays, schema=schema)


def _to_array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    # A 2-D NumPy array is a sequence of its rows; Arrow takes 1-D ones only.
    values = list(values) if getattr(values, "ndim", 1) > 1 else values
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
        found = pa.array(values)
        if pa.types.is_list(found.type) and pa.types.is_floating(found.type.value_type):
            return found.cast(kind)  # which refuses fractions; made so at once they are cut off
    return pa.array(values, type=kind)


def from_table(table: pa.Table, metadata: Mapping[str, Any], source: str) -> dict[str, np.ndarray]:
    """Arrow to NumPy: the fields of `Records`, with every check on the values."""
    columns: dict[str, np.ndarray] = {}
    for field in present_schema(table.column_names):
        column = table.column(field.name)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowException:
                raise RecordsError(
                    f"{source}: column {field.name!r} is {column.type}, must be {field.type}"
                ) from None
        if column.null_count:
            raise RecordsError(f"{source}: column {field.name!r} holds {column.null_count} nulls")
        if pa.types.is_list(field.type):
            _add_lists(columns, field.name, column, source)
        else:
            columns[field.name] = column.to_numpy()
    if "statistics_offsets" not in columns:
        columns["statistics_offsets"] = np.zeros(len(table) + 1, np.int64)
        columns |= {name: np.zeros(0, np.int64) for name in STATISTICS}
    _check_values(columns, source)
    _check_statistics(columns, corpus_metrics(metadata, source), source)
    return columns


def _add_lists(
    columns: dict[str, np.ndarray], name: str, column: pa.ChunkedArray, source: str
) -> None:
    """Adds a list column laid end to end, and its offsets, which its group must share."""
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = pc.list_flatten(column)
    if flat.null_count:
        raise RecordsError(f"{source}: lists of column {name!r} hold nulls")
    key = _OFFSETS_OF[name]
    if not np.array_equal(columns.setdefault(key, offsets), offsets):
        row = int(np.flatnonzero(np.diff(columns[key]) != lengths)[0])
        wanted = np.diff(columns[key])[row]
        what = f"the tokens of that answer are {wanted}"
        if name in STATISTICS:
            what = f"the student's are {wanted}"
        raise RecordsError(f"{source}: {name!r} of row {row} has {lengths[row]} values, {what}")
    columns[name] = flat.to_numpy()


def _check_statistics(
    columns: Mapping[str, np.ndarray], metrics: Mapping[str, corpus.CorpusMetric], source: str
) -> None:
    """Rows of a task with a corpus metric have as many statistics as it says, all others none."""
    lengths = np.diff(columns["statistics_offsets"])
    sizes = {task: metric.num_statistics for task, metric in metrics.items()}
    wanted = np.array([sizes.get(task, 0) for task in columns["task"]], np.int64)
    wrong = np.flatnonzero(lengths != wanted)
    if len(wrong):
        row = wrong[0]
        task = columns["task"][row]
        has = f"{CORPUS_METRICS} has {metrics[task]}" if task in metrics else "has no corpus metric"
        raise RecordsError(
            f"{source}: example {columns['example_id'][row]!r} (row {row}) has {lengths[row]} "
            f"statistics, must have {wanted[row]}: its task {task!r} {has} ({len(wrong)} such rows)"
        )


def _check_values(columns: Mapping[str, np.ndarray], source: str) -> None:
    ids = columns["example_id"]
    seen: set[str] = set()
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if i in seen or seen.add(i))
        raise RecordsError(f"{source}: example_id {twice!r} comes twice, every id must be unique")

    def refuse(column: str, is_bad: np.ndarray, allowed: str) -> None:
        if not np.any(is_bad):
            return
        at = row = int(np.flatnonzero(is_bad)[0])
        if column in _OFFSETS_OF:
            row = int(np.searchsorted(columns[_OFFSETS_OF[column]], at, "right")) - 1
        raise RecordsError(
            f"{source}: {column} of example {ids[row]!r} (row {row}) is {columns[column][at]}, "
            f"must be {allowed} ({int(np.sum(is_bad))} such)"
        )

    for name in _PER_TOKEN:
        values = columns[name]
        if name.endswith("log_probs"):
            refuse(
                name, ~(np.isfinite(values) & (values <= _LARGEST_LOG_PROB)), "finite and at most 0"
            )
        else:
            refuse(name, ~np.isfinite(values), "finite")
    for name in ("student_quality", "teacher_quality"):
        refuse(name, ~((columns[name] >= 0) & (columns[name] <= 1)), "in [0, 1]")
    for name in ("student_flops_per_token", "teacher_flops_per_token"):
        refuse(name, ~(np.isfinite(columns[name]) & (columns[name] > 0)), "finite and positive")
    for name in STATISTICS:
        refuse(name, columns[name] < 0, "0 or more")
