"""Changes inside of safetensors, Parquet, zip and msgpack files that stay such files."""

import io
import json
import random
import warnings
import zipfile
from typing import Any

from tests.fuzz.json_mutations import Described, change_bytes, change_json, change_tree, spelt

REPACKED = "repacked, "  # begins the words about a change whose checksums were made anew

_EXTREMES = (-1, 0, 1, 3, 2**31, 2**40, 2**62, 2**63 - 1, 2**64, 1.5, "4", None, True)


# ---------------------------------------------------------------- safetensors


def change_safetensors(data: bytes, rng: random.Random) -> Described:
    """Its header's values, its length, or its numbers."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return change_bytes(data, rng)
    numbers, what = data[8 + size :], rng.randrange(8)
    if what == 0:
        tree, words = change_tree(header, rng)
    elif what == 1:
        return _with_header_length(data, rng)
    elif what == 2:
        return data[: 8 + size] + _with_a_number(numbers, rng), "a number that is not finite"
    elif what == 3:
        return change_bytes(data, rng)
    else:
        tree, words = header, _change_entry(header, rng)
    text = spelt(tree)
    if rng.random() < 0.3:
        text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + numbers, words


def _with_header_length(data: bytes, rng: random.Random) -> Described:
    size = int.from_bytes(data[:8], "little")
    sizes = (
        0,
        1,
        size - 1,
        size + 1,
        2**20,
        100_000_001,
        2**32,
        2**63 - 1,
        2**64 - 1,
        len(data) - 8,
    )
    new = rng.choice(sizes)
    return new.to_bytes(8, "little") + data[8:], f"header length {new}"


def _with_a_number(numbers: bytes, rng: random.Random) -> bytes:
    """NaN or an infinity of float32 in place of a number."""
    at = 4 * rng.randrange(max(1, len(numbers) // 4))
    bits = rng.choice((0x7FC00000, 0x7F800000, 0xFF800000, 0x7FFFFFFF))
    return numbers[:at] + bits.to_bytes(4, "little") + numbers[at + 4 :]


def _change_entry(header: dict[str, Any], rng: random.Random) -> str:
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    entry = header[name]
    start, end = entry["data_offsets"]
    what = rng.choice(
        ("offsets", "offsets", "shape", "shape", "dtype", "swap", "copy", "lose", "new")
    )
    if what == "offsets":
        shift = rng.choice((1, 4, -4, 10**6, -(10**6), 2**62))
        entry["data_offsets"] = rng.choice(
            (
                *([end, start], [start + shift, end + shift], [start, end + shift], [start, start]),
                *([start], [start, end, end], [float(start), float(end)], [-end, -start], None),
                [rng.choice(_EXTREMES), rng.choice(_EXTREMES)],
            )
        )
    elif what == "shape":
        shape = entry["shape"]
        entry["shape"] = rng.choice(
            (
                *(shape[::-1], [*shape, 1], [1, *shape], [-n for n in shape], shape[:-1]),
                *([float(n) for n in shape], [n * 2**31 for n in shape], [2**40, 0], [True], "4"),
                *([*shape[:-1], rng.choice(_EXTREMES)], [1] * 70, [0], [2**32, 2**32]),
            )
        )
    elif what == "dtype":
        entry["dtype"] = rng.choice(
            ("F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "f32", "", None, 1)
        )
    elif what == "swap":
        header[name], header[other] = header[other], header[name]
    elif what == "copy":
        header[name] = dict(header[other])
    elif what == "lose":
        del header[name]
    else:
        header[rng.choice(("x", "", "\ud83d", name + "x", "__metadata__"))] = dict(entry)
    return f"{what} of {name}"


# ---------------------------------------------------------------- zip and npz


def change_zip(data: bytes, rng: random.Random) -> Described:
    """Its members, with sums that fit what is in them; or its bytes."""
    if rng.random() < 0.35:
        return change_bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError):
        return change_bytes(data, rng)
    at = rng.randrange(len(members))
    name, content = members[at]
    what = rng.choice(("content", "content", "content", "array", "array", "lose", "twice", "name"))
    if what == "content":
        members[at], words = _change_member(name, content, rng)
    elif what == "array":
        members[at], words = (name, _other_array(content, rng)), f"another array {name}"
    elif what == "lose":
        del members[at]
        words = f"without {name}"
    elif what == "twice":
        members.append((name, members[rng.randrange(len(members))][1]))
        words = f"{name} twice"
    else:
        new = rng.choice((name + "x", "../" + name, "/" + name, "a\nb", "é", name.upper()))
        members[at] = (new, content)
        words = f"{name} as {new!r}"
    packed, method = io.BytesIO(), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(packed, "w", method) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that comes twice is meant
        for name, content in members:
            new.writestr(name, content)
    return packed.getvalue(), REPACKED + words


def _change_member(name: str, content: bytes, rng: random.Random) -> tuple[tuple[str, bytes], str]:
    text = _text_of_array(content)
    if text is not None and rng.random() < 0.8:  # JSON in an array of one text
        changed, words = change_json(text.encode(), rng)
        return (name, _array_of_text(changed.decode("utf-8", "replace"))), f"{name}: {words}"
    if content[:1] in b"{[":
        changed, words = change_json(content, rng)
    else:
        changed, words = change_bytes(content, rng)
    return (name, changed), f"{name}: {words}"


def _text_of_array(content: bytes) -> str | None:
    import numpy as np

    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    return str(array) if array.dtype.kind == "U" and array.ndim == 0 else None


def _array_of_text(text: str) -> bytes:
    import numpy as np

    return _saved(np.array(text))


def _saved(array: Any) -> bytes:
    import numpy as np

    saved = io.BytesIO()
    np.save(saved, array, allow_pickle=True)
    return saved.getvalue()


def _other_array(content: bytes, rng: random.Random) -> bytes:
    """An array of another shape, dtype or of values that cannot be."""
    import numpy as np

    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return content[:-1]
    what = rng.randrange(8)
    if what == 0:
        return _saved(array.reshape(-1)[:0])
    if what == 1:
        return _saved(np.concatenate([array.reshape(-1)] * 2))
    if what == 2:
        return _saved(array[..., None])
    if what == 3:
        return _saved(
            rng.choice((np.array(None, object), np.array("x"), np.array(b"x"), np.array(0)))
        )
    if what == 4:
        header = rng.choice((b"1.0, ", b"-1, ", b"9999999999999, ", b"True, "))
        return content.replace(b"(", b"(" + header, 1)
    if array.dtype.kind in "US":
        return _saved(array[()][:-1] if array.ndim == 0 else array[:-1])
    values = array.astype(rng.choice((array.dtype, np.float64, np.int64, np.complex64)))
    extremes = (-1, 2**31 - 1, 2**62) if values.dtype.kind in "iu" else (-1, np.nan, np.inf, 1e300)
    if values.size:
        with np.errstate(all="ignore"):
            new = np.array(rng.choice(extremes)).astype(values.dtype)
        values.reshape(-1)[rng.randrange(values.size)] = new
    return _saved(values)


# ---------------------------------------------------------------- Parquet


def change_parquet(data: bytes, rng: random.Random) -> Described:
    """The columns, the metadata, the footer, or the bytes."""
    what = rng.choice(("column", "column", "metadata", "metadata", "footer", "bytes", "bytes"))
    if what == "bytes":
        return change_bytes(data, rng)
    if what == "footer":
        size = int.from_bytes(data[-8:-4], "little")
        start = len(data) - 8 - size
        footer, words = change_bytes(data[start:], rng)
        return data[:start] + footer, f"footer: {words}"
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    if what == "metadata":
        text = table.schema.metadata[b"cascade_jax"]
        changed, words = change_json(text, rng)
        table = table.replace_schema_metadata({b"cascade_jax": changed})
    else:
        table, words = _change_column(table, rng)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes(), f"{REPACKED}{what}: {words}"


def _change_column(table: Any, rng: random.Random) -> tuple[Any, str]:
    import pyarrow as pa

    at = rng.randrange(table.num_columns)
    name, values = table.column_names[at], table.column(at).to_pylist()
    what = rng.choice(
        ("value", "value", "value", "null", "lose", "twice", "type", "rows", "rename")
    )
    if what == "lose":
        return table.remove_column(at), f"without {name}"
    if what == "twice":
        return table.append_column(name, table.column(at)), f"{name} twice"
    if what == "rename":
        names = [name + "x" if i == at else n for i, n in enumerate(table.column_names)]
        return table.rename_columns(names), f"{name} renamed"
    if what == "rows":
        return table.take(rng.choices(range(table.num_rows), k=table.num_rows)), "rows at random"
    row = rng.randrange(len(values))
    if what == "type":
        kinds = (pa.string(), pa.binary(), pa.float64(), pa.int64(), pa.bool_(), pa.null())
        new = pa.array([None] * len(values), rng.choice(kinds))
        if isinstance(values[0], str):
            new = pa.array(values).dictionary_encode()
    else:
        values[row] = None if what == "null" else _other_cell(values[row], rng)
        try:
            new = pa.array(values, table.column(at).type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            new = pa.array([None] * len(values), table.column(at).type)
    return table.set_column(at, name, new), f"{what} of {name}[{row}]"


def _other_cell(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list):
        if not value:
            return rng.choice(([0], [None], [[]], [1.0]))
        at, new = rng.randrange(len(value)), list(value)
        new[at] = _other_cell(value[at], rng)
        return rng.choice((new, new, [], value[:-1], [*value, value[-1]], None, [None]))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((-1, 0, 2**31 - 1, -(2**31), value + 1))
    if isinstance(value, float):
        return rng.choice((float("nan"), float("inf"), -float("inf"), 1e300, -1e300, -9999.0, 5.0))
    if isinstance(value, str):
        return rng.choice(("", "x", "a" * 10**6, "\0", "\n", "🙂", value * 2))
    return None


# ---------------------------------------------------------------- msgpack


def change_msgpack(data: bytes, rng: random.Random) -> Described:
    """The values of an index of T5X, or its bytes."""
    import msgpack

    if rng.random() < 0.4:
        return change_bytes(data, rng)
    try:
        tree, words = change_tree(msgpack.unpackb(data, strict_map_key=False), rng)
        return msgpack.packb(_plain(tree)), words
    except (ValueError, OverflowError, TypeError, UnicodeError):
        return change_bytes(data, rng)


def _plain(value: Any) -> Any:
    """Without the subclasses of str that JSON's changes use."""
    if isinstance(value, dict):
        return {(str(k) if isinstance(k, str) else k): _plain(v) for k, v in value.items()}
    if type(value) is list:
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
