"""Safetensors files, read and written in slices, so that no file is ever in memory as a whole.

A file is the length of its header (8 bytes, little endian), the header and the numbers. The package
`safetensors` (0.8) does not serve here: it maps files into memory, so that a reader's peak grows by
the whole file, and it writes only tensors that are all in memory.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from cascade_jax import json_file, numerics
from cascade_jax.interop import safetensors_header
from cascade_jax.json_text import shown
from cascade_jax.names import listed

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ADAPTER = "adapter_config.json"
_WEIGHTS = (".safetensors", "model.bin", ".gguf", ".h5", ".msgpack", ".pth")
DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
BLOCK_BYTES = 16 << 20
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit


class SafetensorsError(ValueError):
    """A file is not there, not whole, or not what its header says."""


class NotFiniteError(ValueError):
    """A tensor has NaN or infinite numbers."""


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


def open_folder(
    folder: str | os.PathLike, say: Callable[[str], None] = print
) -> dict[str, StoredTensor]:
    """All tensors of a model folder: of `model.safetensors`, or of the files that its index names.

    Reads headers only. As transformers does, of a folder with both the single file is read; a
    tensor that several files have is read from the one that the index names.

    Args:
      folder: of the model.
      say: gets a line on what is not read, or read from one of several places.

    Raises:
      SafetensorsError: naming the file that is missing, cut off or not of this format.
    """
    folder = Path(folder)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if _ADAPTER in there:
        raise SafetensorsError(
            f"{folder} has {_ADAPTER}: transformers adds that adapter to the model; merge them and "
            "save the model, or take the file away"
        )
    if (folder / SINGLE).is_file():
        files = {SINGLE: open_file(folder / SINGLE)}
        tensors = files[SINGLE]
    elif (folder / INDEX).is_file():
        places = _read_index(folder / INDEX)
        files = _open_shards(folder, places)
        tensors = _joined(folder, places, files, say)
    else:
        hint = f"it holds {listed(there)}" if there else "it is empty or does not exist"
        if any(name.endswith((".bin", ".pt", ".pth", ".gguf")) for name in there):
            hint += "; load it with transformers and save it with save_pretrained, which writes it"
        raise SafetensorsError(f"{folder} has neither {SINGLE} nor {INDEX}: {hint}")
    unread = [name for name in there if name.endswith(_WEIGHTS) and name not in files]
    unread += [INDEX] * (INDEX in there and SINGLE in files)
    if unread:
        text = f"{folder}: as transformers does, {listed(list(files), 3)} is read"
        say(f"{text}, and not {listed(unread, 3)}")
    return tensors


def _open_shards(folder: Path, places: Mapping[str, str]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of each file that an index (a map of tensors to files) names."""
    index, names = folder / INDEX, sorted(set(places.values()))
    if outside := [n for n in names if Path(n).is_absolute() or ".." in Path(n).parts]:
        raise SafetensorsError(f"{index} names files outside of its folder: {listed(outside)}")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise SafetensorsError(f"{index} names files that are missing: {listed(missing)}")
    files = {name: open_file(folder / name) for name in names}
    wrong = sorted(f"{name} in {file}" for name, file in places.items() if name not in files[file])
    if wrong:
        raise SafetensorsError(f"{index} names tensors that are missing: {listed(wrong)}")
    return files


def _joined(
    folder: Path,
    places: Mapping[str, str],
    files: Mapping[str, Mapping[str, StoredTensor]],
    say: Callable[[str], None],
) -> dict[str, StoredTensor]:
    """The tensors of all files, each from the file that the index names for it."""
    holders = {}
    for file, tensors in files.items():
        for name in tensors:
            holders.setdefault(name, []).append(file)
    unnamed = sorted(holders.keys() - places.keys())
    if unclear := [name for name in unnamed if len(holders[name]) > 1]:
        raise SafetensorsError(
            f"{folder / INDEX} does not say from which of several files to read {listed(unclear)}"
        )
    if unnamed:
        say(f"{folder / INDEX} does not name tensors that its files hold: {listed(unnamed)}")
    if twice := sorted(name for name, held in holders.items() if len(held) > 1):
        say(f"{folder}: in several files, read from the one that {INDEX} names: {listed(twice)}")
    return {name: files[places.get(name, held[0])][name] for name, held in holders.items()}


def _read_index(file: Path) -> dict[str, str]:
    places = json_file.read_object(file).get("weight_map")
    if not isinstance(places, dict):
        raise SafetensorsError(f'{file} is not an index: no "weight_map" of tensors to files in it')
    for name, place in places.items():
        if not isinstance(place, str):
            where = f"{file}: weight_map.{name}"
            raise SafetensorsError(f"{where} is {shown(place)}; must be a file's name")
    return places


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
        if len(start) == 8 and length > _MOST_HEADER_BYTES:
            raise SafetensorsError(f"{file} is not a safetensors file: a header of {length} bytes")
        if len(start) < 8 or 8 + length > size:
            needs = f"its header needs {8 + length}" if len(start) == 8 else "a header needs 8"
            raise SafetensorsError(f"{file} is truncated: it has {size} bytes, {needs}")
        header = stream.read(length)
    try:
        entries = safetensors_header.parse(header)
    except ValueError as error:
        raise SafetensorsError(f"{file} is not a safetensors file: {error}") from error
    needed = 8 + length + max((entry.end for entry in entries.values()), default=0)
    if size != needed:
        what = "is truncated" if size < needed else "is not a safetensors file"
        raise SafetensorsError(f"{file} {what}: it has {size} bytes, its header speaks of {needed}")
    return {
        name: StoredTensor(file, entry.dtype, entry.shape, 8 + length + entry.start)
        for name, entry in entries.items()
    }


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

    Raises:
      NotFiniteError: naming a tensor with NaN, infinite numbers or numbers too large for the dtype.
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
                with np.errstate(over="ignore"):  # refused in the next line
                    numbers = np.ascontiguousarray(rows, DTYPES[dtype])
                if not numerics.is_finite(numbers):
                    beyond = f"numbers beyond those of {dtype}; choose another dtype"
                    what = beyond if numerics.is_finite(rows) else "NaN or infinite numbers"
                    raise NotFiniteError(f"tensor {tensor.name} has {what}")
                numbers.tofile(stream)
