"""Host arrays become global ones of either architecture."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.data import placement

ROWS = np.arange(8 * 3).reshape(8, 3)
NAMES = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights")


@pytest.mark.parametrize(
    ("architecture", "name", "kind", "field"),
    [
        ("encoder_decoder", "encoder_input_tokens", Batch, "inputs"),
        ("prefix_lm", "decoder_causal_attention", DecoderBatch, "is_prefix"),
    ],
)
def test_rows_keep_their_order_and_are_divided_over_devices(architecture, name, kind, field):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    arrays = dict.fromkeys((*NAMES, name), ROWS)
    batch = placement.to_global_batch(arrays, sharding, 8, architecture)
    assert isinstance(batch, kind)
    array = getattr(batch, field)
    assert array.tolist() == ROWS.tolist() and array.dtype == np.int32
    assert [shard.data.tolist() for shard in array.addressable_shards] == [
        [r.tolist()] for r in ROWS
    ]
    assert batch.weights.dtype == np.float32 and batch.weights.tolist() == ROWS.tolist()


def test_missing_rows_are_filled_with_padding():
    filled = placement.fill_rows(ROWS[:5], 8)
    assert filled[:5].tolist() == ROWS[:5].tolist() and filled[5:].tolist() == [[0] * 3] * 3
