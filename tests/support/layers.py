"""Layers of a parameter tree: one after the other, or stacked as `scan_layers` has them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def stack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of unrolled layers as a model with `scan_layers=True` wants them (no boxes)."""
    return {name: _stack(tree) if "layers_0" in tree else tree for name, tree in params.items()}


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stack_layers`."""
    return {name: _unstack(tree) if "layers" in tree else tree for name, tree in params.items()}


def _stack(tree):
    names = [f"layers_{i}" for i in range(sum(name.startswith("layers_") for name in tree))]
    rest = {name: value for name, value in tree.items() if name not in names}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree[name] for name in names))
    return {**rest, "layers": stacked}


def _unstack(tree):
    rest = {name: value for name, value in tree.items() if name != "layers"}
    count = jax.tree.leaves(tree["layers"])[0].shape[0]
    for i in range(count):
        rest[f"layers_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], tree["layers"])
    return rest
