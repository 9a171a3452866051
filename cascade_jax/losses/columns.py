"""Reductions over the vocabulary when each device holds some columns of it."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import numerics


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of the logits that this device holds: all, or its part of a mesh axis."""

    num_ids: int  # number of token ids; columns from here on are padding
    axis: str | None = None  # inside `jax.shard_map`, the mesh axis that splits the columns evenly

    def ids(self, width: int) -> Int[Array, "1 width"]:
        """Token ids of this device's columns."""
        start = 0 if self.axis is None else jax.lax.axis_index(self.axis) * width
        return start + jnp.arange(width, dtype=jnp.int32)[None]

    def is_token(self, width: int) -> Bool[Array, "1 width"]:
        """Which of these columns are not padding."""
        return self.ids(width) < self.num_ids

    def floored(
        self, logits: Float[Array, "C width"], *, may_be_inf: bool
    ) -> Float[Array, "C width"]:
        """float32 logits, at about -inf in padding columns and, if there may be any, for -inf."""
        if not may_be_inf and logits.shape[-1] * self._parts() == self.num_ids:
            return logits.astype(jnp.float32)
        mask = jnp.broadcast_to(self.is_token(logits.shape[-1]), logits.shape)
        return numerics.floored(logits, mask)

    def sum(self, *values: Float[Array, "C width"]):
        """Sums over all columns, of one array or of several in one exchange."""
        sums = tuple(jnp.sum(value, axis=-1) for value in values)
        if self.axis is not None:
            sums = jax.lax.psum(sums, self.axis)
        return sums if len(sums) > 1 else sums[0]

    def max(self, values: Float[Array, "C width"]) -> Float[Array, " C"]:
        """Maximum over all columns."""
        largest = jnp.max(values, axis=-1)
        return largest if self.axis is None else jax.lax.pmax(largest, self.axis)

    def first_argmax(self, values: Float[Array, "C width"]) -> Int[Array, " C"]:
        """Smallest token id that has the maximum."""
        is_best = values >= self.max(values)[:, None]
        ids = jnp.where(is_best, self.ids(values.shape[-1]), jnp.iinfo(jnp.int32).max)
        first = jnp.min(ids, axis=-1)
        return first if self.axis is None else jax.lax.pmin(first, self.axis)

    def pick(self, values: Float[Array, "C width"], ids: Int[Array, "C k"]) -> Float[Array, "C k"]:
        """Values at token ids; NaN where an id is outside [0, num_ids)."""
        local, is_here = self._local(ids, values.shape[-1])
        picked = jnp.where(is_here, jnp.take_along_axis(values, local, axis=-1), 0.0)
        if self.axis is not None:
            picked = jax.lax.psum(picked, self.axis)
        return jnp.where((ids >= 0) & (ids < self.num_ids), picked, jnp.nan)

    def put(
        self, values: Float[Array, "C width"], ids: Int[Array, "C k"], new: Float[Array, "C k"]
    ) -> Float[Array, "C width"]:
        """`values` with the columns of k different token ids a row replaced by `new`."""
        local, is_here = self._local(ids, values.shape[-1])
        outside = values.shape[-1]  # dropped
        rows = jnp.arange(values.shape[0])[:, None]
        return values.at[rows, jnp.where(is_here, local, outside)].set(new, mode="drop")

    def _parts(self) -> int:
        return 1 if self.axis is None else jax.lax.axis_size(self.axis)

    def _local(self, ids, width):
        """Columns of the ids in this device's arrays (0 for others), and whether they are there."""
        local = ids if self.axis is None else ids - jax.lax.axis_index(self.axis) * width
        is_here = (local >= 0) & (local < width)
        return jnp.where(is_here, local, 0), is_here
