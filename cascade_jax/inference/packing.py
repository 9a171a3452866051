"""Packed rows: inputs of several examples end to end, so that hardly any padding is computed."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.inference.buckets import bucket, power_of_two
from cascade_jax.models.slots import PackedInputs

USUAL = 512  # size of a row that is enough for a matmul to be fast


def fill(lengths: Sequence[int], rows: int, size: int) -> list[tuple[int, int]]:
    """Where examples go, in their order, until the next does not fit: row and offset of each.

    Example: lengths 3, 3, 2, 4 in two rows of 7: ``[(0, 0), (0, 3), (1, 0), (1, 2)]``.
    """
    places, row, offset = [], 0, 0
    for length in lengths:
        if offset + length > size:
            row, offset = row + 1, 0
        if row == rows or length > size:
            break
        places.append((row, offset))
        offset += length
    return places


def best_size(lengths: Sequence[int], rows: int, total: int, left: int) -> int:
    """The size of rows with which the fewest tokens are computed, out of four.

    The sizes are those of one octave, the same for all inputs up to 512 tokens: so a few programs
    read them all.

    Args:
      lengths: of the examples that are left, descending, as many as may go into the rows.
      rows: rows that are read together.
      total: tokens of all examples, for rows that a small set does not leave empty.
      left: tokens of all examples that are left.
    """
    least = min(power_of_two(-(-total // rows)), USUAL)
    octave = max(power_of_two(lengths[0]), least)
    sizes = {bucket(octave * part // 8) for part in (5, 6, 7, 8)}

    def computed(size):
        taken = sum(lengths[: len(fill(lengths, rows, size))])
        return -(-left // taken) * size  # as if all calls took as many

    return min((size for size in sorted(sizes) if size >= lengths[0]), key=computed)


def pack(
    inputs: Sequence[Int[np.ndarray, " _"]],
    places: Sequence[tuple[int, int]],
    rows: int,
    size: int,
    start_places: int,
) -> PackedInputs:
    """The rows as arrays.

    Args:
      inputs: tokens of each example.
      places: row and offset of each, see `fill`.
      rows, size: of the arrays.
      start_places: places before an example's tokens, see `families.Family`.
    """
    tokens, segment_ids, positions = np.zeros((3, rows, size), np.int32)
    for number, (ids, (row, offset)) in enumerate(zip(inputs, places, strict=True), start=1):
        first = offset + start_places
        tokens[row, first : first + len(ids)] = ids
        end = first + len(ids)
        segment_ids[row, offset:end] = number
        positions[row, offset:end] = np.arange(end - offset)
    return PackedInputs(tokens, segment_ids, positions)
