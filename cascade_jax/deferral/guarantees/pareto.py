"""Pareto fronts, and hypervolumes of two objectives; all objectives are minimised.

The hypervolume of points is the area that they dominate below a reference point, the worst that
counts. Points that are not below it in both objectives add nothing.

Example: (0, 2) and (1, 1) with the reference (3, 3): 3·1 + 2·1 = 5.
"""

import numpy as np
from jaxtyping import Bool, Float, Real

Points = Float[np.ndarray, "N 2"]
Reference = Float[np.ndarray, "2"]


def non_dominated(points: Real[np.ndarray, "N K"]) -> Bool[np.ndarray, " N"]:
    """Which points no other one beats: at most as large in all objectives, smaller in one.

    Of equal points all are kept.

    Raises:
      ValueError: an objective that is NaN.
    """
    if np.any(np.isnan(points)):
        row, column = np.argwhere(np.isnan(points))[0]
        raise ValueError(f"objective {column} of point {row} is NaN")
    kept = np.ones(len(points), bool)
    for i, point in enumerate(points):
        kept[i] = not np.any(np.all(points <= point, axis=1) & np.any(points < point, axis=1))
    return kept


def reference_point(points: Real[np.ndarray, "N 2"], margin: float = 0.1) -> Reference:
    """The nadir of the front and a margin beyond it, as a share of the front's extent.

    At the nadir itself the two ends of the front would add nothing.

    Args:
      points: at least one.
      margin: above 0. An objective that is the same on the whole front has the extent 1.
    """
    front = np.asarray(points, np.float64)[non_dominated(points)]
    extent = front.max(axis=0) - front.min(axis=0)
    return front.max(axis=0) + margin * np.where(extent > 0, extent, 1.0)


def hypervolume(points: Real[np.ndarray, "N 2"], reference: Reference) -> float:
    """The area between the points and the reference point."""
    edges, heights = _staircase(points, reference)
    widths = np.diff(np.minimum(edges[1:], reference[0]))
    return float(np.sum(widths * (reference[1] - heights[1:])))


def improvement(
    candidates: Real[np.ndarray, "M 2"], points: Real[np.ndarray, "N 2"], reference: Reference
) -> Float[np.ndarray, " M"]:
    """Hypervolume that each candidate alone would add to that of the points.

    Reference: Budget-Constrained Learning to Defer for Autoregressive Models, equation 2.
    """
    edges, heights = _staircase(points, reference)
    left = np.maximum(edges[None, :-1], candidates[:, :1])
    width = np.maximum(edges[None, 1:] - left, 0.0)
    height = np.maximum(heights[None] - candidates[:, 1:], 0.0)
    # A candidate at -inf has an infinite width of height 0 where the front is as good.
    return np.sum(width * height, axis=1, where=(width > 0) & (height > 0))


def _staircase(
    points: Real[np.ndarray, "N 2"], reference: Reference
) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " steps"]]:
    """The dominated region: second objectives from `heights[i]` up, between edges of the first."""
    points = np.asarray(points, np.float64)
    points = points[np.all(points < reference, axis=1)]
    front = points[non_dominated(points)]
    front = front[np.argsort(front[:, 0], kind="stable")]
    edges = np.concatenate([[-np.inf], front[:, 0], reference[:1]])
    return edges, np.concatenate([reference[1:], front[:, 1]])
