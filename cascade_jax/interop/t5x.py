"""Reading parameters out of T5X checkpoints.

A T5X checkpoint is a folder with an index, the msgpack file `checkpoint`, whose tree
`optimizer/target` holds for every parameter either the array itself or the description of a Zarr
array in a folder beside the index, for example `target.decoder.decoder_norm.scale`.
"""

import difflib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore
from flax import linen as nn
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from cascade_jax.models.config import T5Config
from cascade_jax.models.t5 import parameter_shapes

_INDEX = "checkpoint"


def load_parameters(path: str | os.PathLike[str], config: T5Config | None = None) -> dict[str, Any]:
    """The parameters of a T5X checkpoint, as a nested dict of float32 NumPy arrays.

    Reads local folders, and layers that T5X did not scan. For a model with `scan_layers`, give the
    result to `cascade_jax.models.t5.stack_layers`.

    Args:
      path: folder of one checkpoint, for example `.../checkpoint_1000000`.
      config: the model that the parameters are for; None leaves names and shapes unchecked.

    Raises:
      ValueError: if the folder holds no T5X checkpoint, or (with a config) if a parameter is
        missing, unknown, or of another shape than the model's.
    """
    folder = pathlib.Path(path)
    leaves = flatten_dict(_read_index(folder), is_leaf=lambda _, node: "kvstore" in node)
    if config is not None:
        _check(folder, {name: _shape(leaf) for name, leaf in leaves.items()}, config)
    pending = {name: _start_reading(folder, name, leaf) for name, leaf in leaves.items()}
    return unflatten_dict(
        {name: np.asarray(future.result(), np.float32) for name, future in pending.items()}
    )


def _read_index(folder: pathlib.Path) -> Mapping[str, Any]:
    """The tree of parameters in the index, with descriptions in place of arrays."""
    index = folder / _INDEX
    if not index.is_file():
        inner = sorted(child.name for child in folder.glob("checkpoint_*") if child.is_dir())
        hint = f"; it holds {', '.join(inner)}: name one of them" if inner else ""
        raise ValueError(f"{folder} is not a T5X checkpoint: no file {_INDEX!r} in it{hint}")
    try:
        target = serialization.msgpack_restore(index.read_bytes())["optimizer"]["target"]
    except (msgpack.exceptions.UnpackException, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index} is not the index of a T5X checkpoint: "
            f"no parameters under optimizer/target ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(target, Mapping) or not target:
        raise ValueError(f"{index} is not the index of a T5X checkpoint: optimizer/target is empty")
    return target


def _shape(leaf) -> tuple[int, ...]:
    shape = leaf["metadata"]["shape"] if isinstance(leaf, Mapping) else np.shape(leaf)
    return tuple(shape)


def _check(folder, shapes, config: T5Config) -> None:
    """Compares names and shapes with those of the (unrolled) model."""
    unrolled = T5Config(**{**vars(config), "scan_layers": False})
    wanted = flatten_dict(nn.meta.unbox(parameter_shapes(unrolled)))
    for name in wanted:
        if name not in shapes:
            raise ValueError(f"{folder} lacks the parameter {_join(name)}{_nearest(name, shapes)}")
    for name in shapes:
        if name not in wanted:
            raise ValueError(
                f"{folder} has the parameter {_join(name)}, which the model lacks"
                f"{_nearest(name, wanted)}"
            )
    for name, leaf in wanted.items():
        if shapes[name] != leaf.shape:
            raise ValueError(
                f"{_join(name)}: the checkpoint {folder} has shape {shapes[name]}, "
                f"the model {leaf.shape}"
            )


def _join(name) -> str:
    return "/".join(name)


def _nearest(name, names) -> str:
    nearest = difflib.get_close_matches(_join(name), map(_join, names), n=1)
    return f"; nearest is {nearest[0]}" if nearest else ""


class _Known:
    """An array that stands in the index itself, with the interface of a future."""

    def __init__(self, array):
        self._array = array

    def result(self):
        return self._array


def _start_reading(folder: pathlib.Path, name, leaf):
    if not isinstance(leaf, Mapping):
        return _Known(leaf)
    # Only the last part of the path is used: an index from a bucket holds the bucket's full path.
    array = folder / pathlib.PurePosixPath(leaf["kvstore"]["path"]).name
    spec = {"driver": leaf["driver"], "kvstore": {"driver": "file", "path": f"{array}/"}}
    try:
        return tensorstore.open(spec, open=True).result().read()
    except ValueError as error:
        raise ValueError(f"{_join(name)}: no readable array at {array}: {error}") from error
