"""Packed rows: nothing overlaps, nothing is lost, and little is padding."""

import numpy as np

from cascade_jax.inference import packing


def test_rows_are_filled_in_order_until_the_next_does_not_fit():
    assert packing.fill([3, 3, 2, 4], 2, 7) == [(0, 0), (0, 3), (1, 0), (1, 2)]
    assert packing.fill([3, 3, 2, 6], 2, 7) == [(0, 0), (0, 3), (1, 0)]
    assert packing.fill([8], 2, 7) == [] and packing.fill([], 2, 7) == []


def test_a_few_sizes_of_rows_read_all_inputs_with_little_padding():
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(8), np.log(512), 3000))
    lengths = sorted(lengths.astype(int).tolist(), reverse=True)
    for rows in (1, 4):
        total, left, sizes, computed = sum(lengths), list(lengths), set(), 0
        while left:
            size = packing.best_size(left, rows, total, sum(left))
            places = packing.fill(left, rows, size)
            assert places
            sizes.add(size)
            computed += rows * size
            left = left[len(places) :]
        assert sizes <= {320, 384, 448, 512}
        assert computed <= 1.15 * total


def test_a_small_set_is_read_at_once():
    lengths = [12, 10, 10, 8, 8]
    size = packing.best_size(lengths, 2, 48, 48)
    assert size == 32 and len(packing.fill(lengths, 2, size)) == 5
    assert packing.best_size([600, 500], 1, 1100, 1100) == 640


def test_arrays_hold_each_input_after_its_start():
    inputs = [np.array([7, 8]), np.array([9]), np.array([], int)]
    packed = packing.pack(inputs, [(0, 0), (0, 3), (1, 0)], 2, 6, 1)
    assert packed.tokens.tolist() == [[0, 7, 8, 0, 9, 0], [0] * 6]
    assert packed.segment_ids.tolist() == [[1, 1, 1, 2, 2, 0], [3, 0, 0, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6]
    packed = packing.pack(inputs[:2], [(0, 0), (0, 2)], 1, 4, 0)
    assert packed.tokens.tolist() == [[7, 8, 9, 0]]
    assert packed.segment_ids.tolist() == [[1, 1, 2, 0]]
