"""What seqio's converters make of an example, position by position, for both architectures."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cascade_jax import batch as batch_lib
from cascade_jax.data import features

# Letters have their byte plus 3: a is 100. EOS is 1.
EXAMPLES = [("ab", "cd"), ("e", "fgh"), ("", "i")]


def _converted(examples, input_length, target_length, pack, architecture, rows=None):
    """Texts through the preprocessors of every task here, and the converter."""
    names = ("inputs", "targets")
    columns = {name: [example[i] for example in examples] for i, name in enumerate(names)}
    task = seqio.Task(
        "unregistered",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"]),
        preprocessors=features.tokenizing(),
        output_features=features.output_features(),
    )
    lengths = features.sequence_length(input_length, target_length)
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    dataset = task.preprocess_postcache(dataset, lengths)
    dataset = dataset.map(lambda example: {name: example[name] for name in names})
    dataset = features.converter(pack, architecture)(dataset, lengths)
    (arrays,) = dataset.batch(rows or len(examples)).as_numpy_iterator()
    return arrays


def _decoder(examples, input_length, target_length, pack, rows=None):
    arrays = _converted(examples, input_length, target_length, pack, "prefix_lm", rows)
    return batch_lib.from_seqio_prefix_lm(arrays)


def test_prefix_lm_rows_hold_input_and_target_and_count_the_target():
    batch = _decoder(EXAMPLES, 3, 4, pack=False)
    assert batch.targets.tolist() == [
        [100, 101, 1, 102, 103, 1, 0],
        [104, 1, 105, 106, 107, 1, 0],
        [1, 108, 1, 0, 0, 0, 0],
    ]
    assert batch.tokens.tolist() == [
        [0, 100, 101, 1, 102, 103, 1],
        [0, 104, 1, 105, 106, 107, 1],
        [0, 1, 108, 1, 0, 0, 0],
    ]
    assert batch.weights.tolist() == [
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 1, 0],
        [0, 1, 1, 0, 0, 0, 0],
    ]
    assert batch.is_prefix.tolist() == [
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
    ]
    assert batch.weights.dtype == np.float32
    assert batch.segment_ids is None and batch.positions is None


def test_packed_prefix_lm_rows_hold_several_examples():
    batch = _decoder([("ab", "c"), ("", "i"), ("e", "fg")], 5, 5, pack=True, rows=2)
    assert batch.targets.tolist() == [
        [100, 101, 1, 102, 1, 1, 108, 1, 0, 0],
        [104, 1, 105, 106, 1, 0, 0, 0, 0, 0],
    ]
    assert batch.tokens[0].tolist() == [0, 100, 101, 1, 102, 0, 1, 108, 0, 0]
    assert batch.weights.tolist() == [
        [0, 0, 0, 1, 1, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0, 0, 0],
    ]
    assert batch.is_prefix.tolist() == [
        [1, 1, 1, 1, 0, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.segment_ids[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 0, 0]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 0]


def test_long_texts_are_cut_before_they_are_joined_and_both_keep_their_eos():
    batch = _decoder([("abcdef", "ghijkl")], 4, 3, pack=False)
    assert batch.targets.tolist() == [[100, 101, 102, 1, 106, 107, 1]]
    assert batch.weights.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert batch.is_prefix.tolist() == [[1, 1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("pack", [False, True])
def test_weights_count_exactly_the_tokens_of_the_targets(pack):
    texts = np.random.default_rng(0)
    examples = [("x" * texts.integers(0, 12), "y" * texts.integers(1, 9)) for _ in range(20)]
    batch = _decoder(examples, 7, 5, pack, rows=None if not pack else 20)
    assert batch.weights.sum() == sum(min(len(target) + 1, 5) for _, target in examples)
    counted = batch.targets[batch.weights == 1]
    assert set(counted.tolist()) == {ord("y") + 3, 1}
    assert (counted == 1).sum() == len(examples)  # the EOS of each target, of no input
    both = _converted(examples, 7, 5, pack, "encoder_decoder", rows=None if not pack else 20)
    encoder_decoder = batch_lib.from_seqio(both)
    assert encoder_decoder.weights.sum() == batch.weights.sum()
    tokens = np.count_nonzero(encoder_decoder.inputs) + np.count_nonzero(encoder_decoder.targets)
    assert np.count_nonzero(batch.targets) == tokens


def test_encoder_decoder_rows_hold_input_and_target_apart():
    batch = batch_lib.from_seqio(_converted(EXAMPLES[:2], 3, 4, True, "encoder_decoder", rows=2))
    assert batch.inputs.tolist() == [[100, 101, 1], [104, 1, 0]]
    assert batch.targets.tolist() == [[102, 103, 1, 0], [105, 106, 107, 1]]
    assert batch.decoder_inputs.tolist() == [[0, 102, 103, 0], [0, 105, 106, 107]]
    assert batch.target_segment_ids.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
