"""Which mesh axis each logical axis is split over, and the shardings that follow."""

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax import axes
from cascade_jax.parallel import mesh as mesh_lib

# Megatron-style: each of the attention and MLP blocks needs one reduction over the model axis.
RULES = (
    (axes.BATCH, mesh_lib.DATA),
    (axes.VOCAB, mesh_lib.MODEL),
    (axes.MLP, mesh_lib.MODEL),
    (axes.HEADS, mesh_lib.MODEL),
    (axes.JOINED_HEADS, mesh_lib.MODEL),
)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose leading axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(mesh_lib.DATA))


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
    """Refuses a batch (or microbatch) that the data axis of the mesh does not divide."""
    data = mesh.shape[mesh_lib.DATA]
    if size % data:
        raise ValueError(
            f"{name} {size} does not divide by the {data} shards of the mesh's data axis; "
            f"allowed are multiples of {data}"
        )


def parameter_shardings(boxed_shapes, mesh: Mesh):
    """Shardings for a tree of parameter shapes that carry logical axis names.

    Args:
      boxed_shapes: what `jax.eval_shape(model.init, ...)["params"]` gives: leaves are
        `nn.LogicallyPartitioned` boxes around `jax.ShapeDtypeStruct`.
      mesh: the mesh.

    Returns:
      The same tree with a NamedSharding at each parameter.

    Raises:
      ValueError: if a parameter's axis does not divide by its mesh axis; names the parameter.
    """
    table = dict(RULES)

    def one(path, box):
        spec = PartitionSpec(*(table.get(name) for name in box.names))
        for size, logical, axis in zip(box.value.shape, box.names, spec, strict=True):
            if axis is not None and size % mesh.shape[axis]:
                parameter = "/".join(str(key.key) for key in path)
                raise ValueError(
                    f"parameter {parameter} {box.value.shape}: its axis {logical!r} of size {size} "
                    f"does not divide by the {mesh.shape[axis]} shards of mesh axis {axis!r}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        one, boxed_shapes, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)
    )
