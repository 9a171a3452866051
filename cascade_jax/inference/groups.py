"""Rows of similar lengths in batches of a few shapes, so that few programs answer all of them."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.inference.buckets import bucket

_MOST_SHAPES = 8
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """A batch.

    Attributes:
      rows: indices of its rows, at most `size`.
      size: rows of the batch, with those that only fill it up.
      shape: what the rows' lengths are padded to.
    """

    rows: list[int]
    size: int
    shape: Shape


def plan(
    rows: Sequence[int],
    lengths: Int[np.ndarray, "n K"],
    limits: Sequence[int | None],
    size_of: Callable[[Shape], int],
    most_shapes: int = _MOST_SHAPES,
) -> list[Group]:
    """Batches of rows, the longest first.

    Lengths are padded to buckets. Shapes are joined, those first that cost the fewest tokens, while
    they are too many or while half a batch that only fills up would cost more. What is free in a
    batch is taken by rows of smaller shapes.

    Args:
      rows: indices of the rows.
      lengths: of each row, e.g. of its input and of its target.
      limits: of each kind of length, the largest size (see `bucket`).
      size_of: rows of a batch of a shape.
      most_shapes: the most shapes, and so programs.
    """
    by_shape: dict[Shape, list[tuple[int, int]]] = {}
    for row, of_row in zip(rows, lengths.tolist(), strict=True):
        shape = tuple(map(bucket, of_row, limits))
        by_shape.setdefault(shape, []).append((-sum(of_row), row))  # to be sorted, longest first
    _join(by_shape, size_of, most_shapes)
    groups: list[Group] = []
    for shape in sorted(by_shape, key=lambda shape: (sum(shape), shape), reverse=True):
        waiting = [row for _, row in sorted(by_shape[shape])]
        for group in groups:
            if all(own >= other for own, other in zip(group.shape, shape, strict=True)):
                free = group.size - len(group.rows)
                group.rows.extend(waiting[:free])
                waiting = waiting[free:]
        size = size_of(shape)
        groups += [
            Group(waiting[start : start + size], size, shape)
            for start in range(0, len(waiting), size)
        ]
    return groups


def _join(by_shape: dict[Shape, list], size_of: Callable[[Shape], int], most_shapes: int) -> None:
    """Joins shapes, in place."""

    def cost(shape: Shape, count: int) -> float:
        return sum(shape) * (count + size_of(shape) / 2)

    def more(one: Shape, other: Shape) -> tuple[float, Shape, Shape]:
        """Tokens that are computed in addition if two shapes are joined."""
        counts = len(by_shape[one]), len(by_shape[other])
        joined = cost(tuple(map(max, one, other)), sum(counts))
        return joined - cost(one, counts[0]) - cost(other, counts[1]), one, other

    while len(by_shape) > 1:
        least, one, other = min(more(*pair) for pair in itertools.combinations(by_shape, 2))
        if len(by_shape) <= most_shapes and least >= 0:
            return
        members = by_shape.pop(one) + by_shape.pop(other)
        by_shape.setdefault(tuple(map(max, one, other)), []).extend(members)
