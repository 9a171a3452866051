"""The rows of a global batch that a host holds, and global arrays from the hosts' rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np

from cascade_jax import batch as batch_lib
from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.data import features

if TYPE_CHECKING:  # imported at its first use: it takes seconds, and not every command reads text
    import seqio


def host_shard(sharding: jax.sharding.Sharding, batch_size: int, length: int) -> seqio.ShardInfo:
    """Which part of every global batch this process's devices hold.

    Example: 2 processes of 4 devices on a mesh (data 8, tensor 1): ShardInfo(0, 2) and
    ShardInfo(1, 2); on a mesh (data 1, tensor 8) both hold all rows: ShardInfo(0, 1).

    Args:
      sharding: of a [batch, length] array.
      batch_size: rows in a global batch.
      length: columns.

    Raises:
      ValueError: if the batch does not divide, or a process's rows are not one equal block.
    """
    import seqio

    try:
        sharding.shard_shape((batch_size, length))
    except ValueError as error:
        raise ValueError(
            f"batch_size {batch_size} does not divide over the mesh: {error}"
        ) from None
    held = sharding.addressable_devices_indices_map((batch_size, length)).values()
    rows = np.zeros(batch_size, bool)
    for index in held:
        rows[index[0] if index else slice(None)] = True
    count, first = int(rows.sum()), int(rows.argmax())
    if not rows[first : first + count].all() or batch_size % count or first % count:
        raise ValueError(
            f"process {jax.process_index()} of {jax.process_count()} must hold one equal block of "
            f"the batch's {batch_size} rows, but holds rows {np.flatnonzero(rows).tolist()}"
        )
    return seqio.ShardInfo(first // count, batch_size // count)


def to_global_batch(
    arrays: Mapping[str, np.ndarray],
    sharding: jax.sharding.Sharding,
    batch_size: int,
    architecture: str = features.ENCODER_DECODER,
) -> Batch | DecoderBatch:
    """This host's rows, under seqio's names, as a batch of global arrays (weights float32)."""

    def to_global(array: np.ndarray, dtype: type) -> jax.Array:
        shape = (batch_size, array.shape[1])
        return jax.make_array_from_process_local_data(sharding, array.astype(dtype), shape)

    is_decoder = architecture == features.PREFIX_LM
    local = (batch_lib.from_seqio_prefix_lm if is_decoder else batch_lib.from_seqio)(arrays)
    tokens = jax.tree.map(lambda array: to_global(array, np.int32), local)
    return tokens.replace(weights=to_global(local.weights, np.float32))


def fill_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """The array padded with rows of 0 to `rows`."""
    return np.pad(array, ((0, rows - len(array)), (0, 0)))


def is_first_holder(sharding: jax.sharding.Sharding, batch_size: int) -> bool:
    """Whether no process with a lower index holds the same rows of a batch."""
    rows_of: dict[int, set[int]] = {}
    for device, index in sharding.devices_indices_map((batch_size, 1)).items():
        start = (index[0].start if index else None) or 0
        rows_of.setdefault(device.process_index, set()).add(start)
    mine = jax.process_index()
    return not any(rows_of[other] & rows_of[mine] for other in rows_of if other < mine)
