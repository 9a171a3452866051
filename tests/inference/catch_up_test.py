"""Chunks of what rows have to read: every token is read once, and in order."""

import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.inference import catch_up


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("rows, length", [(1, 1), (1, 12), (5, 12), (40, 7)])
def test_chunks_have_every_token_once_and_in_order(rows, length, is_packed):
    rng = np.random.default_rng(0)
    cases = [np.full(rows, length), np.ones(rows, int), np.eye(1, rows, dtype=int)[0] * length]
    cases += [rng.integers(0, most + 1, rows) for most in rng.integers(1, length + 1, 3)]
    for counts in cases:
        starts = rng.integers(0, length - counts + 1)
        whole = int(catch_up.total(jnp.asarray(counts), is_packed))
        assert whole == (counts.sum() if is_packed else counts.max())
        for size, _ in catch_up.sizes(rows, length, is_packed):
            read = [[] for _ in range(rows)]
            through = np.zeros(rows, int)
            for done in range(0, whole, size):
                given = map(jnp.asarray, (starts, counts, done))
                where, last, is_through = catch_up.chunk(*given, size, length, is_packed)
                sources, places = np.asarray(where.sources), np.asarray(where.places)
                assert places.size == (size if is_packed else size * rows)
                for row in range(rows):
                    found = np.flatnonzero(sources[row] >= 0)
                    read[row] += found.tolist()
                    np.testing.assert_array_equal(places.reshape(-1)[sources[row, found]], found)
                    if is_through[row]:
                        through[row] += 1
                        assert sources[row, starts[row] + counts[row] - 1] == last[row]
                        assert len(read[row]) == counts[row]
            for row in range(rows):
                assert read[row] == list(range(starts[row], starts[row] + counts[row]))
            np.testing.assert_array_equal(through, counts > 0)


def test_the_smallest_chunk_is_a_token_of_each_row():
    assert catch_up.sizes(64, 32, True) == [(1024, 512), (256, 128), (64, 0)]
    assert catch_up.sizes(16, 32, True, least=16) == [(256, 128), (64, 32), (16, 0)]
    assert catch_up.sizes(16, 32, True, least=256) == [(512, 256), (256, 16), (16, 0)]
    assert catch_up.sizes(1, 32, True, least=16) == [(32, 16), (16, 1), (1, 0)]
    assert catch_up.sizes(1, 1, True, least=16) == [(1, 0)]
    assert catch_up.sizes(16, 32, False) == [(16, 8), (4, 2), (1, 0)]
    assert catch_up.sizes(16, 32, False, least=256) == [(32, 16), (16, 1), (1, 0)]


@pytest.mark.parametrize("rows, least", [(1, 1), (1, 16), (16, 16), (16, 256), (3, 4)])
def test_what_is_computed_is_little_more_than_what_takes_no_longer(rows, least):
    sizes = catch_up.sizes(rows, 32, True, least)
    for left in range(1, rows * 32 + 1):
        cost, rest = 0, left
        for size, needed in sizes:
            while rest > needed:
                cost, rest = cost + max(size, least), rest - size
        assert cost <= 2 * max(left, least, rows) + max(least, rows)
