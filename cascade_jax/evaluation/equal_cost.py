"""Cascades by two scores where both cost the same in total, what the scores spend included.

All costs are means over the examples: C_S of the small model, C_L of the large one, F of the score.
The small model alone needs no score, so at any total cost below C_S + F it is what there is.
"""

import numpy as np
from jaxtyping import Float

from cascade_jax.evaluation.curves import Curve

_ROUNDING = 1e-12  # as of a curve's qualities
NEVER = np.inf


def area(
    quality: Float[np.ndarray, "*rows points"],
    cost: Float[np.ndarray, "*rows points"],
    small: float | Float[np.ndarray, "*rows"],
    large: float | Float[np.ndarray, "*rows"],
) -> Float[np.ndarray, "*rows"]:
    """Mean quality over total costs from the small model's alone to that of deferring everything.

    ``(1 / C_L) * integral of q(c) from c = C_S to C_S + C_L``, where q(c) is the small model's
    quality below C_S + F, and the curve's from there on. For a score that spends nothing, and a
    large model whose answers all cost the same, it is the area over the deferral rate.

    Example: qualities [0 1] at costs [2 4], small 1, large 2, so F = 1: (0 + 0.25) / 2 = 0.125.

    Args:
      quality: of the curve's points, or of the points of several curves.
      cost: of the same points, from C_S + F on, rising to C_S + F + C_L, or less where deferring
        early saves some of C_S.
      small: C_S.
      large: C_L.

    Returns:
      NaN where the large model costs nothing.
    """
    small, large = np.asarray(small, np.float64), np.asarray(large, np.float64)
    end = small + large
    width = np.diff(cost, axis=-1)
    inside = np.clip(end[..., None] - cost[..., :-1], 0.0, width)
    rise = np.diff(quality, axis=-1) / np.where(width > 0, width, 1.0)
    reached = np.sum(inside * (quality[..., :-1] + rise * inside / 2), axis=-1)
    beyond = end - cost[..., -1]  # of a score that saves: it has deferred all for less
    reached = reached + np.where(beyond > _ROUNDING * end, beyond, 0.0) * quality[..., -1]
    before = np.clip(cost[..., 0] - small, 0.0, large) * quality[..., 0]
    safe = np.where(large > 0, large, 1.0)
    return np.where(large > 0, (before + reached) / safe, np.nan)


def pays_from(curve: Curve, baseline: Curve, small: float, large: float) -> float:
    """The least deferral rate at which a score has paid for what it spends, against another score.

    There the cascade is above the small model alone, and has at least the quality that the other's
    has at the same total cost. Total costs are compared up to C_S + C_L, that of deferring
    everything, for which no score is needed.

    Args:
      curve: of the score.
      baseline: of the other, with costs in the same unit.
      small: C_S.
      large: C_L.

    Returns:
      A rate of the score's curve below 1, linear between points; `NEVER` where there is none.
    """
    start, end = curve.cost[0], small + large
    if start > end:
        return NEVER
    at = np.unique(np.concatenate([curve.cost, baseline.cost, [end]]))
    at = at[(at >= start) & (at <= end)]
    ours, theirs = (np.interp(at, c.cost, c.quality) for c in (curve, baseline))
    gained, ahead = ours - curve.quality[0], ours - theirs
    reached = np.flatnonzero((ahead >= -_ROUNDING) & (gained > _ROUNDING))
    if not len(reached):
        return NEVER
    cost, k = at[reached[0]], int(reached[0])
    if k:  # where the later of both begins, between the point before and this one
        shares = [_crossing(gained[k - 1], gained[k]), _crossing(ahead[k - 1], ahead[k])]
        cost = at[k - 1] + max(shares) * (at[k] - at[k - 1])
    rate = float(np.interp(cost, curve.cost, curve.rate))
    return rate if rate < 1 - _ROUNDING else NEVER


def _crossing(before: float, after: float) -> float:
    """The share of the way from one value to another at which a line between them reaches 0."""
    if before >= -_ROUNDING:
        return 0.0
    return float(np.clip(before / (before - max(after, 0.0)), 0.0, 1.0))
