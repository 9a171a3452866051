"""What a model reads at once when rows have different numbers of tokens to read.

Shapes in a compiled program are fixed, so tokens are read in chunks of fixed sizes, as many as it
takes: a loop, which updates the cache where it lies. (One program for each number of tokens would
hand the whole cache over, and copy it.) Large chunks read the parameters less often, small ones
leave less room empty.
"""

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cascade_jax.models.ragged import Ragged

_TIMES = (16, 4, 1)  # of what takes no longer than one token


def sizes(rows: int, length: int, is_packed: bool, least: int = 1) -> list[tuple[int, int]]:
    """Sizes of chunks, the largest first: tokens of all rows together, or of each row.

    Args:
      rows: of the batch.
      length: the most tokens that a row may have to read.
      is_packed: whether rows share the room of a chunk; if not, each has as much of its own.
      least: tokens, of all rows, that take no longer than fewer do: while they are computed the
        parameters are read.

    Returns:
      Sizes, and of each how many tokens must be left for it to be taken: more than that.
    """
    most, row = (rows * length, rows) if is_packed else (length, 1)
    least = least if is_packed else -(-least // rows)
    found = sorted({row, *(min(times * max(row, least), most) for times in _TIMES)})
    needed = [0]
    for smaller, size in itertools.pairwise(found):
        # Two small ones cost more than a large one that takes no longer than one of them, and else
        # than one that is half full.
        needed.append(smaller if size <= least else max(smaller, size // 2))
    return list(zip(found, needed, strict=True))[::-1]


def total(counts: Int[Array, " B"], is_packed: bool) -> Int[Array, ""]:
    """What has to be read in all, in the unit of sizes."""
    return jnp.sum(counts) if is_packed else jnp.max(counts)


def chunk(
    starts: Int[Array, " B"],
    counts: Int[Array, " B"],
    done: Int[Array, ""],
    size: int,
    length: int,
    is_packed: bool,
) -> tuple[Ragged, Int[Array, " B"], Bool[Array, " B"]]:
    """The next chunk, which of its tokens is each row's last one, and which rows are through then.

    Args:
      starts, counts: place of each row's first token, and how many there are.
      done: what was read before, in the unit of sizes.
      size: of the chunk.
      length: places of an answer.
      is_packed: as in `sizes`.
    """
    before = jnp.cumsum(counts) - counts if is_packed else 0
    low = jnp.clip(done - before, 0, counts)
    high = jnp.clip(done + size - before, 0, counts)
    if is_packed:
        found = Ragged.packed(starts + low, high - low, number=size, length=length)
    else:
        found = Ragged.of_rows(starts + low, high - low, width=size, length=length)
    last = jnp.maximum(found.first + high - low - 1, 0)
    return found, last, (high == counts) & (high > low)
