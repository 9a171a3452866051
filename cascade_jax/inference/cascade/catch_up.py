"""Chunked prefill for rows that lag by different numbers of tokens.

Shapes in a compiled program are fixed, so tokens are read in chunks of fixed sizes, in a loop that
updates the cache in place. (One program for each number of tokens would pass the whole cache from
program to program, and copy it.) Large chunks read the parameters less often, small ones are padded
less.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cascade_jax.models.ragged import Ragged

_TIMES = (16, 8, 4, 2, 1)  # sizes of chunks, in multiples of `least`
_CALL = 28  # what a call costs besides its tokens, in tokens; measured on a CPU
_WIDTH = 16  # of packed rows: attention computes this many tokens of each row, used or not


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One call of the model: tokens of a batch in an array of fixed size.

    Attributes:
      is_packed: whether rows share the array; if not, each has `width` places of its own.
      size: tokens computed, padding included.
      width: the most tokens of one row.
      needed: the chunk is taken while more than this many tokens are left: of all rows if they are
        packed, else of the row that lags most.
      most: and no row has more than this many left; None for any number.
    """

    is_packed: bool
    size: int
    width: int
    needed: int
    most: int | None = None

    def is_due(self, left: Int[Array, " B"]) -> Bool[Array, ""]:
        """Whether the chunk is taken, from the number of tokens that each row has left."""
        is_due = (jnp.sum(left) if self.is_packed else jnp.max(left)) > self.needed
        return is_due if self.most is None else is_due & (jnp.max(left) <= self.most)

    def taken(self, left: Int[Array, " B"]) -> Int[Array, " B"]:
        """How many tokens it takes from each row, the first rows first."""
        taken = jnp.minimum(left, self.width)
        if not self.is_packed:
            return taken
        return jnp.clip(self.size - (jnp.cumsum(taken) - taken), 0, taken)

    def place(self, starts: Int[Array, " B"], counts: Int[Array, " B"], length: int) -> Ragged:
        """Where the tokens stand, from each row's first place and the number `taken`."""
        if not self.is_packed:
            return Ragged.padded(starts, counts, width=self.width, length=length)
        return Ragged.packed(starts, counts, number=self.size, row_width=self.width, length=length)


def chunks(rows: int, length: int, is_packed: bool, least: int) -> list[Chunk]:
    """Chunks to take one after the other, each while it is due; then no token is left.

    Args:
      rows: of the batch.
      length: the most tokens that a row may have to read.
      is_packed: whether rows share a chunk.
      least: number of tokens that take as long as one, since reading the parameters takes longer.
    """
    unit, most = (rows, rows * length) if is_packed else (1, length)
    shared = 1 if is_packed else rows  # tokens computed for each token of the longest row
    least = -(-least // shared)
    sizes = sorted({unit, *(min(times * max(unit, least), most) for times in _TIMES)})
    both = _with_needed(sizes, least, _CALL / shared)[::-1]
    if not is_packed:
        return [Chunk(False, size * rows, size, least) for size, least in both]
    # One token of each row needs no packing.
    packed = [Chunk(False, rows, 1, 0, most=1)]
    for size, least in both:
        width = min(length, size, max(_WIDTH, 4 * size // rows))
        packed.append(Chunk(True, size, width, least))
    return packed


def _with_needed(sizes: list[int], least: int, call: float) -> list[tuple[int, int]]:
    """Each size, and the most tokens that cost less in smaller chunks."""
    result: list[tuple[int, int]] = []

    def cost(left: int) -> float:
        total = 0.0
        while left > 0:
            size = next(size for size, needed in reversed(result) if left > needed)
            total, left = total + call + max(size, least), left - size
        return total

    for size in sizes:
        needed = result[-1][0] if result else 0  # as many as fit into the next smaller one
        while result and needed + 1 < size and cost(needed + 1) < call + max(size, least):
            needed += 1
        result.append((size, needed))
    return result
