"""Batches for a model; the only file that spells seqio's feature names."""

from collections.abc import Mapping

import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int

PAD_ID = 0
# Which of the two a data config makes.
ENCODER_DECODER = "encoder_decoder"
PREFIX_LM = "prefix_lm"


@flax.struct.dataclass
class Batch:
    """Token ids of B examples; id 0 is padding everywhere.

    Example: target "5 6 1" (1 is the end of sequence) in a row of length 4:
    ``decoder_inputs = [0 5 6 1]``, ``targets = [5 6 1 0]``, ``weights = [1 1 1 0]``.

    Attributes:
      inputs: encoder tokens.
      decoder_inputs: targets shifted right by one, starting with 0.
      targets: tokens to predict.
      weights: 1 for a target token that counts, 0 for padding (or anything between).
      input_segment_ids, target_segment_ids: with packing, the number (from 1) of the example that
        a position belongs to, 0 for padding; None when every row is one example.
      input_positions, target_positions: with packing, the position inside that example.
    """

    inputs: Int[Array, "B S"]
    decoder_inputs: Int[Array, "B L"]
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]
    input_segment_ids: Int[Array, "B S"] | None = None
    target_segment_ids: Int[Array, "B L"] | None = None
    input_positions: Int[Array, "B S"] | None = None
    target_positions: Int[Array, "B L"] | None = None


@flax.struct.dataclass
class DecoderBatch:
    """Token ids of B examples for a decoder-only model; id 0 is padding everywhere.

    A row holds an example's input and, right after it, its target. Attention goes both ways inside
    the prefix, which is 0 (the start) and the input, and is causal from there on.

    Example: input "7 8 1" and target "5 6 1" (1 is the end of sequence) in a row of length 8:
    ``tokens = [0 7 8 1 5 6 1 0]``, ``targets = [7 8 1 5 6 1 0 0]``,
    ``weights = [0 0 0 1 1 1 0 0]``, ``is_prefix = [1 1 1 1 0 0 0 0]``.

    Attributes:
      tokens: what the decoder reads: `targets` shifted right by one, starting with 0.
      targets: tokens to predict.
      weights: 1 for a token of the target (EOS too), 0 for the input and padding.
      is_prefix: 1 where `tokens` may be seen by every position of the prefix, 0 elsewhere.
      segment_ids, positions: with packing, the number (from 1) of the example that a position
        belongs to, 0 for padding, and the position inside that example; None when every row is one
        example.
    """

    tokens: Int[Array, "B L"]
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]
    is_prefix: Int[Array, "B L"]
    segment_ids: Int[Array, "B L"] | None = None
    positions: Int[Array, "B L"] | None = None


_SEQIO_NAMES = {
    "inputs": "encoder_input_tokens",
    "decoder_inputs": "decoder_input_tokens",
    "targets": "decoder_target_tokens",
    "weights": "decoder_loss_weights",
    "input_segment_ids": "encoder_segment_ids",
    "target_segment_ids": "decoder_segment_ids",
    "input_positions": "encoder_positions",
    "target_positions": "decoder_positions",
}
_SEQIO_PREFIX_LM_NAMES = {
    "tokens": "decoder_input_tokens",
    "targets": "decoder_target_tokens",
    "weights": "decoder_loss_weights",
    "is_prefix": "decoder_causal_attention",
    "segment_ids": "decoder_segment_ids",
    "positions": "decoder_positions",
}
_REQUIRED = 4  # of both; the others are of packed batches


def from_seqio(features: Mapping[str, Array]) -> Batch:
    """Builds a Batch from the output of `seqio.EncDecFeatureConverter`; weights become float32.

    Raises:
      ValueError: a feature is missing that is not one of packing.
    """
    return Batch(**_renamed(features, _SEQIO_NAMES))


def from_seqio_prefix_lm(features: Mapping[str, Array]) -> DecoderBatch:
    """A DecoderBatch from the output of `seqio.PrefixLMFeatureConverter`; see `from_seqio`."""
    return DecoderBatch(**_renamed(features, _SEQIO_PREFIX_LM_NAMES))


def _renamed(features: Mapping[str, Array], names: Mapping[str, str]) -> dict[str, Array | None]:
    """The features under our names, those that are missing as None."""
    missing = [name for name in list(names.values())[:_REQUIRED] if name not in features]
    if missing:
        raise ValueError(f"batch lacks {missing}; it has {sorted(features)}")
    arrays = {ours: features.get(theirs) for ours, theirs in names.items()}
    return arrays | {"weights": arrays["weights"].astype(np.float32)}
