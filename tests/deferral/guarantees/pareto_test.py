"""Fronts and hypervolumes against comparing all pairs and counting unit squares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.deferral.guarantees import pareto

COORDINATE = st.integers(0, 8)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=12)
REFERENCE = np.array([7.0, 7.0])


def array(points):
    return np.array(points, float).reshape(-1, 2)


def squares(points, reference=REFERENCE):
    """Unit squares whose lower corner is at or above a point: the area, for whole numbers."""
    return sum(
        any(x <= i and y <= j for x, y in points)
        for i in range(int(reference[0]))
        for j in range(int(reference[1]))
    )


@given(points=st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE), max_size=12))
def test_the_front_is_what_no_pair_excludes(points):
    actual = pareto.non_dominated(np.array(points, float).reshape(-1, 3))
    for i, a in enumerate(points):
        beaten = any(b != a and all(y <= x for x, y in zip(a, b, strict=True)) for b in points)
        assert actual[i] == (not beaten)


@given(points=POINTS)
def test_hypervolume_counts_squares(points):
    assert pareto.hypervolume(array(points), REFERENCE) == squares(points)


@given(points=POINTS, candidates=st.lists(st.tuples(COORDINATE, COORDINATE), max_size=5))
def test_improvement_is_the_difference(points, candidates):
    actual = pareto.improvement(array(candidates), array(points), REFERENCE)
    before = squares(points)
    assert actual.tolist() == [squares([*points, c]) - before for c in candidates]


def test_the_example():
    assert pareto.hypervolume(np.array([[0.0, 2.0], [1.0, 1.0]]), np.array([3.0, 3.0])) == 5.0


def test_ends_of_the_front_count_beyond_the_nadir():
    points = np.array([[0.0, 10.0], [1.0, 4.0], [2.0, 2.0], [9.0, 9.0]])
    reference = pareto.reference_point(points, 0.1)
    np.testing.assert_allclose(reference, [2.2, 10.8])  # of the front; (9, 9) is not on it
    rest = np.delete(points, 0, axis=0)
    assert pareto.improvement(points[:1], rest, reference)[0] > 0
    assert pareto.improvement(points[:1], rest, np.array([2.0, 10.0]))[0] == 0
    np.testing.assert_allclose(pareto.reference_point(np.ones((1, 2)), 0.1), [1.1, 1.1])


def test_nan_is_refused():
    with pytest.raises(ValueError, match="objective 1 of point 0 is NaN"):
        pareto.non_dominated(np.array([[0.0, np.nan]]))
