"""Damage to the bytes of a file, whatever is in it: what disks, copies and editors do."""

import random
import struct
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

_EXTREMES = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63))


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data)) if data else 0


def _span(data: bytes, rng: random.Random, most: int = 64) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.randint(1, most))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((0, 1, len(data) // 2, max(0, len(data) - 1), _place(data, rng)))]


def cut_the_start(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randint(1, 16) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    at, more = _place(data, rng), rng.randbytes(rng.choice((1, 4, 64)))
    return data[:at] + more + data[at:]


def delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A hole of a sparse file, or a block of another file."""
    start, end = _span(data, rng, 512)
    byte = rng.choice((0, 0, 255, None))
    new = rng.randbytes(end - start) if byte is None else bytes([byte]) * (end - start)
    return data[:start] + new + data[end:]


def swap(data: bytes, rng: random.Random) -> bytes:
    size = rng.randint(1, max(1, len(data) // 4))
    a, b = sorted((_place(data, rng), _place(data, rng)))
    if b + size > len(data) or a + size > b:
        return flip_bits(data, rng)
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng, 256)
    return data[:end] + data[start:end] * rng.choice((1, 1, 40)) + data[end:]


def extreme_number(data: bytes, rng: random.Random) -> bytes:
    """A length or an offset that cannot be."""
    code = rng.choice("<i <q >i >q <h".split())
    value, size = rng.choice(_EXTREMES), struct.calcsize(code)
    value = (value + 2 ** (8 * size - 1)) % 2 ** (8 * size) - 2 ** (8 * size - 1)
    if len(data) < size:
        return data + struct.pack(code, value)
    at = rng.choice((0, len(data) - size, rng.randint(0, len(data) - size)))
    return data[:at] + struct.pack(code, value) + data[at + size :]


def append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0", b"\n", b"\0" * 4096, rng.randbytes(37), data))


BYTES: tuple[Mutation, ...] = (
    *(flip_bits, flip_bits, flip_bits, truncate, cut_the_start, insert, delete, overwrite),
    *(swap, repeat, extreme_number, append),
)


# ---------------------------------------------------------------- texts


def mark(data: bytes, rng: random.Random) -> bytes:
    """A byte order mark, as some editors write it."""
    return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) + data


def other_encoding(data: bytes, rng: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-16-le")))


def broken_character(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return (
        data[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\xbd", b"\0", b"\xf4\x90")) + data[at:]
    )


def line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x0b", b"\xe2\x80\xa8")))


def change_lines(data: bytes, rng: random.Random) -> bytes:
    """Deletes, repeats, swaps, joins or empties lines."""
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(5)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(other, lines[at])
    elif what == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 3:
        lines[at : at + 2] = [b"".join(lines[at : at + 2])]
    else:
        lines[at] = rng.choice((b"", b"   ", b"null", b"[]", b"1", b'""', b"{}", b"nan"))
    return b"\n".join(lines)


_TOKENS = (
    *("0", "-1", "1e400", "nan", "inf", "None", "True", "''", '"', "'", "(", ")", "[", "{}", "()"),
    *(
        "99999999999999999999",
        "1" * 5000,
        "1_000",
        "1,000",
        "@",
        "%",
        "=",
        "/",
        "#",
        "\\",
        "..",
        "é",
    ),
    *(
        "@x()",
        "%x",
        "x/y.z = 1",
        "import x",
        "import os",
        "include '/'",
        "-" * 3000 + "1",
        "[" * 500,
    ),
)


def change_token(data: bytes, rng: random.Random) -> bytes:
    """A word or number of a text becomes another, or nothing."""
    words = data.split(b" ")
    words[rng.randrange(len(words))] = rng.choice((b"", *(text.encode() for text in _TOKENS)))
    return b" ".join(words)


TEXT: tuple[Mutation, ...] = (
    *(mark, other_encoding, broken_character, line_ends, change_lines, change_lines),
    *(change_token, change_token, change_token),
)
