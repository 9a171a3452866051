"""Keys of the examples in a batch: hashes of their token ids, independent of position.

The teacher cache looks up its values by this key, whatever the order, row, place or batch shape in
which the example comes. Another prompt gives another key.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cascade_jax import batch as batch_lib
from cascade_jax.batch import PREFIX_LM

KEY_BYTES = 16  # two of a billion examples share a key with a probability below 1e-20


@dataclass(frozen=True)
class PlacedExample:
    """An example in a host's rows.

    Attributes:
      row: which row.
      places: of its counted target tokens in the row.
      inputs, targets: its token ids, without padding.
    """

    row: int
    places: Int[np.ndarray, " N"]
    inputs: Int[np.ndarray, " S"]
    targets: Int[np.ndarray, " N"]

    @property
    def key(self) -> bytes:
        """KEY_BYTES bytes."""
        parts = [np.asarray(ids, "<i4").tobytes() for ids in (self.inputs, self.targets)]
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        digest.update(len(parts[0]).to_bytes(4, "little"))
        digest.update(parts[0])
        digest.update(parts[1])
        return digest.digest()


def examples_of(rows: Mapping[str, np.ndarray], architecture: str) -> Iterator[PlacedExample]:
    """The examples in rows under seqio's names, packed or not; those without a target are left out.

    Args:
      rows: of one host, as `pipeline.HostBatches` gives them.
      architecture: as in `DataConfig`.
    """
    if architecture == PREFIX_LM:
        yield from _from_joined_rows(batch_lib.from_seqio_prefix_lm(rows))
    else:
        yield from _from_pairs(batch_lib.from_seqio(rows))


def _from_pairs(batch: batch_lib.Batch) -> Iterator[PlacedExample]:
    """From rows that have inputs and targets apart."""
    for row, (inputs, targets, weights) in enumerate(
        zip(batch.inputs, batch.targets, batch.weights, strict=True)
    ):
        counted = weights != 0
        if batch.target_segment_ids is None:
            yield from _one(row, counted, _unpadded(inputs), targets)
            continue
        ours, theirs = batch.input_segment_ids[row], batch.target_segment_ids[row]
        for segment in range(1, int(theirs.max(initial=0)) + 1):
            yield from _one(row, counted & (theirs == segment), inputs[ours == segment], targets)


def _from_joined_rows(batch: batch_lib.DecoderBatch) -> Iterator[PlacedExample]:
    """From rows that hold inputs and targets one after the other."""
    for row, (targets, weights) in enumerate(zip(batch.targets, batch.weights, strict=True)):
        counted = weights != 0
        if batch.segment_ids is None:
            yield from _one(row, counted, targets[: int(counted.argmax())], targets)
            continue
        segments = batch.segment_ids[row]
        for segment in range(1, int(segments.max(initial=0)) + 1):
            in_segment = segments == segment
            yield from _one(row, counted & in_segment, targets[in_segment & ~counted], targets)


def _one(row: int, counted, inputs, targets) -> Iterator[PlacedExample]:
    places = np.flatnonzero(counted)
    if len(places):
        yield PlacedExample(row, places, inputs, targets[places])


def _unpadded(ids: np.ndarray) -> np.ndarray:
    """Without the padding at the end."""
    tokens = np.flatnonzero(ids != batch_lib.PAD_ID)
    return ids[: tokens[-1] + 1] if len(tokens) else ids[:0]
