"""Sizes of buckets against their definition, for every length up to a few thousand."""

import pytest

from cascade_jax.inference.buckets import bucket, power_of_two


def test_sizes_hold_their_rows_and_are_few():
    sizes = [bucket(length) for length in range(1, 4097)]
    assert sizes == sorted(sizes)
    for length, size in enumerate(sizes, start=1):
        assert size >= length and size % 8 == 0 and bucket(size) == size
        assert length <= 32 or size < 1.25 * length
    for least in (64, 128, 256, 512, 1024, 2048):  # four in each octave
        assert len({size for size in sizes if least < size <= 2 * least}) == 4
    assert sorted(set(sizes))[:10] == [8, 16, 24, 32, 40, 48, 56, 64, 80, 96]
    assert bucket(0) == 8


def test_the_largest_size_is_a_limit():
    assert [bucket(length, 12) for length in (0, 8, 9, 12)] == [8, 8, 12, 12]
    assert bucket(3, 5) == 5
    with pytest.raises(ValueError, match="length is 13; must be at most 12"):
        bucket(13, 12)
    with pytest.raises(ValueError, match="length is -1"):
        bucket(-1)


def test_powers_of_two():
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5, 17)] == [1, 1, 2, 4, 4, 8, 32]
