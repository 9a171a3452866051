"""Parameter names in T5X's two networks, and checks of a checkpoint against a model.

T5X's minimal network keeps layers apart, `encoder/layers_0/mlp/wo/kernel`, and has one relative
position bias for a stack, `encoder/relpos_bias/rel_embedding`; these are this project's names too.
T5X's scalable network stacks its layers on axis 1, `encoder/encoder/mlp/wo/kernel`, keeps the heads
of attention apart, [embed, layers, heads, head size], and has a bias in every layer. The two are
the same function as long as the biases of a stack are equal.
"""

from collections.abc import Iterable, Mapping

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
    is_layer = len(name) > 2 and name[0] in STACKS and name[1].startswith("layers_")
    return int(name[1].removeprefix("layers_")) if is_layer else None


def layer_counts(names: Iterable[Name]) -> dict[str, int]:
    """Number of layers of each stack, from the names of all parameters."""
    layers = {(name[0], layer_of(name)) for name in names if layer_of(name) is not None}
    return {stack: sum(top == stack for top, _ in layers) for stack in STACKS}


def unrolled(arrays: Mapping[Name, StoredArray]) -> dict[Name, StoredArray]:
    """The scalable network's parameters under this project's names, a bias of every layer included.

    Raises:
      ValueError: if what should be a stack of layers has fewer than two axes.
    """
    layers = {}
    for name, array in arrays.items():
        if len(name) < 3 or name[0] not in STACKS or name[1] != name[0]:
            layers[name] = array
            continue
        if len(array.shape) < 2:
            raise ValueError(f"{'/'.join(name)} of shape {array.shape} is no stack of layers")
        joined = None
        if len(array.shape) == 4:  # three axes in older checkpoints, which have the heads joined
            joined = {**dict.fromkeys(_TO_HEADS, 1), **dict.fromkeys(_FROM_HEADS, 0)}.get(name[-2])
        for layer in range(array.shape[1]):
            layers[layer_name(name[0], layer, name[2:])] = StoredArray(array.source, layer, joined)
    return layers


def one_bias(path, biases: Mapping[Name, np.ndarray]) -> dict[Name, np.ndarray]:
    """One relative position bias for a stack in the place of equal ones in every layer.

    Raises:
      ValueError: if they differ, as in a scalable network that was trained: this project's T5, like
        T5's own definition, has one for all layers.
    """
    one_each = {}
    for stack in STACKS:
        same = [array for name, array in biases.items() if name[0] == stack]
        distance = max((float(np.abs(bias - same[0]).max()) for bias in same), default=0.0)
        if not distance <= 0:
            raise ValueError(
                f"{path}: the {len(same)} layers of the {stack} have different relative position "
                f"biases (by up to {distance:.3g}); T5 has one for all layers, and there is no "
                "place for more"
            )
        if same:
            one_each[(stack, *BIAS)] = same[0]
    return one_each


def scanned(arrays: Mapping[Name, np.ndarray], config: T5Config) -> dict[Name, np.ndarray]:
    """This project's unrolled parameters as the scalable network's; the inverse of `unrolled`."""
    heads = config.num_heads, config.head_dim
    groups: dict[Name, dict[int, np.ndarray]] = {}
    stacked = {}
    for name, array in arrays.items():
        layer = layer_of(name)
        if layer is not None:
            groups.setdefault((name[0], *name[2:]), {})[layer] = array
        elif name[1:] != BIAS:
            stacked[name] = array
    for (stack, *rest), layers in groups.items():
        ordered = [np.asarray(layers[i]) for i in range(len(layers))]
        if rest[-2] in _TO_HEADS:
            ordered = [array.reshape(array.shape[0], *heads) for array in ordered]
        elif rest[-2] in _FROM_HEADS:
            ordered = [array.reshape(*heads, array.shape[1]) for array in ordered]
        stacked[(stack, stack, *rest)] = np.stack(ordered, axis=1)
    for stack, count in layer_counts(arrays).items():
        bias = np.asarray(arrays[(stack, *BIAS)])
        stacked[(stack, stack, *BIAS)] = np.stack([bias] * count, axis=1)
    return stacked


# ---------------------------------------------------------------- checks


def model_shapes(config: T5Config, layout: str = UNROLLED) -> dict[Name, tuple[int, ...]]:
    """Shapes of the parameters with layers apart, whether or not the config scans its layers.

    The layout "scanned" lists a bias in every layer, as `unrolled` gives them.
    """
    apart = T5Config(**{**vars(config), "scan_layers": False})
    boxed = flatten_dict(nn.meta.unbox(parameter_shapes(apart)))
    shapes = {name: tuple(leaf.shape) for name, leaf in boxed.items()}
    if layout == SCANNED:
        counts = config.num_encoder_layers, config.num_decoder_layers
        for stack, count in zip(STACKS, counts, strict=True):
            bias = shapes.pop((stack, *BIAS))
            shapes |= {layer_name(stack, layer, BIAS): bias for layer in range(count)}
    return shapes


def config_of(shapes: Mapping[Name, tuple[int, ...]]) -> T5Config:
    """The model that parameters of these names and shapes are for.

    Shapes (with layers apart) say everything but the activations: a gated MLP is taken for T5 1.1's
    ("gelu", "linear"), a plain one for T5 1.0's ("relu",). The dropout rate is the default.

    Raises:
      ValueError: if parameters that say a size are missing.
    """
    counts = layer_counts(shapes)
    biases = [name for name in shapes if name[-2:] == BIAS]
    first = layer_name("encoder", 0, ())
    gated = (*first, "mlp", "wi_0", "kernel")
    plain = (*first, "mlp", "wi", "kernel")
    try:
        num_heads, buckets = shapes[biases[0]]
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
