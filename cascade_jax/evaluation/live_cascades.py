"""Figures of a token-level cascade that ran live, from the records' columns `cascade_*`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.records.schema import POLICY
from cascade_jax.records.table import Records


@dataclasses.dataclass(frozen=True, eq=False)
class LiveCascade:
    """Means over the examples, and where in the answers the large model wrote.

    Attributes:
      num_examples: n.
      quality: mean, of the mixed answers.
      cost: mean of (deferred tokens of an answer / max_length), which budgets are about.
      token_share: deferred tokens / all tokens of all answers.
      flops: mean, really spent on an example.
      max_length: the most tokens that an answer may have.
      is_length_stated: whether the records say so; else it is that of the longest answer.
      by_position: of the answers' j-th tokens, the share that is deferred.
      reached: how many answers have a j-th token.
      thresholds: of the policy; () if the records do not say.
      uncertainty: name of what was compared with them; "" likewise.
      task_quality: by task, the mean, or the figure of its corpus metric if it has one; NaN if the
        records have no statistics of the live cascade for that.
      task_share: by task, deferred tokens / all tokens.
    """

    num_examples: int
    quality: float
    cost: float
    token_share: float
    flops: float
    max_length: int
    is_length_stated: bool
    by_position: Float[np.ndarray, " L"]
    reached: Int[np.ndarray, " L"]
    thresholds: tuple[float, ...] = ()
    uncertainty: str = ""
    task_quality: Mapping[str, float] = dataclasses.field(default_factory=dict)
    task_share: Mapping[str, float] = dataclasses.field(default_factory=dict)


def from_records(records: Records) -> LiveCascade | None:
    """The live cascade of a records table; None if it holds none."""
    if records.cascade_answer is None:
        return None
    offsets, is_deferred = records.cascade_offsets, records.cascade_is_deferred
    lengths = np.diff(offsets)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    longest = int(np.max(lengths, initial=0))
    reached = np.bincount(position, minlength=longest)
    deferred = np.bincount(position[is_deferred], minlength=longest)
    stated = records.metadata.get("target_length")
    is_stated = type(stated) is int and stated >= max(longest, 1)
    max_length = stated if is_stated else max(longest, 1)
    policy = records.metadata.get(POLICY, {})
    tasks = [str(task) for task in dict.fromkeys(records.task)]
    return LiveCascade(
        num_examples=len(records),
        quality=float(np.mean(records.cascade_quality)),
        cost=float(np.sum(deferred) / (len(records) * max_length)),
        token_share=float(np.sum(deferred) / max(offsets[-1], 1)),
        flops=float(np.mean(records.cascade_flops)),
        max_length=max_length,
        is_length_stated=is_stated,
        by_position=deferred / np.maximum(reached, 1),
        reached=reached,
        thresholds=thresholds_of(policy),
        uncertainty=str(policy.get("score", "")),
        task_quality={task: _quality_of(records, task) for task in tasks},
        task_share={
            task: float(np.mean(is_deferred[np.repeat(records.task == task, lengths)]))
            for task in tasks
            if np.any(lengths[records.task == task])
        },
    )


def _quality_of(records: Records, task: str) -> float:
    """Of one task: the mean, or its corpus metric from added counts."""
    rows, counts = np.flatnonzero(records.task == task), records.cascade_statistics
    task_counts = records.statistics(task)
    if task_counts is None:
        return float(np.mean(records.cascade_quality[rows]))
    if counts is None:
        return math.nan
    at = records.statistics_offsets[rows][:, None] + np.arange(task_counts.metric.num_statistics)
    return float(task_counts.metric.scores(counts[at].sum(axis=0)[None])[0])


def thresholds_of(policy: Mapping[str, Any]) -> tuple[float, ...]:
    """Thresholds of a certificate that is JSON, infinite ones as texts; () if it has none."""
    return tuple(map(float, policy.get("thresholds") or ()))
