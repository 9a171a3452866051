"""Arrays by name in one NumPy file (npz), with a digest of their content.

NumPy and zipfile raise errors of many kinds at files that are cut off or changed, and allocate what
a header declares. Here everything that is wrong with a file is a ValueError of one line that names
file and array, no memory is taken that the file could not fill, and nothing is unpickled.
"""

import collections
import errno
import hashlib
import io
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib import format as npy

from cascade_jax import files

DIGEST = "digest"  # the name under which it stands among the arrays
_ENDING = ".npy"
_MOST_BYTES = 500_000_000  # of all arrays, beyond twice the size of the file
_REMEDY = "get another copy, or make it anew"
# What a damaged archive, or a header in it, may raise.
_DAMAGE = (
    ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, SyntaxError,
    ArithmeticError, OSError, struct.error, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip
_WORDS = {"f": "floats", "i": "integers", "u": "integers", "b": "booleans", "U": "a text"}


def write(
    path: str | os.PathLike, arrays: Mapping[str, np.ndarray], compressed: bool = False
) -> None:
    """Writes arrays and their digest as one file, whole or not at all."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    save = np.savez_compressed if compressed else np.savez
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        # The first in the list of contents, so that no damage to the list hides it alone.
        save(file, **{DIGEST: np.array(digest(arrays))}, **arrays)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """32 hexadecimal digits of arrays: their names, dtypes, shapes and bytes."""
    hashed = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()[:32]


def read(
    file: str | os.PathLike | bytes, source: str | None = None, most_bytes: int = _MOST_BYTES
) -> dict[str, np.ndarray]:
    """The arrays of a file by name, without the digest.

    Args:
      file: its path, or its content.
      source: stands before messages; None for the path.
      most_bytes: of all arrays, beyond twice the size of the file.

    Raises:
      FileNotFoundError, OSError: it can not be opened or read.
      MemoryError: this machine has too little memory for the arrays.
      ValueError: no whole npz file, an array of Python objects, one whose size is not that of its
        shape, or a content that was changed since the digest was made.
    """
    content = isinstance(file, bytes)
    source = source or ("arrays" if content else os.fspath(file))
    with io.BytesIO(file) if content else open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        try:
            with zipfile.ZipFile(opened) as archive:
                arrays = _arrays(archive, size, source, most_bytes)
        except _RefusedError as error:
            raise ValueError(f"{error}; {_REMEDY}") from None
        except _DAMAGE as error:
            _raise_if_of_machine(error)
            why = " ".join(str(error).split())[:100] or type(error).__name__
            raise ValueError(
                f"{source}: no whole NumPy file of arrays ({why}); {_REMEDY}"
            ) from None
    stated = arrays.pop(DIGEST, None)
    if stated is not None and str(stated) != digest(arrays):
        why = "was changed after it was written: its digest is another"
        raise ValueError(f"{source}: {why}; {_REMEDY}")
    return arrays


def _raise_if_of_machine(error: Exception) -> None:
    """Raises what is wrong with the disk; a damaged offset gives EINVAL, other damage no number."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


class _RefusedError(Exception):
    """What is wrong with a file that Python and NumPy would take."""


def _arrays(
    archive: zipfile.ZipFile, size: int, source: str, most_bytes: int
) -> dict[str, np.ndarray]:
    members = archive.infolist()
    names = [member.filename.removesuffix(_ENDING) for member in members]
    counts = collections.Counter(names)
    for member, name in zip(members, names, strict=True):
        if not member.filename.endswith(_ENDING) or counts[name] > 1:
            why = "twice" if counts[name] > 1 else "which is no array"
            raise _RefusedError(f"{source}: holds {member.filename[:60]!r} {why}")
    total = sum(member.file_size for member in members)
    if total > 2 * size + most_bytes:
        raise _RefusedError(f"{source}: declares {total:,} bytes of arrays in a file of {size:,}")
    return {
        n: _array(archive, m, f"{source}: array {n!r}") for n, m in zip(names, members, strict=True)
    }


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: str) -> np.ndarray:
    try:
        with archive.open(member) as opened:
            version = npy.read_magic(opened)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = read_header[version](opened)
            held = member.file_size - opened.tell()
        if dtype.hasobject:
            raise _RefusedError(f"{place} holds Python objects, which are never unpickled")
        declared = math.prod(shape) * dtype.itemsize
        if declared != held or min(shape, default=0) < 0:
            why = f"declares the shape {shape} of {declared:,} bytes"
            raise _RefusedError(f"{place} {why} and has {held:,}")
        with archive.open(member) as opened:
            return npy.read_array(opened, allow_pickle=False)
    except _DAMAGE as error:
        _raise_if_of_machine(error)
        why = " ".join(str(error).split())[:100] or type(error).__name__
        raise _RefusedError(f"{place} can not be read ({why})") from None


def checked(
    arrays: Mapping[str, np.ndarray],
    name: str,
    kinds: str,
    shape: Sequence[int | None],
    source: str,
) -> np.ndarray:
    """The array of a name, if it is as it should be.

    Args:
      arrays: of a file.
      name: of the array.
      kinds: of its dtype, as NumPy's `dtype.kind`: "f", "iu", "b" or "U".
      shape: None for any length.
      source: the file, for messages.

    Raises:
      ValueError: there is none, or it is of another kind or shape.
    """
    if name not in arrays:
        raise ValueError(f"{source}: array {name!r} is missing; it holds {', '.join(arrays)}")
    array = arrays[name]
    fits = len(shape) == array.ndim and all(
        expected is None or expected == length
        for expected, length in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        allowed = f"{_WORDS[kinds[0]]} {['n' if n is None else n for n in shape]}".replace("'", "")
        raise ValueError(
            f"{source}: array {name!r} is {array.dtype} {list(array.shape)}; must be {allowed}"
        )
    return array
