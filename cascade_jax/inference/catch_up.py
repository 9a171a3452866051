"""How many tokens a model computes at once when rows have different numbers of them to read.

Shapes in a compiled program are fixed: there is one program for each shape here, and the cheapest
that holds what is to be read is run.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Int

from cascade_jax.models.pieces import Pieces, first_tokens

# Reading the parameters takes as long as computing so many tokens with them: fewer save nothing.
_FEW = 16


@dataclasses.dataclass(frozen=True)
class Shape:
    """Room for tokens of a batch.

    Attributes:
      rows: of the batch.
      width: tokens of a piece.
      number: pieces, which rows share as they need them; None if each row is one piece.
    """

    rows: int
    width: int
    number: int | None = None

    @property
    def size(self) -> int:
        """Tokens computed, padding included."""
        return self.width * (self.number or self.rows)

    def holds(self, counts: Int[Array, " B"]) -> Int[Array, ""]:
        """True if there is room for so many tokens of each row."""
        if self.number is None:
            return jnp.max(counts) <= self.width
        return jnp.sum(-(-counts // self.width)) <= self.number

    def cut(
        self, starts: Int[Array, " B"], counts: Int[Array, " B"], length: int
    ) -> tuple[Pieces, Int[Array, " B"]]:
        """The tokens as pieces, and where among the pieces' tokens each row's last one is.

        Args:
          starts, counts: place of each row's first token, and how many there are.
          length: places of an answer.
        """
        if self.number is None:
            pieces = Pieces.of_rows(starts, counts, width=self.width, length=length)
            first = jnp.arange(self.rows) * self.width
        else:
            size = {"width": self.width, "number": self.number}
            pieces = Pieces.of_cut_rows(starts, counts, **size, length=length)
            first = first_tokens(counts, self.width)
        return pieces, jnp.maximum(first + counts - 1, 0)


def shapes(rows: int, length: int, width: int | None) -> list[Shape]:
    """Shapes of which one holds whatever is to be read, each about twice the one before.

    Args:
      rows: of the batch.
      length: the most tokens that a row may have to read.
      width: of the pieces that rows are cut into; None for rows as they are.
    """
    if width is None:
        return [Shape(rows, each) for each in _doubling(length)]
    most = rows * -(-length // width)
    numbers = [number for number in _doubling(most) if number * width >= min(_FEW, most * width)]
    return [Shape(rows, 1), *(Shape(rows, width, number) for number in numbers)]


def cheapest(allowed: Sequence[Shape], counts: Int[Array, " B"]) -> Int[Array, ""]:
    """Index of the smallest shape that holds so many tokens of each row."""
    never = jnp.iinfo(jnp.int32).max
    return jnp.argmin(
        jnp.stack([jnp.where(each.holds(counts), each.size, never) for each in allowed])
    )


def _doubling(last: int) -> list[int]:
    """1, 2, 4, ... and `last`."""
    return [2**i for i in range((last - 1).bit_length())] + [last]
