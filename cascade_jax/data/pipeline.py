"""From a mixture's name to batches of global arrays, for training (restorable) and evaluation.

This module also gives out the names of `mixtures` and `examples`, so that a caller needs only it.
"""

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import seqio
import tensorflow as tf

from cascade_jax.batch import Batch
from cascade_jax.data import features
from cascade_jax.data.examples import Example, answer_for_metric, batch_inputs, decode_examples
from cascade_jax.data.mixtures import DataConfig, OpenMixture, open_mixture
from cascade_jax.data.placement import fill_rows, host_shard, to_global_batch

__all__ = [
    "BatchIterator",
    "DataConfig",
    "Example",
    "OpenMixture",
    "answer_for_metric",
    "batch_inputs",
    "decode_examples",
    "eval_batches",
    "host_dataset",
    "host_shard",
    "open_mixture",
    "train_batches",
]

STATE_VERSION = 1

# TensorFlow only reads text here; left alone it would take the accelerators' memory.
for _kind in ("GPU", "TPU"):
    if tf.config.list_physical_devices(_kind):
        tf.config.set_visible_devices([], _kind)


# ------------------------------------------------------------------ training


def host_dataset(
    mixture: OpenMixture, config: DataConfig, split: str, shard: seqio.ShardInfo
) -> tf.data.Dataset:
    """One host's endless, shuffled batches of seqio model features.

    Args:
      mixture: from `open_mixture(config)`.
      config: lengths, seed, batch size, packing.
      split: e.g. "train".
      shard: which part of the rows; batches have batch_size / shard.num_shards rows.
    """
    mixture.tasks_with(split)
    lengths = features.sequence_length(config.input_length, config.target_length)
    dataset = mixture.provider.get_dataset(
        sequence_length=lengths,
        split=split,
        shuffle=True,
        seed=config.seed,
        shard_info=shard,
        num_epochs=None,
        # A memory cache would be written whole into every saved state.
        try_in_mem_cache=False,
    )
    dataset = features.converter(config.pack)(dataset, task_feature_lengths=lengths)
    dataset = dataset.batch(config.batch_size // shard.num_shards, drop_remainder=True)
    return dataset.prefetch(2)


class BatchIterator:
    """Endless training batches whose position can be saved and restored exactly.

    Every process has its own state: save each under its process index. After `set_state` in a new
    process, the batches are bit for bit those that the saved iterator would have given.
    """

    def __init__(self, dataset: tf.data.Dataset, sharding, batch_size: int, signature: dict):
        """Use `train_batches`."""
        self._iterator = iter(dataset)
        self._sharding = sharding
        self._batch_size = batch_size
        self._signature = signature

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Batch:
        arrays = {name: tensor.numpy() for name, tensor in next(self._iterator).items()}
        return to_global_batch(arrays, self._sharding, self._batch_size)

    def get_state(self) -> bytes:
        """The position after the batches taken so far, as a zip file of tf.train.Checkpoint's."""
        packed = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            tf.train.Checkpoint(iterator=self._iterator).write(os.path.join(folder, "state"))
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("signature.json", json.dumps(self._signature))
                for name in sorted(os.listdir(folder)):
                    archive.write(os.path.join(folder, name), name)
        return packed.getvalue()

    def set_state(self, state: bytes) -> None:
        """Goes to a saved position.

        Raises:
          ValueError: not a state, or one of another data config, vocabulary or number of hosts
            (which entry, both values).
        """
        try:
            archive = zipfile.ZipFile(io.BytesIO(state))
            saved = json.loads(archive.read("signature.json"))
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ValueError(f"not a data iterator state ({len(state)} bytes): {error}") from None
        for key in sorted(saved.keys() | self._signature.keys()):
            old, new = saved.get(key), self._signature.get(key)
            if old != new:
                raise ValueError(f"data iterator state has {key} {old!r}; this run has {new!r}")
        with archive, tempfile.TemporaryDirectory() as folder:
            archive.extractall(folder)
            status = tf.train.Checkpoint(iterator=self._iterator).read(
                os.path.join(folder, "state")
            )
            status.assert_consumed()


def _signature(mixture: OpenMixture, config: DataConfig, split: str, shard) -> dict[str, Any]:
    """What has to be the same for a saved position to mean the same rows."""
    names = (
        "mixture",
        "input_length",
        "target_length",
        "batch_size",
        "seed",
        "shuffle_buffer",
        "pack",
    )
    return {
        "version": STATE_VERSION,
        **{name: getattr(config, name) for name in names},
        "split": split,
        "shard": [shard.index, shard.num_shards],
        "vocabulary": mixture.fingerprint,
        "tasks": hashlib.sha256(" ".join(mixture.tasks).encode()).hexdigest()[:16],
    }


def train_batches(
    config: DataConfig, sharding: jax.sharding.Sharding, split: str = "train"
) -> BatchIterator:
    """Endless batches of a mixture in an order set by the seed, each host reading its own rows.

    Args:
      config: what to read.
      sharding: of a [batch, length] array.
      split: which split.

    Returns:
      An iterator of Batch: int32 tokens, float32 weights, all global arrays under `sharding`.

    Raises:
      ValueError, FileNotFoundError: unknown mixture or split, batch that does not divide, missing
        or malformed data.
    """
    shard = host_shard(sharding, config.batch_size, config.input_length)
    mixture = open_mixture(config)
    dataset = host_dataset(mixture, config, split, shard)
    signature = _signature(mixture, config, split, shard)
    return BatchIterator(dataset, sharding, config.batch_size, signature)


# ------------------------------------------------------------------ evaluation


def eval_batches(
    config: DataConfig,
    sharding: jax.sharding.Sharding,
    split: str = "validation",
    max_batches: int | None = None,
) -> Iterator[Batch]:
    """One pass over a split, task after task by name, in file order, unpacked.

    Every host reads all rows and keeps its own, so that all hosts take equally many batches and
    these do not depend on the number of hosts.

    Args:
      config: what to read; `seed`, `shuffle_buffer` and `pack` do not matter.
      sharding: of a [batch, length] array.
      split: tasks without it are left out.
      max_batches: at most so many, with equally many rows (to one) of every task that has them;
        None for all rows.

    Yields:
      Batch; the last one is filled up with rows of weight 0.
    """
    shard = host_shard(sharding, config.batch_size, config.input_length)
    tasks = open_mixture(config).tasks_with(split)
    lengths = features.sequence_length(config.input_length, config.target_length)
    whole = None
    for number, task in enumerate(tasks.values()):
        rows = task.get_dataset(lengths, split=split, shuffle=False, try_in_mem_cache=False)
        if max_batches is not None:
            share, rest = divmod(max_batches * config.batch_size, len(tasks))
            rows = rows.take(share + (number < rest))
        rows = features.converter()(rows, task_feature_lengths=lengths)
        whole = rows if whole is None else whole.concatenate(rows)
    host_rows = config.batch_size // shard.num_shards
    mine = slice(shard.index * host_rows, (shard.index + 1) * host_rows)
    for arrays in whole.batch(config.batch_size):
        filled = {
            name: fill_rows(tensor.numpy(), config.batch_size)[mine]
            for name, tensor in arrays.items()
        }
        yield to_global_batch(filled, sharding, config.batch_size)
