"""A shallower model made of some layers of a deeper one: its config, and its parameters."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cascade_jax import checks
from cascade_jax.models.config import DecoderConfig, shortest_cycle
from cascade_jax.models.families import ModelConfig, build

# May differ: these change neither names nor shapes nor meaning of parameters.
_IGNORED = ("dropout_rate", "dtype", "remat", "scan_layers", "query_chunk")
# Compared layer by layer.
_BY_LAYER = ("num_layers", "num_encoder_layers", "num_decoder_layers", "attention_kinds")


def evenly_spaced(count: int, of: int) -> tuple[int, ...]:
    """`count` layers of `of`, the first and the last among them, at even distances.

    Example: ``evenly_spaced(6, 12)`` is (0, 2, 4, 7, 9, 11), DistilBERT's choice.

    Raises:
      ValueError: if there are not so many.

    Reference: Sanh et al. 2019, "DistilBERT", section 3 (one layer out of two).
    """
    if not 1 <= count <= of:
        raise ValueError(f"cannot choose {count} layers out of {of}")
    if count == 1:
        return (0,)
    return tuple(round(i * (of - 1) / (count - 1)) for i in range(count))


def choose(layers: int | Sequence[int] | None, count: int, of: int, name: str) -> tuple[int, ...]:
    """The layers that stand for `layers` of a stack.

    Args:
      layers: how many, evenly spaced; or which, counted from 0, in their new order; None for
        `count`, evenly spaced.
      count: how many the shallow model has.
      of: how many the deep one has.
      name: of the setting, for messages.

    Raises:
      ValueError: if they are not as many, or not there.
    """
    if layers is None or (type(layers) is int and layers == count):
        return evenly_spaced(count, of)
    is_list = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not is_list or len(layers) != count or not all(_is_layer(i, of) for i in layers):
        raise ValueError(
            f"{name} is {list(layers) if is_list else repr(layers)}; must be {count} numbers from "
            f"0 to {of - 1}, one for each layer of the shallow model, or {count} for evenly spaced "
            "ones"
        )
    return tuple(layers)


def _is_layer(value: object, of: int) -> bool:
    return type(value) is int and 0 <= value < of


def with_layers(
    model: ModelConfig,
    layers: int | Sequence[int],
    encoder_layers: int | Sequence[int] | None = None,
) -> ModelConfig:
    """The config of a model that has some of the layers of another, as `choose_layers` fills it.

    Args:
      model: the deep model.
      layers: how many layers of its decoder, evenly spaced; or which, counted from 0.
      encoder_layers: likewise of a T5's encoder; None for as many as of the decoder.

    Raises:
      ValueError: the model has not so many layers, or no encoder.
    """
    stacks = build(model).stacks()
    if encoder_layers is not None and "encoder" not in stacks:
        raise ValueError("encoder_layers is given, but a decoder-only model has no encoder")
    changes: dict[str, Any] = {}
    for stack, depth in stacks.items():
        name, asked = "layers", layers
        if stack == "encoder":
            name, asked = "encoder_layers", encoder_layers
            asked = _number_of(layers) if asked is None else asked
        checks.whole_number(name, _number_of(asked), 1, most=depth)
        chosen = choose(asked, _number_of(asked), depth, name)
        changes[f"num_{stack}_layers" if stack else "num_layers"] = len(chosen)
        if hasattr(model, "attention_kind"):
            changes["attention_kinds"] = shortest_cycle(
                [model.attention_kind(layer) for layer in chosen]
            )
    return dataclasses.replace(model, **changes)


def _number_of(layers: int | Sequence[int]) -> int:
    is_list = isinstance(layers, Sequence) and not isinstance(layers, str)
    return len(layers) if is_list else layers


def check_alike(shallow: ModelConfig, deep: ModelConfig) -> None:
    """Raises ValueError for two models that differ in more than their depth: lists what differs."""
    if type(shallow) is not type(deep):
        kinds = f"{type(shallow).__name__} and {type(deep).__name__}"
        raise ValueError(f"layers of one model go into another of its kind only, not {kinds}")
    names = [f.name for f in dataclasses.fields(shallow) if f.name not in (*_IGNORED, *_BY_LAYER)]
    different = [
        f"{name} is {getattr(shallow, name)!r} and not {getattr(deep, name)!r}"
        for name in names
        if getattr(shallow, name) != getattr(deep, name)
    ]
    if different:
        text = "; ".join(different)
        raise ValueError(f"layers of one model go into another of its widths only; {text}")


def choose_layers(
    params: Mapping[str, Any],
    shallow: ModelConfig,
    deep: ModelConfig,
    layers: int | Sequence[int] | None = None,
    encoder_layers: int | Sequence[int] | None = None,
) -> dict[str, Any]:
    """Parameters of the shallow model: everything of the deep one, but only some of its layers.

    Args:
      params: of the deep model, without boxes; layers stacked or not, as its config says.
      shallow, deep: configs that differ in their depth alone (and in layout, dtype, dropout).
      layers: which layers of a decoder, counted from 0, in their new order; None, or how many, for
        evenly spaced ones.
      encoder_layers: likewise of a T5's encoder.

    Raises:
      ValueError: the models differ in more, or the layers are not as many as the shallow model has,
        not of the deep one, or of another kind of attention than in their new place.
    """
    check_alike(shallow, deep)
    depths, deep_depths = build(shallow).stacks(), build(deep).stacks()
    if encoder_layers is not None and "encoder" not in depths:
        raise ValueError("encoder_layers is given, but a decoder-only model has no encoder")
    result = dict(params)
    for stack, depth in depths.items():
        name, asked = "layers", layers
        if stack == "encoder":
            name, asked = "encoder_layers", encoder_layers
        chosen = choose(asked, depth, deep_depths[stack], name)
        if hasattr(shallow, "attention_kind"):
            _check_kinds(chosen, shallow, deep)
        if not stack:
            return _choose(result, chosen, deep, shallow)
        result[stack] = _choose(params[stack], chosen, deep, shallow)
    return result


def _check_kinds(chosen: Sequence[int], shallow: DecoderConfig, deep: DecoderConfig) -> None:
    """Refuses a layer in a place with another window or other rotary positions than its own."""
    kinds = tuple(deep.attention_kind(layer) for layer in chosen)
    places = tuple(shallow.attention_kind(place) for place in range(len(chosen)))
    if kinds != places:
        raise ValueError(
            f"layers {list(chosen)} are of the kinds {kinds}, their new places of {places}; choose "
            "other layers, or give the shallow model these attention_kinds"
        )


def _choose(tree, chosen, deep, shallow):
    """A stack with some of its layers, stacked or not as `shallow` has it."""
    rest = {name: value for name, value in tree.items() if not name.startswith("layers")}
    if deep.scan_layers and shallow.scan_layers:
        index = jnp.asarray(chosen)
        return rest | {"layers": jax.tree.map(lambda leaf: leaf[index], tree["layers"])}
    if deep.scan_layers:
        one = [jax.tree.map(lambda leaf, i=i: leaf[i], tree["layers"]) for i in chosen]
    else:
        one = [tree[f"layers_{i}"] for i in chosen]
    if shallow.scan_layers:
        return rest | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *one)}
    return rest | {f"layers_{i}": layer for i, layer in enumerate(one)}
