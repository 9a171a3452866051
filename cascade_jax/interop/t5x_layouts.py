"""Parameter names in T5X's two networks, and checks of a checkpoint against a model.

T5X's minimal network keeps layers apart, `encoder/layers_0/mlp/wo/kernel`, and has one relative
position bias for a stack, `encoder/relpos_bias/rel_embedding`; these are this project's names too.

T5X's scalable network has a bias in every layer, and kernels of attention that keep the heads
apart, [embed, heads, head size]. It stacks its layers on axis 1, `encoder/encoder/mlp/wo/kernel`
[mlp, layers, embed], or, with its scan_layers = False, keeps them apart as the minimal network
does.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cascade_jax.interop.t5x_storage import Name, StoredArray
from cascade_jax.models.config import T5Config
from cascade_jax.models.families import parameter_shapes
from cascade_jax.names import nearest_names

UNROLLED, SCANNED = "unrolled", "scanned"
LAYOUTS = (UNROLLED, SCANNED)
STACKS = ("encoder", "decoder")
BIAS = ("relpos_bias", "rel_embedding")  # relative position bias of a stack, or of its layer
_TO_HEADS, _FROM_HEADS = ("query", "key", "value"), ("out",)  # kernels of attention


def layout_of(names: Iterable[Name]) -> str:
    """Which of T5X's networks has parameters of these names."""
    is_scanned = any(name[0] in STACKS and name[0] == name[1] for name in names if len(name) > 1)
    return SCANNED if is_scanned else UNROLLED


def layer_name(stack: str, layer: int, rest: Name) -> Name:
    """`encoder/layers_3/...`."""
    return (stack, f"layers_{layer}", *rest)


def layer_of(name: Name) -> int | None:
    """Number of the layer that a parameter belongs to; None outside the layers."""
    match = re.fullmatch(r"layers_([0-9]+)", name[1]) if len(name) > 2 else None
    return int(match[1]) if match and name[0] in STACKS else None


def layer_counts(names: Iterable[Name]) -> dict[str, int]:
    """Number of layers of each stack, from the names of all parameters."""
    layers = {(name[0], layer_of(name)) for name in names if layer_of(name) is not None}
    return {stack: sum(top == stack for top, _ in layers) for stack in STACKS}


def unrolled(arrays: Mapping[Name, StoredArray]) -> dict[Name, StoredArray]:
    """Either network's parameters with layers apart and heads joined, under this project's names.

    A scalable network's have a bias in every layer; see `with_biases`.

    Raises:
      ValueError: if what should be a stack of layers has fewer than two axes, the parameters of a
        stack differ in their number of layers, or a layer is there twice.
    """
    layers, first = {}, {}
    for name, array in arrays.items():
        if len(name) < 3 or name[0] not in STACKS or name[1] != name[0]:
            is_layers = layer_of(name) is not None
            joined = _heads_axis(name, len(array.shape)) if is_layers else None
            layers[name] = array if joined is None else StoredArray(array.source, None, joined)
            continue
        if len(array.shape) < 2:
            raise ValueError(f"{_join(name)} of shape {array.shape} is no stack of layers")
        other, shape = first.setdefault(name[0], (name, array.shape))
        if array.shape[1] != shape[1]:
            raise ValueError(
                f"the layers of the {name[0]} are not stacked on axis 1, where T5X's scalable "
                f"network has them unless its param_scan_axis is changed: {_join(other)} "
                f"{tuple(shape)} has {shape[1]} there, {_join(name)} {tuple(array.shape)} has "
                f"{array.shape[1]}"
            )
        joined = _heads_axis(name, len(array.shape) - 1)
        for layer in range(array.shape[1]):
            alone = layer_name(name[0], layer, name[2:])
            if alone in arrays:
                raise ValueError(f"{_join(name)} has the layers that stand alone in {_join(alone)}")
            layers[alone] = StoredArray(array.source, layer, joined)
    return layers


def _heads_axis(name: Name, axes: int) -> int | None:
    """Axis of the heads in one layer's kernel of attention; None if it has them joined."""
    if axes != 3:  # as in the minimal network, and in older checkpoints of the scalable one
        return None
    return {**dict.fromkeys(_TO_HEADS, 1), **dict.fromkeys(_FROM_HEADS, 0)}.get(name[-2])


def layer_biases(names: Iterable[Name], stack: str) -> list[Name]:
    """Names of the relative position biases that a stack's layers have of their own, in order."""
    own = [name for name in names if name[0] == stack and name[2:] == BIAS]
    return sorted((name for name in own if layer_of(name) is not None), key=layer_of)


def with_biases(arrays: Mapping[Name, Any], *, per_layer: bool) -> dict[Name, Any]:
    """Parameters with a relative position bias in every layer, or one for a stack.

    One bias is repeated for all layers, and the first layer's stands for those of all, which must
    be equal. A stack whose biases are incomplete stays as it is.
    """
    result, counts = dict(arrays), layer_counts(arrays)
    for stack in STACKS:
        one, own = (stack, *BIAS), layer_biases(arrays, stack)
        if per_layer and one in result and not own:
            bias = result.pop(one)
            result |= {layer_name(stack, i, BIAS): bias for i in range(counts[stack])}
        elif not per_layer and own and len(own) == counts[stack] and one not in result:
            result[one] = result[own[0]]
            for name in own:
                del result[name]
    return result


def heads_apart(arrays: Mapping[Name, np.ndarray], config: T5Config) -> dict[Name, np.ndarray]:
    """Kernels of attention as the scalable network has them; layers are apart."""
    heads = config.num_heads, config.head_dim
    result = dict(arrays)
    for name, array in arrays.items():
        if layer_of(name) is None:
            continue
        if name[-2] in _TO_HEADS:
            result[name] = np.asarray(array).reshape(array.shape[0], *heads)
        elif name[-2] in _FROM_HEADS:
            result[name] = np.asarray(array).reshape(*heads, array.shape[1])
    return result


def scanned(arrays: Mapping[Name, np.ndarray], config: T5Config) -> dict[Name, np.ndarray]:
    """This project's parameters, layers apart, as the scalable network's; inverts `unrolled`."""
    groups: dict[Name, dict[int, np.ndarray]] = {}
    stacked = {}
    for name, array in heads_apart(with_biases(arrays, per_layer=True), config).items():
        layer = layer_of(name)
        if layer is None:
            stacked[name] = array
        else:
            groups.setdefault((name[0], *name[2:]), {})[layer] = array
    for (stack, *rest), layers in groups.items():
        ordered = [np.asarray(layers[i]) for i in range(len(layers))]
        stacked[(stack, stack, *rest)] = np.stack(ordered, axis=1)
    return stacked


# ---------------------------------------------------------------- checks


def model_shapes(config: T5Config) -> dict[Name, tuple[int, ...]]:
    """Shapes of the parameters with layers apart, whether or not the config scans its layers."""
    apart = dataclasses.replace(config, scan_layers=False)
    boxed = flatten_dict(nn.meta.unbox(parameter_shapes(apart)))
    return {name: tuple(leaf.shape) for name, leaf in boxed.items()}


def config_of(shapes: Mapping[Name, tuple[int, ...]]) -> T5Config:
    """The model that parameters of these names and shapes are for.

    Shapes (with layers apart) say everything but the activations: a gated MLP is taken for T5 1.1's
    ("gelu", "linear"), a plain one for T5 1.0's ("relu",). The dropout rate is the default.
    Distances of the relative position bias end at 128, as in all of T5X's networks.

    Raises:
      ValueError: if parameters that say a size are missing.
    """
    counts = layer_counts(shapes)
    biases = [name for name in shapes if name[-2:] == BIAS]
    first = layer_name("encoder", 0, ())
    gated = (*first, "mlp", "wi_0", "kernel")
    plain = (*first, "mlp", "wi", "kernel")
    try:
        num_heads, buckets = shapes[biases[0] if biases else ("encoder", *BIAS)]
        vocab_size, embed_dim = shapes[("token_embedder", "embedding")]
        _, width = shapes[(*first, "attention", "query", "kernel")]
        _, mlp_dim = shapes[gated] if gated in shapes else shapes[plain]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"not the parameters of a T5: no sizes from {error}") from error
    return T5Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        num_heads=num_heads,
        head_dim=width // num_heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=counts["encoder"],
        num_decoder_layers=counts["decoder"],
        mlp_activations=("gelu", "linear") if gated in shapes else ("relu",),
        tied_logits=("decoder", "logits_dense", "kernel") not in shapes,
        relative_buckets=buckets,
        relative_bias_per_layer=any(layer_biases(shapes, stack) for stack in STACKS),
    )


def check_shapes(
    path, stored: Mapping[Name, tuple[int, ...]], needed: Mapping[Name, tuple[int, ...]]
) -> None:
    """Compares the parameters of a checkpoint with those of a model.

    Raises:
      ValueError: naming every parameter that is missing, unknown or of another shape.
    """
    missing = [name for name in needed if name not in stored]
    extra = [name for name in stored if name not in needed]
    problems = {
        "missing": [_join(name) + _nearest(name, extra) for name in missing],
        "that the model lacks": [_join(name) + _nearest(name, missing) for name in extra],
        "of another shape": [
            f"{_join(name)} {tuple(stored[name])} (the model's is {shape})"
            for name, shape in needed.items()
            if name in stored and tuple(stored[name]) != shape
        ],
    }
    texts = [
        f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names
    ]
    if texts:
        raise ValueError(f"the parameters of {path} are not the model's: {'; '.join(texts)}")


def _join(name: Name) -> str:
    return "/".join(name)


def _nearest(name: Name, names: Iterable[Name]) -> str:
    near = nearest_names(_join(name), map(_join, names), 1, cutoff=0.9)
    return f" (nearest is {near[0]})" if near else ""
