"""Keys: the same for an example wherever it stands, and another for any other example."""

import functools
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cascade_jax.data import example_keys, features

PAIRS = [
    ([7, 8, 1], [5, 6, 1]), ([7, 8, 1], [5, 1]), ([7, 1], [5, 6, 1]), ([7], [8, 5, 6, 1]),
    ([9, 9, 9, 1], [3, 1]), ([2, 1], [4, 4, 4, 1]), ([7, 8], [1, 5, 6, 1]),
]  # fmt: skip
LENGTHS = {"inputs": 5, "targets": 4}


def placed(architecture: str, pack: bool, scale: int = 1) -> list[example_keys.PlacedExample]:
    """All examples in the rows that seqio makes of the pairs."""
    lengths = {name: length * scale for name, length in LENGTHS.items()}
    signature = {name: tf.TensorSpec([None], tf.int32, name=name) for name in ("inputs", "targets")}
    rows = tf.data.Dataset.from_generator(
        lambda: ({"inputs": a, "targets": b} for a, b in PAIRS), output_signature=signature
    )
    rows = seqio.trim_dataset(rows, lengths, features.output_features())
    rows = features.converter(pack, architecture)(rows, lengths)
    result = []
    for batch in rows.batch(3).as_numpy_iterator():
        result += example_keys.examples_of(batch, architecture)
    return result


FORMS = [
    (architecture, pack, scale)
    for architecture, pack in itertools.product(features.ARCHITECTURES, (False, True))
    # A row of three examples is one that is packed.
    for scale in ((1, 3) if pack else (1,))
]


@functools.cache
def _plain_keys():
    return {example.key for example in placed(features.ENCODER_DECODER, False)}


@pytest.mark.parametrize("architecture, pack, scale", FORMS)
def test_every_form_of_batch_gives_the_same_examples(architecture, pack, scale):
    result = placed(architecture, pack, scale)
    pairs = {(tuple(map(int, e.inputs)), tuple(map(int, e.targets))) for e in result}
    assert pairs == {(tuple(a), tuple(b)) for a, b in PAIRS}
    keys = {tuple(map(int, e.inputs)) + (0,) + tuple(map(int, e.targets)): e.key for e in result}
    assert len(set(keys.values())) == len(PAIRS)
    assert set(keys.values()) == _plain_keys()
    assert all(len(e.places) == len(e.targets) and len(e.key) == 16 for e in result)
    if pack and scale > 1:
        assert len({example.row for example in result}) < len(PAIRS)


def test_padding_rows_and_rows_without_a_target_are_left_out():
    rows = {
        "encoder_input_tokens": np.array([[7, 8, 1], [0, 0, 0], [7, 1, 0]]),
        "decoder_input_tokens": np.zeros((3, 2), int),
        "decoder_target_tokens": np.array([[5, 1], [0, 0], [5, 1]]),
        "decoder_loss_weights": np.array([[1, 1], [0, 0], [0, 0]]),
    }
    result = list(example_keys.examples_of(rows, features.ENCODER_DECODER))
    assert [(e.row, e.places.tolist(), e.inputs.tolist()) for e in result] == [
        (0, [0, 1], [7, 8, 1])
    ]
