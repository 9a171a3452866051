"""What a generated token costs."""

import math
from collections.abc import Mapping
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
