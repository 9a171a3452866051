"""The programs of a run: what `cascade-jax train` runs is what `cascade-jax plan` compiles."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from cascade_jax.models import families
from cascade_jax.parallel import rules
from cascade_jax.training import skipping
from cascade_jax.training import step as step_lib

if TYPE_CHECKING:
    from cascade_jax.training.experiment import TrainRun


def tables(run: "TrainRun") -> list[rules.Table]:
    """How the models that a run holds are split: the student, and the teacher if it is there."""
    return [run.rules, *[run.teacher_rules] * (run.live_teacher is not None)]


def check_batch_size(run: "TrainRun", mesh: Mesh) -> None:
    """Refuses a batch that does not divide over the mesh.

    Raises:
      ValueError: names the run, and what does not divide.
    """
    size = run.data.batch_size // run.microbatches
    label = "batch_size" if run.microbatches == 1 else "batch_size / microbatches"
    rules.check_batch_size(f"run {run.name!r}: {label}", size, mesh, *tables(run))


def loss_fn(run: "TrainRun", mesh: Mesh) -> Callable:
    """`step.make_loss_fn` of a run; with LoRA it takes adapters, and the base among the frozen."""
    teacher = None if run.live_teacher is None else families.build(run.live_teacher)
    found = step_lib.make_loss_fn(
        families.build(run.model), teacher, run.loss, head=run.head, mesh=mesh,
        chunk_tokens=run.chunk_tokens, student_rules=run.rules, teacher_rules=run.teacher_rules,
    )  # fmt: skip
    return found if run.lora is None else run.lora.adapted(found)


def train_step(run: "TrainRun", loss_fn: Callable, abstract: PyTree, mesh: Mesh) -> Callable:
    """`step.make_train_step` of a run.

    Args:
      run: whose optimizer and microbatches.
      loss_fn: see above.
      abstract: the state's shapes with shardings.
      mesh: the device mesh.
    """
    optimizer = run.optimizer.build()
    if run.skip_bad_batches:
        optimizer = skipping.skip_non_finite(optimizer)
    return step_lib.make_train_step(
        loss_fn,
        optimizer,
        run.optimizer.learning_rate_schedule(),
        jax.tree.map(lambda leaf: leaf.sharding, abstract),
        mesh,
        run.microbatches,
    )
