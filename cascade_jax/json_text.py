"""JSON text as values: the one parser of all JSON and JSONL that is read, and how values are shown.

Python's own parser keeps the last of two equal keys, reads 1e999 as infinity, takes NaN, which JSON
does not have, and raises exceptions of several kinds. Here all of that is a ValueError of one line.
"""

import codecs
import collections
import json
import math
from typing import Any

from cascade_jax.short_text import cut_short

MAX_DEPTH = 100  # objects and lists in each other; what goes through the values recurses
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TOO_DEEP = f"nested too deeply to be read: more than {MAX_DEPTH} objects and lists in each other"


def parse(text: str | bytes, source: str = "", *, allow_nan: bool = False) -> Any:
    """JSON values of a text.

    Args:
      text: UTF-8 if bytes, with or without a byte order mark.
      source: the file, or file and line, for messages.
      allow_nan: whether NaN, Infinity and -Infinity, which Python writes, are numbers too; the
        caller checks them.

    Raises:
      ValueError: not UTF-8; not JSON; objects and lists more than 100 deep; a number outside of the
        range of a double; a key twice in one object; half a surrogate pair.
    """
    try:
        return _parsed(text.encode() if isinstance(text, str) else text, allow_nan)
    except _RefusedError as error:
        problem = str(error)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " * (error.lineno > 1)
        problem = f"not JSON ({error.msg.removesuffix(' at')} at {line}column {error.colno})"
    except UnicodeDecodeError as error:
        problem = _not_utf_8(error)
    except UnicodeEncodeError:
        problem = _HALF
    except RecursionError:
        problem = _TOO_DEEP
    raise ValueError(f"{source}: {problem}" if source else problem)


def shown(value: Any) -> str:
    """A value as JSON, cut short, for messages; what JSON has not as Python shows it."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    # Some characters that JSON has as they are break lines, such as U+2028.
    text = text if text.isprintable() else json.dumps(value, default=repr)
    return cut_short(text, 60)


def require(is_allowed: bool, name: str, value: Any, allowed: str) -> None:
    """Refuses a value of a file unless `is_allowed`; as `checks.require`, with the value as JSON.

    Raises:
      ValueError: name, value, and in words what it must be.
    """
    if not is_allowed:
        raise ValueError(f"{name} is {shown(value)}; must be {allowed}")


class _RefusedError(Exception):
    """What is wrong with a text that Python's parser takes."""


_HALF = "holds half of a character, such as \\ud83d alone, which is no text"


def _parsed(data: bytes, allow_nan: bool) -> Any:
    # JSON has no zero byte, but a text in UTF-16 without a mark is full of them.
    if data.startswith(_UTF_16) or b"\0" in data:
        raise _RefusedError(
            "not UTF-8 (UTF-16, or no text at all, by its zero bytes); save it as UTF-8"
        )
    decoders = _CAREFUL if _may_overflow(data) else _QUICK
    values = decoders[allow_nan].decode(data.decode("utf-8-sig"))
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(values)
    if b"\\ud" in data or b"\\uD" in data:
        json.dumps(values, ensure_ascii=False).encode()
    return values


def _not_utf_8(error: UnicodeDecodeError) -> str:
    data, start = error.object, error.start
    line = data.count(b"\n", 0, start) + 1
    column = start - data.rfind(b"\n", 0, start)
    place = f"line {line}, " * (line > 1) + f"byte {column}"
    return f"not UTF-8 ({error.reason}: 0x{data[start]:02x} at {place}); save it as UTF-8"


def _check_depth(values: Any) -> None:
    layer = [values]
    for _ in range(MAX_DEPTH):
        inner = (value.values() if type(value) is dict else value for value in layer)
        layer = [v for some in inner for v in some if type(v) is dict or type(v) is list]
        if not layer:
            return
    raise _RefusedError(_TOO_DEEP)


# ------------------------------------------------------------------ the decoders


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _RefusedError(f"has the key {shown(twice)} twice in one object")
    return values


def _no_constant(name: str) -> None:
    raise _RefusedError(f"holds {name}, which is no number of JSON")


def _may_overflow(data: bytes) -> bool:
    """Whether a number may have 200 digits or an exponent of three, at a quick look.

    The functions for every number that are needed then take half as long as parsing does.
    """
    digits = data.translate(_AS_ZEROS)
    return b"0" * 200 in digits or b"e000" in digits or b"e+000" in digits


_AS_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedError(_too_large(text))
    return value


def _int(text: str) -> int:
    if math.isinf(float(text)):  # also of more digits than Python converts
        raise _RefusedError(_too_large(text))
    return int(text)


def _too_large(text: str) -> str:
    text = text if len(text) <= 30 else f"{text[:20]}... of {len(text):,} characters"
    return f"holds the number {text}; must be in the range of a double (1.8e308)"


def _decoders(**numbers) -> dict[bool, json.JSONDecoder]:
    """By whether NaN is allowed."""
    return {
        True: json.JSONDecoder(object_pairs_hook=_object, **numbers),
        False: json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, **numbers),
    }


_QUICK, _CAREFUL = _decoders(), _decoders(parse_float=_float, parse_int=_int)
