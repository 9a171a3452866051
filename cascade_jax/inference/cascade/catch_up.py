"""What a model reads at once when rows have different numbers of tokens to read.

Shapes in a compiled program are fixed, so tokens are read in chunks of fixed sizes, as many as it
takes: a loop, which updates the cache where it lies. (One program for each number of tokens would
hand the whole cache over, and copy it.) Large chunks read the parameters less often, small ones
leave less room empty.
"""

import dataclasses
import itertools

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cascade_jax.models.ragged import Ragged

_TIMES = (16, 4, 1)  # of what takes no longer than one token
_WIDTH = 16  # of packed rows: attention computes as many tokens of each row as one may have


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Room for tokens of a batch.

    Attributes:
      is_packed: whether rows share the room; if not, each has `width` of its own.
      size: tokens computed.
      width: the most of one row.
      needed: it is taken while more than so many tokens are left: of all rows if they are packed,
        else of one row.
      most: and no row has more than so many left; None for any number.
    """

    is_packed: bool
    size: int
    width: int
    needed: int
    most: int | None = None

    def is_due(self, left: Int[Array, " B"]) -> Bool[Array, ""]:
        """Whether it is to be taken when so many tokens of each row are left."""
        found = (jnp.sum(left) if self.is_packed else jnp.max(left)) > self.needed
        return found if self.most is None else found & (jnp.max(left) <= self.most)

    def taken(self, left: Int[Array, " B"]) -> Int[Array, " B"]:
        """How many of them it takes of each row, the first rows first."""
        found = jnp.minimum(left, self.width)
        if not self.is_packed:
            return found
        return jnp.clip(self.size - (jnp.cumsum(found) - found), 0, found)

    def place(self, starts: Int[Array, " B"], counts: Int[Array, " B"], length: int) -> Ragged:
        """The tokens in this room.

        Args:
          starts, counts: place of each row's first token, and how many are `taken`.
          length: places of an answer.
        """
        if self.is_packed:
            room = {"number": self.size, "row_width": self.width}
            return Ragged.packed(starts, counts, **room, length=length)
        return Ragged.of_rows(starts, counts, width=self.width, length=length)


def chunks(rows: int, length: int, is_packed: bool, least: int) -> list[Chunk]:
    """Chunks to be taken one after the other, each while it is due; then nothing is left.

    Args:
      rows: of the batch.
      length: the most tokens that a row may have to read.
      is_packed: whether rows share the room of a chunk.
      least: tokens that take no longer than one does: while they are computed the parameters are
        read.
    """
    unit, most = (rows, rows * length) if is_packed else (1, length)
    least = least if is_packed else -(-least // rows)
    sizes = sorted({unit, *(min(times * max(unit, least), most) for times in _TIMES)})
    needed = [0]
    for smaller, size in itertools.pairwise(sizes):
        # Two small ones cost more than a large one that takes no longer than one of them, and else
        # than one that is half full.
        needed.append(smaller if size <= least else max(smaller, size // 2))
    both = list(zip(sizes, needed, strict=True))[::-1]
    if not is_packed:
        return [Chunk(False, size * rows, size, least) for size, least in both]
    # A token of each row needs no packing.
    found = [Chunk(False, rows, 1, 0, most=1)]
    for size, least in both:
        width = min(length, size, max(_WIDTH, 4 * size // rows))
        found.append(Chunk(True, size, width, least))
    return found
