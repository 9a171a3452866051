"""Counts of right and wrong answers that are kept and deferred, at every threshold."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from cascade_jax.evaluation import curves

RIGHT_FROM = 0.5  # an answer counts as right from this quality on; 0/1 quality has no other


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of examples where k of n are deferred, those with the highest scores first.

    Where scores are tied no threshold defers just k: the counts are then means over the orders of
    the tied, as on the curve, and no whole numbers.

    Example: scores [3 2 1], small model wrong, right, right: with k = 1 none of the right answers
    is deferred, ``right_deferred[1] = 0``, and ``wrong_deferred[1] = 1``.

    Attributes:
      right_kept, wrong_kept: by the small model's answer, of those it keeps.
      right_deferred, wrong_deferred: likewise, of those that the large model answers.
      corrected: deferred ones where the small model is wrong and the large one right.
      regressed: deferred ones where the small model is right and the large one wrong.
      rate_at_threshold: share that the curve's threshold itself defers: k / n, or less where it
        would have to divide the tied.
    """

    right_kept: Float[np.ndarray, " points"]
    wrong_kept: Float[np.ndarray, " points"]
    right_deferred: Float[np.ndarray, " points"]
    wrong_deferred: Float[np.ndarray, " points"]
    corrected: Float[np.ndarray, " points"]
    regressed: Float[np.ndarray, " points"]
    rate_at_threshold: Float[np.ndarray, " points"]


def is_right(quality: Real[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each answer counts as right: a quality of at least 0.5."""
    return np.asarray(quality) >= RIGHT_FROM


def confusion(
    score: Real[np.ndarray, " n"],
    student_quality: Real[np.ndarray, " n"],
    teacher_quality: Real[np.ndarray, " n"],
    ks: Int[np.ndarray, " points"],
) -> Confusion:
    """Counts where k examples are deferred, for every k of `ks`.

    Raises:
      ValueError: if there is no example, a score is not finite, or a k lies outside [0, n].
    """
    order, ends = curves.deferral_order(score)
    n = len(order)
    if np.any(ks < 0) or np.any(ks > n):
        raise ValueError(f"ks must lie in [0, {n}], got {ks.min()} to {ks.max()}")
    nodes = np.append(0, ends)

    def deferred(flags: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " points"]:
        """How many of the flagged are deferred: linear inside a tied group."""
        return np.interp(ks, nodes, np.append(0, np.cumsum(flags[order]))[nodes])

    student, teacher = is_right(student_quality), is_right(teacher_quality)
    right_deferred = deferred(student)
    wrong_deferred = ks - right_deferred
    rights = int(np.sum(student))
    reached = nodes[np.searchsorted(nodes, ks, side="right") - 1]
    return Confusion(
        right_kept=rights - right_deferred,
        wrong_kept=n - rights - wrong_deferred,
        right_deferred=right_deferred,
        wrong_deferred=wrong_deferred,
        corrected=deferred(~student & teacher),
        regressed=deferred(student & ~teacher),
        rate_at_threshold=reached / n,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Scores of right and of wrong answers of the small model, counted in bins of one width.

    Attributes:
      edges: of the bins, rising. The last bin also holds all scores above its upper edge.
      right, wrong: counts.
      num_above: how many lie above the last edge.
    """

    edges: Float[np.ndarray, " bins_plus_1"]
    right: Int[np.ndarray, " bins"]
    wrong: Int[np.ndarray, " bins"]
    num_above: int


def histogram(
    score: Real[np.ndarray, " n"], student_quality: Real[np.ndarray, " n"], bins: int = 40
) -> Histogram:
    """Counts from the lowest score to the 99.5th percentile: one outlier does not squeeze all."""
    low, high = float(np.min(score)), float(np.quantile(score, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    inside, right = np.minimum(score, edges[-1]), is_right(student_quality)
    return Histogram(
        edges=edges,
        right=np.histogram(inside[right], edges)[0],
        wrong=np.histogram(inside[~right], edges)[0],
        num_above=int(np.sum(score > edges[-1])),
    )
