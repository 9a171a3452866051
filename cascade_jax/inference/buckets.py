"""Length buckets: rows are padded to one of a few sizes, so that programs are shared."""

from cascade_jax import checks

_LEAST = 8


def bucket(length: int, most: int | None = None) -> int:
    """The smallest size that holds `length`: a multiple of 8, at most four sizes in an octave.

    Example: 8, 16, 24, 32, 40, 48, 56, 64, then 80, 96, 112, 128, then 160, 192, 224, 256 ...: a
    row of more than 32 tokens is padded by less than a quarter of its length.

    Args:
      length: number of tokens.
      most: the largest size, whatever the steps; None for no limit.

    Raises:
      ValueError: `length` is negative or above `most`.
    """
    checks.whole_number("length", length, 0)
    checks.require(most is None or length <= most, "length", length, f"at most {most}")
    octave = 1 << (max(length - 1, 1).bit_length() - 1)  # largest power of two below the length
    step = max(_LEAST, octave // 4)
    size = max(_LEAST, -(-length // step) * step)
    return size if most is None else min(size, most)


def power_of_two(least: int) -> int:
    """The smallest power of two of at least `least`, for numbers of rows."""
    return 1 << max(least - 1, 0).bit_length()
