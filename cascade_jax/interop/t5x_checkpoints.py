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

from cascade_jax import checks
from cascade_jax.interop import t5x_layouts, t5x_storage
from cascade_jax.interop.t5x_storage import Name, StoredArray
from cascade_jax.models.config import T5Config
from cascade_jax.names import check_choice, listed
from cascade_jax.numerics import is_finite, not_finite

_PARAMETERS: Name = ("target",)
_STATISTICS: Name = ("state", "param_states")
_STEP: Name = ("state", "step")
_MAX_DISTANCE = 128
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a T5X checkpoint holds, read.

    Attributes:
      params: nested dict under this project's names, float32.
      step: number of updates done.
      layout: of the checkpoint: "unrolled" (layers apart) or "scanned" (layers stacked).
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
        stacked on axis 0, and whose `relative_bias_per_layer` says whether there is a relative
        position bias in every layer; None leaves names and shapes unchecked, layers apart, and
        biases as `config_of` has them.
      optimizer: whether to read the optimizer's statistics too.
      shardings: of the parameters, a tree of their structure: each is put on the devices as soon as
        it is read. None keeps NumPy arrays.

    Raises:
      ValueError: if there is no whole checkpoint, if (with a config) parameters are missing,
        unknown, of another shape than the model's or not finite (all are named), if the layers have
        different biases and the model has one for all, or if `optimizer` is asked for and the
        checkpoint has parameters only.
    """
    stored = t5x_storage.open_checkpoint(path)
    target, layout = _target(path, stored)
    _check_floating(path, target)
    target = _with_biases_of(path, target, config)
    if config is not None:
        shapes = {name: array.shape for name, array in target.items()}
        t5x_layouts.check_shapes(path, shapes, t5x_layouts.model_shapes(config))
    statistics = _statistics(path, stored) if optimizer else None
    params = _assemble(path, target, config, shardings)
    return Checkpoint(params, _step(path, stored), layout, statistics)


def config_of(path: str | os.PathLike[str]) -> T5Config:
    """The model of a checkpoint, from names and shapes; see `t5x_layouts.config_of`.

    It has a relative position bias per layer only if those of a stack's layers differ: a scalable
    network with equal ones is the same function as T5's own with one.

    Raises:
      ValueError: if there is no whole checkpoint, or it is not that of a T5.
    """
    target, _ = _target(path, t5x_storage.open_checkpoint(path))
    target = _with_biases_of(path, target, None)
    try:
        return t5x_layouts.config_of({name: array.shape for name, array in target.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _target(path, stored) -> tuple[dict[Name, StoredArray], str]:
    """Parameters with layers apart, and the layout that they are stored in."""
    target = _below(stored, _PARAMETERS)
    if not target:
        raise ValueError(f"{path} holds no parameters: nothing under target")
    try:
        return t5x_layouts.unrolled(target), t5x_layouts.layout_of(target)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _with_biases_of(path, target, config: T5Config | None) -> dict[Name, StoredArray]:
    """Parameters with a bias per layer or per stack: as a model has them, else as they differ."""
    own = [name for stack in t5x_layouts.STACKS for name in t5x_layouts.layer_biases(target, stack)]
    biases = dict(t5x_storage.read_all(path, {name: target[name] for name in own}))
    differences = []
    for stack in t5x_layouts.STACKS:
        first, *others = [np.float32(biases[name]) for name in own if name[0] == stack] or [None]
        distances = [
            float(np.abs(bias - first).max()) if bias.shape == first.shape else np.inf
            for bias in others
        ]
        if different := [distance for distance in distances if not distance <= 0]:
            differences.append(
                f"the {len(others) + 1} layers of the {stack} have different relative position "
                f"biases (by up to {max(different):.3g})"
            )
    if config is not None and differences and not config.relative_bias_per_layer:
        raise ValueError(
            f"{path}: {' and '.join(differences)}, and the model has one for all layers; a model "
            "with relative_bias_per_layer = True holds them"
        )
    per_layer = bool(differences) if config is None else config.relative_bias_per_layer
    return t5x_layouts.with_biases(target, per_layer=per_layer)


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
    parameters, stacks, bad = {}, {}, []

    def put(name: Name, array: np.ndarray) -> None:
        if shardings is not None:
            array = jax.make_array_from_callback(array.shape, placed[name], array.__getitem__)
        parameters[name] = array

    for name, array in t5x_storage.read_all(path, target):
        array = np.asarray(array, np.float32)
        if not is_finite(array):
            bad.append("/".join(name))
        layer = t5x_layouts.layer_of(name)
        if layer is not None and is_stacked:
            whole = (name[0], "layers", *name[2:])
            layers = stacks.setdefault(whole, {})
            layers[layer] = array
            if len(layers) == counts[name[0]]:
                del stacks[whole]
                put(whole, np.stack([layers[i] for i in range(len(layers))]))
        else:
            put(name, array)
    if bad:
        raise ValueError(f"{path}: NaN or infinite numbers in {listed(bad)}")
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
      ValueError: if there is no whole checkpoint, or parameters are missing, unknown, of another
        shape or not finite (all of them are named).
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
    result = unflatten_dict({n: read(path, n, target[n], placed[n], dtype) for n in leaves})
    if names := not_finite(result):
        raise ValueError(f"{path}: NaN or infinite numbers in {listed(names)}")
    return result


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
      layout: "scanned" stacks the layers, for T5X's scalable network. "unrolled" keeps them apart,
        for its minimal network; or, where the model has a bias per layer, which that lacks, for its
        scalable one with scan_layers = False.
      dtype: of the parameters in the checkpoint.

    Raises:
      ValueError: if the folder is there already, the parameters (all that are wrong are named) or
        the statistics are not the model's, T5X's networks would compute something else with them,
        or for an unknown layout or dtype.
    """
    check_choice("layout", layout, t5x_layouts.LAYOUTS)
    check_choice("dtype", dtype, DTYPES)
    distance = config.relative_max_distance
    theirs = f"{_MAX_DISTANCE}, which is fixed in T5X's networks"
    checks.require(distance == _MAX_DISTANCE, "relative_max_distance", distance, theirs)
    arrays = _apart(flatten_dict(nn.meta.unbox(params)))
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    t5x_layouts.check_shapes("the model to save", shapes, t5x_layouts.model_shapes(config))
    if names := not_finite(unflatten_dict(arrays)):
        raise ValueError(f"the model to save has NaN or infinite numbers in {listed(names)}")
    if layout == t5x_layouts.SCANNED:
        arrays = t5x_layouts.scanned(arrays, config)
    elif config.relative_bias_per_layer:
        arrays = t5x_layouts.heads_apart(arrays, config)
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
