"""Sums and quantiles of segments of any length that lie end to end, without a loop over them.

Segment i is ``values[offsets[i]:offsets[i + 1]]``, and holds at least one value. Work is done in
blocks that fit a processor's cache, so that little memory is taken beside the values themselves.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 1 << 18  # values at once


def blocks(offsets: Int[np.ndarray, " n_plus_1"], size: int = _BLOCK) -> Iterator[slice]:
    """Ranges of whole segments, each of about `size` values (a longer segment is one by itself)."""
    edges = np.searchsorted(offsets, np.arange(0, offsets[-1], size), side="right") - 1
    edges = np.unique(np.append(edges, len(offsets) - 1))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield slice(first, last)


def sums(
    offsets: Int[np.ndarray, " n_plus_1"],
    values_fn: Callable[[slice], Float[np.ndarray, " values"]],
    size: int = _BLOCK,
) -> Float[np.ndarray, " n"]:
    """Sum of every segment, in float64.

    `values_fn` gives the values of a range of positions, and is called once for each block of about
    `size` values: fewer where it needs much memory for each.
    """
    result = np.empty(len(offsets) - 1)
    for rows in blocks(offsets, size):
        tokens = slice(int(offsets[rows.start]), int(offsets[rows.stop]))
        starts = offsets[rows] - tokens.start
        result[rows] = np.add.reduceat(values_fn(tokens), starts, dtype=np.float64)
    return result


def sorted_blocks(
    offsets: Int[np.ndarray, " n_plus_1"], values: Float[np.ndarray, " values"]
) -> Iterator[tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "rows L"]]]:
    """Segments of one length side by side, each sorted upwards, with their numbers.

    N values have at most sqrt(2 N) different lengths, so that there are few blocks.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0:
        return
    by_length = np.argsort(lengths, kind="stable")
    distinct, first = np.unique(lengths[by_length], return_index=True)
    for length, group in zip(distinct.tolist(), np.split(by_length, first[1:]), strict=True):
        step = max(1, _BLOCK // length)
        for start in range(0, len(group), step):
            rows = group[start : start + step]
            at = offsets[rows][:, None] + np.arange(length)
            yield rows, np.sort(values[at], axis=1)


def quantiles(
    offsets: Int[np.ndarray, " n_plus_1"],
    values: Float[np.ndarray, " values"],
    quantiles: Sequence[float],
) -> Float[np.ndarray, "n Q"]:
    """Quantiles of every segment, with linear interpolation between two sorted values.

    Quantile q of sorted v_0..v_{N-1} is at position ``q * (N - 1)``: as ``np.quantile`` has it.

    Example: of [1 2 4], quantile 0.25 is 1.5.
    """
    q = np.asarray(quantiles, dtype=np.float64)
    result = np.empty((len(offsets) - 1, len(q)))
    for rows, ordered in sorted_blocks(offsets, values):
        last = ordered.shape[1] - 1
        below = np.minimum(np.floor(q * last).astype(np.int64), last)
        above = np.minimum(below + 1, last)
        low, high = ordered[:, below].astype(np.float64), ordered[:, above].astype(np.float64)
        result[rows] = low + (q * last - below) * (high - low)
    return result
