"""The programs of a run: what `cascade-jax train` runs is what `cascade-jax plan` compiles."""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from cascade_jax.batch import PREFIX_LM, Batch, DecoderBatch
from cascade_jax.models import families
from cascade_jax.models.lora import Lora
from cascade_jax.parallel import rules
from cascade_jax.runs import state as state_lib
from cascade_jax.runs.state import Frozen, TrainState
from cascade_jax.teacher_cache import batches
from cascade_jax.training import skipping
from cascade_jax.training import step as step_lib
from cascade_jax.training.experiment import TrainRun


@dataclasses.dataclass(frozen=True)
class Programs:
    """The models, the optimizer and the jitted functions of a run on a mesh, each built once."""

    run: TrainRun
    mesh: Mesh

    @functools.cached_property
    def student(self) -> families.Model:
        """The model that is trained."""
        return families.build(self.run.model)

    @functools.cached_property
    def teacher(self) -> families.Model | None:
        """The teacher, if it runs beside the student."""
        return None if self.run.live_teacher is None else families.build(self.run.live_teacher)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The run's optimizer, which skips bad batches if the run does."""
        return self._optimizer_at(None)[0]

    def _optimizer_at(self, peak) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """The optimizer, and its learning rate with this peak; the run's own for None."""
        settings, skips = self.run.optimizer, self.run.skip_bad_batches
        optimizer = settings.build(peak)
        optimizer = skipping.skip_non_finite(optimizer) if skips else optimizer
        return optimizer, settings.learning_rate_schedule(peak)

    def check(self) -> None:
        """Raises ValueError for a batch or a parameter that does not divide over the mesh."""
        run = self.run
        size = run.data.batch_size // run.microbatches
        label = "batch_size" if run.microbatches == 1 else "batch_size / microbatches"
        rules.check_batch_size(f"run {run.name!r}: {label}", size, self.mesh, *run.rule_tables)
        _ = self.abstract_state, self.abstract_frozen  # each refuses its parameters

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        run = self.run
        arguments = self.student, self.optimizer, self.mesh
        return state_lib.abstract_state(*arguments, run.lora, run.rules)

    @functools.cached_property
    def abstract_frozen(self) -> Frozen:
        """Shapes, dtypes and shardings of the parameters that are only read."""
        run, mesh, base, teacher = self.run, self.mesh, None, None
        if self.teacher is not None:
            loaded = state_lib.abstract_parameters(self.teacher, mesh, table=run.teacher_rules)
            teacher = state_lib.in_compute_dtype(self.teacher, loaded)
        if run.lora is not None:
            base = state_lib.abstract_parameters(self.student, mesh, table=run.rules)
        return Frozen(base, teacher, jax.ShapeDtypeStruct((), jnp.float32))

    @functools.cached_property
    def abstract_batch(self) -> Batch | DecoderBatch | batches.CachedTeacherBatch:
        """Shapes, dtypes and shardings of a batch of training."""
        data, sharding = self.run.data, rules.batch_sharding(self.mesh)

        def rows(length: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((data.batch_size, length), dtype, sharding=sharding)

        inputs, targets, packing = data.input_length, data.target_length, {}
        if data.architecture == PREFIX_LM:
            both = inputs + targets
            packing = {name: rows(both) for name in ("segment_ids", "positions") if data.pack}
            arrays = rows(both), rows(both), rows(both, jnp.float32), rows(both)
            batch = DecoderBatch(*arrays, **packing)
        else:
            for name, length in (("input", inputs), ("target", targets)) if data.pack else ():
                packing |= {f"{name}_{part}": rows(length) for part in ("segment_ids", "positions")}
            arrays = rows(inputs), rows(targets), rows(targets), rows(targets, jnp.float32)
            batch = Batch(*arrays, **packing)
        if self.run.teacher_cache is None:
            return batch
        return batches.CachedTeacherBatch(batch, batches.fact_shapes(self.run, sharding))

    def compile_ahead(self, key: PRNGKeyArray) -> Callable[[], None]:
        """Compiles the step in a thread, while what it needs is loaded.

        Args:
          key: as the step will get it.

        Returns:
          A function that waits for it. An error of the compiler comes again with the first step.
        """
        arguments = self.abstract_state, self.abstract_frozen, self.abstract_batch, key
        jitted = self.train_step.jitted

        def compile_step() -> None:
            with contextlib.suppress(Exception), jax.set_mesh(self.mesh):
                jitted.lower(*arguments).compile()  # JAX keeps it for the call

        thread = threading.Thread(target=compile_step, name="compile the step")
        thread.start()
        return thread.join

    def initialize(self, key: PRNGKeyArray) -> TrainState:
        """A fresh state, each parameter created where it will live."""
        arguments = self.student, self.optimizer, key, self.abstract_state
        return state_lib.initialize(*arguments, self.run.lora)

    @functools.cached_property
    def loss_fn(self) -> Callable:
        """`step.make_loss_fn` of the run, as a function of (trained parameters, Frozen, …)."""
        run = self.run
        loss_fn = step_lib.make_loss_fn(
            self.student, self.teacher, run.loss, head=run.head, mesh=self.mesh,
            chunk_tokens=run.chunk_tokens, student_rules=run.rules,
            teacher_rules=run.teacher_rules,
        )  # fmt: skip
        return reading_frozen(loss_fn, run.lora)

    @functools.cached_property
    def train_step(self) -> Callable[..., tuple[TrainState, step_lib.StepMetrics]]:
        """See `step.make_train_step`."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        arguments = self.loss_fn, *self._optimizer_at(None), shardings, self.mesh
        return step_lib.make_train_step(*arguments, self.run.microbatches, self._optimizer_at)

    @functools.cached_property
    def eval_step(self) -> Callable[..., step_lib.StepMetrics]:
        """See `step.make_eval_step`."""
        return step_lib.make_eval_step(self.loss_fn, self.mesh)

    @functools.cached_property
    def parameter_norm(self) -> Callable:
        """The norm of all parameters, to see whether they are finite."""
        return jax.jit(optax.tree.norm, out_shardings=rules.replicated(self.mesh))


def reading_frozen(loss_fn: Callable, lora: Lora | None = None) -> Callable:
    """A function of (trained parameters, Frozen, …), from one of (parameters, teacher's, …).

    With LoRA the trained parameters are the adapters, and so is the gradient: nothing is computed
    for other kernels of the base. Kernels are merged once a call, and not
    `x·kernel + (x·lora_a)·lora_b` at each use, so that the models know nothing of adapters. That
    takes `2 · rank · in · out` FLOPs a target, as much as `rank` tokens take, and memory for a copy
    of the targets and for the gradient of that copy. With all kernels as targets a step has the
    matmuls of full training.
    """

    def call(params, frozen, *arguments, **settings):
        if lora is not None:
            params = lora.merge(frozen.base, params)
        return loss_fn(params, frozen.teacher, *arguments, **settings)

    if lora is None and hasattr(loss_fn, "begin_head"):
        call.begin_head = lambda params, frozen: loss_fn.begin_head(params, frozen.teacher)
    return call
