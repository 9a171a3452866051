"""Checks that records tables can be compared, and brings their rows into one order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cascade_jax.records import schema
from cascade_jax.records.table import Records, RecordsError


def check_comparable(records: Sequence[Records]) -> None:
    """Refuses records that can not be compared.

    All must have the schema version, mixture, split and examples (with inputs, target and metric)
    of the first. The larger models' quality and cost must be the same too: they are the other end
    of every curve, so with two teachers a difference between curves would no longer be the
    students'. How answers were made must be the same where both say it, and a task's corpus metric
    with the teacher's statistics where both have them. The order of rows does not matter.

    Raises:
      RecordsError: naming both records, what differs, how often, and the first example.
    """
    first = records[0]
    for other in records[1:]:
        pair = f"{_label(other)} can not be compared with {_label(first)}"
        for key in ("schema_version", schema.MODELS, "mixture", "split"):
            ours, theirs = first.metadata.get(key), other.metadata.get(key)
            if ours != theirs:
                raise RecordsError(f"{pair}: {key} is {theirs!r}, not {ours!r}")
        rows = _matching_rows(first, other, pair)
        larger = first.models[1:]
        shared = [f"{model}_{kind}" for model in larger for kind in ("quality", "flops_per_token")]
        for column in ("inputs", "target", "metric", *shared):
            ours, theirs = getattr(first, column), getattr(other, column)[rows]
            differing = np.flatnonzero(ours != theirs)
            if len(differing):
                row = differing[0]
                raise RecordsError(
                    f"{pair}: {column} differs on {len(differing)} of {len(first)} examples, first "
                    f"on {first.example_id[row]!r} ({_short(theirs[row])}, not {_short(ours[row])})"
                    + _TEACHER_HINT
                    * (column in shared)
                )
        in_order = other.take(rows)
        for task in dict.fromkeys(first.task):
            _check_same_answers(first, in_order, str(task), pair)


_TEACHER_HINT = "; collect all of them with one teacher checkpoint"


def _check_same_answers(first: Records, other: Records, task: str, pair: str) -> None:
    """Refuses answers to one task that were made in two ways, or measured by two metrics."""
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
