"""Names, end-of-sequence handling and lengths of encoder-decoder features."""

from collections.abc import Mapping

import seqio

INPUTS = "inputs"
TARGETS = "targets"
PRETOKENIZED = "_pretokenized"  # seqio keeps the text of a feature under this suffix


def output_features(vocabulary: seqio.Vocabulary | None = None) -> dict[str, seqio.Feature]:
    """The two features every task here has; both end in EOS.

    Args:
      vocabulary: of both features; the byte vocabulary (259 ids) if None.
    """
    vocabulary = vocabulary or seqio.ByteVocabulary()
    return {
        name: seqio.Feature(vocabulary=vocabulary, add_eos=True, rank=1)
        for name in (INPUTS, TARGETS)
    }


def tokenizing() -> list:
    """The last preprocessors of a task: text to ids, cut to length so that EOS always stays.

    Example with target length 4: "abcdef" -> [100 101 102 1] under the byte vocabulary.
    """
    return [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]


def sequence_length(input_length: int, target_length: int) -> Mapping[str, int]:
    """Trim lengths in the form seqio wants, EOS included."""
    return {INPUTS: input_length, TARGETS: target_length}


def converter(pack: bool = False) -> seqio.EncDecFeatureConverter:
    """seqio's converter to model features; `pack` puts several examples into one row."""
    return seqio.EncDecFeatureConverter(pack=pack)
