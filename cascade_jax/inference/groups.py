"""Rows of similar lengths in batches of a few shapes, so that few programs answer all of them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from cascade_jax.inference.buckets import bucket

_MOST_SHAPES = 12
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
    size: int,
    most_shapes: int = _MOST_SHAPES,
) -> list[Group]:
    """Batches of rows, the longest first.

    Lengths are padded to buckets. Two shapes are joined while there are too many, or while that
    leaves fewer tokens to compute, as where both have few rows. What is free in a batch is taken
    by rows of smaller shapes.

    Args:
      rows: indices of the rows.
      lengths: of each row, e.g. of its input and of its target.
      limits: of each kind of length, the largest size (see `bucket`).
      size: rows of a batch.
      most_shapes: the most shapes, and so programs.
    """
    by_shape: dict[Shape, list[tuple[int, int]]] = {}
    for row, row_lengths in zip(rows, lengths.tolist(), strict=True):
        shape = tuple(map(bucket, row_lengths, limits))
        # Sorted below, the longest first.
        by_shape.setdefault(shape, []).append((-sum(row_lengths), row))
    while len(by_shape) > most_shapes:
        _join(by_shape, *_nearest(by_shape))
    while pair := _worth_joining({s: len(members) for s, members in by_shape.items()}, size):
        _join(by_shape, *pair)
    waiting = {s: iter([row for _, row in sorted(members)]) for s, members in by_shape.items()}
    groups = []
    for batch in _batches({s: len(members) for s, members in by_shape.items()}, size):
        for _ in range(batch.number):
            members = []
            for source, count in batch.members:
                members += itertools.islice(waiting[source], count)
            groups.append(Group(members, size, batch.shape))
    return groups


@dataclasses.dataclass
class _Batches:
    """Batches that are alike: how many, their shape, and how many rows of which shapes are in each.

    Those with room are by themselves.
    """

    number: int
    shape: Shape
    members: list[tuple[Shape, int]]


def _batches(counts: Mapping[Shape, int], size: int) -> list[_Batches]:
    """The batches, the largest shape first."""
    result: list[_Batches] = []
    for shape in sorted(counts, key=lambda shape: (sum(shape), shape), reverse=True):
        left = counts[shape]
        for other in result:
            free = size - sum(count for _, count in other.members)
            if free and left and _holds(other.shape, shape):
                other.members.append((shape, min(free, left)))
                left -= min(free, left)
        for number, count in ((left // size, size), (1, left % size)):
            if number and count:
                result.append(_Batches(number, shape, [(shape, count)]))
    return result


def _holds(one: Shape, other: Shape) -> bool:
    return all(own >= length for own, length in zip(one, other, strict=True))


def _joined(one: Shape, other: Shape) -> Shape:
    return tuple(map(max, one, other))


def _join(by_shape: dict[Shape, list], one: Shape, other: Shape) -> None:
    members = by_shape.pop(one) + by_shape.pop(other)
    by_shape.setdefault(_joined(one, other), []).extend(members)


def _nearest(by_shape: Mapping[Shape, list]) -> tuple[Shape, Shape]:
    """The two shapes whose rows need the fewest tokens more if they are joined."""
    shapes, counts = np.array(list(by_shape)), np.array(list(map(len, by_shape.values())))
    joined = np.maximum(shapes[:, None], shapes[None]).sum(axis=-1)  # [shapes shapes]
    more = (joined - shapes.sum(axis=-1)[:, None]) * counts[:, None]
    more = np.where(np.eye(len(shapes)), np.inf, more + more.T)
    one, other = np.unravel_index(np.argmin(more), more.shape)
    return tuple(shapes[one].tolist()), tuple(shapes[other].tolist())


def _worth_joining(counts: Mapping[Shape, int], size: int) -> tuple[Shape, Shape] | None:
    """The two shapes that joined leave the fewest tokens to compute; None if all leave more."""

    def cost(counts: Mapping[Shape, int]) -> int:
        return sum(batch.number * sum(batch.shape) for batch in _batches(counts, size))

    def after(pair: tuple[Shape, Shape]) -> int:
        left = {shape: count for shape, count in counts.items() if shape not in pair}
        shape = _joined(*pair)
        return cost(left | {shape: left.get(shape, 0) + sum(counts[each] for each in pair)})

    pairs = list(itertools.combinations(counts, 2))
    costs = list(map(after, pairs))
    return pairs[int(np.argmin(costs))] if costs and min(costs) <= cost(counts) else None
