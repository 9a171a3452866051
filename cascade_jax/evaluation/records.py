"""The records table: what both models answered, one Parquet row per example.

This is an exchange format: whoever has answers and log-probs from another system writes this table
and can use everything after it. Every column is required and holds no nulls; others are ignored.

| column | type | what |
|---|---|---|
| mixture, task, split | string | where the example comes from |
| example_id | string | ``task/split/index``, unique in the table |
| inputs, target | string | the text given and the text wanted, before tokenisation |
| metric | string | name of the per-example quality, e.g. ``exact_match`` |
| student_answer, teacher_answer | string | the answers as text; may be empty |
| student_tokens, teacher_tokens | list<int32> | their tokens, EOS included |
| student_log_probs, teacher_log_probs | list<float32> | nats, of the chosen token, EOS included |
| student_entropies, teacher_entropies | list<float32> | nats, of the whole distribution there |
| student_quality, teacher_quality | double | in [0, 1], higher is better |
| student_flops_per_token, teacher_flops_per_token | double | 2 x parameters |

The three lists of one model have one length per row. A teacher whose tokens are not known has empty
lists. The Parquet file metadata holds, under the key ``cascade_jax``, a JSON object: schema_version
(int), name (the student's label in tables and plots), mixture, split, and by custom
student_parameters, teacher_parameters, student_checkpoint, teacher_checkpoint; other keys are kept.
"""

import dataclasses
import difflib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from cascade_jax import files
from cascade_jax.deferral.scores import AnswerTokens

SCHEMA_VERSION = 1
METADATA_KEY = "cascade_jax"
REQUIRED_METADATA = ("name", "mixture", "split")

_TEXTS = ("mixture", "task", "split", "example_id", "inputs", "target", "metric")
_TEXTS += ("student_answer", "teacher_answer")
_TOKENS = ("student_tokens", "teacher_tokens")
_PER_TOKEN = ("student_log_probs", "student_entropies", "teacher_log_probs", "teacher_entropies")
_NUMBERS = ("student_quality", "teacher_quality")
_NUMBERS += ("student_flops_per_token", "teacher_flops_per_token")
SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, pa.list_(pa.int32())) for name in _TOKENS]
    + [(name, pa.list_(pa.float32())) for name in _PER_TOKEN]
    + [(name, pa.float64()) for name in _NUMBERS]
)
# Log-softmax rounding can leave a log-prob a little above 0; a probability is far above.
_LARGEST_LOG_PROB = 1e-3


class RecordsError(ValueError):
    """A records file, or a set of them, that can not be used; the message says which and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """A records table in memory: the columns of the module's table, lists laid end to end.

    Tokens of the student's answer to example i are those from ``student_offsets[i]`` up to, not
    including, ``student_offsets[i + 1]``; likewise log-probs and entropies, and the teacher's.
    """

    mixture: np.ndarray
    task: np.ndarray
    split: np.ndarray
    example_id: np.ndarray
    inputs: np.ndarray
    target: np.ndarray
    metric: np.ndarray
    student_answer: np.ndarray
    teacher_answer: np.ndarray
    student_offsets: Int[np.ndarray, " n_plus_1"]
    student_tokens: Int[np.ndarray, " s_tokens"]
    student_log_probs: Float[np.ndarray, " s_tokens"]
    student_entropies: Float[np.ndarray, " s_tokens"]
    teacher_offsets: Int[np.ndarray, " n_plus_1"]
    teacher_tokens: Int[np.ndarray, " t_tokens"]
    teacher_log_probs: Float[np.ndarray, " t_tokens"]
    teacher_entropies: Float[np.ndarray, " t_tokens"]
    student_quality: Float[np.ndarray, " n"]
    teacher_quality: Float[np.ndarray, " n"]
    student_flops_per_token: Float[np.ndarray, " n"]
    teacher_flops_per_token: Float[np.ndarray, " n"]
    metadata: Mapping[str, Any]
    source: str = ""

    def __len__(self) -> int:
        return len(self.example_id)

    @property
    def name(self) -> str:
        """The student's label in tables and plots."""
        return self.metadata["name"]

    @property
    def student(self) -> AnswerTokens:
        """The student's answers, as deferral scores take them."""
        return AnswerTokens(
            self.student_log_probs, self.student_entropies, self.student_offsets, self.example_id
        )

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Records":
        """The given rows, in the given order."""
        rows = np.asarray(rows)
        changes: dict[str, np.ndarray] = {n: getattr(self, n)[rows] for n in _TEXTS + _NUMBERS}
        for model in ("student", "teacher"):
            offsets = getattr(self, f"{model}_offsets")
            lengths = np.diff(offsets)[rows]
            taken = np.concatenate([[0], np.cumsum(lengths)])
            positions = np.arange(taken[-1]) + np.repeat(offsets[:-1][rows] - taken[:-1], lengths)
            changes[f"{model}_offsets"] = taken
            for column in _list_columns(model):
                changes[column] = getattr(self, column)[positions]
        return dataclasses.replace(self, **changes)


def write(
    path: str | os.PathLike,
    rows: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    metadata: Mapping[str, Any],
) -> None:
    """Writes a records file, whole or not at all.

    Args:
      path: the file; its folder is made. An older file stays until the new one is complete.
      rows: columns by name (sequences, NumPy or Arrow arrays), or one mapping per example.
      metadata: JSON values; name, mixture and split are required, schema_version is added.

    Raises:
      RecordsError: what `read` would refuse is refused here already.
    """
    path = pathlib.Path(path)
    metadata = {**metadata, "schema_version": metadata.get("schema_version", SCHEMA_VERSION)}
    _check_metadata(metadata, str(path))
    table = _to_table(rows, str(path))
    _from_table(table, metadata, str(path))
    try:
        text = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordsError(f"{path}: the metadata must be JSON values: {error}") from None
    with files.replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), temporary)


def read(path: str | os.PathLike) -> Records:
    """Reads and checks a records file.

    Raises:
      FileNotFoundError: no such file.
      RecordsError: not a records file, another schema version, a missing column, a null, a log-prob
        that is not finite or above 0, a quality outside [0, 1], an example_id that comes twice.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such records file")
    try:
        file = pq.ParquetFile(path)
        text = (file.schema_arrow.metadata or {}).get(METADATA_KEY.encode())
    except pa.ArrowException as error:
        raise RecordsError(f"{path} is not a records file: not Parquet ({error})") from None
    if text is None:
        raise RecordsError(
            f"{path} is not a records file: its Parquet metadata lack the key {METADATA_KEY!r}"
        )
    metadata = json.loads(text)
    _check_metadata(metadata, str(path))
    _check_columns(file.schema_arrow.names, str(path))
    return _from_table(file.read(columns=SCHEMA.names), metadata, str(path))


def check_comparable(records: Sequence[Records]) -> None:
    """Refuses records that can not be laid side by side: a curve would then compare unlike things.

    All must have the schema version, mixture, split and examples (with inputs, target and metric)
    of the first. The teacher's quality and cost must be the same too: it is the other end of every
    curve, so with two teachers a difference between curves would no longer be the students'. The
    order of rows does not matter (see `align`).

    Raises:
      RecordsError: naming both records, what differs, how often, and the first example.
    """
    first = records[0]
    for other in records[1:]:
        pair = f"{_label(other)} can not be compared with {_label(first)}"
        for key in ("schema_version", "mixture", "split"):
            ours, theirs = first.metadata.get(key), other.metadata.get(key)
            if ours != theirs:
                raise RecordsError(f"{pair}: {key} is {theirs!r}, not {ours!r}")
        rows = _matching_rows(first, other, pair)
        for column in ("inputs", "target", "metric", "teacher_quality", "teacher_flops_per_token"):
            ours, theirs = getattr(first, column), getattr(other, column)[rows]
            differing = np.flatnonzero(ours != theirs)
            if len(differing):
                row = differing[0]
                raise RecordsError(
                    f"{pair}: {column} differs on {len(differing)} of {len(first)} examples, first "
                    f"on {first.example_id[row]!r} ({_short(theirs[row])}, not {_short(ours[row])})"
                    + _TEACHER_HINT
                    * column.startswith("teacher")
                )


_TEACHER_HINT = "; collect all of them with one teacher checkpoint"


def align(records: Sequence[Records]) -> list[Records]:
    """Comparable records, with the rows of each in the order of the first.

    Raises:
      RecordsError: if they are not comparable.
    """
    check_comparable(records)
    aligned = [records[0]]
    for other in records[1:]:
        rows = _matching_rows(records[0], other, "")
        in_order = np.array_equal(rows, np.arange(len(rows)))
        aligned.append(other if in_order else other.take(rows))
    return aligned


def _matching_rows(first: Records, other: Records, pair: str) -> Int[np.ndarray, " n"]:
    """For every row of `first`, the row of `other` with the same example_id."""
    if np.array_equal(first.example_id, other.example_id):
        return np.arange(len(first))
    row_of = {example_id: row for row, example_id in enumerate(other.example_id)}
    missing = [example_id for example_id in first.example_id if example_id not in row_of]
    known = set(first.example_id)
    extra = [example_id for example_id in other.example_id if example_id not in known]
    if missing or extra:
        raise RecordsError(
            f"{pair}: different examples, {len(missing)} of {len(first)} missing and {len(extra)} "
            f"more, first {(missing + extra)[0]!r}"
        )
    return np.array([row_of[example_id] for example_id in first.example_id], dtype=np.int64)


def _label(records: Records) -> str:
    return f"{records.name!r} ({records.source})" if records.source else repr(records.name)


def _short(value: Any) -> str:
    text = repr(value if isinstance(value, str) else float(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _list_columns(model: str) -> tuple[str, ...]:
    return f"{model}_tokens", f"{model}_log_probs", f"{model}_entropies"


def _check_metadata(metadata: Mapping[str, Any], source: str) -> None:
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


def _check_columns(names: Iterable[str], source: str) -> None:
    names = list(names)
    missing = [name for name in SCHEMA.names if name not in names]
    if missing:
        near = difflib.get_close_matches(missing[0], set(names) - set(SCHEMA.names), n=1)
        hint = f" (nearest there: {near[0]!r})" if near else ""
        raise RecordsError(f"{source}: missing column {', '.join(map(repr, missing))}{hint}")


def _to_table(rows: Mapping[str, Any] | Iterable[Mapping[str, Any]], source: str) -> pa.Table:
    """An Arrow table of the schema's columns and types."""
    if not isinstance(rows, Mapping):
        rows = list(rows)
        _check_columns(rows[0] if rows else SCHEMA.names, source)
        for number, row in enumerate(rows):
            if lacking := [name for name in SCHEMA.names if name not in row]:
                raise RecordsError(f"{source}: row {number} lacks {', '.join(map(repr, lacking))}")
        rows = {name: [row[name] for row in rows] for name in SCHEMA.names}
    _check_columns(rows, source)
    arrays = []
    for field in SCHEMA:
        try:
            arrays.append(_to_array(rows[field.name], field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RecordsError(
                f"{source}: column {field.name!r} must hold {field.type}: {error}"
            ) from None
    lengths = {name: len(array) for name, array in zip(SCHEMA.names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise RecordsError(f"{source}: columns of different lengths: {lengths}")
    return pa.table(arrays, schema=SCHEMA)


def _to_array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    # A 2-D NumPy array is a sequence of its rows; Arrow takes 1-D ones only.
    return pa.array(list(values) if getattr(values, "ndim", 1) > 1 else values, type=kind)


def _from_table(table: pa.Table, metadata: Mapping[str, Any], source: str) -> Records:
    """Arrow to NumPy, with every check on the values."""
    columns: dict[str, Any] = {}
    for field in SCHEMA:
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
            lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            flat = pc.list_flatten(column)
            if flat.null_count:
                raise RecordsError(f"{source}: lists of column {field.name!r} hold nulls")
            key = f"{field.name.split('_')[0]}_offsets"
            if not np.array_equal(columns.setdefault(key, offsets), offsets):
                row = int(np.flatnonzero(np.diff(columns[key]) != lengths)[0])
                raise RecordsError(
                    f"{source}: {field.name!r} of row {row} has {lengths[row]} values, "
                    f"the tokens of that answer are {np.diff(columns[key])[row]}"
                )
            columns[field.name] = flat.to_numpy()
        else:
            columns[field.name] = column.to_numpy()
    _check_values(columns, source)
    return Records(**columns, metadata=dict(metadata), source=source)


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
        if column in _PER_TOKEN:
            row = int(np.searchsorted(columns[f"{column.split('_')[0]}_offsets"], at, "right")) - 1
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
