"""From a mixture's name to batches of global arrays, for training (restorable) and evaluation.

This module re-exports the names of `mixtures` and `examples`, so that callers import only it.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cascade_jax import json_text
from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.data import features
from cascade_jax.data.examples import Example, answer_for_metric, batch_inputs, decode_examples
from cascade_jax.data.mixtures import ALL_ROWS, DataConfig, OpenMixture, open_mixture
from cascade_jax.data.placement import fill_rows, host_shard, to_global_batch
from cascade_jax.data.reading import reading

if TYPE_CHECKING:  # imported at its first use: it takes seconds, and not every command reads text
    import seqio
    import tensorflow as tf

__all__ = [
    "BatchIterator",
    "DataConfig",
    "Example",
    "HostBatches",
    "OpenMixture",
    "answer_for_metric",
    "batch_inputs",
    "decode_examples",
    "eval_batches",
    "host_shard",
    "open_mixture",
    "rows_once",
    "train_batches",
]

STATE_VERSION = 2


# ------------------------------------------------------------------ training


class HostBatches:
    """One host's rows of endless training batches; its position can be saved and restored exactly.

    With `hosts_read="all_rows"` the concatenated rows of all hosts do not depend on the number of
    hosts, and a state saved by any of them serves all, also another number of them. With "own_rows"
    every host has a state of its own.
    """

    def __init__(self, config: DataConfig, split: str, shard: seqio.ShardInfo):
        """Opens the mixture.

        Args:
          config: what to read.
          split: e.g. "train".
          shard: which part of every batch this host holds.

        Raises:
          ValueError, FileNotFoundError: unknown mixture or split, a rate that is not above 0,
            a task whose filters keep no row, lengths that cut off every target of a task, missing
            or malformed data.
        """
        from cascade_jax.data import stream
        from cascade_jax.data.lean_tensorflow import without_autograph

        mixture = open_mixture(config)
        mixture.rates(split)  # refuses before anything is read

        def build():
            cached = stream.cached_tasks(mixture, config, split)
            return cached, stream.training_batches(mixture, config, split, shard, cached)

        cached, batches = without_autograph(build)
        self._iterator = iter(batches)
        rows = config.batch_size // shard.num_shards
        first = shard.index * rows if config.hosts_read == ALL_ROWS else 0
        self._rows = slice(first, first + rows)
        self._signature = _signature(mixture, config, split, shard) | {
            "cached_tasks": _digest(name for name in cached if cached[name] is not None)
        }

    def __iter__(self) -> HostBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return self.own_rows(self.read())

    def own_rows(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This host's rows of a batch from `read`."""
        return {name: rows[self._rows] for name, rows in batch.items()}

    def read(self) -> dict[str, np.ndarray]:
        """The next batch: with "all_rows" that of all hosts, else this host's."""
        where = f"mixture {self._signature['mixture']!r}, split {self._signature['split']!r}"
        with reading(where):
            batch = next(self._iterator)
        # Not cut in tf.data, which would buffer, and save, the rows of this host.
        return {name: rows.numpy() for name, rows in batch.items()}

    def get_state(self) -> bytes:
        """The position after the batches taken so far, as a zip file of tf.train.Checkpoint's."""
        import tensorflow as tf

        packed = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            tf.train.Checkpoint(iterator=self._iterator).write(os.path.join(folder, "state"))
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("signature.json", json.dumps(self._signature))
                for name in sorted(os.listdir(folder)):
                    archive.write(os.path.join(folder, name), name)
        return packed.getvalue()

    def set_state(self, state: bytes) -> None:
        """Moves to a saved position.

        Raises:
          ValueError: not a state, or one of another data config or vocabulary or, where every host
            reads its own rows, number of hosts (which entry, both values).
        """
        import tensorflow as tf

        try:
            archive = zipfile.ZipFile(io.BytesIO(state))
            saved = dict(json_text.parse(archive.read("signature.json")))
        except (*_DAMAGE, TypeError, OSError) as error:
            raise ValueError(f"not a data iterator state ({len(state)} bytes): {error}") from None
        for key in sorted(saved.keys() | self._signature.keys()):
            old, new = saved.get(key), self._signature.get(key)
            if old != new:
                raise ValueError(f"data iterator state has {key} {old!r}; this run has {new!r}")
        with archive, tempfile.TemporaryDirectory() as folder:
            try:
                archive.extractall(folder)
                place = os.path.join(folder, "state")
                tf.train.Checkpoint(iterator=self._iterator).read(place).assert_consumed()
            except (*_DAMAGE, tf.errors.OpError) as error:
                why = " ".join(str(error).split())[:100]
                raise ValueError(
                    f"not a whole data iterator state ({len(state)} bytes): {why}"
                ) from None


# What a zip file, or a position in it, that was changed or cut may raise.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    IndexError, KeyError, ValueError, AssertionError,
)  # fmt: skip


def _digest(names) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]


def _signature(
    mixture: OpenMixture, config: DataConfig, split: str, shard: seqio.ShardInfo
) -> dict[str, Any]:
    """Everything that must be equal for a saved position to mean the same rows."""
    names = ["mixture", "input_length", "target_length", "batch_size", "seed", "shuffle_buffer"]
    names += ["pack", "architecture", "hosts_read"]
    same_for_all = config.hosts_read == ALL_ROWS
    return {
        "version": STATE_VERSION,
        **{name: getattr(config, name) for name in names},
        "split": split,
        "shard": None if same_for_all else [shard.index, shard.num_shards],
        "vocabulary": mixture.fingerprint,
        "tasks": _digest(mixture.tasks),
    }


class BatchIterator:
    """`HostBatches` as global arrays.

    Every process has a state: save each under its process index. After `set_state` in a new
    process, the batches are bit for bit those of the saved iterator.
    """

    def __init__(self, host_batches: HostBatches, sharding, config: DataConfig):
        """Use `train_batches`."""
        self._host_batches = host_batches
        self._sharding = sharding
        self._config = config

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch | DecoderBatch:
        return to_global_batch(
            next(self._host_batches),
            self._sharding,
            self._config.batch_size,
            self._config.architecture,
        )

    def get_state(self) -> bytes:
        """See `HostBatches`."""
        return self._host_batches.get_state()

    def set_state(self, state: bytes) -> None:
        """See `HostBatches`."""
        self._host_batches.set_state(state)


def train_batches(
    config: DataConfig, sharding: jax.sharding.Sharding, split: str = "train"
) -> BatchIterator:
    """Endless batches of a mixture, in an order set by the seed.

    Args:
      config: what to read.
      sharding: of a [batch, length] array.
      split: which split.

    Returns:
      An iterator of Batch, or of DecoderBatch where `config.architecture` is "prefix_lm": int32
      tokens, float32 weights, all global arrays under `sharding`.

    Raises:
      ValueError, FileNotFoundError: batch that does not divide, or see `HostBatches`.
    """
    shard = host_shard(sharding, config.batch_size, config.row_length)
    return BatchIterator(HostBatches(config, split, shard), sharding, config)


# ------------------------------------------------------------------ evaluation


def eval_batches(
    config: DataConfig,
    sharding: jax.sharding.Sharding,
    split: str = "validation",
    max_batches: int | None = None,
) -> Iterator[Batch | DecoderBatch]:
    """One pass over a split, task after task by name, in file order.

    Every host reads all rows and keeps its own, so that all hosts take equally many batches and
    these do not depend on the number of hosts.

    Args:
      config: what to read; `seed` and `shuffle_buffer` do not matter. With `pack`, examples of one
        task share rows.
      sharding: of a [batch, length] array.
      split: tasks without it are left out.
      max_batches: so many batches of examples before packing, at most, with equally many (to one)
        of every task that has them; None for all.

    Yields:
      Batch or DecoderBatch; the last one is filled up with rows of weight 0.
    """
    max_rows = None if max_batches is None else max_batches * config.batch_size
    for rows in rows_once(config, sharding, split, max_rows):
        yield to_global_batch(rows, sharding, config.batch_size, config.architecture)


def rows_once(
    config: DataConfig,
    sharding: jax.sharding.Sharding,
    split: str,
    max_rows: int | None = None,
    first_batch: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's rows of the batches of `eval_batches`, from a batch on.

    Args:
      config, sharding, split: as there.
      max_rows: the most examples, with equally many (to one) of every task that has them.
      first_batch: the one to begin with.
    """
    from cascade_jax.data.lean_tensorflow import without_autograph

    shard = host_shard(sharding, config.batch_size, config.row_length)
    whole = without_autograph(lambda: _rows_in_order(config, split, max_rows))
    host_rows = config.batch_size // shard.num_shards
    mine = slice(shard.index * host_rows, (shard.index + 1) * host_rows)
    with reading(f"mixture {config.mixture!r}, split {split!r}"):
        for arrays in whole.batch(config.batch_size).skip(first_batch):
            yield {
                name: fill_rows(tensor.numpy(), config.batch_size)[mine]
                for name, tensor in arrays.items()
            }


def _rows_in_order(config: DataConfig, split: str, max_rows: int | None) -> tf.data.Dataset:
    """The rows of `rows_once` on all hosts, one by one."""
    tasks = open_mixture(config).tasks_with(split)
    trim = features.sequence_length(config.input_length, config.target_length)
    whole = None
    for number, task in enumerate(tasks.values()):
        rows = task.get_dataset(trim, split=split, shuffle=False, try_in_mem_cache=False)
        if max_rows is not None:
            share, rest = divmod(max_rows, len(tasks))
            rows = rows.take(share + (number < rest))
        converter = features.converter(config.pack, config.architecture)
        rows = converter(rows, task_feature_lengths=trim)
        whole = rows if whole is None else whole.concatenate(rows)
    return whole
