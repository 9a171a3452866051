"""Rotary positions and kinds of layers, as config.json spells them.

Transformers up to 4 write `rope_theta`, `rope_scaling` and, for Gemma 3, `rope_local_base_freq`;
from 5 on they write one dictionary `rope_parameters`, for Gemma 3 one for each kind of layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cascade_jax import checks
from cascade_jax.interop.hf_keys import Keys
from cascade_jax.models.config import RopeScaling, shortest_cycle

FULL, SLIDING = "full_attention", "sliding_attention"
# By kind of scaling, the keys of `rope_scaling` with the fields of RopeScaling that they are.
_FACTORS = {"default": {}, "linear": {"factor": "factor"}}
_FACTORS["llama3"] = _FACTORS["linear"] | {
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
}
_OF_ALL_KINDS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_OF_ALL_KINDS += ("original_max_position_embeddings",)


def read(keys: Keys) -> tuple[float, RopeScaling | None]:
    """Theta and scaling of a family whose layers are alike."""
    old, new = keys.mapping("rope_scaling"), keys.mapping("rope_parameters")
    if new.keys() & {FULL, SLIDING}:
        each = [new[kind] for kind in (FULL, SLIDING) if new.get(kind)] or [{}]
        if any(other != each[0] for other in each) or not isinstance(each[0], dict):
            keys.refuse("rope_parameters", new, "the same object for all layers is")
            each = [{}]
        new = each[0]
    rope = _read_one(keys, "rope_scaling" if old else "rope_parameters", old or new, "rope_theta")
    if old and new and _read_one(keys, "rope_parameters", new, "rope_theta") != rope:
        keys.refuse("rope_scaling", old, "the same as in rope_parameters is")
    return rope


def read_by_kind(keys: Keys) -> tuple[float, RopeScaling | None, float]:
    """Theta and scaling of the full layers, and theta of the (unscaled) sliding ones."""
    rope, kinds = keys.mapping("rope_parameters"), {FULL, SLIDING}
    if rope.keys() - kinds or not all(isinstance(each or {}, dict) for each in rope.values()):
        keys.refuse("rope_parameters", rope, f"objects {FULL} and {SLIDING} in it are")
        rope = {}
    full = {**(rope.get(FULL) or {}), **keys.mapping("rope_scaling")}
    theta, scaling = _read_one(keys, "rope_scaling", full, "rope_theta")
    place = f"rope_parameters.{SLIDING}"
    local, unscaled = _read_one(keys, place, rope.get(SLIDING) or {}, "rope_local_base_freq")
    if unscaled is not None:
        keys.refuse(place, rope[SLIDING], "rope_type default is")
    return theta, scaling, local


def _read_one(
    keys: Keys, place: str, rope: Mapping[str, Any], theta_key: str
) -> tuple[float, RopeScaling | None]:
    """Theta and scaling of one object, whose theta may stand under a key of its own instead."""
    theta = keys(theta_key)
    if "rope_theta" in rope:
        stated, other = keys.stated(theta_key), f"{place}.rope_theta"
        if stated is not None and stated != rope["rope_theta"]:
            keys.refuse(theta_key, stated, f"{rope['rope_theta']!r}, as in {other}, is")
        theta_key, theta = other, rope["rope_theta"]
    if not _is_positive(theta):
        keys.refuse(theta_key, theta, "a number above 0 is")
        theta = 1.0
    kinds = [rope[key] for key in ("rope_type", "type") if rope.get(key) is not None]
    kind = kinds[0] if kinds else "default"
    for partial in (rope.get("partial_rotary_factor"), keys("partial_rotary_factor", None)):
        if partial not in (None, 1) or isinstance(partial, bool):
            keys.refuse("partial_rotary_factor", partial, "1 is")
    factors = _FACTORS.get(kind) if isinstance(kind, str) else None
    if factors is None or kinds[1:] not in ([], [kind]):
        keys.refuse(place, dict(rope), "rope_type default, linear and llama3 are")
        return theta, None
    for key, value in rope.items():
        if key not in _OF_ALL_KINDS and key not in factors and value is not None:
            keys.refuse(f"{place}.{key}", value, f"rope_type {kind} has no such key")
    if missing := [key for key in factors if rope.get(key) is None]:
        keys.refuse(place, dict(rope), f"{kind} needs {', '.join(missing)}")
        return theta, None
    if wrong := [key for key in factors if not _is_positive(rope[key])]:
        keys.refuse(place, dict(rope), f"numbers above 0 for {', '.join(wrong)} are")
        return theta, None
    fields = {field: float(rope[key]) for key, field in factors.items()}
    if kind == "llama3":
        fields["original_length"] = _original_length(keys, rope)
    try:
        return theta, RopeScaling(kind=kind, **fields) if fields else None
    except ValueError as error:
        keys.refuse(place, dict(rope), str(error))
        return theta, None


def _original_length(keys: Keys, rope: Mapping[str, Any]) -> int:
    key = "original_max_position_embeddings"
    length = rope.get(key)
    if key in keys:  # transformers takes this one
        if keys.size(key) != length is not None:
            keys.refuse(key, keys(key), f"{length}, as in rope_scaling, is")
        return keys.size(key)
    return keys.size("max_position_embeddings") if length is None else length


def _is_positive(value: Any) -> bool:
    return checks.is_number(value) and value > 0


def write(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """`rope_scaling`, in the spelling that all versions read."""
    if scaling is None:
        return None
    written = {key: getattr(scaling, field) for key, field in _FACTORS[scaling.kind].items()}
    if scaling.kind == "llama3":
        written["original_max_position_embeddings"] = scaling.original_length
    return {"rope_type": scaling.kind, **written}


def attention_kinds(keys: Keys, default: Sequence[str]) -> tuple[str, ...]:
    """Kinds of the layers, as the shortest tuple that gives them when it is repeated.

    They are config.json's `layer_types` or, where it has none, the default, repeated.
    """
    count = keys.layers("num_hidden_layers")
    types = keys("layer_types", None)
    if types is None:
        kinds = [default[i % len(default)] for i in range(count)]
    elif (
        isinstance(types, list) and len(types) == count and all(t in (FULL, SLIDING) for t in types)
    ):
        kinds = [name.removesuffix("_attention") for name in types]
    else:
        if keys.is_refused("num_hidden_layers") and isinstance(types, list):
            return ("full",)  # how many they must be is not known
        keys.refuse("layer_types", types, f"{count} of {FULL} and {SLIDING} are")
        return ("full",)
    return shortest_cycle(kinds)
