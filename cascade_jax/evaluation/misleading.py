"""Misleading rate: right answers that turn wrong once the input has a misleading sentence."""

import dataclasses
import math
import re

import numpy as np
from jaxtyping import Int, Real

from cascade_jax.deferral.scores.base import DeferralScore
from cascade_jax.evaluation import confusion
from cascade_jax.records.table import Records, RecordsError

_MISLED = "_misled"


@dataclasses.dataclass(frozen=True)
class MisleadingRates:
    """What a misleading sentence did to a model's answers; NaN where no example could tell.

    Attributes:
      misleading_rate: share of the right answers that turned wrong.
      corrected_rate: share of the wrong answers that turned right.
      num_right, num_wrong: answers to the plain inputs.
      rise_overturned, rise_kept: mean rise of the score of right answers that turned wrong, and of
        those that stayed right; above 0 where the model is less sure with the sentence.
    """

    misleading_rate: float
    corrected_rate: float
    num_right: int
    num_wrong: int
    rise_overturned: float = math.nan
    rise_kept: float = math.nan


def rates(
    plain: Real[np.ndarray, " n"],
    misled: Real[np.ndarray, " n"],
    plain_score: Real[np.ndarray, " n"] | None = None,
    misled_score: Real[np.ndarray, " n"] | None = None,
) -> MisleadingRates:
    """Misleading rates of n answers, each to the plain and to the misleading input.

    ``misleading rate = |right before and wrong after| / |right before|``; right is a quality of at
    least 0.5, as in all counts.

    Args:
      plain, misled: quality of the answers to both inputs.
      plain_score, misled_score: deferral scores of both, higher = less sure; both or none.

    Raises:
      ValueError: arrays of different lengths, no example, a value that is not finite.

    Reference: Dang et al. 2024, "Exploring Response Uncertainty in MLLMs: An Empirical Evaluation
    under Misleading Scenarios" (MUB): the share of correct answers that a cue overturns. That the
    paper's rate has this denominator is unverified.
    """
    arrays = {"plain": plain, "misled": misled}
    if plain_score is not None or misled_score is not None:
        arrays |= {"plain_score": plain_score, "misled_score": misled_score}
    values = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    for name, array in values.items():
        if array.shape != values["plain"].shape or array.ndim != 1 or not len(array):
            shapes = {name: array.shape for name, array in values.items()}
            raise ValueError(f"shapes are {shapes}; must be one value for each example in all")
        if not np.all(np.isfinite(array)):
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"{name} of example {row} is {array[row]}; must be finite")
    before, after = confusion.is_right(values["plain"]), confusion.is_right(values["misled"])
    rise = np.full(len(before), np.nan)
    if "plain_score" in values:
        rise = values["misled_score"] - values["plain_score"]
    return MisleadingRates(
        misleading_rate=_mean(~after[before]),
        corrected_rate=_mean(after[~before]),
        num_right=int(np.sum(before)),
        num_wrong=int(np.sum(~before)),
        rise_overturned=_mean(rise[before & ~after]),
        rise_kept=_mean(rise[before & after]),
    )


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def from_tables(
    plain: Records, misled: Records, model: str = "", score: DeferralScore | None = None
) -> MisleadingRates:
    """Misleading rates of a model, from its answers to a task and to the task's misleading twin.

    Rows are paired by their ids, in which the twin's name (`misled_name`) counts as the task's;
    every row of the twin must have its plain one.

    Args:
      plain, misled: records of the same model on both.
      model: one of the tables' models; "" for the first.
      score: whose rise is measured; None for none.

    Raises:
      RecordsError: a row of the twin that has no plain one, or that has another target.
      ValueError: an unknown model, or answers that lack what the score needs.
    """
    model = model or plain.models[0]
    for table in (plain, misled):
        if model not in table.models:
            raise ValueError(f"model is {model!r}; must be one of {table.models}: {table.source}")
    first = plain.take(_rows_of(plain, misled))
    differing = np.flatnonzero(first.target != misled.target)
    if len(differing):
        row = differing[0]
        raise RecordsError(
            f"{misled.source}: the target of {misled.example_id[row]!r} is {misled.target[row]!r}, "
            f"in {plain.source} it is {first.target[row]!r} ({len(differing)} such); must be equal"
        )
    qualities = [getattr(table, f"{model}_quality") for table in (first, misled)]
    scores = [score(table.answers(model)) for table in (first, misled)] if score else []
    return rates(*qualities, *scores)


def _rows_of(plain: Records, misled: Records) -> Int[np.ndarray, " n"]:
    """The row of the plain table that belongs to each row of the misleading one."""
    row_of = {key: row for row, key in enumerate(_keys(plain))}
    rows = [row_of.get(key, -1) for key in _keys(misled)]
    if missing := [misled.example_id[i] for i, row in enumerate(rows) if row < 0]:
        raise RecordsError(
            f"{plain.source} lacks the plain input of {missing[0]!r} of {misled.source} "
            f"({len(missing)} of {len(rows)} such); ids must be equal but for {_MISLED!r} in the "
            "name of the task"
        )
    return np.array(rows, np.int64)


def _keys(table: Records) -> list[tuple[str, str]]:
    """Task, by its plain name, and the rest of the id."""
    ids = zip(map(str, table.task), map(str, table.example_id), strict=True)
    return [(plain_name(task), text.removeprefix(f"{task}/")) for task, text in ids]


def misled_name(task: str) -> str:
    """The name of a task's misleading twin: "demo_last_v1" -> "demo_last_misled_v1"."""
    name, version = re.fullmatch(r"(.*?)(_v\d+)?", task).groups()
    return f"{name}{_MISLED}{version or ''}"


def plain_name(task: str) -> str:
    """The name of the task that a twin belongs to; that of any other task as it is."""
    return re.sub(rf"{_MISLED}(_v\d+)?$", lambda match: match[1] or "", task)
