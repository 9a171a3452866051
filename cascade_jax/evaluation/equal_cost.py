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


def pays_between(curve: Curve, baseline: Curve, small: float, large: float) -> tuple[float, float]:
    """The deferral rates between which a score has paid for what it spends, against another score.

    There the cascade is above the small model alone, and has at least the quality that the other's
    has at the same total cost. Of several such stretches it is the longest in total cost: a curve
    of few examples crosses another more than once. Total costs are compared up to C_S + C_L, that
    of deferring everything, for which no score is needed.

    Args:
      curve: of the score.
      baseline: of the other, with costs in the same unit.
      small: C_S.
      large: C_L.

    Returns:
      Two rates of the score's curve, linear between points; `NEVER` and NaN where there are none.
    """
    start, end = curve.cost[0], small + large
    at = np.unique(np.concatenate([curve.cost, baseline.cost, [end]]))
    at = at[(at >= start) & (at <= end)]
    if len(at) < 2:
        return NEVER, np.nan
    ours, theirs = (np.interp(at, c.cost, c.quality) for c in (curve, baseline))
    ahead, gained = _parts(ours - theirs, strict=False), _parts(ours - ours[0], strict=True)
    low, high = np.maximum(ahead[0], gained[0]), np.minimum(ahead[1], gained[1])
    kept = np.flatnonzero(high > low)
    if not len(kept):
        return NEVER, np.nan
    low, high, width = low[kept], high[kept], np.diff(at)[kept]
    first, last = at[kept] + low * width, at[kept] + high * width
    goes_on = (np.diff(kept) == 1) & (high[:-1] == 1) & (low[1:] == 0)
    firsts, lasts = first[np.append(True, ~goes_on)], last[np.append(~goes_on, True)]
    longest = int(np.argmax(lasts - firsts))
    ends = np.interp([firsts[longest], lasts[longest]], curve.cost, curve.rate)
    return float(ends[0]), float(ends[1])


def _parts(
    values: Float[np.ndarray, " points"], strict: bool
) -> tuple[Float[np.ndarray, " parts"], Float[np.ndarray, " parts"]]:
    """From and up to which share of the way between two points a line is above 0.

    Or at least 0, unless `strict`; where it is nowhere, from 1 to 0.
    """
    values = np.where(np.abs(values) <= _ROUNDING, 0.0, values)
    before, after = values[:-1], values[1:]
    crossing = before / np.where(before == after, 1.0, before - after)
    low = np.where(before >= 0, 0.0, np.where(after > 0, crossing, 1.0))
    high = np.where(after >= 0, 1.0, np.where(before > 0, crossing, 0.0))
    is_none = (before <= 0) & (after <= 0) if strict else (before < 0) & (after < 0)
    return np.where(is_none, 1.0, low), np.where(is_none, 0.0, high)
