"""What a generated token costs."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from cascade_jax.models.config import T5Config
from cascade_jax.models.t5 import parameter_shapes


def parameter_count(params: Mapping[str, Any]) -> int:
    """Number of scalars in a parameter tree of arrays, or of their shapes, boxed or not."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(params)))


def flops_per_token(model: T5Config | Mapping[str, Any]) -> int:
    """FLOPs to generate one token: `2 * parameters`, a multiply and an add for each.

    Counts every parameter, embeddings included, and no attention over the context: the cost axis
    of the papers, meant to compare models rather than to predict a run time.

    Args:
      model: the config of a model, or its parameters (arrays or shapes).
    """
    params = parameter_shapes(model) if isinstance(model, T5Config) else model
    return 2 * parameter_count(params)
