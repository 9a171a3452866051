"""The records table: what both models answered, one Parquet row per example.

This is an exchange format: whoever has answers and log-probs from another system writes this table
and can use everything after it (docs/records.md). Columns hold no nulls; others are ignored.

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

These may be left out, whole columns at a time:

| column | type | what |
|---|---|---|
| student_top_log_probs | list<float32> | the K largest at each token, descending, end to end |
| student_top_ids | list<int32> | their ids; only with the log-probs |
| student_pieces, teacher_pieces | list<string> | text of each token |
| student_embedding | list<float32> | mean-pooled hidden state of the input; one length |
| student_input_tokens, teacher_input_tokens | int32 | tokens read |
| student_flops, teacher_flops | double | of the whole answer: reading the input and decoding |
| student_seconds, teacher_seconds | double | wall time of decoding, per row |
| student_statistics, teacher_statistics | list<int64> | counts of a corpus metric |
| cascade_* | | answers of the token-level cascade that ran live, see docs/records.md |

The three lists of one model have one length per row. Tokens or entropies that are not known are
empty lists in all rows; so are all three of a teacher of which only the answer is known. The
Parquet file metadata holds, under the key ``cascade_jax``, a JSON object: schema_version (int),
name (the student's label in tables and plots), mixture, split, top_k (K, if there is such a
column), policy (the certificate that the live cascade keeps to), and by custom student_parameters,
teacher_parameters, student_checkpoint, teacher_checkpoint; other keys are kept.

Three more keys are read where they are there, each an object by task:

| key | what it holds for a task |
|---|---|
| corpus_metrics | the metric that the statistics are of, see `corpus.build` |
| figures | by metric, its value over the whole split: ``{"student": 0.31, "teacher": 0.40}`` |
| decoding | how answers were made, e.g. ``"greedy"`` (docs/collect.md; a text: all tasks) |

A row has statistics (as many as the metric says, see `Bleu.statistics`) exactly if its task is in
corpus_metrics; else its lists are empty. A table without the two columns has no corpus metrics.
Older programs pass over what is optional, so the schema version is what it was.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from cascade_jax import files
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.records import columns as records_columns
from cascade_jax.records import schema
from cascade_jax.records.schema import METADATA_KEY, SCHEMA, SCHEMA_VERSION, RecordsError
from cascade_jax.task_metrics import corpus

__all__ = [
    "METADATA_KEY",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Records",
    "RecordsError",
    "align",
    "check_comparable",
    "read",
    "write",
]


def _later(name: str, doc: str) -> property:
    """A column that is read when it is first used."""
    return property(lambda self: self.later[name], doc=doc)


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """A records table in memory: the columns of the module's table, lists laid end to end.

    Tokens of the student's answer to example i are those from ``student_offsets[i]`` up to, not
    including, ``student_offsets[i + 1]``; likewise log-probs and entropies, and the teacher's.
    Statistics of both models lie from ``statistics_offsets[i]``; `statistics` gives a task's.
    What a table does not have is None. Columns that are properties here are read from the file,
    which stays open, and checked when they are first used.
    """

    mixture: np.ndarray
    task: np.ndarray
    split: np.ndarray
    example_id: np.ndarray
    metric: np.ndarray
    student_offsets: Int[np.ndarray, " n_plus_1"]
    student_log_probs: Float[np.ndarray, " s_tokens"]
    student_quality: Float[np.ndarray, " n"]
    teacher_quality: Float[np.ndarray, " n"]
    student_flops_per_token: Float[np.ndarray, " n"]
    teacher_flops_per_token: Float[np.ndarray, " n"]
    student_input_tokens: Int[np.ndarray, " n"] | None
    teacher_input_tokens: Int[np.ndarray, " n"] | None
    student_flops: Float[np.ndarray, " n"] | None
    teacher_flops: Float[np.ndarray, " n"] | None
    student_seconds: Float[np.ndarray, " n"] | None
    teacher_seconds: Float[np.ndarray, " n"] | None
    statistics_offsets: Int[np.ndarray, " n_plus_1"]
    student_statistics: Int[np.ndarray, " counts"]
    teacher_statistics: Int[np.ndarray, " counts"]
    later: records_columns.Rows
    metadata: Mapping[str, Any]
    source: str = ""

    def __len__(self) -> int:
        return len(self.example_id)

    @property
    def name(self) -> str:
        """The student's label in tables and plots."""
        return self.metadata["name"]

    inputs = _later("inputs", "Text [n].")
    target = _later("target", "Text [n].")
    student_answer = _later("student_answer", "Text [n].")
    teacher_answer = _later("teacher_answer", "Text [n].")
    student_tokens = _later("student_tokens", "int32 [s_tokens]; None if not known.")
    student_entropies = _later("student_entropies", "float32 [s_tokens]; None if not known.")
    student_top_log_probs = _later("student_top_log_probs", "float32 [s_tokens, K], or None.")
    student_top_ids = _later("student_top_ids", "int32 [s_tokens, K], or None.")
    student_embeddings = _later("student_embeddings", "float32 [n, D], or None.")
    teacher_offsets = _later("teacher_offsets", "int64 [n + 1].")
    teacher_tokens = _later("teacher_tokens", "int32 [t_tokens]; None if not known.")
    teacher_log_probs = _later("teacher_log_probs", "float32 [t_tokens].")
    teacher_entropies = _later("teacher_entropies", "float32 [t_tokens]; None if not known.")
    # Of the token-level cascade that ran live; all None if it did not.
    cascade_answer = _later("cascade_answer", "Text [n], or None.")
    cascade_offsets = _later("cascade_offsets", "int64 [n + 1], or None.")
    cascade_tokens = _later("cascade_tokens", "int32 [c_tokens], or None.")
    cascade_is_deferred = _later("cascade_is_deferred", "bool [c_tokens], or None.")
    cascade_uncertainties = _later("cascade_uncertainties", "float32 [c_tokens], or None.")
    cascade_quality = _later("cascade_quality", "float64 [n], or None.")
    cascade_flops = _later("cascade_flops", "float64 [n], or None.")
    cascade_statistics = _later("cascade_statistics", "int64 [counts], or None.")

    def pieces(self, model: str, row: int) -> list[str] | None:
        """Text of each token of an answer; None if the table has none.

        Args:
          model: "student", "teacher" or "cascade".
          row: of the example.
        """
        if model not in _WRITERS:
            raise ValueError(f"model is {model!r}; must be one of {_WRITERS}")
        return self.later.pieces(f"{model}_pieces", row)

    @property
    def student(self) -> AnswerTokens:
        """The student's answers, as deferral scores take them."""
        more = {"top_log_probs": self.student_top_log_probs, "embeddings": self.student_embeddings}
        return AnswerTokens(
            self.student_log_probs,
            self.student_entropies,
            self.student_offsets,
            self.example_id,
            **{name: values for name, values in more.items() if values is not None},
        )

    def decoding(self, task: str) -> str:
        """How the answers of a task were made: "greedy", say; "" if unknown."""
        stated = self.metadata.get(schema.DECODING, "")
        return stated if isinstance(stated, str) else str(stated.get(task, ""))

    def statistics(self, task: str) -> corpus.Statistics | None:
        """Additive statistics of the rows of a task, in their order; None if it has none."""
        described = self.metadata.get(schema.CORPUS_METRICS, {})
        if task not in described:
            return None
        metric, rows = corpus.build(described[task]), np.flatnonzero(self.task == task)
        at = self.statistics_offsets[rows][:, None] + np.arange(metric.num_statistics)
        return corpus.Statistics(metric, self.student_statistics[at], self.teacher_statistics[at])

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Records":
        """The given rows, in the given order."""
        rows = np.asarray(rows)
        changes: dict[str, Any] = {"later": self.later.take(rows)}
        for name in _BY_ROW:
            values = getattr(self, name)
            changes[name] = None if values is None else values[rows]
        for key, columns in _LISTS.items():
            changes[key], places = records_columns.places_of(getattr(self, key), rows)
            changes |= {column: getattr(self, column)[places] for column in columns}
        return dataclasses.replace(self, **changes)


_WRITERS = ("student", "teacher", "cascade")
_LISTS = {
    "student_offsets": ("student_log_probs",),
    "statistics_offsets": schema.STATISTICS,
}
_BY_ROW = ("mixture", "task", "split", "example_id", "metric")
_BY_ROW += schema.NUMBERS + schema.MEASURES


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
    schema.check_metadata(metadata, str(path))
    table = schema.to_table(rows, metadata, str(path))
    records_columns.Columns(table, metadata, str(path)).check()
    try:
        text = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordsError(f"{path}: the metadata must be JSON values: {error}") from None
    with files.replacing(path) as temporary:
        table = table.replace_schema_metadata({METADATA_KEY: text})
        pq.write_table(table, temporary, row_group_size=_ROW_GROUP)


_ROW_GROUP = 1 << 17  # rows; a reader holds one column of one group at a time


def read(path: str | os.PathLike) -> Records:
    """Reads and checks a records file.

    Ids, numbers and the student's log-probs are read at once; every other column when it is first
    used, which raises a RecordsError then if the column is not as it should be.

    Raises:
      FileNotFoundError: no such file.
      RecordsError: not a records file, another schema version, a missing column, a null, a log-prob
        that is not finite or above 0, a quality outside [0, 1], an example_id that comes twice,
        statistics that do not fit the corpus metric of their task.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such records file")
    try:
        # Without these settings whole columns are read before their first row is there.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        text = (file.schema_arrow.metadata or {}).get(METADATA_KEY.encode())
    except pa.ArrowException as error:
        raise RecordsError(f"{path} is not a records file: not Parquet ({error})") from None
    if text is None:
        raise RecordsError(
            f"{path} is not a records file: its Parquet metadata lack the key {METADATA_KEY!r}"
        )
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise RecordsError(f"{path}: the metadata are not JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise RecordsError(f"{path}: the metadata must be a JSON object, got {metadata!r}")
    schema.check_metadata(metadata, str(path))
    schema.check_columns(file.schema_arrow.names, metadata, str(path))
    columns = records_columns.Columns(file, metadata, str(path))
    names = [*_BY_ROW, *_LISTS, *(name for of_list in _LISTS.values() for name in of_list)]
    return Records(
        **{name: columns[name] for name in names},
        later=records_columns.Rows(columns),
        metadata=dict(metadata),
        source=str(path),
    )


def check_comparable(records: Sequence[Records]) -> None:
    """Refuses records that can not be laid side by side: a curve would then compare unlike things.

    All must have the schema version, mixture, split and examples (with inputs, target and metric)
    of the first. The teacher's quality and cost must be the same too: it is the other end of every
    curve, so with two teachers a difference between curves would no longer be the students'. How
    answers were made must be the same where both say it, and a task's corpus metric with the
    teacher's statistics where both have them. The order of rows does not matter (see `align`).

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
        in_order = other.take(rows)
        for task in dict.fromkeys(first.task):
            _check_same_answers(first, in_order, str(task), pair)


_TEACHER_HINT = "; collect all of them with one teacher checkpoint"


def _check_same_answers(first: Records, other: Records, task: str, pair: str) -> None:
    """Refuses answers to one task that were made in two ways, or that two metrics are of."""
    ours, theirs = first.decoding(task), other.decoding(task)
    if ours and theirs and ours != theirs:
        raise RecordsError(f"{pair}: answers to task {task!r} are by {theirs}, not by {ours}")
    ours, theirs = first.statistics(task), other.statistics(task)
    if ours is None or theirs is None:
        return
    if ours.metric != theirs.metric:
        raise RecordsError(
            f"{pair}: the corpus metric of task {task!r} is {theirs.metric}, not {ours.metric}"
        )
    differing = np.any(ours.teacher != theirs.teacher, axis=1)
    if np.any(differing):
        raise RecordsError(
            f"{pair}: teacher_statistics differ on {int(np.sum(differing))} of {len(differing)} "
            f"examples of task {task!r}" + _TEACHER_HINT
        )


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
        ids_of = (missing, "missing"), (extra, "more")
        raise RecordsError(
            f"{pair}: different examples, {len(missing)} of {len(first)} missing and {len(extra)} "
            "more: " + "; ".join(_listed(ids, what) for ids, what in ids_of if ids)
        )
    return np.array([row_of[example_id] for example_id in first.example_id], dtype=np.int64)


def _listed(ids: Sequence[str], what: str) -> str:
    """The first of some ids."""
    shown = ", ".join(map(repr, ids[:_LISTED])) + ", ..." * (len(ids) > _LISTED)
    return f"{what} {shown}"


_LISTED = 5  # ids in a message


def _label(records: Records) -> str:
    return f"{records.name!r} ({records.source})" if records.source else repr(records.name)


def _short(value: Any) -> str:
    text = repr(value if isinstance(value, str) else float(value))
    return text if len(text) <= 60 else text[:57] + "..."
