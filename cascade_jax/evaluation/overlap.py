"""Distributional overlap: how far the confidences of right and of wrong answers lie apart."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Real
from scipy.special import ndtr

# More examples of a kind than this are put into bins first, so many to a bandwidth.
_EXACT = 512
_BINS_PER_WIDTH = 10
_GRID, _QUANTILES = 257, 33
_BISECTIONS = 30


@dataclasses.dataclass(frozen=True, eq=False)
class _Density:
    """A Gaussian kernel density: weighted points and the kernel's standard deviation.

    SciPy's gaussian_kde gives the same to 1e-15 but takes 20 times as long: its distribution
    function takes one pair of ends a call.
    """

    points: Float[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    width: float

    def pdf(self, x: Float[np.ndarray, " x"]) -> Float[np.ndarray, " x"]:
        z = (x[:, None] - self.points) / self.width
        return np.exp(-0.5 * z * z) @ self.weights / (self.width * math.sqrt(2 * math.pi))

    def cdf(self, x: Float[np.ndarray, " x"]) -> Float[np.ndarray, " x"]:
        return ndtr((x[:, None] - self.points) / self.width) @ self.weights

    def landmarks(self) -> Float[np.ndarray, " x"]:
        """Places where it rises or falls: some of its points, and within four widths of them."""
        chosen = self.points[np.linspace(0, len(self.points) - 1, _QUANTILES).astype(int)]
        return np.ravel(chosen[:, None] + self.width * np.linspace(-4, 4, 9))


def overlap(confidence: Real[np.ndarray, " n"], is_right: Bool[np.ndarray, " n"]) -> float:
    """How far the confidences of right and of wrong answers overlap: 0 apart, 1 alike.

    ``s_o = integral of min(f_right(c), f_wrong(c)) dc`` over the whole line, where f are Gaussian
    kernel densities with Scott's bandwidth, ``n ** (-1 / 5)`` times the standard deviation (what
    scipy's gaussian_kde takes). Between neighbouring places where f_right = f_wrong one of the two
    is the lower throughout, so the integral is a sum of differences of their distribution
    functions. More than 512 examples of a kind are put into bins of a tenth of the bandwidth first,
    each at the mean of its members, which changes s_o by some 1e-4.

    Returns:
      NaN where a kind has fewer than two examples, or all of one kind have one confidence.

    Reference: Gatekeeper, equation 9 (distributional overlap s_o).
    """
    confidence, is_right = np.asarray(confidence, np.float64), np.asarray(is_right)
    right, wrong = _density(confidence[is_right]), _density(confidence[~is_right])
    if right is None or wrong is None:
        return math.nan
    ends = [(d.points[0] - 10 * d.width, d.points[-1] + 10 * d.width) for d in (right, wrong)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    grid = np.concatenate([np.linspace(low, high, _GRID), right.landmarks(), wrong.landmarks()])
    cuts = _crossings(right, wrong, np.unique(np.clip(grid, low, high)))
    cuts = np.concatenate([[-np.inf], cuts, [np.inf]])
    masses = [np.diff(density.cdf(cuts)) for density in (right, wrong)]
    return float(np.sum(np.minimum(*masses)))


def resampled(
    confidence: Real[np.ndarray, " n"],
    is_right: Bool[np.ndarray, " n"],
    counts: Real[np.ndarray, "n draws"],
) -> Float[np.ndarray, " draws"]:
    """The overlap where each example counts as often as it was drawn.

    Bandwidths stay those of the examples themselves; densities are summed on a grid of 1,024
    points, which changes s_o by some 1e-3.

    Returns:
      One value a draw; NaN where a kind has no spread, or a draw has none of it.
    """
    confidence, is_right = np.asarray(confidence, np.float64), np.asarray(is_right)
    kinds = [_density(confidence[is_right]), _density(confidence[~is_right])]
    if None in kinds:
        return np.full(counts.shape[1], math.nan)
    widest = max(kind.width for kind in kinds)
    edges = np.linspace(confidence.min() - 5 * widest, confidence.max() + 5 * widest, 1025)
    middles, at = (edges[1:] + edges[:-1]) / 2, np.digitize(confidence, edges) - 1
    heights = []
    for kind, rows in zip(
        kinds, (np.flatnonzero(is_right), np.flatnonzero(~is_right)), strict=True
    ):
        drawn = np.zeros((len(middles), counts.shape[1]))
        np.add.at(drawn, at[rows], counts[rows].astype(np.float64))
        z = (middles[:, None] - middles) / kind.width
        kernel = np.exp(-0.5 * z * z)
        with np.errstate(invalid="ignore"):  # 0 / 0: a draw without this kind
            heights.append((kernel @ drawn) / (kernel.sum(axis=0) @ drawn))
    return np.minimum(*heights).sum(axis=0)


def _density(values: Float[np.ndarray, " n"]) -> _Density | None:
    """Of one kind of answers; None where it has no spread."""
    n = len(values)
    if n < 2 or np.ptp(values) <= 1e-12:
        return None
    width = float(np.std(values, ddof=1)) * n ** (-1 / 5)
    if n <= _EXACT:
        return _Density(np.sort(values), np.full(n, 1 / n), width)
    bin_width = width / _BINS_PER_WIDTH
    at = ((values - values.min()) / bin_width).astype(np.int64)
    count, sums = np.bincount(at), np.bincount(at, weights=values)
    filled = count > 0
    return _Density(sums[filled] / count[filled], count[filled] / n, width)


def _crossings(
    first: _Density, other: _Density, grid: Float[np.ndarray, " x"]
) -> Float[np.ndarray, " crossings"]:
    """Where one density passes the other, by bisection between the points of a grid."""

    def is_above(x: Float[np.ndarray, " x"]) -> Bool[np.ndarray, " x"]:
        return first.pdf(x) > other.pdf(x)

    above = is_above(grid)
    changes = np.flatnonzero(above[1:] != above[:-1])
    low, high, was = grid[changes], grid[changes + 1], above[changes]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_before = is_above(middle) == was
        low, high = np.where(is_before, middle, low), np.where(is_before, high, middle)
    return low
