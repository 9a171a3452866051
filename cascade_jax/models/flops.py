"""What a token costs: the papers' one number, and matmuls counted in closed form.

A multiply and an add are two FLOPs. Norms, softmax, activations and dropout are left out: they are
below one per cent of a model of ordinary width. With D the width, H heads (G of keys and values) of
size K, M the MLP's hidden size with g gates, V the vocabulary, a layer has per token

    attention   2 D K (H + 2 G + H)      queries, keys, values, output
    scores      4 H K T                  against T keys, and the weighted sum of T values
    MLP         2 D M (g + 1)

and the logits take 2 D V. In a T5's cross-attention, queries and output are per target token, keys
and values per input token, once. The embedding is a look-up and takes none.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.models.families import ModelConfig, parameter_shapes


def parameter_count(params: Mapping[str, Any]) -> int:
    """Number of scalars in a parameter tree of arrays, or of their shapes, boxed or not."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(params)))


def flops_per_token(model: ModelConfig | Mapping[str, Any]) -> int:
    """FLOPs to generate one token: `2 * parameters`, a multiply and an add for each.

    Counts every parameter, embeddings included, and no attention over the context: the cost axis
    of the papers, meant to compare models rather than to predict a run time.

    Args:
      model: the config of a model, or its parameters (arrays or shapes).
    """
    is_config = isinstance(model, T5Config | DecoderConfig)
    params = parameter_shapes(model) if is_config else model
    return 2 * parameter_count(params)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: those of the look-up and the logits, and those in between."""

    embedding: int
    output: int  # 0 where the embedding serves
    layers: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.output + self.layers


def parameters(config: ModelConfig) -> Parameters:
    """Parameters of a model, embedding and logits apart."""
    table = config.vocab_size * config.embed_dim
    output = 0 if config.tied_logits else table
    total = parameter_count(parameter_shapes(config))
    return Parameters(table, output, total - table - output)


def forward_flops(config: ModelConfig, input_length: int, target_length: int) -> int:
    """FLOPs of reading one example and predicting all its target tokens (training, scoring).

    Attention is counted over whole rows, masked or not, as it is computed. A decoder-only model
    reads input and target as one row.

    Args:
      config: of the model.
      input_length, target_length: tokens.
    """
    if isinstance(config, DecoderConfig):
        length = input_length + target_length
        return _decoder_tokens(config, length, length) + target_length * _logits(config)
    decoder = config.num_decoder_layers * target_length * _mlp(config)
    decoder += config.num_decoder_layers * _self_attention(config, target_length, target_length)
    return (
        prefill_flops(config, input_length)
        + decoder
        + config.num_decoder_layers * _cross_attention(config, target_length, input_length)
        + target_length * _logits(config)
    )


def training_flops(config: ModelConfig, input_length: int, target_length: int) -> int:
    """FLOPs of one example in a step: forward, and twice that backward; nothing is recomputed."""
    return 3 * forward_flops(config, input_length, target_length)


def prefill_flops(config: ModelConfig, input_length: int) -> int:
    """FLOPs of reading an input: a T5's encoder, and the keys and values that its decoder needs."""
    if isinstance(config, DecoderConfig):
        return _decoder_tokens(config, input_length, input_length)
    layer = _self_attention(config, input_length, input_length) + input_length * _mlp(config)
    cross = 2 * config.embed_dim * config.head_dim * 2 * config.num_heads
    return config.num_encoder_layers * layer + config.num_decoder_layers * input_length * cross


def decode_flops(config: ModelConfig, input_length: int, position: int) -> int:
    """FLOPs of one more answer token with a cache.

    Args:
      config: of the model.
      input_length: tokens of the input.
      position: answer tokens before this one.
    """
    if isinstance(config, DecoderConfig):
        keys = input_length + position + 1
        return _decoder_tokens(config, 1, keys) + _logits(config)
    layer = _self_attention(config, 1, position + 1) + _mlp(config)
    layer += _cross_attention(config, 1, input_length)
    return config.num_decoder_layers * layer + _logits(config)


def answer_flops(config: ModelConfig, input_length: int, answer_length: int) -> int:
    """FLOPs of a whole answer: reading the input, then one token after another.

    Args:
      config: of the model.
      input_length: tokens of the input.
      answer_length: tokens of the answer, the end of sequence included.
    """
    found = prefill_flops(config, input_length)
    if answer_length:
        # A token more costs the same everywhere, so the mean is that of the first and the last.
        ends = [decode_flops(config, input_length, place) for place in (0, answer_length - 1)]
        found += answer_length * sum(ends) // 2
    return found


def live_flops(config: ModelConfig, input_length: int, answer_length: int, num_logits: int) -> int:
    """FLOPs of reading an input and answer tokens with a cache, a few or one at a time.

    However they are cut, each token looks at itself and those before it; logits are made for some
    of them only.

    Args:
      config: of the model.
      input_length: tokens of the input.
      answer_length: tokens read.
      num_logits: tokens after which logits were made.
    """
    whole = answer_flops(config, input_length, answer_length)
    return whole - (answer_length - num_logits) * _logits(config)


def ranking_flops(config: ModelConfig, input_length: int, option_lengths: Sequence[int]) -> int:
    """FLOPs of scoring every option of a row.

    An encoder-decoder reads the input once, a decoder-only model with each option.

    Args:
      config: of the model.
      input_length: tokens of the input.
      option_lengths: tokens of each option, the end of sequence included.
    """
    whole = sum(forward_flops(config, input_length, length) for length in option_lengths)
    if isinstance(config, DecoderConfig):
        return whole
    return whole - (len(option_lengths) - 1) * prefill_flops(config, input_length)


def _logits(config) -> int:
    return 2 * config.embed_dim * config.vocab_size


def _mlp(config) -> int:
    return 2 * config.embed_dim * config.mlp_dim * (len(config.mlp_activations) + 1)


def _self_attention(config, queries: int, keys: int) -> int:
    """Of one layer; keys and values are made for the queries' tokens alone, the rest is cached."""
    shared = getattr(config, "num_kv_heads", config.num_heads)
    projections = 2 * config.embed_dim * config.head_dim * 2 * (config.num_heads + shared)
    return queries * (projections + 4 * config.num_heads * config.head_dim * keys)


def _cross_attention(config: T5Config, queries: int, keys: int) -> int:
    """Of one layer, without the keys and values, which are made once for an input."""
    width = config.num_heads * config.head_dim
    return queries * (2 * config.embed_dim * 2 * width + 4 * width * keys)


def _decoder_tokens(config: DecoderConfig, queries: int, keys: int) -> int:
    """All layers of a decoder-only model, without the logits; windows only mask."""
    return config.num_layers * (_self_attention(config, queries, keys) + queries * _mlp(config))
