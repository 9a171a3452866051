"""Changes to JSON values and to their spelling: what other programs, editors and people write."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz import byte_mutations

_DEEP = 100_000


class Raw(str):
    """A text that stands in a file as it is, not as a JSON string."""


# Any of them may stand in any place.
VALUES: tuple[Any, ...] = (
    *(None, None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1.5, 7, 1e308, -1e308, 1e-320, -9999.0),
    *(2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**30, 3, 1024, 100_000),
    *("", " ", "0", "1", "-1", "nan", "inf", "-inf", "true", "null", "None", "x", "a" * 70_000),
    *("\ud83d", "\udc00x", "\0", "\n", "a\nb\tc", "../../../etc/passwd", "/", ".", ".."),
    *("日本語", "🙂"),
    *("%s{0}", "<script>", "a=b", "a/b", "a.b", "ſ", "\u202e", "\ufeff", "e\u0301"),
    *([], {}, [[]], [{}], [None], [0], [""], [True], {"": 0}, {"x": {}}, {"type": "x"}, [[[]]]),
    *([1, "a", None], [1e308] * 3, list(range(300)), {str(i): i for i in range(300)}),
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"),
    Raw("1" + "0" * 400), Raw("-" + "9" * 5000), Raw("0." + "1" * 3000),
    Raw("01"), Raw("1.0"), Raw("1E2"), Raw("tru"),
    Raw("[" * _DEEP + "]" * _DEEP), Raw('{"a":' * _DEEP + "1" + "}" * _DEEP), Raw("[" * _DEEP),
    Raw("[" * 2000 + "]" * 2000), Raw('"\\ud800"'), Raw('"\\x"'), Raw("'a'"), Raw(""), Raw(","),
)  # fmt: skip

_Place = tuple[Any, Any]  # an object or list, and a key of it


def _places(value: Any) -> Iterator[_Place]:
    """Every value inside, by what holds it."""
    if isinstance(value, dict):
        keys = list(value)
    elif type(value) is list:
        # Long lists of numbers would leave no chance to the rest.
        keys = range(len(value)) if len(value) <= 40 else [*range(20), *range(-20, 0)]
    else:
        return
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _walked(tree: Any, rng: random.Random) -> _Place:
    """A place on a random way down, so that few values near the top get as many changes as many
    values below."""
    holder, key = tree, 0
    while isinstance(holder[key], dict) or type(holder[key]) is list:
        if not holder[key] or (holder is not tree and rng.random() < 0.4):
            break
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    return holder, key


def _nudged(value: Any, rng: random.Random) -> Any:
    """A value near another one, of its own type."""
    try:
        return _near(value, rng)
    except (ValueError, OverflowError):  # NaN, a number of 5,000 digits, half of a character
        return None


def _near(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return rng.choice((not value, int(value), str(value)))
    if isinstance(value, int):
        near = (value + 1, value - 1, -value, value * 2, value * 10**6, float(value), str(value))
        return rng.choice((*near, value + 0.5, bool(value)))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e6, value + 1, str(value), int(value), value * 1e-9))
    if isinstance(value, str):
        at = rng.randint(0, len(value))
        more = rng.choice(("x", " ", "\n", "\ud83d", "/", "0"))
        near = (value[:at], value[:at] + more + value[at:], value.upper(), [value], value * 2)
        return rng.choice((*near, {"content": value}, list(value[:50]), value.encode().hex()))
    if type(value) is list:
        near = [
            value[:-1],
            value[1:],
            value + value,
            value[::-1],
            [value],
            {"0": value},
            tuple(value),
        ]
        near.append(sorted(value, key=repr))
        return rng.choice([list(item) if isinstance(item, tuple) else item for item in near])
    if isinstance(value, dict):
        return rng.choice(
            ([value], list(value), list(value.values()), {"x": value}, {**value, "x": 1})
        )
    return rng.choice((0, "", [], {}))


def _change(holder: Any, key: Any, rng: random.Random, pool: list[Any]) -> str:
    """Changes one value in its place; says how."""
    what = rng.choice(
        ("value", "value", "value", "near", "near", "delete", "rename", "twice", "other")
    )
    value = holder[key]
    if what == "value":
        holder[key] = copy.copy(rng.choice(VALUES))
    elif what == "near" or isinstance(key, int) and what in ("rename", "twice"):
        holder[key] = _nudged(value, rng)
    elif what == "delete":
        del holder[key]
    elif what == "rename":
        name = rng.choice((key[:-1], key + "x", key.upper(), "", key.replace("_", "-"), "\ud83d"))
        holder[name] = holder.pop(key)
    elif what == "twice":
        holder[_Again(key)] = rng.choice((value, _nudged(value, rng), rng.choice(VALUES)))
    else:
        holder[key] = copy.deepcopy(rng.choice(pool))
    return f"{what} {str(key)[:40]}"


class _Again(str):
    """A key that stands a second time in its object."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def change_tree(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Changes one to three values of a tree of JSON values; the tree, and how."""
    tree, words = [copy.deepcopy(tree)], []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        holder, key = rng.choice(places) if rng.random() < 0.4 else _walked(tree, rng)
        words.append(_change(holder, key, rng, [h[k] for h, k in places if h is not tree] or [0]))
        if not tree:
            break
    return (tree[0] if tree else None), ", ".join(words)


def spelt(value: Any, indent: int | None = None) -> bytes:
    """JSON, or nearly: with keys that stand twice, and texts in place of values."""
    if isinstance(value, Raw):
        return str(value).encode()
    if isinstance(value, dict):
        inner = [json.dumps(str(k)).encode() + b": " + spelt(v, indent) for k, v in value.items()]
        return b"{" + b", ".join(inner) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b", ".join(spelt(item, indent) for item in value) + b"]"
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError):
        return b"null"


Described = tuple[bytes, str]


def change_json(data: bytes, rng: random.Random) -> Described:
    """A file of one JSON value."""
    try:
        tree = json.loads(data)
    except ValueError:
        return change_bytes(data, rng)
    tree, words = change_tree(tree, rng)
    return spelt(tree), words


def change_jsonl(data: bytes, rng: random.Random) -> Described:
    """A file of one JSON value a line."""
    lines = data.split(b"\n")
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not filled or rng.random() < 0.1:
        return byte_mutations.change_lines(data, rng), "change_lines"
    at = rng.choice(filled)
    lines[at], words = change_json(lines[at], rng)
    return b"\n".join(lines), f"line {at + 1}: {words}"


def change_bytes(data: bytes, rng: random.Random) -> Described:
    """Any file."""
    return _changed(data, rng, byte_mutations.BYTES)


def change_text(data: bytes, rng: random.Random) -> Described:
    """A text file that is no JSON."""
    return _changed(data, rng, byte_mutations.BYTES + byte_mutations.TEXT * 2)


def change_spelling(data: bytes, rng: random.Random) -> Described:
    """A text file of any kind, its bytes and characters."""
    return _changed(data, rng, byte_mutations.BYTES + byte_mutations.TEXT)


def _changed(data: bytes, rng: random.Random, mutations: tuple[Callable, ...]) -> Described:
    chosen = rng.choice(mutations)
    return chosen(data, rng), chosen.__name__


JSON = (change_json, change_json, change_json, change_spelling)
JSONL = (change_jsonl, change_jsonl, change_jsonl, change_spelling)
