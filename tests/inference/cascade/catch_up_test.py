"""Chunks of what rows have to read: every token is read once, and in order."""

import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.inference.cascade import catch_up

pytestmark = pytest.mark.medium


def read(chunks, starts, counts, length):
    """Places of each row in the order in which they are read, and the chunks taken."""
    result, taken_chunks, left = [[] for _ in counts], [], np.array(counts)
    for chunk in chunks:
        while bool(chunk.is_due(jnp.asarray(left))):
            taken = np.asarray(chunk.taken(jnp.asarray(left)))
            where = chunk.place(jnp.asarray(starts + counts - left), jnp.asarray(taken), length)
            sources, places = np.asarray(where.sources), np.asarray(where.places)
            assert places.size == chunk.size and taken.max() <= chunk.width == where.row_width
            assert taken.sum() > 0
            for row in range(len(counts)):
                here = np.flatnonzero(sources[row] >= 0)
                np.testing.assert_array_equal(places.reshape(-1)[sources[row, here]], here)
                assert len(here) == taken[row]
                result[row] += here.tolist()
            left = left - taken
            taken_chunks.append(chunk)
    assert not left.any()
    return result, taken_chunks


SIZES = ((1, 1), (40, 7))  # at the ends of the others


@pytest.mark.parametrize("least", [1, 16, 256])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    "rows, length", [(1, 12), (5, 40), *(pytest.param(*n, marks=pytest.mark.slow) for n in SIZES)]
)
def test_chunks_have_every_token_once_and_in_order(rows, length, is_packed, least):
    rng = np.random.default_rng(0)
    cases = [np.full(rows, length), np.ones(rows, int), np.eye(1, rows, dtype=int)[0] * length]
    cases += [rng.integers(0, most + 1, rows) for most in rng.integers(1, length + 1, 3)]
    for counts in cases:
        starts = rng.integers(0, length - counts + 1)
        chunks = catch_up.chunks(rows, length, is_packed, least)
        actual, _ = read(chunks, starts, counts, length)
        for row in range(rows):
            assert actual[row] == list(range(starts[row], starts[row] + counts[row]))


def sizes(*arguments):
    return [(chunk.size, chunk.width, chunk.needed) for chunk in catch_up.chunks(*arguments)]


def test_a_chunk_is_taken_where_smaller_ones_cost_more():
    # A call costs 28 tokens: one of 256 as much as those of 128 and 64 and 8 tokens of a third.
    sizes_of_16 = [(256, 32, 192), (128, 32, 96), (64, 16, 32), (32, 16, 16), (16, 16, 0)]
    assert sizes(16, 32, True, 4)[1:] == sizes_of_16
    assert sizes(1, 32, True, 4)[1:] == [(32, 32, 16), (16, 16, 8), (8, 8, 4), (4, 4, 1), (1, 1, 0)]
    # 256 tokens take as long as one: what is more than a token of each row takes no longer.
    assert sizes(16, 32, True, 256)[1:] == [(512, 32, 256), (256, 32, 16), (16, 16, 0)]
    assert sizes(16, 32, False, 256) == [(512, 32, 16), (256, 16, 1), (16, 1, 0)]


@pytest.mark.parametrize("rows, least", [(1, 4), (16, 4), (16, 256), (7, 1)])
def test_no_other_choice_of_chunks_costs_less_than_nine_tenths(rows, least):
    packed = catch_up.chunks(rows, 32, True, least)[1:]
    price = {chunk.size: catch_up._CALL + max(chunk.size, least) for chunk in packed}
    best = [0.0]  # of any sizes in any order, by dynamic programming
    for left in range(1, 32 * rows + 1):
        best.append(min(cost + best[max(left - size, 0)] for size, cost in price.items()))
    for left in range(1, 32 * rows + 1):
        total, rest = 0.0, left
        for chunk in packed:
            while rest > chunk.needed:
                total, rest = total + price[chunk.size], rest - chunk.size
        assert best[left] >= 0.9 * total, left


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_token_of_each_row_is_one_chunk_by_row(is_packed):
    counts = np.array([1, 0, 1, 1])
    _, taken = read(catch_up.chunks(4, 32, is_packed, 16), np.arange(4), counts, 32)
    assert [(chunk.is_packed, chunk.size) for chunk in taken] == [(False, 4)]


@pytest.mark.parametrize("rows, least", [(1, 1), (1, 16), (16, 16), (16, 256), (3, 4)])
def test_what_is_computed_is_little_more_than_what_takes_no_longer(rows, least):
    chunks = catch_up.chunks(rows, 32, True, least)
    rng = np.random.default_rng(0)
    for mean in (1, 3, 10, 25):
        counts = np.minimum(1 + rng.poisson(mean, rows), 32)
        _, taken = read(chunks, np.zeros(rows, int), counts, 32)
        cost = sum(max(chunk.size, least) for chunk in taken)
        assert cost <= 2 * max(counts.sum(), least, rows) + max(least, rows)
