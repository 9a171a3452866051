"""Segments against NumPy, one at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.deferral.scores import segments
from tests.support.ragged import LISTS, answers_of, rows_of

QUANTILES = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(lists=LISTS, quantiles=QUANTILES)
def test_quantiles_are_numpys(lists, quantiles):
    answers = answers_of(lists)
    actual = segments.quantiles(answers.offsets, answers.log_probs, quantiles)
    expected = [np.quantile(row, quantiles) for row in rows_of(answers, answers.log_probs)]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@given(lengths=st.lists(st.integers(1, 30), max_size=40), size=st.integers(1, 50))
def test_blocks_are_whole_segments_one_after_the_other(lengths, size):
    offsets = np.cumsum([0, *lengths])
    result = list(segments.blocks(offsets, size))
    rows = [row for block in result for row in range(block.start, block.stop)]
    assert rows == list(range(len(lengths)))
    # A block holds at most one segment more than fits.
    longest = max(lengths, default=0)
    assert all(offsets[b.stop] - offsets[b.start] < size + longest for b in result)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_sums_do_not_depend_on_the_blocks(size):
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, *rng.integers(1, 20, 100)])
    values = rng.normal(size=offsets[-1]).astype(np.float32)
    expected = [np.sum(row, dtype=np.float64) for row in np.split(values, offsets[1:-1])]
    actual = segments.sums(offsets, lambda tokens: values[tokens], size)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_example_of_the_docstring():
    actual = segments.quantiles(np.array([0, 3]), np.array([1.0, 4.0, 2.0]), [0.25])
    assert actual == pytest.approx(1.5)
