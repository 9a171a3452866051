"""The overlap of two kernel densities against scipy's, integrated by brute force."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde, norm

from cascade_jax.evaluation import overlap


def by_brute_force(right, wrong, points=400_001):
    """Trapezoids under the lower of scipy's two densities, on a fine grid over all of the mass."""
    kdes = [gaussian_kde(kind) for kind in (right, wrong)]
    widths = [math.sqrt(kde.covariance[0, 0]) for kde in kdes]
    low = min(kind.min() - 9 * width for kind, width in zip((right, wrong), widths, strict=True))
    high = max(kind.max() + 9 * width for kind, width in zip((right, wrong), widths, strict=True))
    grid = np.linspace(low, high, points)
    return np.trapezoid(np.minimum(*(kde(grid) for kde in kdes)), grid)


def confidences(size):
    return st.lists(st.integers(0, 1000).map(lambda x: x / 1000), min_size=size, max_size=size)


@settings(max_examples=20)
@given(st.tuples(st.integers(2, 8), st.integers(2, 8)).flatmap(
    lambda sizes: st.tuples(*map(confidences, sizes))
))  # fmt: skip
def test_it_is_the_integral_of_the_lower_of_scipys_densities(kinds):
    right, wrong = map(np.array, kinds)
    values = np.concatenate([right, wrong])
    is_right = np.arange(len(values)) < len(right)
    actual = overlap.overlap(values, is_right)
    if np.ptp(right) == 0 or np.ptp(wrong) == 0:
        assert math.isnan(actual)
        return
    # The brute force's grid is too coarse for such peaks.
    assume(min(np.ptp(right), np.ptp(wrong)) >= 0.02)
    assert actual == pytest.approx(by_brute_force(right, wrong), abs=1e-8, rel=0)


def test_alike_is_one_and_apart_is_zero():
    rng = np.random.default_rng(0)
    same = rng.random(50)
    values, is_right = np.tile(same, 2), np.arange(100) < 50
    assert overlap.overlap(values, is_right) == pytest.approx(1.0, abs=1e-9)
    apart = np.where(is_right, 0.9, 0.1) + 0.01 * values
    assert overlap.overlap(apart, is_right) == pytest.approx(0.0, abs=1e-9)


def test_two_normals_overlap_as_their_distribution_says():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.6, 0.1, 40_000), rng.normal(0.4, 0.1, 40_000)])
    actual = overlap.overlap(values, np.arange(80_000) < 40_000)
    # Two normals a distance d apart overlap by 2 * Phi(-d / 2 sd); here d = 2 sd.
    assert actual == pytest.approx(2 * norm.cdf(-1), abs=0.01)


@pytest.mark.parametrize("peak", [0.2, 0.01])
def test_bins_of_many_examples_change_little(peak, monkeypatch):
    rng = np.random.default_rng(2)
    right, wrong = 1 - np.abs(rng.normal(0, peak, 3000)), rng.beta(2, 1.5, 3000)
    values = np.clip(np.concatenate([right, wrong]), 0, 1)
    is_right = np.arange(6000) < 3000
    binned = overlap.overlap(values, is_right)
    monkeypatch.setattr(overlap, "_EXACT", 10_000)
    assert binned == pytest.approx(overlap.overlap(values, is_right), abs=3e-4)


@pytest.mark.parametrize(
    ("values", "is_right"),
    [([0.1, 0.5, 0.9], [True] * 3), ([0.1, 0.5, 0.9], [False] * 3), ([0.5], [True]), ([], []),
     ([0.1, 0.5, 0.9], [True, True, False]), ([0.1, 0.5, 0.3, 0.3], [True, True, False, False])],
)  # fmt: skip
def test_a_kind_without_spread_is_undefined(values, is_right):
    assert math.isnan(overlap.overlap(np.array(values), np.array(is_right, bool)))
