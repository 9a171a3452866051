"""npz files: what was written is read, and whatever is wrong ends in one line."""

import errno
import io
import pickle
import zipfile

import numpy as np
import pytest

from cascade_jax import array_file

ARRAYS = {
    "tokens": np.arange(6, dtype=np.uint32).reshape(2, 3),
    "text": np.array("ab"),
    "e": np.zeros(0),
}


def written(folder):
    array_file.write(folder / "a.npz", ARRAYS)
    return folder / "a.npz"


def same(actual):
    assert set(actual) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)


@pytest.mark.parametrize("compressed", [True, False])
def test_what_was_written_is_read(tmp_path, compressed):
    path = tmp_path / "deep" / "a.npz"
    array_file.write(path, ARRAYS, compressed)
    same(array_file.read(path))
    same(array_file.read(path.read_bytes()))
    np.savez(path, **ARRAYS)  # without a digest
    same(array_file.read(path))
    np.savez(path, **ARRAYS, f=np.asfortranarray(np.arange(6).reshape(2, 3)))
    np.testing.assert_array_equal(array_file.read(path)["f"], np.arange(6).reshape(2, 3))


def test_a_change_is_told_by_the_digest(tmp_path):
    path = written(tmp_path)
    with np.load(path) as file:
        arrays = dict(file.items())
    for name, value in (("tokens", arrays["tokens"] + 1), ("text", np.array("ac"))):
        np.savez(path, **(arrays | {name: value}))
        with pytest.raises(
            ValueError, match="a.npz: was changed .*; get another copy, or make it anew"
        ):
            array_file.read(path)


def test_every_cut_and_every_changed_byte_ends_in_one_line(tmp_path):
    """A byte that says nothing, of a time say, may change; then the arrays are the same."""
    data = written(tmp_path).read_bytes()
    rng = np.random.default_rng(0)
    variants = [data[:end] for end in range(0, len(data), 97)]
    for place in rng.integers(0, len(data), 300).tolist():
        changed = bytearray(data)
        changed[place] ^= int(rng.integers(1, 256))
        variants.append(bytes(changed))
    refused = 0
    for variant in variants:
        try:
            same(array_file.read(variant, "x.npz"))
        except ValueError as error:
            assert str(error).startswith("x.npz: ") and "\n" not in str(error)
            assert len(str(error)) < 250
            refused += 1
    assert refused > len(variants) // 2


def member(name, data):
    """An archive of one member."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return content.getvalue()


def npy(array, shape=None):
    """An array's bytes, perhaps with a header of another shape."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content,
        {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape},
    )
    return content.getvalue() + array.tobytes()


def of_objects():
    content = io.BytesIO()
    np.savez(content, a=np.array([{}], dtype=object))
    return content.getvalue()


REFUSED = {
    "empty": (b"", "no whole NumPy file of arrays"),
    "text": (b"{}", "no whole NumPy file of arrays"),
    "pickle": (pickle.dumps([1]), "no whole NumPy file of arrays"),
    "one array": (npy(np.zeros(3)), "no whole NumPy file of arrays"),
    "objects": (of_objects(), "array 'a' holds Python objects, which are never unpickled"),
    "another file": (member("a.txt", b"x"), "holds 'a.txt' which is no array"),
    "no array": (member("a.npy", b"x" * 20), r"array 'a' can not be read \("),
    "huge shape": (
        member("a.npy", npy(np.zeros(3), (10**15,))),
        r"array 'a' declares the shape \(1000000000000000,\) of 8,000,000,000,000,000 bytes and",
    ),
    "header": (
        member("a.npy", npy(np.zeros(3)).replace(b"(3,), }", b"(3,L,( ")),
        r"array 'a' can not be read \(",
    ),
    "small shape": (
        member("a.npy", npy(np.zeros(3), (2,))),
        r"array .a. declares the shape .2,. of 16 bytes and has 24",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_file_is_refused(name):
    data, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^x.npz: {message}"):
        array_file.read(data, "x.npz")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "no disk")])
def test_what_the_machine_lacks_is_no_damage(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(np.lib.format, "read_array", fail)
    with pytest.raises(type(error)):
        array_file.read(member("a.npy", npy(np.zeros(3))), "x.npz")


def test_a_small_file_of_huge_arrays_is_refused():
    with pytest.raises(ValueError, match="x.npz: declares 3,000,000 bytes of arrays in a file of"):
        array_file.read(member("a.npy", bytes(3_000_000)), "x.npz", 1_000_000)
    zeros = member("a.npy", npy(np.zeros(375_000)))
    assert array_file.read(zeros, "x.npz", 4_000_000)["a"].nbytes == 3_000_000


@pytest.mark.parametrize(
    ("name", "kinds", "shape", "message"),
    [
        ("keys", "u", (None,), "x.npz: array 'keys' is missing; it holds tokens, text, e"),
        ("tokens", "f", (2, 3), r"array 'tokens' is uint32 \[2, 3\]; must be floats \[2, 3\]"),
        ("tokens", "iu", (None,), r"must be integers \[n\]"),
        ("tokens", "u", (None, 4), r"must be integers \[n, 4\]"),
        ("text", "iu", (), r"array 'text' is <U2 \[\]; must be integers \[\]"),
    ],
)
def test_an_array_is_checked(name, kinds, shape, message):
    with pytest.raises(ValueError, match=message):
        array_file.checked(ARRAYS, name, kinds, shape, "x.npz")
    assert array_file.checked(ARRAYS, "tokens", "iu", (None, 3), "x.npz") is ARRAYS["tokens"]
