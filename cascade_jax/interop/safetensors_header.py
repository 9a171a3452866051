"""The header of a safetensors file, read and checked as the format's own library checks it.

The header is JSON: for the name of each tensor its dtype, its shape, and the first byte and the end
of its numbers. Numbers of all tensors lie end to end, in any order, and fill the file. Where the
library takes the last of several equal keys, this module refuses them.
"""

import codecs
import dataclasses
from typing import Any

from cascade_jax import json_text
from cascade_jax.json_text import shown

METADATA = "__metadata__"
# Bits of a number.
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor; `start` and `end` are bytes, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse(header: bytes) -> dict[str, Entry]:
    """The tensors of a header.

    Raises:
      ValueError: it is not JSON, a tensor's entry is not of the format, or numbers of tensors
        overlap or leave a hole.
    """
    if header.startswith(codecs.BOM_UTF8):
        raise ValueError("the header starts with a byte order mark; must be JSON")
    values = json_text.parse(header)
    if not isinstance(values, dict):
        raise ValueError(f"the header is {shown(values)}; must be an object")
    _check_metadata(values.pop(METADATA, None))
    entries = {}
    for name, value in values.items():
        try:
            entries[name] = _entry(value)
        except ValueError as error:
            raise ValueError(f"tensor {shown(name)}: {error}") from None
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            kind = "leaves a hole" if entry.start > end else "overlaps another tensor"
            raise ValueError(
                f"tensor {shown(name)} {kind}: its numbers start at byte {entry.start}, those "
                f"before it end at {end}"
            )
        end = entry.end
    return entries


def _check_metadata(value: Any) -> None:
    texts = value.values() if isinstance(value, dict) else [] if value is None else [None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{METADATA} is {shown(value)}; must be an object of texts")


def _entry(value: Any) -> Entry:
    if not isinstance(value, dict):
        raise ValueError(f"is {shown(value)}; must be an object")
    if missing := [key for key in ("dtype", "shape", "data_offsets") if key not in value]:
        raise ValueError(f"has no {', '.join(missing)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"dtype is {shown(dtype)}; must be one of {', '.join(_BITS)}")
    if not _are_counts(shape):
        raise ValueError(f"shape is {shown(shape)}; must be a list of integers of at least 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"data_offsets is {shown(offsets)}; must be the first byte and the end")
    count = 1
    for size in shape:
        count *= size  # from the left, so that a 0 at the end helps no product that is too large
        if count >= 2**64:
            raise ValueError(f"shape is {shown(shape)}; too large")
    bits = count * _BITS[dtype]
    if bits >= 2**64:
        raise ValueError(f"shape is {shown(shape)}; too large")
    start, end = offsets
    if bits % 8 or end - start != bits // 8:
        raise ValueError(f"{end - start} bytes for shape {shown(shape)} and dtype {dtype}")
    return Entry(dtype, tuple(shape), start, end)


def _are_counts(value: Any) -> bool:
    """Whether a value is a list of integers of at least 0, as 64 bits hold them."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**64 for n in value)
