"""Reads and writes T5X checkpoints: parameters, step and optimizer statistics."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from cascade_jax.interop import t5x_layouts, t5x_storage
from cascade_jax.interop.t5x_storage import Name, StoredArray
from cascade_jax.models.config import T5Config
from cascade_jax.names import check_choice

_PARAMETERS: Name = ("target",)
_STATISTICS: Name = ("state", "param_states")
_STEP: Name = ("state", "step")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a T5X checkpoint holds, read.

    Attributes:
      params: nested dict under this project's names, float32.
      step: number of updates done.
      layout: of the checkpoint: "unrolled" (T5X's minimal network) or "scanned" (its scalable one).
      statistics: of the optimizer, a nested dict with the names of the checkpoint's own layout;
        None where not asked for. Adafactor has `v_row` and `v_col` for a factored parameter, `v`
        for another, `m` with momentum; those not in use have shape (1,).
    """

    params: PyTree
    step: int
    layout: str
    statistics: PyTree | None = None


def load(
    path: str | os.PathLike[str],
    config: T5Config | None = None,
    *,
    optimizer: bool = False,
    shardings: PyTree | None = None,
) -> Checkpoint:
    """Reads a T5X checkpoint, in either of the formats and layouts that T5X writes.

    Args:
      path: folder of one checkpoint, `.../checkpoint_1000000`, local or gs://.
      config: the model that the parameters are for, whose `scan_layers` says whether they come
        stacked on axis 0; None leaves names and shapes unchecked and layers apart.
      optimizer: whether to read the optimizer's statistics too.
      shardings: of the parameters, a tree of their structure: each is put on the devices as soon as
        it is read. None keeps NumPy arrays.

    Raises:
      ValueError: if there is no whole checkpoint, if (with a config) parameters are missing,
        unknown or of another shape than the model's (all of them are named), or if `optimizer` is
        asked for and the checkpoint has parameters only.
    """
    stored = t5x_storage.open_checkpoint(path)
    target, layout = _target(path, stored)
    if config is not None:
        shapes = {name: array.shape for name, array in target.items()}
        t5x_layouts.check_shapes(path, shapes, t5x_layouts.model_shapes(config, layout))
    _check_floating(path, target)
    statistics = _statistics(path, stored) if optimizer else None
    params = _assemble(path, target, config, shardings)
    return Checkpoint(params, _step(path, stored), layout, statistics)


def config_of(path: str | os.PathLike[str]) -> T5Config:
    """The model of a checkpoint, from names and shapes; see `t5x_layouts.config_of`.

    Raises:
      ValueError: if there is no whole checkpoint, or it is not that of a T5.
    """
    target, _ = _target(path, t5x_storage.open_checkpoint(path))
    try:
        return t5x_layouts.config_of({name: array.shape for name, array in target.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _target(path, stored) -> tuple[dict[Name, StoredArray], str]:
    """Parameters with layers apart, and the layout that they are stored in."""
    target = _below(stored, _PARAMETERS)
    if not target:
        raise ValueError(f"{path} holds no parameters: nothing under target")
    layout = t5x_layouts.layout_of(target)
    return (t5x_layouts.unrolled(target) if layout == t5x_layouts.SCANNED else target), layout


def _below(stored: Mapping[Name, StoredArray], top: Name) -> dict[Name, StoredArray]:
    """Arrays whose name starts so, without that start."""
    return {n[len(top) :]: array for n, array in stored.items() if n[: len(top)] == top}


def _check_floating(path, target: Mapping[Name, StoredArray]) -> None:
    wrong = [
        f"{'/'.join(name)} ({array.dtype})"
        for name, array in target.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if wrong:  # T5X wrote bfloat16 as uint16 until June 2021
        raise ValueError(f"{path}: parameters of a dtype that is not floating: {', '.join(wrong)}")


def _statistics(path, stored) -> PyTree:
    statistics = _below(stored, _STATISTICS)
    if not statistics:
        raise ValueError(f"{path} holds parameters only: nothing under state/param_states")
    return unflatten_dict(dict(t5x_storage.read_all(path, statistics)))


def _step(path, stored) -> int:
    steps = {name: stored[name] for name in (_STEP,) if name in stored}
    return sum(int(value) for _, value in t5x_storage.read_all(path, steps))


def _assemble(path, target, config, shardings) -> PyTree:
    """Reads parameters into the model's structure."""
    placed = {} if shardings is None else flatten_dict(shardings)
    is_stacked = config is not None and config.scan_layers
    counts = t5x_layouts.layer_counts(target)
    parameters, stacks, biases = {}, {}, {}

    def put(name: Name, array: np.ndarray) -> None:
        if shardings is not None:
            array = jax.make_array_from_callback(array.shape, placed[name], array.__getitem__)
        parameters[name] = array

    for name, array in t5x_storage.read_all(path, target):
        array = np.asarray(array, np.float32)
        layer = t5x_layouts.layer_of(name)
        if layer is not None and name[2:] == t5x_layouts.BIAS:
            biases[name] = array
        elif layer is not None and is_stacked:
            whole = (name[0], "layers", *name[2:])
            layers = stacks.setdefault(whole, {})
            layers[layer] = array
            if len(layers) == counts[name[0]]:
                del stacks[whole]
                put(whole, np.stack([layers[i] for i in range(len(layers))]))
        else:
            put(name, array)
    for name, array in t5x_layouts.one_bias(path, biases).items():
        put(name, array)
    return unflatten_dict(parameters)


def load_named(
    path: str | os.PathLike[str], shapes: PyTree, shardings: PyTree, dtype: str | None = None
) -> PyTree:
    """Reads parameters under the names that the checkpoint itself has, each shard by itself.

    Args:
      path: folder of one checkpoint, local or gs://.
      shapes: tree of things with a `shape`, as the network has its parameters.
      shardings: tree of the same structure; every host reads what its devices hold.
      dtype: to convert to; None keeps the checkpoint's.

    Raises:
      ValueError: if there is no whole checkpoint, or parameters are missing, unknown or of another
        shape (all of them are named).
    """
    target = _below(t5x_storage.open_checkpoint(path), _PARAMETERS)
    leaves = flatten_dict(shapes)
    t5x_layouts.check_shapes(
        path,
        {name: array.shape for name, array in target.items()},
        {name: tuple(leaf.shape) for name, leaf in leaves.items()},
    )
    _check_floating(path, target)
    placed = flatten_dict(shardings)
    read = t5x_storage.read_sharded
    return unflatten_dict({n: read(path, n, target[n], placed[n], dtype) for n in leaves})


# ---------------------------------------------------------------- out


def save(
    path: str | os.PathLike[str],
    config: T5Config,
    params: PyTree,
    step: int = 0,
    *,
    statistics: PyTree | None = None,
    layout: str = t5x_layouts.UNROLLED,
    dtype: str = "float32",
) -> str:
    """Writes `<path>/checkpoint_<step>`, which T5X restores, and returns its path.

    Args:
      path: folder of checkpoints, local or gs://.
      config: the model.
      params: its parameters, stacked or not as `config.scan_layers` says, boxed or not.
      step: number of updates done.
      statistics: of the optimizer, as `load` gives them, under the names of `layout`. Without them
        T5X restores parameters for inference, and for training if asked to start the rest afresh
        (docs/t5x.md).
      layout: "unrolled" for T5X's minimal network, "scanned" for its scalable one.
      dtype: of the parameters in the checkpoint.

    Raises:
      ValueError: if the folder is there already, the parameters (all that are wrong are named) or
        the statistics are not the model's, or for an unknown layout or dtype.
    """
    check_choice("layout", layout, t5x_layouts.LAYOUTS)
    check_choice("dtype", dtype, DTYPES)
    arrays = _apart(flatten_dict(nn.meta.unbox(params)))
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    t5x_layouts.check_shapes("the model to save", shapes, t5x_layouts.model_shapes(config))
    if layout == t5x_layouts.SCANNED:
        arrays = t5x_layouts.scanned(arrays, config)
    zarr = {(*_PARAMETERS, *name): np.asarray(array, dtype) for name, array in arrays.items()}
    inline = {}
    for name, array in flatten_dict(statistics or {}).items():
        if name[:-1] not in arrays:
            raise ValueError(f"statistics of {'/'.join(name[:-1])}, which is no parameter")
        # As T5X: what is split over devices like its parameter gets a folder, the rest does not.
        home = zarr if array.shape == arrays[name[:-1]].shape else inline
        home[(*_STATISTICS, *name)] = np.asarray(array)
    return t5x_storage.write_checkpoint(path, step, zarr, inline)


def _apart(arrays: Mapping[Name, Any]) -> dict[Name, Any]:
    """Parameters with stacked layers (axis 0) split into one per layer."""
    apart = {}
    for name, array in arrays.items():
        if name[0] in t5x_layouts.STACKS and name[1] == "layers":
            for layer, part in enumerate(np.asarray(array)):
                apart[t5x_layouts.layer_name(name[0], layer, name[2:])] = part
        else:
            apart[name] = array
    return apart
