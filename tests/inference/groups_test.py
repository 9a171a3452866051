"""Batches of few shapes: every row once, padded to a shape that holds it, and little padding."""

import math

import numpy as np
import pytest

from cascade_jax.inference.groups import plan


def _plan(lengths, limits=(512, None), size=8, most=12):
    lengths = np.array(lengths)
    return plan(range(len(lengths)), lengths, limits[: lengths.shape[1]], size, most)


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_each_row_is_in_one_batch_that_holds_it(count):
    rng = np.random.default_rng(count)
    lengths = np.stack([rng.integers(0, 513, count), rng.integers(1, 300, count)], axis=1)
    groups = _plan(lengths)
    assert sorted(row for group in groups for row in group.rows) == list(range(count))
    for group in groups:
        assert 1 <= len(group.rows) <= group.size == 8
        assert (lengths[group.rows] <= group.shape).all() and group.shape[0] <= 512
    assert len({group.shape for group in groups}) <= 12
    sizes = [math.prod(group.shape) for group in groups]
    assert not sizes or sizes[0] == max(sizes)  # what does not fit into memory fails at once


def test_padding_is_small():
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(8), np.log(512), (1000, 1))).astype(int)
    groups = _plan(lengths, size=16)
    computed = sum(group.size * sum(group.shape) for group in groups)
    assert lengths.sum() <= computed < 1.25 * lengths.sum()


def test_few_rows_share_a_batch():
    (group,) = _plan([[9, 4], [20, 9], [500, 60], [13, 2]])
    assert group.rows == [2, 1, 3, 0] and group.shape == (512, 64)


def test_what_is_free_in_a_batch_is_taken_by_shorter_rows():
    groups = _plan([[500]] * 9 + [[8]] * 20, most=2)
    assert [(len(group.rows), group.shape) for group in groups] == [
        (8, (512,)), (8, (512,)), (8, (8,)), (5, (8,))
    ]  # fmt: skip
