"""How the fused head's arrays lie on a mesh, and what it keeps between microbatches."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from cascade_jax.names import check_choice
from cascade_jax.unembedding import Unembedding

_TILE = 128  # columns of a TPU's tile


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the arrays lie on a mesh.

    Attributes:
      mesh: its axes are of type Auto, as `jax.sharding.Mesh` makes them.
      data: the axis or axes that split the first axis of tokens.
      tensor: the axis that splits the columns of the kernels.
    """

    mesh: Mesh
    data: str | Sequence[str] = ("data", "fsdp")
    tensor: str = "tensor"

    def __post_init__(self):
        data = (self.data,) if isinstance(self.data, str) else tuple(self.data)
        object.__setattr__(self, "data", data)
        if self.tensor in data:
            raise ValueError(f"tensor {self.tensor!r} is among data {data}; give it another axis")
        for axis in (*data, self.tensor):
            check_choice("a mesh axis of the layout", axis, self.mesh.axis_names)
        if set(self.mesh.axis_types) != {AxisType.Auto}:
            raise ValueError(
                f"the mesh has axes of types {self.mesh.axis_types}; all must be Auto, as "
                "jax.sharding.Mesh makes them"
            )

    def shards(self) -> tuple[int, int]:
        """Number of parts of the tokens and of the columns."""
        return math.prod(self.mesh.shape[axis] for axis in self.data), self.mesh.shape[self.tensor]

    def split_axes(self) -> tuple[tuple[str, ...], str | None]:
        """The data axes and the tensor axis, without those that have a single device."""
        data = tuple(axis for axis in self.data if self.mesh.shape[axis] > 1)
        return data, self.tensor if self.mesh.shape[self.tensor] > 1 else None

    def head_specs(self, head: Unembedding) -> Unembedding:
        """How kernel and bias are split, as a tree of the same kind."""
        columns = PartitionSpec(self.tensor)
        kernel = columns if head.tied else PartitionSpec(None, self.tensor)
        return dataclasses.replace(head, kernel=kernel, bias=None if head.bias is None else columns)

    def gradient_specs(self, head: Unembedding) -> "HeadGradient":
        """How the parts of a HeadGradient are split."""
        specs = self.head_specs(head)
        kernel = PartitionSpec(self.data, *specs.kernel)
        return HeadGradient(kernel, specs.bias and PartitionSpec(self.data, *specs.bias))


@flax.struct.dataclass
class HeadGradient:
    """The gradient of an output layer over some microbatches, each data shard's part on its own.

    Attributes:
      kernel: as the layer's, or wider if the teacher's is, with the shards on a new axis 0.
      bias: likewise, or None.
    """

    kernel: Float[Array, "N D V"]
    bias: Float[Array, "N V"] | None

    @classmethod
    def zero(
        cls, head: Unembedding, layout: Layout | None = None, columns: int | None = None
    ) -> "HeadGradient":
        """That of no microbatch; `columns` are the teacher's, if it has an output layer too."""
        wide = jax.eval_shape(lambda head: head.widened(max(head.columns, columns or 0)), head)
        shards = 1 if layout is None else layout.shards()[0]
        wide = jax.tree.map(lambda x: jnp.zeros((shards, *x.shape), jnp.float32), wide)
        zeros = cls(wide.kernel, wide.bias)
        if layout is None:
            return zeros
        split = functools.partial(NamedSharding, layout.mesh)
        shardings = jax.tree.map(split, layout.gradient_specs(head))
        return jax.lax.with_sharding_constraint(zeros, shardings)

    def total(self, head: Unembedding) -> Unembedding:
        """The sum over the shards, which is where devices exchange it, as a tree like `head`."""
        axis = 0 if head.tied else 1
        kernel = jax.lax.slice_in_dim(jnp.sum(self.kernel, axis=0), 0, head.columns, axis=axis)
        bias = None if self.bias is None else jnp.sum(self.bias, axis=0)[: head.columns]
        summed = dataclasses.replace(head, kernel=kernel, bias=bias)
        return jax.tree.map(lambda g, x: g.astype(x.dtype), summed, head)


@flax.struct.dataclass
class HeadState:
    """What the fused head keeps from microbatch to microbatch.

    Attributes:
      student, teacher: the output layers, which stay; None for no teacher, or one that is cached.
      gradient: of the student's, up to here.
    """

    student: Unembedding
    teacher: Unembedding | None
    gradient: HeadGradient

    @classmethod
    def begin(
        cls, student: Unembedding, teacher: Unembedding | None, layout: Layout | None
    ) -> "HeadState":
        """Before the first microbatch."""
        student = _filling_tiles(student, layout)
        teacher = None if teacher is None else _filling_tiles(teacher, layout)
        columns = None if teacher is None else teacher.columns
        return cls(student, teacher, HeadGradient.zero(student, layout, columns))


def _filling_tiles(head: Unembedding, layout: Layout | None) -> Unembedding:
    """The layer with [V, D] for its kernel where a TPU keeps [D, V] so: nothing is copied.

    A TPU's arrays are made of tiles of 128 columns. It keeps a matrix the other way round if that
    leaves less of them empty, but in a loop within a loop as it is written, which would be a copy.
    """
    if layout is None or layout.mesh.devices.flat[0].platform != "tpu" or head.tied:
        return head
    columns = head.columns // layout.shards()[1]
    if columns % _TILE == 0 or head.features % _TILE:
        return head
    return dataclasses.replace(head, kernel=head.kernel.T, tied=True)
