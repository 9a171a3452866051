"""Sharding rules: the mesh axes that each logical axis is split over, and the shardings.

A table of rules serves a model's parameters and its activations alike. Student and teacher may have
different ones: a small student whole on every device, say, and its teacher split.
"""

import contextlib
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax import axes
from cascade_jax.names import check_choice
from cascade_jax.parallel import mesh as mesh_lib

Table = Sequence[tuple[str, str | Sequence[str] | None]]

# Megatron-style: each of the attention and MLP blocks needs one reduction over the tensor axis.
_TENSOR = tuple(
    (axis, mesh_lib.TENSOR) for axis in (axes.VOCAB, axes.MLP, axes.HEADS, axes.JOINED_HEADS)
)
# Activations have the embedding's axis too, but their batch takes the mesh axis first.
_FSDP = ((axes.EMBED, mesh_lib.FSDP),)
_BATCH = ((axes.BATCH, mesh_lib.BATCH_AXES),)
# A model that the tensor axis does not split would do the same work on each of its devices: its
# batch is split over them instead.
_WHOLE_BATCH = ((axes.BATCH, mesh_lib.AXES),)
TABLES: dict[str, Table] = {
    "replicated": _WHOLE_BATCH,
    "fsdp": _WHOLE_BATCH + _FSDP,
    "tensor": _BATCH + _TENSOR,
    "fsdp_tensor": _BATCH + _FSDP + _TENSOR,
    # Hidden states between the blocks, which the others leave whole, are split along the length.
    "fsdp_tensor_length": _BATCH + _FSDP + _TENSOR + ((axes.LENGTH, mesh_lib.TENSOR),),
}
DEFAULT = "fsdp_tensor"
RULES = TABLES[DEFAULT]


def table(rules: str | Table) -> Table:
    """The table of a name; a table is checked and comes back as tuples.

    Args:
      rules: a name out of TABLES, or pairs (logical axis, mesh axis or axes).

    Raises:
      ValueError: for an unknown name, logical axis or mesh axis, or a repeated logical axis.
    """
    if isinstance(rules, str):
        check_choice("the table of sharding rules", rules, TABLES)
        return TABLES[rules]
    try:
        checked = tuple((logical, _as_axes(places)) for logical, places in rules)
    except (TypeError, ValueError):
        raise ValueError(
            f"sharding rules {rules!r} must be one of {list(TABLES)}, or pairs of a logical axis "
            "and a mesh axis"
        ) from None
    names = [logical for logical, _ in checked]
    for logical, places in checked:
        check_choice("a logical axis of the sharding rules", logical, axes.ALL)
        if names.count(logical) > 1:
            raise ValueError(f"sharding rules: {logical!r} is there twice")
        for place in places:
            check_choice(f"a mesh axis of {logical!r} in the sharding rules", place, mesh_lib.AXES)
    return checked


def _as_axes(places: str | Sequence[str] | None) -> tuple[str, ...]:
    if places is None:
        return ()
    return (places,) if isinstance(places, str) else tuple(places)


def applied(rules: str | Table = DEFAULT) -> contextlib.AbstractContextManager:
    """A context in which models constrain activations and kernels by these rules."""
    return nn.logical_axis_rules(table(rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose leading axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES))


def check_batch_size(name: str, size: int, mesh: Mesh, *rules: str | Table) -> None:
    """Refuses a batch (or microbatch) that the mesh does not divide.

    Args:
      name, size: what it is, for the message, and its rows.
      mesh: the mesh.
      *rules: of the models that compute with it; some split the batch over more axes than it
        arrives by.
    """
    for places in _batch_axes(*rules):
        shards = math.prod(mesh.shape[axis] for axis in places)
        if size % shards:
            split = [f"{axis} {mesh.shape[axis]}" for axis in places if mesh.shape[axis] > 1]
            raise ValueError(
                f"{name} {size} does not divide by the {shards} shards of the mesh ("
                f"{', '.join(split)}); allowed are multiples of {shards}"
            )


def batch_shards(mesh: Mesh, *rules: str | Table) -> int:
    """The least number of rows that `check_batch_size` allows."""
    sizes = [[mesh.shape[axis] for axis in places] for places in _batch_axes(*rules)]
    return math.lcm(*map(math.prod, sizes))


def _batch_axes(*rules: str | Table) -> list[tuple[str, ...]]:
    """Mesh axes over which batches are split, as they arrive and by each table."""
    tables = [dict(table(each)).get(axes.BATCH, ()) for each in rules]
    return [mesh_lib.BATCH_AXES, *map(_as_axes, tables)]


def parameter_shardings(boxed_shapes, mesh: Mesh, rules: str | Table = DEFAULT):
    """Shardings for a tree of parameter shapes that carry logical axis names.

    Vectors (norm scales) are not split over fsdp: gathering them would cost more than they weigh.

    Args:
      boxed_shapes: `jax.eval_shape(model.init, ...)["params"]`, whose leaves are
        `nn.LogicallyPartitioned` boxes around `jax.ShapeDtypeStruct`.
      mesh: the mesh.
      rules: a name out of TABLES, or a table.

    Returns:
      The same tree with a NamedSharding at each parameter.

    Raises:
      ValueError: names the parameter whose axis does not divide by its mesh axes, or of which two
        axes are to be split over the same mesh axis.
    """
    places = {logical: _as_axes(places) for logical, places in table(rules)}

    def one(path, box):
        name = "/".join(str(key.key) for key in path)
        is_vector = sum(logical != axes.LAYERS for logical in box.names) < 2
        spec, used = [], {}
        for size, logical in zip(box.value.shape, box.names, strict=True):
            over = places.get(logical, ())
            if is_vector:
                over = tuple(axis for axis in over if axis != mesh_lib.FSDP)
            what = f"parameter {name} {box.value.shape}: its axis {logical!r}"
            for axis in over:
                if axis in used:
                    raise ValueError(
                        f"{what} and its axis {used[axis]!r} are both to be split over mesh axis "
                        f"{axis!r}; the rules must give them different ones"
                    )
                used[axis] = logical
            shards = math.prod(mesh.shape[axis] for axis in over)
            if size % shards:
                raise ValueError(
                    f"{what} of size {size} does not divide by the {shards} shards of mesh axis "
                    f"{' * '.join(map(repr, over))}"
                )
            spec.append(over[0] if len(over) == 1 else over or None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(
        one, boxed_shapes, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
