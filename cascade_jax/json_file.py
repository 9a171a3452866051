"""Dataclasses as JSON files. msgspec converts; what can not be read is refused with file and field.

JSON has no infinite numbers: they are the texts "inf" and "-inf". A field that may hold one is
annotated `Number`; `NumberOrNull` may also be NaN, for "not known", which is null in the file.
"""

import copy
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from cascade_jax import files, json_text
from cascade_jax.names import did_you_mean

T = TypeVar("T")
DIGEST = "digest"  # the field of a file that holds the digest of all others


class _Float(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, int | float)


class Number(metaclass=_Float):
    """Annotation of a float that may be infinite."""


class NumberOrNull(metaclass=_Float):
    """Annotation of a float that may be infinite, or NaN where it is not known."""


def finite_or_text(value: float) -> float | str | None:
    """A number as files of this module hold it: "inf", "-inf", and null for NaN."""
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def finite_or_null(value: float) -> float | None:
    """A number, or null if it is NaN or infinite."""
    return value if math.isfinite(value) else None


def to_values(value: Any, float_fn: Callable[[float], Any] = finite_or_text) -> Any:
    """JSON values of dataclasses, mappings, sequences and arrays; floats become float_fn(float)."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_values(getattr(value, name), float_fn) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_values(inner, float_fn) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_values(inner, float_fn) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_values(value.tolist(), float_fn)
    return float_fn(value) if isinstance(value, float) else value


def to_text(value: Any, indent: int | None = None) -> str:
    """A dataclass as JSON, which `from_values` reads back to the same.

    Raises:
      ValueError: it could not be read back: NaN in a field that must be known, say.
    """
    # NaN as it is, for which fields that must be known are refused.
    from_values(to_values(value, float), type(value), type(value).__name__)
    return json.dumps(to_values(value), indent=indent, allow_nan=False) + "\n"


def write(
    path: str | os.PathLike, value: Any, indent: int | None = None, with_digest: bool = False
) -> None:
    """Writes a dataclass as a file, whole or not at all; raises as `to_text`.

    With a digest of its content `without_digest` tells whether it was edited since.
    """
    text = to_text(value, indent)
    if with_digest:
        values = json.loads(text)
        text = json.dumps({**values, DIGEST: digest(values)}, indent=indent) + "\n"
    files.write_text(path, text)


def digest(values: Any) -> str:
    """32 hexadecimal digits of JSON values.

    Spaces, the order of keys and whether a number is 1 or 1.0 do not matter.
    """
    text = json.dumps(_canonical(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def without_digest(
    values: dict[str, Any], source: str = "", has_one: bool = False
) -> dict[str, Any]:
    """The object of a file without its digest.

    Args:
      values: of the file.
      source: the file, for messages.
      has_one: whether every file of its version has a digest.

    Raises:
      ValueError: the digest is missing, or not that of the other fields.
    """
    if has_one and DIGEST not in values:
        raise ValueError(
            f"{_prefix(source)}was edited after it was written: its {DIGEST}, which every file of "
            "its version has, is missing; take the file as it was, or make it anew"
        )
    content = {key: value for key, value in values.items() if key != DIGEST}
    if DIGEST in values and values[DIGEST] != (own := digest(content)):
        stated = json_text.shown(values[DIGEST])
        raise ValueError(
            f"{_prefix(source)}was edited after it was written: its {DIGEST} is {stated}, that of "
            f'its content "{own}"; take the file as it was, or make it anew'
        )
    return content


def read_values(path: str | os.PathLike, *, allow_nan: bool = False) -> Any:
    """JSON values of a file; raises ValueError as `json_text.parse`, with the file's name."""
    return json_text.parse(Path(path).read_bytes(), os.fspath(path), allow_nan=allow_nan)


def read_object(path: str | os.PathLike, *, allow_nan: bool = False) -> dict[str, Any]:
    """The JSON object of a file; raises ValueError as `read_values`, or if it is another value."""
    values = read_values(path, allow_nan=allow_nan)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: is {json_text.shown(values)}; must be an object {{...}}")
    return values


def from_values(values: Any, kind: type[T], source: str = "", complete: bool = False) -> T:
    """A dataclass from JSON values.

    Args:
      values: what `read_values` gives.
      kind: the dataclass.
      source: the file, for messages.
      complete: whether fields that have a default must be present too.

    Raises:
      ValueError: a field that is missing, unknown or of another type, with its place in the file
        and the nearest name; or what a dataclass itself refuses.
    """
    try:
        result = msgspec.convert(values, kind, dec_hook=_number)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        place = _place(values, kind, str(error), path.rstrip("`"))
        raise ValueError(_prefix(source) + _explained(message, values, kind, place)) from None
    _check_fields(values, to_values(result), complete, _prefix(source), ())
    return result


def _number(kind: type, value: Any) -> float:
    """What msgspec calls for the types that it does not know."""
    if value is None and kind is NumberOrNull:
        return math.nan
    if value in ("inf", "-inf") or type(value) in (int, float):
        number = float(value)
        if kind is NumberOrNull or not math.isnan(number):
            return number
    null = ", null if not known" * (kind is NumberOrNull)
    raise ValueError(f'Expected `a number{null}, "inf" or "-inf"`')


def _prefix(source: str) -> str:
    return f"{source}: " if source else ""


_Place = tuple[str | int, ...]


def _place(values: Any, kind: type, error: str, path: str) -> _Place:
    """Keys and indices down to the value that an error is about.

    msgspec leaves out keys of mappings: "quality[...]". The key is found by converting again with
    one key of that mapping at a time.
    """
    place: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        if index == "...":
            index = _key(values, kind, error, tuple(place))
            if index is None:
                break
            place.append(index)
        else:
            place.append(int(index) if index else name)
    return tuple(place)


def _key(values: Any, kind: type, error: str, place: _Place) -> str | None:
    inners = dict(_at(values, place))
    trial = _with(values, place, {})
    mapping = _at(trial, place)
    for key, inner in inners.items():
        mapping.clear()
        mapping[key] = inner
        try:
            msgspec.convert(trial, kind, dec_hook=_number)
        except msgspec.ValidationError as other:
            if str(other) == error:
                return key
    return None


def _with(values: Any, place: _Place, inner: Any) -> Any:
    """Values with another one at a place; all beside the way there are shared."""
    if not place:
        return inner
    copied = copy.copy(values)
    copied[place[0]] = _with(values[place[0]], place[1:], inner)
    return copied


def _at(values: Any, place: _Place) -> Any:
    for key in place:
        values = values[key]
    return values


def _shown(place: _Place) -> str:
    """("runs", 3, "test") as "runs[3].test"."""
    parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return "".join(parts).removeprefix(".")


_WORDS = {
    "str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "array": "a list", "object": "an object",
}  # fmt: skip


def _missing(values: Any, kind: type, place: _Place) -> list[str]:
    """Names of all required fields that the object at a place lacks."""
    info = msgspec.inspect.type_info(kind)
    for key in place:
        if isinstance(info, msgspec.inspect.DataclassType):
            info = next(field.type for field in info.fields if field.name == key)
        else:
            info = info.value_type if isinstance(key, str) else info.item_type
        if isinstance(info, msgspec.inspect.UnionType):  # with null
            info = next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
    present = _at(values, place)
    return [field.name for field in info.fields if field.required and field.name not in present]


def _explained(message: str, values: Any, kind: type, place: _Place) -> str:
    """msgspec's message in words, with the value or the nearest name."""
    value, where = _at(values, place), _shown(place)
    if match := re.fullmatch(r"Object missing required field `(.+)`", message):
        names, end = _missing(values, kind, place), f" in {where}" * bool(where)
        end += did_you_mean(match[1], value)
        if len(names) == 1:
            return f"field {match[1]!r} is missing{end}"
        return f"fields {', '.join(map(repr, names))} are missing{end}"
    if match := re.fullmatch(r"Expected `(.+?)`(.*?)(, got .*)?", message):
        kinds = [_WORDS.get(name, name) for name in match[1].split(" | ")]
        kinds[0] += match[2]  # " >= 1", " of length 2"
        text = json_text.shown(value)
        return f"{where or 'the file'} must be {' or '.join(kinds)}, got {text}"
    return f"{where}: {message}" if where else message


def _check_fields(values: Any, known: Any, complete: bool, prefix: str, place: _Place) -> None:
    """Refuses fields that the dataclasses lack, which msgspec passes over, and defaults taken."""
    if isinstance(values, dict) and isinstance(known, dict):
        where = f" of {_shown(place)}" * bool(place)
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known)
                why = "a file of another version, or changed by hand"
                raise ValueError(f"{prefix}unknown field {key!r}{where}{hint}; {why}")
        missing = [key for key in known if key not in values]
        if complete and missing:
            raise ValueError(f"{prefix}missing fields{where}: {', '.join(missing)}")
        for key, value in values.items():
            _check_fields(value, known[key], complete, prefix, (*place, key))
    elif isinstance(values, list) and isinstance(known, list):
        for index, (value, other) in enumerate(zip(values, known, strict=False)):
            _check_fields(value, other, complete, prefix, (*place, index))
