"""Rotary positions and kinds of layers, as config.json spells them.

Transformers up to 4 write `rope_theta`, `rope_scaling` and, for Gemma 3, `rope_local_base_freq`;
from 5 on they write one dictionary `rope_parameters`, for Gemma 3 one for each kind of layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cascade_jax.interop.hf_keys import Keys
from cascade_jax.models.config import RopeScaling

FULL, SLIDING = "full_attention", "sliding_attention"
# By kind of scaling, the keys of `rope_scaling` with the fields of RopeScaling that they are.
_FACTORS = {"linear": {"factor": "factor"}}
_FACTORS["llama3"] = _FACTORS["linear"] | {
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
}


def read(keys: Keys) -> tuple[float, RopeScaling | None]:
    """Theta and scaling of a family whose layers are alike."""
    rope = {**(keys("rope_parameters", None) or {}), **(keys("rope_scaling", None) or {})}
    if rope.keys() & {FULL, SLIDING}:
        each = [rope[kind] for kind in (FULL, SLIDING) if rope.get(kind)]
        if any(other != each[0] for other in each):
            keys.refuse("rope_parameters", rope, "the same for all layers is")
        rope = each[0]
    return _read_one(keys, rope, keys("rope_theta"))


def read_by_kind(keys: Keys) -> tuple[float, RopeScaling | None, float]:
    """Theta and scaling of the full layers, and theta of the (unscaled) sliding ones."""
    rope = keys("rope_parameters", None) or {}
    if not rope.keys() & {FULL, SLIDING}:
        rope = {FULL: rope}
    full = {**(rope.get(FULL) or {}), **(keys("rope_scaling", None) or {})}
    theta, scaling = _read_one(keys, full, keys("rope_theta"))
    sliding = _read_one(keys, rope.get(SLIDING) or {}, keys("rope_local_base_freq"))
    if sliding[1] is not None:
        keys.refuse(f"rope_parameters.{SLIDING}", rope[SLIDING], "rope_type default is")
    return theta, scaling, sliding[0]


def _read_one(
    keys: Keys, rope: Mapping[str, Any], theta: float
) -> tuple[float, RopeScaling | None]:
    theta = rope.get("rope_theta") or theta
    kind = rope.get("rope_type") or rope.get("type") or "default"
    for partial in (rope.get("partial_rotary_factor"), keys("partial_rotary_factor", None)):
        if partial not in (None, 1):
            keys.refuse("partial_rotary_factor", partial, "1 is")
    if kind == "default":
        return theta, None
    if kind not in _FACTORS:
        keys.refuse("rope_scaling", dict(rope), "rope_type default, linear and llama3 are")
        return theta, None
    if missing := [key for key in _FACTORS[kind] if key not in rope]:
        keys.refuse("rope_scaling", dict(rope), f"{kind} needs {', '.join(missing)}")
        return theta, None
    fields = {field: float(rope[key]) for key, field in _FACTORS[kind].items()}
    if kind == "llama3":
        length = rope.get("original_max_position_embeddings") or keys("max_position_embeddings")
        fields["original_length"] = length
    return theta, RopeScaling(kind=kind, **fields)


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
    count = keys("num_hidden_layers")
    types = keys("layer_types", None)
    if types is None:
        kinds = [default[i % len(default)] for i in range(count)]
    elif set(types) <= {FULL, SLIDING} and len(types) == count:
        kinds = [name.removesuffix("_attention") for name in types]
    else:
        keys.refuse("layer_types", types, f"{count} of {FULL} and {SLIDING} are")
        return ("full",)
    for period in range(1, count):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return tuple(kinds[:period])
    return tuple(kinds)
