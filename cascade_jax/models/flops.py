"""What a token costs: the papers' one number, and matmuls counted in closed form.

The forms of a family are methods of its module (`families.Family`), made of those in
`layer_flops.py`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from cascade_jax.models import layer_flops
from cascade_jax.models.families import ModelConfig, answer_layers, build, parameter_shapes


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
    params = model if isinstance(model, Mapping) else parameter_shapes(model)
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

    Attention is counted over whole rows, masked or not, as it is computed. Every layer counts at
    all places, though a decoder's last one is computed where targets are predicted alone.
    """
    return build(config).forward_flops(input_length, target_length)


def training_flops(config: ModelConfig, input_length: int, target_length: int) -> int:
    """FLOPs of one example in a step: forward, and twice that backward; nothing is recomputed."""
    return 3 * forward_flops(config, input_length, target_length)


def prefill_flops(config: ModelConfig, input_length: int) -> int:
    """FLOPs of reading an input."""
    return build(config).prefill_flops(input_length)


def state_flops(config: ModelConfig, input_length: int, layer: int) -> int:
    """FLOPs of reading an input up to the state after a layer that predicts the first token.

    That is where an answer begins, so the model spends no more on it if it answers after all.

    Args:
      config: of the model.
      input_length: in tokens.
      layer: counted from 0, of a T5 of its decoder.

    Raises:
      ValueError: the model has no such layer.
    """
    if not 0 <= layer < answer_layers(config):
        raise ValueError(f"layer is {layer}; must be in [0, {answer_layers(config)})")
    return build(config).state_flops(input_length, layer)


def decode_flops(config: ModelConfig, input_length: int, position: int) -> int:
    """FLOPs of one more answer token with a cache, after `position` others."""
    return build(config).decode_flops(input_length, position)


def answer_flops(config: ModelConfig, input_length: int, answer_length: int) -> int:
    """FLOPs of a whole answer: reading the input, then token after token, end of sequence too."""
    whole = prefill_flops(config, input_length)
    if answer_length:
        # A token more costs the same everywhere, so the mean is that of the first and the last.
        ends = [decode_flops(config, input_length, place) for place in (0, answer_length - 1)]
        whole += answer_length * sum(ends) // 2
    return whole


def samples_flops(config: ModelConfig, input_length: int, answer_lengths: Sequence[int]) -> int:
    """FLOPs of several answers to an input that is read once for all of them."""
    prefill = prefill_flops(config, input_length)
    answers = [answer_flops(config, input_length, length) for length in answer_lengths]
    return prefill + sum(answers) - prefill * len(answers)


def live_flops(config: ModelConfig, input_length: int, answer_length: int, num_logits: int) -> int:
    """FLOPs of reading an input and answer tokens with a cache, a few or one at a time.

    However they are cut, each token looks at itself and those before it; logits were made after
    `num_logits` of them only.
    """
    whole = answer_flops(config, input_length, answer_length)
    return whole - (answer_length - num_logits) * layer_flops.logits(config)


def probe_flops(
    config: ModelConfig, input_length: int, answer_length: int, has_logits: bool, layers: int
) -> int:
    """FLOPs of reading an input and its answer once more to measure what scores need.

    Args:
      config: of the model.
      input_length, answer_length: tokens, end of sequence too.
      has_logits: whether the logits of the answer's tokens are made.
      layers: how many layers compute attention weights for it.

    Raises:
      ValueError: more layers than an answer goes through.
    """
    if layers > answer_layers(config):
        raise ValueError(f"layers is {layers}; an answer goes through {answer_layers(config)}")
    whole = forward_flops(config, input_length, answer_length)
    if not has_logits:
        whole -= answer_length * layer_flops.logits(config)
    keys = answer_length + ("encoder" not in build(config).stacks()) * input_length
    return whole + (
        layers * layer_flops.attention_weights(config, answer_length, keys) if layers else 0
    )


def ranking_flops(config: ModelConfig, input_length: int, option_lengths: Sequence[int]) -> int:
    """FLOPs of reading an input once and scoring its options, each with its end of sequence.

    A token attends to the input and all tokens of its own option, masked or not.
    """
    scoring = sum(n * decode_flops(config, input_length, n - 1) for n in option_lengths)
    return prefill_flops(config, input_length) + scoring
