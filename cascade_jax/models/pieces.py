"""Answer tokens that a model reads into its cache, each row at a place of its own."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


@flax.struct.dataclass
class Pieces:
    """P pieces of up to K neighbouring tokens; a piece belongs to one row of the cache.

    A row may have several pieces, or none. Tokens beyond a piece's count are padding: they are not
    written, and what a model says of them means nothing.

    Example: row 0 goes on with answer tokens 3, 4 and 5, row 1 with none, row 2 with token 7, in
    pieces of two: ``rows = [0 0 2]``, ``starts = [3 5 7]``, ``counts = [2 1 1]``.

    Attributes:
      starts: place in the answer, from 0, of each piece's first token.
      counts: tokens of each piece, 0 to K.
      sources: for each place of the answers in the cache, which of the P * K tokens goes there; -1
        for none.
      rows: row of the cache of each piece; None if piece i is row i's.
    """

    starts: Int[Array, " P"]
    counts: Int[Array, " P"]
    sources: Int[Array, "B L"]
    rows: Int[Array, " P"] | None = None

    @classmethod
    def of_rows(
        cls, starts: Int[Array, " B"], counts: Int[Array, " B"], *, width: int, length: int
    ) -> "Pieces":
        """One piece for each row.

        Args:
          starts, counts: of each row; a row of count 0 reads nothing.
          width: K.
          length: places for the answer in the cache.
        """
        ahead = jnp.arange(length)[None] - starts[:, None]
        is_new = (ahead >= 0) & (ahead < counts[:, None])
        index = jnp.arange(len(starts))[:, None] * width + ahead
        return cls(starts, counts, jnp.where(is_new, index, -1))

    @classmethod
    def of_cut_rows(
        cls,
        starts: Int[Array, " B"],
        counts: Int[Array, " B"],
        *,
        width: int,
        number: int,
        length: int,
    ) -> "Pieces":
        """The rows' tokens cut into `number` pieces of up to `width`, row after row.

        Args:
          starts, counts: of each row; a row of count 0 reads nothing.
          width: K.
          number: P, at least the sum of ceil(counts / width); pieces left over are empty.
          length: places for the answer in the cache.
        """
        ends = jnp.cumsum(-(-counts // width))  # of each row's pieces
        piece = jnp.arange(number)
        rows = jnp.sum(piece[:, None] >= ends[None], axis=1)
        rows = jnp.minimum(rows, len(starts) - 1)  # empty pieces count as the last row's
        first = (ends - (-(-counts // width)))[rows]
        done = (piece - first) * width
        ahead = jnp.arange(length)[None] - starts[:, None]
        is_new = (ahead >= 0) & (ahead < counts[:, None])
        index = first_tokens(counts, width)[:, None] + ahead
        return cls(
            starts=starts[rows] + done,
            counts=jnp.clip(counts[rows] - done, 0, width),
            sources=jnp.where(is_new, index, -1),
            rows=rows,
        )

    @property
    def length(self) -> int:
        """Places for the answer in the cache."""
        return self.sources.shape[1]

    def places(self, width: int) -> Int[Array, "P {width}"]:
        """Place in the answer of each token."""
        return self.starts[:, None] + jnp.arange(width)[None]

    def of(self, rows: Shaped[Array, "B ..."]) -> Shaped[Array, "P ..."]:
        """What belongs to each piece's row."""
        return rows if self.rows is None else jnp.take(rows, self.rows, axis=0)

    def put(self, cache: Float[Array, "B H D T"], new: Float[Array, "P H D K"]):
        """The cache after the tokens' keys (or values) have gone to the last L of its T places."""
        is_new = (self.sources >= 0)[:, None, None, :]
        if self.rows is None and new.shape[-1] == 1:
            values = new
        else:
            flat = new.transpose(0, 3, 1, 2).reshape(-1, *new.shape[1:3])
            values = jnp.take(flat, jnp.maximum(self.sources, 0), axis=0).transpose(0, 2, 3, 1)
        first = cache.shape[-1] - self.length
        answer = jnp.where(is_new, values, cache[..., first:])
        return jax.lax.dynamic_update_slice_in_dim(cache, answer, first, axis=-1)


def first_tokens(counts: Int[Array, " B"], width: int) -> Int[Array, " B"]:
    """Index, among the P * K tokens of `Pieces.of_cut_rows`, of each row's first."""
    pieces = -(-counts // width)
    return (jnp.cumsum(pieces) - pieces) * width


def causal_mask(pieces: Pieces, width: int) -> Bool[Array, "P 1 {width} L"]:
    """True where a token may look at a place of the answer: its own and those before it."""
    order = jnp.arange(pieces.length)
    return (order[None, None] <= pieces.places(width)[:, :, None])[:, None]
