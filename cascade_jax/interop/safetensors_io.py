"""Safetensors files, read and written in slices, so that no file is ever in memory as a whole.

A file is the length of its header (8 bytes, little endian), the header (JSON: for the name of each
tensor its dtype, shape, first byte and end) and the numbers. The package `safetensors` (0.8) does
not serve here: it maps files into memory, so that a reader's peak grows by the whole file, and it
writes only tensors that are all in memory.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cascade_jax.names import listed

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
BLOCK_BYTES = 16 << 20
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit


class SafetensorsError(ValueError):
    """A file is not there, not whole, or not what its header says."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    file: Path
    dtype: str  # the format's name, for example "BF16"
    shape: tuple[int, ...]
    start: int  # its first byte in the file

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Rows start..stop in parts of about BLOCK_BYTES, each with the number of its first row.

        Raises:
          SafetensorsError: if the file ended too soon.
        """
        dtype, row = DTYPES[self.dtype], self.shape[1:]
        width = math.prod(row)
        step = max(1, BLOCK_BYTES // max(1, width * dtype.itemsize))
        with self.file.open("rb") as stream:
            for first in range(start, stop, step):
                last = min(first + step, stop)
                stream.seek(self.start + first * width * dtype.itemsize)
                numbers = np.fromfile(stream, dtype, (last - first) * width)
                if numbers.size != (last - first) * width:
                    raise SafetensorsError(f"{self.file} ended while it was read")
                yield first, numbers.reshape(last - first, *row)


def open_folder(folder: str | os.PathLike) -> dict[str, StoredTensor]:
    """All tensors of a model folder: of `model.safetensors`, or of the files that its index names.

    Reads headers only.

    Raises:
      SafetensorsError: naming the file that is missing, cut off or not of this format.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return open_file(folder / SINGLE)
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        hint = f"it holds {', '.join(there)}" if there else "it is empty or does not exist"
        if any(name.endswith((".bin", ".pt", ".pth", ".gguf")) for name in there):
            hint += "; load it with transformers and save it with save_pretrained, which writes it"
        raise SafetensorsError(f"{folder} has neither {SINGLE} nor {INDEX}: {hint}")
    places = _read_index(folder / INDEX)
    missing = sorted({name for name in places.values() if not (folder / name).is_file()})
    if missing:
        raise SafetensorsError(f"{folder / INDEX} names files that are missing: {listed(missing)}")
    files = {name: open_file(folder / name) for name in sorted(set(places.values()))}
    wrong = sorted(f"{name} in {file}" for name, file in places.items() if name not in files[file])
    if wrong:
        raise SafetensorsError(f"{folder / INDEX} names tensors that are missing: {listed(wrong)}")
    return {name: tensor for tensors in files.values() for name, tensor in tensors.items()}


def _read_index(file: Path) -> dict[str, str]:
    try:
        places = json.loads(file.read_text())["weight_map"]
        if isinstance(places, dict) and all(isinstance(name, str) for name in places.values()):
            return places
    except (ValueError, KeyError, TypeError):
        pass
    raise SafetensorsError(f'{file} is not an index: no "weight_map" of tensors to files in it')


def open_file(file: str | os.PathLike) -> dict[str, StoredTensor]:
    """The tensors of one file, after its header and its size.

    Raises:
      SafetensorsError: if the file is cut off, or not of this format.
    """
    file = Path(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise SafetensorsError(
                f"{file} is a Git LFS pointer of {size} bytes and not the file itself; fetch it "
                "with `git lfs pull`"
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or 8 + length > size:
            needs = f"its header needs {8 + length}" if len(start) == 8 else "a header needs 8"
            raise SafetensorsError(f"{file} is truncated: it has {size} bytes, {needs}")
        if length > _MOST_HEADER_BYTES:
            raise SafetensorsError(f"{file} is not a safetensors file: a header of {length} bytes")
        header = stream.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {name: _entry(file, 8 + length, each) for name, each in entries.items()}
    except SafetensorsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SafetensorsError(f"{file} is not a safetensors file: {error}") from error
    needed = max((each["data_offsets"][1] for each in entries.values()), default=0) + 8 + length
    if size < needed:
        raise SafetensorsError(
            f"{file} is truncated: it has {size} bytes, its header speaks of {needed}"
        )
    return tensors


def _entry(file: Path, data_start: int, entry: Mapping[str, Any]) -> StoredTensor:
    shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"])
    if dtype is not None and last - first != math.prod(shape) * dtype.itemsize:
        raise SafetensorsError(
            f"{file}: {last - first} bytes for a tensor of shape {shape} and dtype {entry['dtype']}"
        )
    return StoredTensor(file, entry["dtype"], shape, data_start + first)


@dataclasses.dataclass(frozen=True)
class Output:
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]  # (start, stop) -> these rows, of any float dtype


def write_folder(
    folder: str | os.PathLike,
    tensors: Sequence[Output],
    *,
    dtype: str = "F32",
    file_bytes: int = 5_000_000_000,
    progress: Callable[[Sequence[Output]], Sequence[Output]] = lambda tensors: tensors,
) -> None:
    """Writes `model.safetensors`, or several files and their index where one would be too large.

    Args:
      folder, tensors: where to, and what in which order.
      dtype: one of DTYPES.
      file_bytes: the most numbers' bytes of a file (a larger tensor has a file of its own).
      progress: wraps the tensors of each file, to show how far the writing is.
    """
    folder, itemsize = Path(folder), DTYPES[dtype].itemsize
    groups, used = [[]], 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * itemsize
        if groups[-1] and used + size > file_bytes:
            groups, used = [*groups, []], 0
        groups[-1].append(tensor)
        used += size
    if len(groups) == 1:
        _write_file(folder / SINGLE, groups[0], dtype, progress)
        return
    places = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05}-of-{len(groups):05}.safetensors"
        _write_file(folder / name, group, dtype, progress)
        places |= {tensor.name: name for tensor in group}
    total = sum(math.prod(tensor.shape) for tensor in tensors) * itemsize
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(file, tensors, dtype, progress) -> None:
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        start, end = end, end + math.prod(tensor.shape) * DTYPES[dtype].itemsize
        entry = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        entries[tensor.name] = entry
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the numbers are aligned
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for tensor in progress(tensors):
            width = max(1, math.prod(tensor.shape[1:]) * 4)
            step = max(1, BLOCK_BYTES // width)
            for start in range(0, tensor.shape[0], step):
                rows = tensor.rows(start, min(start + step, tensor.shape[0]))
                np.ascontiguousarray(rows, DTYPES[dtype]).tofile(stream)
