"""Layers one after the other: copies, or one that scans over stacked parameters; with remat."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cascade_jax import axes
from cascade_jax.models import probe
from cascade_jax.models.config import ModelConfig

_REMAT_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def layer_stack(
    layer: type[nn.Module],
    config: ModelConfig,
    num_layers: int,
    num_arguments: int,
    *,
    has_own: bool = False,
) -> Any:
    """Layers to give to `run_layers`: a list, or one module that scans over stacked parameters.

    Args:
      layer: class whose `__call__(x, *arguments)` ends in `deterministic`.
      config, num_layers: of the stack.
      num_arguments: number of arguments after x.
      has_own: whether the first of them differs from layer to layer; all others are the same.
    """
    if config.remat != "none":
        layer = nn.remat(
            layer,
            policy=_REMAT_POLICIES[config.remat],
            prevent_cse=not config.scan_layers,  # a scan's body is safe without the barrier
            static_argnums=(num_arguments + 1,),  # deterministic; self and x come before the rest
        )
    if not config.scan_layers:
        return [layer(config) for _ in range(num_layers)]
    in_axes = (0,) * has_own + (nn.broadcast,) * (num_arguments - has_own)
    scanned = nn.scan(
        layer,
        variable_axes={"params": 0, "cache": 0, probe.COLLECTION: 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=num_layers,
        metadata_params={nn.PARTITION_NAME: axes.LAYERS},
    )
    return scanned(config)


def run_layers(layers: Any, x: Any, *arguments: Any, own: Sequence[Any] | None = None) -> Any:
    """Runs the layers one after the other; returns the last one's output.

    Args:
      layers: from `layer_stack`.
      x: input of the first.
      arguments: other arguments of every layer.
      own: with `has_own`, the argument of each layer that stands before them.
    """
    if not isinstance(layers, list | tuple):
        if own is not None:
            arguments = (jax.tree.map(lambda *each: jnp.stack(each), *own), *arguments)
        return layers(x, *arguments)[0]
    for i, layer in enumerate(layers):
        x, _ = layer(x, *(() if own is None else (own[i],)), *arguments)
    return x
