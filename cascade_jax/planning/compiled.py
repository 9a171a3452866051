"""The real steps of a run, compiled ahead of time for devices that need not be there.

Nothing is read: no data, vocabulary or checkpoint. The arguments of a step are shapes on a mesh.
"""

import contextlib
import dataclasses
import functools
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from cascade_jax.data.mixtures import DataConfig
from cascade_jax.inference import generate
from cascade_jax.models import families
from cascade_jax.parallel import rules
from cascade_jax.runs import state as state_lib
from cascade_jax.training.experiment import TrainRun
from cascade_jax.training.programs import Programs

# Where T5 and its kin have it; one id is as good as another for what a step costs.
_EOS = 1


class DoesNotFitError(ValueError):
    """The compiler refuses a program: it takes more memory than a chip has."""

    def __init__(self, message: str, peak: float | None):
        super().__init__(message)
        self.peak = peak


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program: bytes as the compiler allots them, per chip."""

    arguments: float
    outputs: float
    aliased: float  # outputs that take the place of arguments
    temporaries: float
    program: float
    text: str  # the optimised HLO
    seconds: float  # that compiling took

    @property
    def peak(self) -> float:
        """Bytes that are taken at once: arguments, fresh outputs, temporaries and the program."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that can be compiled for a mesh."""

    name: str  # e.g. "train cat_dist"
    jitted: Any
    arguments: tuple  # shapes with shardings
    parts: Mapping[str, PyTree]  # arrays that stay in memory from step to step
    mesh: Mesh
    context: Any = contextlib.nullcontext  # in which it is compiled besides the mesh

    def part_bytes(self) -> dict[str, float]:
        """Bytes of the parts on a chip."""
        return {name: bytes_per_device(tree) for name, tree in self.parts.items()}

    def compile(self) -> Compiled:
        """Compiles the step; minutes for a large one.

        Raises:
          DoesNotFitError: it takes more memory than there is.
        """
        start = time.monotonic()
        try:
            with jax.set_mesh(self.mesh), self.context():
                lowered = self.jitted.lower(*self.arguments)
                compiled = lowered.compile(compiler_options=_options(self.mesh))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            arguments = sum(self.part_bytes().values())
            raise DoesNotFitError(*_refusal(str(error), arguments)) from error
        memory = compiled.memory_analysis()
        return Compiled(
            memory.argument_size_in_bytes,
            memory.output_size_in_bytes,
            memory.alias_size_in_bytes,
            memory.temp_size_in_bytes,
            memory.generated_code_size_in_bytes,
            compiled.as_text(),
            time.monotonic() - start,
        )


def _options(mesh: Mesh) -> dict[str, Any] | None:
    """On CPUs, no work on machine code that never runs; the optimised HLO is the same."""
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 0} if is_cpu else None


def _refusal(text: str, arguments: float) -> tuple[str, float | None]:
    """The compiler's message in one line, and the bytes that the program needs.

    It names all that a program takes, or its temporaries alone.
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    size = r"([\d.]+)([KMGT])"
    total = re.search(rf"[Uu]sed {size} of ([\d.]+[KMGT])", text)
    temporaries = re.search(rf"\({size}\) exceeds available HBM \(([\d.]+[KMGT])\)", text)
    if not (total or temporaries):
        return text.strip().partition("\n")[0], None
    match = total or temporaries
    needed = float(match[1]) * units[match[2]] + (0.0 if total else arguments)
    return f"the compiler wants {needed / 1e9:.1f} GB of {match[3]}iB a chip", needed


def bytes_per_device(tree: PyTree) -> float:
    """Bytes that one device holds of arrays, or of shapes that have shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def train_step(run: TrainRun, mesh: Mesh) -> Step:
    """The step that `cascade-jax train` runs.

    Raises:
      ValueError: the batch or a parameter does not divide over the mesh; names it.
    """
    programs = Programs(run, mesh)
    programs.check()
    state, frozen = programs.abstract_state, programs.abstract_frozen
    parts = {"student": state.params, "optimizer": state.opt_state}
    parts |= {} if frozen.teacher is None else {"teacher": frozen.teacher}
    parts |= {} if frozen.base is None else {"base": frozen.base}
    parts["batch"] = programs.abstract_batch
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=rules.replicated(mesh))
    arguments = (state, frozen, parts["batch"], key)
    return Step(f"train {run.name}", programs.train_step.jitted, arguments, parts, mesh)


def decode_step(
    name: str,
    model: families.ModelConfig,
    table: str | rules.Table,
    top_k: int,
    data: DataConfig,
    mesh: Mesh,
) -> Step:
    """Decoding one batch with a model, as `cascade-jax collect` does.

    Raises:
      ValueError: the batch or a parameter does not divide over the mesh; names it.
    """
    rules.check_batch_size("batch_size", data.batch_size, mesh, table)
    module = families.build(model)
    params = state_lib.abstract_parameters(module, mesh, table=table)
    shape, sharding = (data.batch_size, data.input_length), rules.batch_sharding(mesh)
    inputs = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
    decode = generate.make_generate_fn(module, data.target_length, _EOS, top_k)
    parts = {name: params, "batch": inputs}
    traced_under = functools.partial(rules.applied, table)
    return Step(f"decode {name}", decode, (params, inputs), parts, mesh, traced_under)
