"""Shapes for what rows have to read: all of it fits, and the smallest is taken."""

import numpy as np
import pytest

from cascade_jax.inference import catch_up


@pytest.mark.parametrize("width", [None, 1, 4, 7])
@pytest.mark.parametrize("rows, length", [(1, 1), (1, 12), (5, 12)])
def test_the_smallest_shape_that_holds_everything_is_taken(rows, length, width):
    allowed = catch_up.shapes(rows, length, width)
    assert len({each.size for each in allowed[1:]}) == len(allowed) - 1
    rng = np.random.default_rng(0)
    cases = [np.full(rows, length), np.ones(rows, int), np.eye(1, rows, dtype=int)[0] * length]
    cases += [rng.integers(0, most + 1, rows) for most in rng.integers(1, length + 1, 3)]
    for counts in cases:
        taken = int(catch_up.cheapest(allowed, counts))
        pieces, last = allowed[taken].cut(np.zeros(rows, int), counts, length)
        # Nothing is left out: the pieces hold as many tokens as there are.
        assert int(pieces.counts.sum()) == counts.sum()
        assert int((pieces.sources >= 0).sum()) == counts.sum()
        for row in np.flatnonzero(counts):
            assert last[row] == pieces.sources[row, counts[row] - 1]
        # No smaller shape would do.
        for each in allowed:
            if each.size < allowed[taken].size:
                room = each.cut(np.zeros(rows, int), counts, length)[0].counts.sum()
                assert room < counts.sum() or counts.max() > each.width and each.number is None


def test_few_tokens_share_a_shape_and_larger_ones_double():
    sizes = [shape.size for shape in catch_up.shapes(16, 32, 4)]
    assert sizes == [16, 16, 32, 64, 128, 256, 512]
    assert [shape.size for shape in catch_up.shapes(1, 12, 4)] == [1, 12]
    assert [shape.size for shape in catch_up.shapes(2, 12, None)] == [2, 4, 8, 16, 24]
