"""Checks that records tables can be compared, and brings their rows into one order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cascade_jax.records import schema
from cascade_jax.records.table import Records, RecordsError
from cascade_jax.short_text import cut_short


def align(records: Sequence[Records]) -> list[Records]:
    """Comparable records, with the rows of each in the order of the first.

    All must have the schema version, mixture, split and examples (with inputs, target and metric)
    of the first. The larger models' quality and cost must be the same too: they are the other end
    of every curve, so with two teachers a difference between curves would no longer be the
    students'. How answers were made must be the same where both say it, and a task's corpus metric
    with the teacher's statistics where both have them.

    Raises:
      RecordsError: naming both records, what differs, how often, and the first example.
    """
    first, *others = records
    return [first, *(_aligned(other, first) for other in others)]


def _aligned(other: Records, first: Records) -> Records:
    """The rows of `other` in the order of `first`, checked."""
    pair = f"{_label(other)} can not be compared with {_label(first)}"
    for key in ("schema_version", schema.MODELS, "mixture", "split"):
        ours, theirs = first.metadata.get(key), other.metadata.get(key)
        if ours != theirs:
            raise RecordsError(f"{pair}: {key} is {theirs!r}, not {ours!r}")
    other = _in_order(other, first, pair)
    kinds = ("quality", "flops_per_token")
    shared = [f"{model}_{kind}" for model in first.models[1:] for kind in kinds]
    for column in ("inputs", "target", "metric", *shared):
        ours, theirs = getattr(first, column), getattr(other, column)
        differing = np.flatnonzero(ours != theirs)
        if len(differing):
            row = differing[0]
            raise RecordsError(
                f"{pair}: {column} differs on {len(differing)} of {len(first)} examples, first "
                f"on {first.example_id[row]!r} ({_short(theirs[row])}, not {_short(ours[row])})"
                + _TEACHER_HINT
                * (column in shared)
            )
    for task in dict.fromkeys(first.task):
        _check_same_answers(first, other, str(task), pair)
    return other


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


def _in_order(other: Records, first: Records, pair: str) -> Records:
    """`other` with its rows in the order of the ids of `first`."""
    if np.array_equal(first.example_id, other.example_id):
        return other
    row_of = {example_id: row for row, example_id in enumerate(other.example_id)}
    known = set(first.example_id)
    ids = {
        "missing": [example_id for example_id in first.example_id if example_id not in row_of],
        "more": [example_id for example_id in other.example_id if example_id not in known],
    }
    if any(ids.values()):
        listed = [
            f"{what} {', '.join(map(repr, some[:_LISTED]))}" + ", ..." * (len(some) > _LISTED)
            for what, some in ids.items()
            if some
        ]
        raise RecordsError(
            f"{pair}: different examples, {len(ids['missing'])} of {len(first)} missing and "
            f"{len(ids['more'])} more: {'; '.join(listed)}"
        )
    return other.take(np.array([row_of[example_id] for example_id in first.example_id]))


_LISTED = 5  # ids in a message


def _label(records: Records) -> str:
    return f"{records.name!r} ({records.source})" if records.source else repr(records.name)


def _short(value: Any) -> str:
    return cut_short(repr(value if isinstance(value, str) else float(value)), 60)
