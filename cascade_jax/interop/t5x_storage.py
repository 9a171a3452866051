"""Storage of the arrays of a T5X checkpoint, in a local folder or a bucket.

T5X has written two formats. The older one is an index, the msgpack file `checkpoint`, whose tree
holds every array itself or the description of a Zarr array in a folder beside it, for example
`target.decoder.decoder_norm.scale`. The newer one is Orbax's: a folder `state` with the file
`_METADATA`, which lists the arrays, and one OCDBT database that holds them. Both name an array by
its path in the tree: `target/...` for parameters, `state/param_states/...` for the optimizer's
statistics of a parameter, `state/step`.
"""

import dataclasses
import math
import os
import pathlib
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import msgpack
import numpy as np
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from cascade_jax import json_text

Name = tuple[str, ...]  # path of an array in the tree

_INDEX = "checkpoint"
_VERSION = 3  # of the index; T5X reads 2 and 3
_CHUNK_BYTES = 64 * 2**20  # T5X's choice
_READS_AT_ONCE = 16
_STEP_FOLDER = re.compile(r"checkpoint_\d+")
_UNFINISHED = re.compile(r"\.orbax-checkpoint-tmp|\.tmp-\d+")


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of a checkpoint that is not read yet."""

    source: tensorstore.TensorStore  # in memory where the index itself holds the numbers
    layer: int | None = None  # of a stack on axis 1, this layer alone; None for all of `source`
    joined: int | None = None  # this axis and the one after it are taken as one; None for no axis

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.source.shape)
        if self.layer is not None:
            shape = (shape[0], *shape[2:])
        if self.joined is None:
            return shape
        i = self.joined
        return (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :])

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype.numpy_dtype

    def part(self, whole: np.ndarray) -> np.ndarray:
        """What is meant of the source's values."""
        part = whole if self.layer is None else whole[:, self.layer]
        return part.reshape(self.shape)


def key_value_store(path: str | os.PathLike[str]) -> dict[str, str]:
    """tensorstore's description of a folder: local, or `gs://bucket/folder`."""
    text = os.fspath(path)
    if match := re.fullmatch(r"gs://([^/]+)/(.+?)/*", text, re.DOTALL):
        return {"driver": "gcs", "bucket": match[1], "path": f"{match[2]}/"}
    if "://" in text:
        raise ValueError(f"{text} is neither a local folder nor gs://BUCKET/FOLDER")
    return {"driver": "file", "path": f"{os.path.abspath(text)}/"}


def _inside(folder: Mapping[str, str], name: str) -> dict[str, str]:
    return {**folder, "path": f"{folder['path']}{name}/"}


def open_checkpoint(path: str | os.PathLike[str]) -> dict[Name, StoredArray]:
    """All arrays of a checkpoint by name, opened but not read.

    Raises:
      ValueError: if there is no checkpoint at the path, it is half-written, or arrays that it
        lists are not there (all of them are named).
    """
    folder = key_value_store(path)
    if _UNFINISHED.search(os.fspath(path)):
        raise ValueError(f"{path} is a half-written checkpoint: its name is that of a temporary")
    files = tensorstore.KvStore.open(folder).result()
    for inner in ("", "state/"):
        if metadata := files.read(f"{inner}_METADATA").result().value:
            _check_committed(path, folder, files)
            return _open_orbax(path, {**folder, "path": folder["path"] + inner}, metadata)
    index = files.read(_INDEX).result()
    if index.state != "value":
        raise ValueError(_nothing_there(path, folder, files))
    return _open_index(path, folder, index.value)


def _check_committed(path, folder, files) -> None:
    """In a bucket nothing can be renamed, so Orbax marks what is whole with a file."""
    if folder["driver"] == "gcs" and not files.read("commit_success.txt").result().value:
        raise ValueError(f"{path} is a half-written checkpoint: no file commit_success.txt in it")


def _nothing_there(path, folder, files) -> str:
    message = f"{path} is not a T5X checkpoint: no file {_INDEX!r} and no 'state/_METADATA' in it"
    tops = {key.decode().partition("/")[0] for key in files.list().result()}
    if steps := sorted(filter(_STEP_FOLDER.fullmatch, tops), key=lambda s: int(s.split("_")[1])):
        return f"{message}; it holds {', '.join(steps)}: name one of them"
    if any(top.startswith("target.") for top in tops):
        return f"{message}; it holds arrays, so writing it was interrupted"
    if folder["driver"] == "file":
        local = pathlib.Path(folder["path"])
        beside = [file.name for file in local.parent.glob(f"{local.name}.*")]
        if unfinished := list(filter(_UNFINISHED.search, beside)):
            return f"{message}; beside it is only the half-written {', '.join(sorted(unfinished))}"
    return message


def _open_index(path, folder, content: bytes) -> dict[Name, StoredArray]:
    """The older format."""
    try:
        tree = serialization.msgpack_restore(content)["optimizer"]
        if not isinstance(tree["target"], Mapping) or not tree["target"]:
            raise ValueError("optimizer/target is empty")
    except (msgpack.exceptions.UnpackException, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}/{_INDEX} is not the index of a T5X checkpoint: "
            f"no parameters under optimizer/target ({type(error).__name__}: {error})"
        ) from error
    leaves = flatten_dict(tree, is_leaf=lambda _, node: {"kvstore", "driver"} <= node.keys())
    specs, arrays = {}, {}
    for name, leaf in leaves.items():
        try:
            if isinstance(leaf, Mapping):
                # Only the last part of the path is used: an index may hold a bucket's full path.
                place = leaf["kvstore"].get("path") or leaf["path"]
                array_folder = _inside(folder, pathlib.PurePosixPath(place).name)
                specs[name] = {"driver": leaf["driver"], "kvstore": array_folder}
            elif leaf is not None:
                arrays[name] = StoredArray(tensorstore.array(np.asarray(leaf)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}/{_INDEX}: {'/'.join(map(str, name))} is {json_text.shown(leaf)}; must "
                f"be an array of numbers or the description of one ({error})"
            ) from error
    return arrays | _open_all(path, specs)


def _open_orbax(path, folder, metadata: bytes) -> dict[Name, StoredArray]:
    """The newer format."""
    try:
        content = json_text.parse(metadata, allow_nan=True)
        names = [
            tuple(key["key"] for key in entry["key_metadata"])
            for entry in content["tree_metadata"].values()
            if entry["value_metadata"].get("value_type") not in ("None", "Dict")
        ]
        if not all(isinstance(key, str) for name in names for key in name):
            raise TypeError("a key of an array's name is no text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: its _METADATA is not that of an Orbax checkpoint "
            f"({type(error).__name__}: {error})"
        ) from error
    if content.get("use_zarr3"):
        raise ValueError(f"{path} holds Zarr 3 arrays; T5X writes Zarr 2, which is what is read")
    specs = {}
    for name in names:
        place = ".".join(name)
        kvstore = {"driver": "ocdbt", "base": folder, "path": f"{place}/"}
        if not content.get("use_ocdbt", False):
            kvstore = _inside(folder, place)
        specs[name] = {"driver": "zarr", "kvstore": kvstore}
    return _open_all(path, specs)


def _open_all(path, specs: Mapping[Name, dict]) -> dict[Name, StoredArray]:
    strict = {"fill_missing_data_reads": False}  # a chunk that is missing is not one of zeros
    pending = {name: tensorstore.open(spec | strict, open=True) for name, spec in specs.items()}
    opened, errors = {}, {}
    for name, future in pending.items():
        try:
            opened[name] = StoredArray(future.result())
        except ValueError as error:
            errors[name] = error
    if errors:
        raise _unreadable(path, errors)
    return opened


def _unreadable(path, errors: Mapping[Name, Exception]) -> ValueError:
    names = ", ".join("/".join(name) for name in errors)
    first = str(next(iter(errors.values()))).partition(" [")[0]
    return ValueError(
        f"{path} is incomplete or damaged; no readable array for {len(errors)}: {names} ({first})"
    )


def read_all(path, arrays: Mapping[Name, StoredArray]) -> Iterator[tuple[Name, np.ndarray]]:
    """Names and values, a few read at a time; a stack of layers is read once, not once a layer.

    Raises:
      ValueError: at the end, if arrays could not be read (all of them are named).
    """
    groups: dict[int, list[Name]] = {}
    for name, array in arrays.items():
        groups.setdefault(id(array.source), []).append(name)
    waiting, running, errors = deque(groups.values()), deque(), {}
    while waiting or running:
        while waiting and len(running) < _READS_AT_ONCE:
            names = waiting.popleft()
            running.append((names, arrays[names[0]].source.read()))
        names, future = running.popleft()
        try:
            whole = np.asarray(future.result())
        except ValueError as error:
            errors |= dict.fromkeys(names, error)
            continue
        for name in names:
            yield name, arrays[name].part(whole)
    if errors:
        raise _unreadable(path, errors)


def read_sharded(
    path, name: Name, stored: StoredArray, sharding: jax.sharding.Sharding, dtype: str | None
) -> jax.Array:
    """One array, of which every device's host reads the device's part alone."""

    def read(index):
        return np.asarray(stored.source[index].read().result(), dtype)

    try:
        return jax.make_array_from_callback(stored.shape, sharding, read)
    except ValueError as error:
        raise _unreadable(path, {name: error}) from error


# ---------------------------------------------------------------- writing


def write_checkpoint(
    path: str | os.PathLike[str],
    step: int,
    zarr: Mapping[Name, np.ndarray],
    inline: Mapping[Name, np.ndarray],
) -> str:
    """Writes `<path>/checkpoint_<step>`, which is returned, in the format that every T5X reads.

    A local folder gets its name when it is whole. In a bucket the index is written last, so that
    what is interrupted has none.

    Args:
      path, step: folder of checkpoints, local or gs://, and number of updates done.
      zarr: arrays that get a folder of their own; values may be lazy, with `__array__`.
      inline: small arrays that the index itself holds.

    Raises:
      ValueError: if the folder is there already.
    """
    final = f"{os.fspath(path).rstrip('/')}/checkpoint_{step}"
    folder = key_value_store(final)
    if tensorstore.KvStore.open(folder).result().list().result():
        raise ValueError(f"{final} is there already; name another folder or step")
    is_local = folder["driver"] == "file"
    written = f"{final}.tmp-{int(time.time())}" if is_local else final
    folder = key_value_store(written)
    leaves: dict[Name, Any] = {("state", "step"): np.asarray(step, np.int32), **inline}
    for name, array in zarr.items():
        leaves[name] = _write_array(folder, name, np.asarray(array))
    index = {"version": _VERSION, "optimizer": unflatten_dict(leaves)}
    files = tensorstore.KvStore.open(folder).result()
    files.write(_INDEX, serialization.msgpack_serialize(index)).result()
    if is_local:
        os.rename(written, final)
    return final


def _write_array(folder, name: Name, array: np.ndarray) -> dict[str, Any]:
    """Writes a Zarr array as T5X does and gives its description in the index."""
    place = ".".join(name)
    description = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": f"{place}/"},
        "metadata": {
            "chunks": list(chunk_shape(array.shape, array.dtype.itemsize)),
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
        },
    }
    spec = {**description, "kvstore": _inside(folder, place)}
    tensorstore.open(spec, create=True).result().write(array).result()
    return description


def chunk_shape(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Chunks of at most 64 MiB that divide every axis evenly: the longest is cut until they fit.

    Example: ``chunk_shape((32128, 4096), 4) == (4016, 4096)``
    """
    chunks = list(shape)
    while math.prod(chunks) * item_bytes > _CHUNK_BYTES:
        axis = chunks.index(max(chunks))
        chunks[axis] //= next(f for f in range(2, chunks[axis] + 1) if chunks[axis] % f == 0)
    return tuple(chunks)
