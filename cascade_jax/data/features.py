"""The features inputs and targets: tokenising, lengths, conversion for a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from cascade_jax.batch import ENCODER_DECODER, PREFIX_LM

if TYPE_CHECKING:  # imported at its first use: it takes seconds, and not every command reads text
    import seqio

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

    A task that ends in these two can be tokenised once and kept (see `token_cache`).

    Example with target length 4: "abcdef" -> [100 101 102 1] under the byte vocabulary.
    """
    import seqio

    return [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]


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
