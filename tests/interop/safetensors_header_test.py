"""Headers of safetensors files: what they may hold, beside what the format's own library takes."""

import copy
import json
import random
import struct

import pytest

from cascade_jax.interop import safetensors_io
from cascade_jax.interop.safetensors_io import SafetensorsError


def entry(start, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {
    "__metadata__": {"format": "pt"},
    "b": entry(8, 20, [3]),
    "a": entry(0, 8, [2, 2], "BF16"),
    "empty": entry(8, 8, [0, 5]),
    "scalar": entry(20, 24, []),
}
BYTES = 24


def write(file, header, data=BYTES):
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(data))
    return file


def test_what_a_good_header_says(tmp_path):
    tensors = safetensors_io.open_file(write(tmp_path / "x", GOOD))
    length = len(json.dumps(GOOD).encode())
    assert {name: (each.dtype, each.shape, each.start) for name, each in tensors.items()} == {
        "a": ("BF16", (2, 2), 8 + length),
        "b": ("F32", (3,), 16 + length),
        "empty": ("F32", (0, 5), 16 + length),
        "scalar": ("F32", (), 28 + length),
    }


def changed(key, value, tensor="b"):
    header = copy.deepcopy(GOOD)
    if value is None:
        del header[tensor][key]
    else:
        header[tensor][key] = value
    return header


FORBIDDEN = [
    (changed("data_offsets", [-4, 8]), 'tensor "b": data_offsets is [-4, 8]'),
    (changed("data_offsets", [20, 8]), 'tensor "b": data_offsets is [20, 8]'),
    (changed("data_offsets", [8, 20, 24]), 'tensor "b": data_offsets'),
    (changed("data_offsets", [8.0, 20.0]), 'tensor "b": data_offsets'),
    (changed("data_offsets", {"0": 8}), 'tensor "b": data_offsets'),
    (changed("data_offsets", None), 'tensor "b": has no data_offsets'),
    (changed("data_offsets", [4, 16]), 'tensor "b" overlaps another tensor: its numbers start at'),
    (changed("data_offsets", [12, 24]), 'tensor "b" leaves a hole: its numbers start at byte 12'),
    (changed("shape", [3.0]), 'tensor "b": shape is [3.0]; must be a list of integers'),
    (changed("shape", [True, 3]), 'tensor "b": shape is [true, 3]'),
    (changed("shape", [-3]), 'tensor "b": shape is [-3]'),
    (changed("shape", ["3"]), 'tensor "b": shape'),
    (changed("shape", 3), 'tensor "b": shape is 3'),
    (changed("shape", [4]), 'tensor "b": 12 bytes for shape [4] and dtype F32'),
    (changed("shape", [2**32, 2**32, 0]), 'tensor "b": shape is [4294967296, 4294967296, 0]; too'),
    (changed("dtype", "F33"), 'tensor "b": dtype is "F33"; must be one of BOOL, '),
    (changed("dtype", ["F32"]), 'tensor "b": dtype is ["F32"]'),
    (changed("dtype", "F4"), 'tensor "b": 12 bytes for shape [3] and dtype F4'),
    (GOOD | {"c": 1}, 'tensor "c": is 1; must be an object'),
    (GOOD | {"c": ["F32", [0], [24, 24]]}, 'tensor "c": is ["F32", [0], [24, 24]]'),
    (GOOD | {"__metadata__": {"a": 1}}, '__metadata__ is {"a": 1}; must be an object of texts'),
    (GOOD | {"__metadata__": []}, "__metadata__ is []"),
    (GOOD | {"c": entry(24, 28, [1])}, "is truncated: it has"),
    ({"a": GOOD["a"]}, "is not a safetensors file: it has"),
    (b"[]", "the header is []; must be an object"),
    (b"", "not JSON"),
    (b"{}\0", "zero bytes"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    (b'{"\xff": 1}', "not UTF-8"),
    (b"[" * 5000, "is not a safetensors file: "),
    (b'{"a": 1' + b"0" * 400 + b"}", "range of a double"),
    (json.dumps(GOOD).encode()[:-1] + b', "a": 1}', 'has the key "a" twice'),
]


@pytest.mark.parametrize("header, message", FORBIDDEN)
def test_a_forbidden_header_is_refused_by_file_and_tensor(header, message, tmp_path):
    file = write(tmp_path / "x.safetensors", header)
    with pytest.raises(SafetensorsError) as error:
        safetensors_io.open_file(file)
    assert str(error.value).startswith(f"{file} is ")
    assert message in str(error.value)


def test_a_length_that_can_not_be(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(SafetensorsError, match="a header of 18446744073709551615 bytes"):
        safetensors_io.open_file(tmp_path / "x")


@pytest.mark.parametrize(
    ("shape", "is_taken"),
    [([2**62, 0], True), ([0, 2**32, 2**32], True), ([2**32, 2**32, 0], False)],
)
def test_a_shape_without_elements_is_taken_where_the_library_takes_it(tmp_path, shape, is_taken):
    header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    file = write(tmp_path / "x.safetensors", json.dumps(header).encode(), 0)
    if is_taken:
        assert [*safetensors_io.open_file(file)] == ["a"]
    else:
        with pytest.raises(SafetensorsError, match="too large"):
            safetensors_io.open_file(file)


# ---------------------------------------------------------------- the library's verdicts


VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 4, 8, 12, 20, 24, 25, 2**31, 2**63, 2**64, 1.0, 1e300, "",
    "F32", "F16", "F64", "F4", "I8", "F8_E4M3", "C64", "x", [], [0], [8, 20], [3], [1, 3], {},
    {"a": "b"}, {"a": 1}, [0, 2**63], [2**32, 2**32],
]  # fmt: skip


def mutated(rng):
    """A header with none to two changes of its values, or of its bytes; and the data's length."""
    header, data = copy.deepcopy(GOOD), BYTES
    for _ in range(rng.randint(0, 2)):
        place, key = header, rng.choice(list(header))
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        kind = rng.random()
        if kind < 0.6:
            place[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.8 and type(place[key]) is int:
            place[key] += rng.choice([-4, -1, 1, 4])
        elif kind < 0.9:
            del place[key]
        else:
            data += rng.choice([-4, -1, 1, 4])
    text = bytearray(json.dumps(header).encode())
    if rng.random() < 0.3:
        position = rng.randrange(len(text))
        text[position : position + rng.randint(0, 2)] = rng.choice([b" ", b"\n", b",", b"}", b"\0"])
    return bytes(text), max(data, 0)


def test_verdicts_are_those_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors", reason="pip install safetensors")
    rng, verdicts = random.Random(0), []
    for _ in range(600):
        header, data = mutated(rng)
        if b'["F32"' in header:
            continue
        file = write(tmp_path / "x.safetensors", header, data)
        try:
            with library.safe_open(file, "np") as opened:
                theirs = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
        except (library.SafetensorError, OSError):
            theirs = None
        try:
            read = safetensors_io.open_file(file)
            ours = {name: list(tensor.shape) for name, tensor in read.items()}
        except SafetensorsError:
            ours = None
        assert ours == theirs, (header, data)
        verdicts.append(ours is not None)
    assert verdicts.count(True) > 50 and verdicts.count(False) > 300


@pytest.mark.parametrize("number", range(len(FORBIDDEN)))
def test_the_library_refuses_these_too(number, tmp_path):
    library = pytest.importorskip("safetensors", reason="pip install safetensors")
    header, message = FORBIDDEN[number]
    file = write(tmp_path / "x.safetensors", header)
    if 'tensor "c": is [' in message:
        return  # the library reads a list as an object of its values in their order
    with pytest.raises((library.SafetensorError, OSError)):
        library.safe_open(file, "np").__enter__()
