"""TrainState: what a step changes, how it is initialised and how it is split over the mesh."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from cascade_jax.models import families
from cascade_jax.models.lora import Lora
from cascade_jax.parallel import rules


@flax.struct.dataclass
class TrainState:
    """The student's side of a run; the frozen teacher is not in it.

    `step` is the number of updates done. `params` are the float32 parameters of the student, or of
    its adapters alone.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


@flax.struct.dataclass
class Frozen:
    """What a run's steps read and never change; None for what it does not have.

    Attributes:
      base: with LoRA, those of the model that is adapted.
      teacher: those of the teacher that runs beside the student.
      learning_rate: the peak, so that runs that differ in it have one program; None for the
        optimizer's own.
    """

    base: PyTree
    teacher: PyTree
    learning_rate: Float[Array, ""] | None = None


def abstract_parameters(
    model: families.Model,
    mesh: Mesh,
    lora: Lora | None = None,
    table: str | rules.Table = rules.DEFAULT,
) -> PyTree:
    """Shapes, dtypes and shardings of a model's parameters (with `lora`: its adapters) on a mesh.

    `table` says how they are split, see `parallel/rules.py`.
    """
    boxes = families.parameter_shapes(model.config)
    if lora is not None:
        boxes = lora.shapes(boxes)
    shardings = rules.parameter_shardings(boxes, mesh, table)
    return jax.tree.map(_with_sharding, nn.unbox(boxes), shardings)


def in_compute_dtype(model: families.Model, params: PyTree) -> PyTree:
    """Parameters of a frozen model, each in the dtype in which the model computes with it.

    The same figures bit for bit, and for a model that computes in bfloat16 half the memory: it
    would make the same copies of its kernels in every step. `params` are arrays, or shapes from
    `abstract_parameters`.
    """
    config = model.config

    def one(path, leaf):
        names = [key.key for key in path]
        is_kernel = names[-1] == "kernel" and "logits_dense" not in names
        is_looked_up = names[-1] == "embedding" and not config.tied_logits
        if not (is_kernel or is_looked_up):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, config.dtype, sharding=leaf.sharding)
        return leaf.astype(config.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def _with_sharding(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def abstract_state(
    model: families.Model,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    lora: Lora | None = None,
    table: str | rules.Table = rules.DEFAULT,
) -> TrainState:
    """Shapes, dtypes and shardings of the whole state, for `initialize` and for restoring.

    With `lora` the state is that of the adapters alone; `table` as in `abstract_parameters`.

    Optimizer statistics of a parameter's shape are split like the parameter; all others (the row
    and column statistics of Adafactor, counters) are small and every device holds them whole.
    """
    params = abstract_parameters(model, mesh, lora, table)
    everywhere = rules.replicated(mesh)

    def statistics(leaf, parameter):
        alike = leaf.shape == parameter.shape
        return _with_sharding(leaf, parameter.sharding if alike else everywhere)

    opt_state = optax.tree.map_params(
        optimizer,
        statistics,
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda leaf: _with_sharding(leaf, everywhere),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    return TrainState(step, params, opt_state)


def initialize(
    model: families.Model,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    abstract: TrainState,
    lora: Lora | None = None,
) -> TrainState:
    """Makes a fresh state, each parameter created where it will live.

    `abstract` is from `abstract_state`, with the same model, optimizer and lora.
    """

    def make(key):
        if lora is None:
            params = families.initialize(model, key)
        else:
            params = lora.initialize(families.parameter_shapes(model.config), key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(make, out_shardings=shardings)(key)
