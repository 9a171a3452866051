"""Batches take what seqio gives under our names, and say what is missing."""

import dataclasses

import numpy as np
import pytest

from cascade_jax import batch as batch_lib

ENCODER_DECODER = {
    "encoder_input_tokens": [[7, 8, 1]],
    "decoder_input_tokens": [[0, 5, 6, 1]],
    "decoder_target_tokens": [[5, 6, 1, 0]],
    "decoder_loss_weights": [[1, 1, 1, 0]],
}
PREFIX_LM = {
    "decoder_input_tokens": [[0, 7, 1, 5, 1, 0]],
    "decoder_target_tokens": [[7, 1, 5, 1, 0, 0]],
    "decoder_loss_weights": [[0, 0, 1, 1, 0, 0]],
    "decoder_causal_attention": [[1, 1, 1, 0, 0, 0]],
}


def _arrays(lists):
    return {name: np.array(rows, np.int32) for name, rows in lists.items()}


@pytest.mark.parametrize(
    ("build", "arguments", "expected"),
    [
        (
            batch_lib.from_seqio,
            ENCODER_DECODER,
            {"inputs": 0, "decoder_inputs": 1, "targets": 2, "weights": 3},
        ),
        (
            batch_lib.from_seqio_prefix_lm,
            PREFIX_LM,
            {"tokens": 0, "targets": 1, "weights": 2, "is_prefix": 3},
        ),
    ],
)
def test_unpacked_batches_have_four_arrays(build, arguments, expected):
    batch = build(_arrays(arguments))
    rows = list(arguments.values())
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if field.name in expected:
            assert value.tolist() == rows[expected[field.name]]
            assert value.dtype == (np.float32 if field.name == "weights" else np.int32)
        else:
            assert value is None


def test_packed_batches_have_segments_and_positions_too():
    more = {"decoder_segment_ids": [[1, 1, 1, 1, 0, 0]], "decoder_positions": [[0, 1, 2, 3, 0, 0]]}
    batch = batch_lib.from_seqio_prefix_lm(_arrays(PREFIX_LM | more))
    assert batch.segment_ids.tolist() == more["decoder_segment_ids"]
    assert batch.positions.tolist() == more["decoder_positions"]
    names = {"encoder_segment_ids", "decoder_segment_ids", "encoder_positions", "decoder_positions"}
    numbers = {name: [[number]] for number, name in enumerate(sorted(names))}
    batch = batch_lib.from_seqio(_arrays(ENCODER_DECODER | numbers))
    assert batch.target_positions.tolist() == [[0]] and batch.target_segment_ids.tolist() == [[1]]
    assert batch.input_positions.tolist() == [[2]] and batch.input_segment_ids.tolist() == [[3]]


@pytest.mark.parametrize(
    ("build", "arguments"),
    [(batch_lib.from_seqio, PREFIX_LM), (batch_lib.from_seqio_prefix_lm, ENCODER_DECODER)],
)
def test_what_is_missing_is_named(build, arguments):
    missing = "encoder_input_tokens" if arguments is PREFIX_LM else "decoder_causal_attention"
    with pytest.raises(ValueError, match=rf"batch lacks \['{missing}'\]; it has \['dec"):
        build(_arrays(arguments))
