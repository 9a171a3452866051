"""The features inputs and targets: tokenising, lengths, conversion for a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from cascade_jax.batch import ENCODER_DECODER, PREFIX_LM

if TYPE_CHECKING:  # imported at its first use: it takes seconds, and not every command reads text
    import seqio
    import tensorflow as tf

INPUTS = "inputs"
TARGETS = "targets"
PRETOKENIZED = "_pretokenized"  # seqio keeps the text of a feature under this suffix
ARCHITECTURES = (ENCODER_DECODER, PREFIX_LM)


def output_features(vocabulary: seqio.Vocabulary | None = None) -> dict[str, seqio.Feature]:
    """The two features every task here has; both end in EOS.

    Args:
      vocabulary: of both features; the byte vocabulary (259 ids) if None.
    """
    import seqio

    vocabulary = vocabulary or seqio.ByteVocabulary()
    return {
        name: seqio.Feature(vocabulary=vocabulary, add_eos=True, rank=1)
        for name in (INPUTS, TARGETS)
    }


def tokenizing() -> list:
    """The last preprocessors of a task: text to ids, cut to length so that EOS always stays.

    A task that ends in these two can be tokenised once and kept (see `token_cache`), and its inputs
    can be rendered by a chat template.

    Example with target length 4: "abcdef" -> [100 101 102 1] under the byte vocabulary.
    """
    import seqio

    return [seqio.preprocessors.tokenize, end_after_cut]


def cuts_at_the_end(step: Callable) -> bool:
    """Whether a preprocessor is the last of `tokenizing`, or seqio's that does the same."""
    import seqio

    return step in (end_after_cut, seqio.preprocessors.append_eos_after_trim)


def ends_in_tokenizing(steps: Iterable[Callable]) -> bool:
    """Whether preprocessors end in the two of `tokenizing`, or in seqio's that do the same."""
    steps = list(steps)
    return len(steps) > 1 and steps[-2] is tokenizing()[0] and cuts_at_the_end(steps[-1])


def end_after_cut(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Cuts each feature's ids to its length and ends them, as `cut` does; a seqio preprocessor."""
    import tensorflow as tf

    lengths = sequence_length or {}

    def ended(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        known = {name: feature for name, feature in output_features.items() if name in example}
        ids = {n: cut(example[n], feature, lengths.get(n)) for n, feature in known.items()}
        return {**example, **ids}

    return dataset.map(ended, num_parallel_calls=tf.data.AUTOTUNE)


def cut(ids: tf.Tensor, feature: seqio.Feature, length: int | None) -> tf.Tensor:
    """Ids [n] of a text as at most `length` ids that still end as they should.

    EOS comes behind them if the feature has one. Where a chat template has rendered the text, its
    end and the start of the answer stay, and the end of the text itself is cut off.
    """
    import tensorflow as tf

    if feature.add_eos:
        kept = ids if length is None else ids[: length - 1]
        eos = tf.constant([feature.vocabulary.eos_id], ids.dtype)
        return tf.concat([kept, eos], axis=0)
    ending = getattr(feature.vocabulary, "ending_length", 0)
    if length is None or not ending:
        return ids if length is None else ids[:length]
    rest = tf.maximum(tf.shape(ids)[0], length) - ending
    return tf.concat([ids[: length - ending], ids[rest:]], axis=0)


def parameters_of(steps: Iterable[Callable]) -> set[str]:
    """Names of the parameters of preprocessors: "sequence_length", "seed", ..."""
    return {name for step in steps for name in inspect.signature(step).parameters}


def sequence_length(input_length: int, target_length: int) -> Mapping[str, int]:
    """Trim lengths in the form that seqio expects, EOS included."""
    return {INPUTS: input_length, TARGETS: target_length}


def converter(
    pack: bool = False, architecture: str = ENCODER_DECODER
) -> seqio.EncDecFeatureConverter | seqio.PrefixLMFeatureConverter:
    """seqio's converter to model features.

    Args:
      pack: put several examples into one row.
      architecture: one of ARCHITECTURES. Rows of "prefix_lm" hold inputs and targets one after the
        other, so that their length is the sum of both; the loss counts targets only.
    """
    import seqio

    if architecture == PREFIX_LM:
        return seqio.PrefixLMFeatureConverter(pack=pack, loss_on_targets_only=True)
    return seqio.EncDecFeatureConverter(pack=pack)
