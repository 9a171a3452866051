"""One update of the student: both forward passes, the loss, gradients, the optimizer."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from cascade_jax import metrics, numerics
from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.losses import fused, sums, teachers, variants
from cascade_jax.models import families
from cascade_jax.names import check_choice
from cascade_jax.parallel import mesh as mesh_lib
from cascade_jax.parallel import rules
from cascade_jax.parallel.compiling import under_mesh
from cascade_jax.runs.state import TrainState
from cascade_jax.teacher_cache.batches import CachedTeacherBatch

StepMetrics = dict[str, metrics.Ratio]
HEADS = ("fused", "plain")


def make_loss_fn(
    student: families.Model,
    teacher: families.Model | None,
    loss: variants.Loss,
    *,
    head: str = "fused",
    mesh: Mesh | None = None,
    chunk_tokens: int | None = None,
    student_rules: str | rules.Table = rules.DEFAULT,
    teacher_rules: str | rules.Table = rules.DEFAULT,
) -> Callable:
    """Both forward passes and the loss head.

    Args:
      student, teacher, loss: the models, None for no teacher, and the variant.
      head: "fused" never holds a [tokens, vocabulary] array; "plain" computes the same from whole
        logits and serves as its reference.
      mesh, chunk_tokens: of the fused head; no mesh for one device.
      student_rules, teacher_rules: how each model is split, see `parallel/rules.py`.

    Returns:
      A function (student_params, teacher_params, batch, dropout_key=None, step=None,
      every_metric=False, head_state=None) -> LossSums. `step` is for schedules of the loss.
      Without a teacher, the batch may be a CachedTeacherBatch. A `HeadState`, which its attribute
      `begin_head` makes of both parameters, is returned beside the LossSums with the output layer's
      gradient added to it.
    """
    check_choice("head", head, HEADS)
    layout = None if mesh is None else fused.Layout(mesh, mesh_lib.BATCH_AXES, mesh_lib.TENSOR)

    run_model = families.hidden_and_unembedding if head == "fused" else families.logits
    settings = dict(chunk_tokens=chunk_tokens, layout=layout)

    def forward(table, *arguments):
        with rules.applied(table):
            return run_model(*arguments)

    def loss_fn(
        student_params, teacher_params, batch, dropout_key=None, step=None, every_metric=False,
        head_state=None,
    ):  # fmt: skip
        facts = None
        if isinstance(batch, CachedTeacherBatch):
            batch, facts = batch.batch, batch.teacher
        ours, theirs = forward(student_rules, student, student_params, batch, dropout_key), None
        if teacher is not None:
            # The one place where gradients stop: nothing flows into the frozen teacher.
            theirs = jax.lax.stop_gradient(forward(teacher_rules, teacher, teacher_params, batch))
        tokens, at = (batch.targets, batch.weights), {"step": step, "every_metric": every_metric}
        if head == "plain":
            return loss(ours, facts if theirs is None else theirs, *tokens, **at)
        if head_state is not None:
            arguments = ours[0], facts if theirs is None else theirs[0], *tokens, head_state
            return fused.microbatch_sums(loss, *arguments, **at, **settings)
        theirs = facts if theirs is None else teachers.TeacherHidden(*theirs)
        return fused.loss_sums(loss, *ours, theirs, *tokens, **at, **settings)

    if head == "fused":
        loss_fn.begin_head = functools.partial(_begin_head, student, teacher, layout)
    return loss_fn


def _begin_head(student, teacher, layout, student_params, teacher_params) -> fused.HeadState:
    theirs = None if teacher is None else teacher.unembedding(teacher_params)
    return fused.HeadState.begin(student.unembedding(student_params), theirs, layout)


def make_train_step(
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    state_shardings: PyTree,
    mesh: Mesh,
    microbatches: int = 1,
    optimizer_at: Callable | None = None,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Builds the jitted update; the old state's memory is reused (donated).

    Args:
      loss_fn: from `make_loss_fn`.
      optimizer: optax transformation.
      learning_rate: reported only; the optimizer holds its own.
      state_shardings, mesh: a TrainState of shardings, and the device mesh.
      microbatches: into how many parts the batch is cut, one after the other; gradients of the
        loss *sums* are added and divided by the total count once. Of the output layer each device
        adds its own, and they meet once, after the last part.
      optimizer_at: (peak of the learning rate) -> (optimizer, learning_rate) in place of those, for
        a `frozen` that holds the peak.

    Returns:
      A function (state, frozen, batch, key) -> (new state, metrics), where `frozen` is the second
      argument of `loss_fn`. The dropout of step i comes from `fold_in(key, i)` alone, so a resumed
      run repeats it.
    """

    def train_step(state: TrainState, frozen: PyTree, batch: Batch | DecoderBatch, key):
        step_key = jax.random.fold_in(key, state.step)

        grad_fn = _gradients_of(loss_fn, frozen, state, state_shardings.params)
        if microbatches == 1:
            (grad_sums, losses), _ = grad_fn(state.params, batch, step_key)
        elif not hasattr(loss_fn, "begin_head"):
            arguments = batch, step_key, microbatches, mesh
            (grad_sums, losses), _ = _accumulate(grad_fn, state.params, None, *arguments)
        else:
            begin_head = functools.partial(_student_head, loss_fn, frozen)
            student, add_head, head_state = jax.vjp(begin_head, state.params, has_aux=True)
            arguments = state.params, head_state, batch, step_key, microbatches, mesh
            (grad_sums, losses), head_state = _accumulate(grad_fn, *arguments)
            (head_gradient,) = add_head(head_state.gradient.total(student))
            head_gradient = jax.lax.with_sharding_constraint(head_gradient, state_shardings.params)
            grad_sums = jax.tree.map(jnp.add, grad_sums, head_gradient)
        grads = jax.tree.map(lambda g: numerics.safe_ratio(g, losses.count), grad_sums)
        # Of the sums, which are in memory: XLA on a CPU would write quotients to square and add.
        norm = numerics.safe_ratio(optax.tree.norm(grad_sums), losses.count)
        own = optimizer, learning_rate
        if optimizer_at is not None and frozen.learning_rate is not None:
            own = optimizer_at(frozen.learning_rate)
        updates, opt_state = own[0].update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(state.step + 1, params, opt_state)
        return new_state, _report(losses, norm, own[1](state.step))

    everywhere = rules.replicated(mesh)
    jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(state_shardings, everywhere))
    return under_mesh(mesh, jitted)


def _report(losses: sums.LossSums, norm: Array, learning_rate: Array | float) -> StepMetrics:
    """The loss's metrics, and those of the step."""
    one = jnp.ones(())
    tokens = losses.metrics[metrics.CROSS_ENTROPY].denominator
    return losses.metrics | {
        metrics.GRADIENT_NORM: metrics.Ratio(norm, one),
        metrics.LEARNING_RATE: metrics.Ratio(jnp.asarray(learning_rate), one),
        metrics.TARGET_TOKENS: metrics.Ratio(tokens, one),
    }


def _student_head(loss_fn, frozen, params):
    """(the student's output layer, HeadState); the first is what can be differentiated."""
    head_state = loss_fn.begin_head(params, frozen)
    return head_state.student, head_state


def _gradients_of(
    loss_fn: Callable, frozen: PyTree, state: TrainState, shardings: PyTree
) -> Callable:
    """(params, batch, key, HeadState or None) -> ((gradient, LossSums), HeadState or None)."""

    def value(params, part, part_key, head_state):
        arguments = params, frozen, part, part_key, state.step
        if head_state is None:
            losses = loss_fn(*arguments)
        else:
            losses, head_state = loss_fn(*arguments, head_state=head_state)
        return losses.loss_sum, (losses, head_state)

    def grad_fn(params, part, part_key, head_state=None):
        arguments = params, part, part_key, head_state
        grads, (losses, head_state) = jax.grad(value, has_aux=True)(*arguments)
        # As the parameters are, before they are added up: no device holds all of them.
        return (jax.lax.with_sharding_constraint(grads, shardings), losses), head_state

    return grad_fn


def _accumulate(
    grad_fn: Callable,
    params: PyTree,
    head_state: fused.HeadState | None,
    batch: Batch,
    key: PRNGKeyArray,
    parts: int,
    mesh: Mesh,
) -> tuple[tuple[PyTree, sums.LossSums], fused.HeadState | None]:
    """Sums of gradients and losses over microbatches, in float32, and the head's state after them.

    Row i goes to microbatch `i mod parts`, so that every device of the data axes has its share of
    each and nothing moves between devices.
    """
    split = NamedSharding(mesh, PartitionSpec(None, mesh_lib.BATCH_AXES))

    def cut(rows):
        rows = rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(rows, split)

    batches = jax.tree.map(cut, batch)
    gradient = None if head_state is None else head_state.gradient

    def one(part, part_key, gradient):
        state = None if head_state is None else head_state.replace(gradient=gradient)
        result, state = grad_fn(params, part, part_key, state)
        return result, None if state is None else state.gradient

    def add(carry, part_and_index):
        (total, gradient), (part, index) = carry, part_and_index
        more, gradient = one(part, jax.random.fold_in(key, index), gradient)
        return (jax.tree.map(jnp.add, total, more), gradient), None

    first = jax.tree.map(lambda x: x[0], batches)
    shapes, _ = jax.eval_shape(one, first, key, gradient)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (total, gradient), _ = jax.lax.scan(add, (zeros, gradient), (batches, jnp.arange(parts)))
    return total, None if head_state is None else head_state.replace(gradient=gradient)


def make_eval_step(loss_fn: Callable, mesh: Mesh) -> Callable[..., StepMetrics]:
    """Builds the jitted (params, frozen, batch, step) -> metrics, all of them.

    There is no dropout. `step` is for schedules of the loss.
    """

    def eval_step(params, frozen, batch, step):
        return loss_fn(params, frozen, batch, step=step, every_metric=True).metrics

    return under_mesh(mesh, jax.jit(eval_step, out_shardings=rules.replicated(mesh)))
