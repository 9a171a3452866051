"""Ragged KV-cache writes: per-row token counts and positions."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


@flax.struct.dataclass
class Ragged:
    """Neighbouring tokens of every row, some rows with more than others, or with none.

    A model computes them as [P, K]. Either each row has room for K of them (P = B), or they are
    packed: row after row, a token each (P tokens, K = 1). Tokens that only fill up are not written
    to the cache, and what a model says of them means nothing.

    Attention looks at them by row in both cases, [B, W] (W = K, or the most that a row may have
    when they are packed): so each row's keys and values are read once, where they lie.

    Example: row 0 goes on with answer tokens 3, 4 and 5, row 1 with none, row 2 with token 7:
    ``starts = [3 0 7]``, ``counts = [3 0 1]``. By rows of 4 that is
    [[3 4 5 _] [_ _ _ _] [7 _ _ _]], packed into 6 it is [[3] [4] [5] [7] [_] [_]].

    Attributes:
      starts: place in the answer, from 0, of each row's first token.
      counts: tokens of each row.
      width: K if each row has room of its own; None if they are packed.
      number: P.
      row_width: W; at least the largest count.
      length: places for an answer in the cache.
    """

    starts: Int[Array, " B"]
    counts: Int[Array, " B"]
    width: int | None = flax.struct.field(pytree_node=False)
    number: int = flax.struct.field(pytree_node=False)
    row_width: int = flax.struct.field(pytree_node=False)
    length: int = flax.struct.field(pytree_node=False)

    @classmethod
    def padded(
        cls, starts: Int[Array, " B"], counts: Int[Array, " B"], *, width: int, length: int
    ) -> "Ragged":
        """Room for `width` tokens of each row."""
        return cls(starts, counts, width, len(starts), width, length)

    @classmethod
    def packed(
        cls,
        starts: Int[Array, " B"],
        counts: Int[Array, " B"],
        *,
        number: int,
        row_width: int,
        length: int,
    ) -> "Ragged":
        """Room for `number` tokens of all rows, and `row_width` of each."""
        return cls(starts, counts, None, number, row_width, length)

    @property
    def first(self) -> Int[Array, " B"]:
        """Index, among the P * K tokens, of each row's first."""
        if self.width is not None:
            return jnp.arange(self.number) * self.width
        return jnp.cumsum(self.counts) - self.counts

    @property
    def rows(self) -> Int[Array, " P"]:
        """Row of the cache that each of P belongs to; what fills up counts as the last row's."""
        if self.width is not None:
            return jnp.arange(self.number)
        ends = jnp.cumsum(self.counts)
        rows = jnp.sum(jnp.arange(self.number)[:, None] >= ends[None], axis=1)
        return jnp.minimum(rows, len(self.counts) - 1)

    @property
    def places(self) -> Int[Array, "P K"]:
        """Place in the answer of each token; those that fill up may lie beyond the last."""
        if self.width is not None:
            return self.starts[:, None] + jnp.arange(self.width)[None]
        rows = self.rows
        return (self.starts[rows] + jnp.arange(self.number) - self.first[rows])[:, None]

    @property
    def sources(self) -> Int[Array, "B L"]:
        """Which of the P * K tokens goes to each place of the cache; -1 for none."""
        ahead = jnp.arange(self.length)[None] - self.starts[:, None]
        is_new = (ahead >= 0) & (ahead < self.counts[:, None])
        return jnp.where(is_new, self.first[:, None] + ahead, -1)

    @property
    def places_by_row(self) -> Int[Array, "B W"]:
        """Place in the answer of each row's tokens."""
        return self.starts[:, None] + jnp.arange(self.row_width)[None]

    def by_row(self, x: Shaped[Array, "P K ..."]) -> Shaped[Array, "B W ..."]:
        """What belongs to the tokens, row by row."""
        if self.width is not None:
            return x
        index = self.first[:, None] + jnp.arange(self.row_width)[None]
        return jnp.take(x[:, 0], index, axis=0, mode="clip")

    def by_token(self, x: Shaped[Array, "B W ..."]) -> Shaped[Array, "P K ..."]:
        """The inverse of `by_row`."""
        if self.width is not None:
            return x
        rows = self.rows
        index = rows * self.row_width + jnp.arange(self.number) - self.first[rows]
        return jnp.take(x.reshape(-1, *x.shape[2:]), index, axis=0, mode="clip")[:, None]

    def put(self, cache: Float[Array, "B H ..."], new: Float[Array, "P H ..."], axis: int):
        """The cache after the tokens' keys (or values) have gone to the last L of its T places.

        Args:
          cache: [B H D T], or [B H T D].
          new: [P H D K], or [P H K D].
          axis: of the places: -1, or -2.
        """
        sources = self.sources
        if new.shape[axis] == 1 and self.width is not None:
            values = new
        else:
            flat = jnp.moveaxis(new, axis, 1)
            flat = flat.reshape(-1, *flat.shape[2:])  # [P * K, H, D]
            values = jnp.moveaxis(jnp.take(flat, jnp.maximum(sources, 0), axis=0), 1, axis)
        first = cache.shape[axis] - self.length
        old = jax.lax.slice_in_dim(cache, first, None, axis=axis)
        is_new = jnp.expand_dims(sources >= 0, (1, 2) if axis == -1 else (1, 3))
        answer = jnp.where(is_new, values, old)
        return jax.lax.dynamic_update_slice_in_dim(cache, answer, first, axis=axis)


def causal_mask(tokens: Ragged) -> Bool[Array, "B 1 W L"]:
    """True where a row's token may look at a place of the answer: its own and those before it."""
    order = jnp.arange(tokens.length)
    return (order[None, None] <= tokens.places_by_row[:, :, None])[:, None]
