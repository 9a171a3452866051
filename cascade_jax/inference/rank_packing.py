"""Rows that hold several examples with their options, so that hardly any padding is computed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.inference.buckets import bucket, power_of_two
from cascade_jax.inference.packing import USUAL

_SHARES = (1.0, 1.1, 1.2, 1.35)  # of the options' places to those of as many inputs, to be tried
_OPEN = 512  # rows that may have room; the sooner begun ones are nearly full


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
      rows: of each packed row that is not empty, the indices of its examples.
      size: packed rows, with empty ones.
      inputs, options: places of a row, S and W.
    """

    rows: list[list[int]]
    size: int
    inputs: int
    options: int


def plan(inputs: Sequence[int], options: Sequence[int], most_rows: int, shards: int) -> list[Pass]:
    """Packs examples, the largest first, each into the first row with room for it.

    All passes have one shape: that, out of a few, with which the fewest tokens are computed. An
    example with more tokens of options than such a row holds goes into a pass of fewer rows, which
    have two, four, ... times the places for options.

    Args:
      inputs: tokens of each example's input, with a start if the model has one.
      options: tokens of all its options together.
      most_rows: the most packed rows of a pass, if they are as long as the longest input; fewer of
        longer rows, so that a pass has as many tokens.
      shards: numbers of rows are multiples of this.
    """
    if not len(inputs):
        return []
    lengths = np.array([inputs, options]).T
    totals = np.maximum(lengths.sum(axis=0), 1)  # inputs may all be empty
    longest = bucket(int(lengths[:, 0].max()))
    own = power_of_two(max(most_rows // shards, 1) * longest)  # tokens of a pass on a shard
    size = bucket(max(longest, min(power_of_two(-(-int(totals[0]) // most_rows)), USUAL, own)))
    most_rows = most_rows * longest // size
    widths = {bucket(round(share * size * totals[1] / totals[0])) for share in _SHARES}
    plans = [_plan(lengths, size, width, most_rows, shards) for width in sorted(widths)]
    return min(plans, key=lambda passes: sum(p.size * (p.inputs + p.options) for p in passes))


def _plan(
    lengths: Int[np.ndarray, "n 2"], size: int, width: int, most_rows: int, shards: int
) -> list[Pass]:
    times = [power_of_two(-(-int(tokens) // width)) for tokens in lengths[:, 1]]
    passes = []
    for factor in sorted(set(times), reverse=True):
        members = [index for index, own in enumerate(times) if own == factor]
        rows = _first_fit(lengths, members, (size, width * factor))
        most = max(most_rows // shards // factor, 1) * shards
        least = -(-len(rows) // -(-len(rows) // most))  # the passes are about equal
        count = -(-least // shards) * shards
        passes += [
            Pass(rows[start : start + count], count, size, width * factor)
            for start in range(0, len(rows), count)
        ]
    return passes


def _first_fit(
    lengths: Int[np.ndarray, "n 2"], members: list[int], sizes: tuple[int, int]
) -> list[list[int]]:
    """Rows of examples, none of which is longer than `sizes` in either kind."""
    shares = lengths / np.array(sizes)
    order = sorted(members, key=lambda index: (-shares[index].max(), -shares[index].sum(), index))
    rows: list[list[int]] = []
    free = np.zeros((len(members), 2), np.int64)
    for index in order:
        first = max(len(rows) - _OPEN, 0)
        fits = (free[first : len(rows)] >= lengths[index]).all(axis=1)
        place = first + int(fits.argmax()) if fits.any() else len(rows)
        if place == len(rows):
            rows.append([])
            free[place] = sizes
        rows[place].append(index)
        free[place] -= lengths[index]
    return rows
