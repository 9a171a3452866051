"""The fused head: from hidden states to loss and gradients without a [tokens, vocabulary] array.

The counted tokens are taken in chunks. For each chunk the logits of both models are made, the
per-token terms and, in closed form, the gradient for the logits; that is turned at once into the
gradients for the hidden states and for the output matrix, and the logits are forgotten. Tokens that
do not count (padding) are left out of the chunks: a batch that is half padding costs half.

On a mesh the tokens are split over the data axes and the vocabulary over the tensor axis. Inside
the loop only figures of a token each are exchanged, over the tensor axis; the gradient of the
output matrix is added up over the data axes once, after the loop. Of several microbatches each
device adds it to its own sum (`HeadGradient`), and the devices add theirs once, after the last.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from cascade_jax import metrics
from cascade_jax.checks import whole_number
from cascade_jax.losses import checks, closed_form, sums, teachers
from cascade_jax.losses.columns import Columns
from cascade_jax.losses.layout import HeadGradient, HeadState, Layout
from cascade_jax.losses.variants import Loss
from cascade_jax.unembedding import Unembedding

# Begins the name of a scope around a loop whose length depends on the data; the most times that it
# runs follows. `cascade-jax plan` finds it in the compiled program.
LOOP_LIMIT = "at_most_"


def loss_sums(
    loss: Loss,
    hidden: Float[Array, "*n D"],
    unembedding: Unembedding,
    teacher: teachers.TeacherHidden | teachers.TeacherArgmax | teachers.TeacherTopK | None,
    targets: Int[Array, "*n"],
    weights: Float[Array, "*n"],
    *,
    step: Int[Array, ""] | None = None,
    every_metric: bool = True,
    chunk_tokens: int | None = None,
    layout: Layout | None = None,
) -> sums.LossSums:
    """Loss sums and metrics of one batch; `loss_sum` can be differentiated.

    Gradients flow to `hidden` and to the kernel and bias of `unembedding`, to whichever of them is
    differentiated (a frozen output matrix costs nothing). All else is constant, the teacher and the
    metrics included.

    Args:
      loss: the variant.
      hidden, unembedding: the student's hidden states, anything on padding, and its last map.
      teacher: its hidden states or facts on the same tokens; None for no teacher.
      targets, weights, step, every_metric: as in `variants.Loss.__call__`.
      chunk_tokens: tokens at a time on each device. [chunk_tokens, V] float32 is held two or three
        times; with few tokens more time goes to adding up the output matrix's gradient. None takes
        the hidden width, from 128 to 1024: the logits of a model then need as much memory as that
        gradient.
      layout: on a mesh; `hidden`, `targets`, `weights` and the teacher's arrays are then split
        over the data axes, kernels and biases over the tensor axis.

    Raises:
      ValueError: as `variants.Loss.__call__`, or if chunk_tokens is not positive.
    """
    arguments = loss, hidden, unembedding, teacher, targets, weights
    return _loss_sums(*arguments, None, step, every_metric, chunk_tokens, layout)[0]


def microbatch_sums(
    loss: Loss,
    hidden: Float[Array, "*n D"],
    teacher: Float[Array, "*n D_L"] | teachers.TeacherArgmax | teachers.TeacherTopK | None,
    targets: Int[Array, "*n"],
    weights: Float[Array, "*n"],
    state: HeadState,
    *,
    step: Int[Array, ""] | None = None,
    every_metric: bool = True,
    chunk_tokens: int | None = None,
    layout: Layout | None = None,
) -> tuple[sums.LossSums, HeadState]:
    """`loss_sums` of one microbatch of several, and the state after it.

    The sum of the losses can be differentiated for `hidden` alone. What it would give for the
    output layer is added to `state.gradient`, in place: that takes no memory besides, and no
    exchange between devices until `HeadGradient.total`.

    Args:
      loss, hidden, targets, weights: as in `loss_sums`, like all settings.
      teacher: its hidden states or facts; None for no teacher.
      state: from `HeadState.begin`, or after the microbatch before.
    """
    if state.teacher is not None:
        teacher = teachers.TeacherHidden(teacher, state.teacher)
    arguments = loss, hidden, state.student, teacher, targets, weights, state.gradient
    result, gradient = _loss_sums(*arguments, step, every_metric, chunk_tokens, layout)
    return result, state.replace(gradient=gradient)


def _loss_sums(
    loss, hidden, unembedding, teacher, targets, weights, so_far, step, every_metric,
    chunk_tokens, layout,
):  # fmt: skip
    checks.check_targets(targets, weights, unembedding.num_ids)
    arguments = hidden, unembedding, teacher, targets, weights
    hidden, unembedding, teacher, targets, weights = jax.tree.map(jnp.asarray, arguments)
    if chunk_tokens is None:
        chunk_tokens = min(max(unembedding.features, 128), 1024)
    _check(loss, hidden, unembedding, teacher, targets, weights, layout, chunk_tokens)
    setup = _Setup(loss, unembedding.num_ids, chunk_tokens, every_metric, layout)
    if not targets.size:
        terms = _no_terms(setup, teacher, 0)
        return sums.reduce(terms, weights.reshape(0), loss.normalizer), so_far
    columns = unembedding.columns
    if isinstance(teacher, teachers.TeacherHidden):
        # Columns of both models must lie on the same devices. (Nothing is copied where they do.)
        columns = max(columns, teacher.unembedding.columns)
        teacher = dataclasses.replace(teacher, unembedding=teacher.unembedding.widened(columns))
    constants = (teachers.with_wide_ids(teacher), targets.astype(jnp.int32), weights, step)
    unembedding = unembedding.widened(columns)
    loss_sum, terms, so_far = _head(setup, hidden, unembedding, constants, so_far)
    reduced = sums.reduce(terms, weights, loss.normalizer)
    shown = metrics.Ratio(loss_sum, reduced.count)
    result = sums.LossSums(loss_sum, reduced.count, reduced.metrics | {metrics.LOSS: shown})
    return result, so_far


def _check(loss, hidden, unembedding, teacher, targets, weights, layout, chunk_tokens) -> None:
    """Checks that arrays fit each other and the mesh, and that chunks have tokens."""
    whole_number("chunk_tokens", chunk_tokens, 1)
    if isinstance(teacher, jax.Array):
        raise ValueError(
            "the fused head takes the teacher as TeacherHidden(hidden, unembedding) or as facts, "
            f"and got an array {teacher.shape}; call the loss itself on logits"
        )
    unembedding.check()
    pairs = [("student", hidden, unembedding)]
    if isinstance(teacher, teachers.TeacherHidden):
        teacher.unembedding.check()
        pairs.append(("teacher", teacher.hidden, teacher.unembedding))
    for whose, states, head in pairs:
        checks.check_floating(**{f"the {whose}'s hidden states": states})
        if states.shape[-1] != head.features:
            raise ValueError(
                f"the {whose}'s hidden states have shape {states.shape} and its output matrix "
                f"{head.kernel.shape}; the hidden states' last axis must be {head.features}"
            )
        if layout is None:
            continue
        rows, columns = layout.shards()
        for axis, shards, what, size in (
            (layout.data, rows, "first axis of the tokens", states.shape[0]),
            (layout.tensor, columns, "columns of the output matrix", head.columns),
        ):
            if size % shards:
                raise ValueError(
                    f"the {whose}'s {what}, {size}, must divide by the {shards} shards of mesh "
                    f"axis {axis!r}"
                )
    checks.check_tokens(hidden.shape[:-1], targets, weights)
    checks.check_teacher(loss, teacher, (*hidden.shape[:-1], unembedding.num_ids), weights)


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What is fixed when the head is traced."""

    loss: Loss
    num_ids: int
    chunk_tokens: int
    every_metric: bool
    layout: Layout | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head(setup: _Setup, hidden, unembedding, constants, so_far):
    """(sum of the weighted losses, TokenTerms, HeadGradient or None).

    The gradients are made along with them.
    """
    return _run(setup, hidden, unembedding, constants, so_far, (False, False))[0]


def _forward(setup, hidden, unembedding, constants, so_far):
    """`_head` and the gradients with respect to what is differentiated."""
    # With `symbolic_zeros` the arguments' leaves are pairs of `value` and `perturbed`.
    primals = functools.partial(jax.tree.map, is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    flags = jax.tree.leaves(primals(lambda leaf: leaf.perturbed, unembedding))
    perturbed = hidden.perturbed, any(flags) and so_far is None
    arguments = hidden, unembedding, constants, so_far
    return _run(setup, *primals(lambda leaf: leaf.value, arguments), perturbed)


def _backward(setup, gradients, cotangents):
    """The gradients times the cotangent of the sum; what else was returned is constant."""
    del setup
    factor = cotangents[0]
    if isinstance(factor, jax.custom_derivatives.SymbolicZero):
        factor = jnp.zeros(factor.shape, factor.dtype)
    scaled = jax.tree.map(lambda g: (g.astype(jnp.float32) * factor).astype(g.dtype), gradients)
    return (*scaled, None, None)


_head.defvjp(_forward, _backward, symbolic_zeros=True)


def _run(setup, hidden, unembedding, constants, so_far, perturbed):
    """((loss sum, TokenTerms, HeadGradient), gradients): of hidden and unembedding, or None."""
    sweep = functools.partial(_sweep, setup, perturbed)
    if setup.layout is not None:
        sweep = _on_mesh(sweep, setup, unembedding, constants, so_far, perturbed)
    terms, gradients, so_far = sweep(hidden, unembedding, constants, so_far)
    weights = constants[2].astype(jnp.float32)
    return (jnp.sum(terms.loss * weights), terms, so_far), gradients


def _on_mesh(sweep, setup, unembedding, constants, so_far, perturbed):
    """`sweep` under `jax.shard_map`, every device with its tokens and its columns."""
    layout = setup.layout
    by_token = PartitionSpec(layout.data)
    teacher, _, _, step = constants
    head_specs = layout.head_specs(unembedding)
    teacher_specs = jax.tree.map(lambda _: by_token, teacher)
    if isinstance(teacher, teachers.TeacherHidden):
        teacher_specs = teachers.TeacherHidden(by_token, layout.head_specs(teacher.unembedding))
    constant_specs = teacher_specs, by_token, by_token, None if step is None else PartitionSpec()
    gradient_specs = by_token if perturbed[0] else None, head_specs if perturbed[1] else None
    sum_specs = None if so_far is None else layout.gradient_specs(unembedding)
    return jax.shard_map(
        sweep,
        mesh=layout.mesh,
        in_specs=(by_token, head_specs, constant_specs, sum_specs),
        out_specs=(by_token, gradient_specs, sum_specs),
        check_vma=False,  # a loop's carry starts the same on all devices and ends different
    )


def _sweep(setup, perturbed, hidden, unembedding, constants, so_far):
    """This device's part: a loop over chunks of its counted tokens.

    Returns (terms, gradients, so_far with this batch's part).
    """
    teacher, targets, weights, step = constants
    data_axes, tensor_axis = ((), None) if setup.layout is None else setup.layout.split_axes()
    columns, shape = Columns(setup.num_ids, tensor_axis), targets.shape
    head = _cast(unembedding)
    is_hidden = isinstance(teacher, teachers.TeacherHidden)
    teacher_head = _cast(teacher.unembedding) if is_hidden else None
    facts = teacher.hidden if is_hidden else teacher
    per_token = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[len(shape) :]), (hidden, facts, targets, weights)
    )

    count = per_token[3].size
    size = _chunk_size(count, setup.chunk_tokens)
    slots = -(-count // size) * size
    order, num_counted, num_chunks = _counted_first(per_token[3], size, data_axes)

    ############################ The loop ############################
    def one_chunk(i, carry):
        terms, d_hidden, d_head = carry
        start = i * size
        rows = jax.lax.dynamic_slice_in_dim(jnp.pad(order, (0, slots - count)), start, size)
        is_real = start + jnp.arange(size) < num_counted
        tokens = jax.tree.map(lambda x: _keep(x[rows], is_real), per_token)
        chunk_terms, gradient = _chunk(
            setup, head, teacher_head, tokens, is_real, step, columns, num_counted,
            with_gradient=any(perturbed) or so_far is not None,
        )  # fmt: skip
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        terms = jax.tree.map(put, terms, chunk_terms)
        if d_hidden is not None:
            d_hidden = put(d_hidden, _d_hidden(head, gradient))
        if d_head is not None:
            d_head = jax.tree.map(jnp.add, d_head, _d_head(head, tokens[0], gradient))
        return terms, d_hidden, d_head

    d_head = _first_d_head(head, perturbed[1], so_far)
    d_hidden = jnp.zeros((slots, hidden.shape[-1]), jnp.float32) if perturbed[0] else None
    first = _no_terms(setup, teacher, slots), d_hidden, d_head
    terms, d_hidden, d_head = _over_chunks(num_chunks, slots // size, one_chunk, first)

    ############################ Back in order, added up once ############################
    slot_of = jnp.zeros((count,), order.dtype).at[order].set(jnp.arange(count, dtype=order.dtype))
    terms = jax.tree.map(lambda x: x[slot_of].reshape(shape), terms)
    if d_hidden is not None:
        d_hidden = jax.lax.psum(d_hidden, tensor_axis) if tensor_axis else d_hidden
        d_hidden = d_hidden[slot_of].reshape(hidden.shape).astype(hidden.dtype)
    if so_far is not None:
        so_far = HeadGradient(d_head.kernel, d_head.bias)
        return terms, (d_hidden, None), jax.tree.map(lambda x: x[None], so_far)
    if d_head is not None:
        d_head = jax.lax.psum(d_head, data_axes) if data_axes else d_head
        d_head = jax.tree.map(lambda g, x: g.astype(x.dtype), d_head, unembedding)
    return terms, (d_hidden, d_head), None


def _over_chunks(num_chunks, most, one_chunk, first):
    """What is carried after all chunks, of which there are `most` at most."""
    if most == 1:  # no loop, so that nothing is added to zeros
        return one_chunk(0, first)
    with jax.named_scope(f"{LOOP_LIMIT}{most}"):
        return jax.lax.fori_loop(0, num_chunks, one_chunk, first)


def _first_d_head(head, is_perturbed, so_far):
    """This device's gradient of the output layer before the batch, or None."""
    if so_far is not None:
        own = jax.tree.map(lambda x: x[0], so_far)
        return dataclasses.replace(head, kernel=own.kernel, bias=own.bias)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), head) if is_perturbed else None


def _counted_first(weights, size, data_axes):
    """(order of the tokens, number that count, number of chunks)."""
    is_counted = weights != 0
    num_counted = jnp.sum(is_counted)
    num_chunks = -(-num_counted // size)
    if data_axes:  # every device does as many rounds: they meet in the exchanges
        num_chunks = jax.lax.pmax(num_chunks, data_axes)
    return jnp.argsort(~is_counted, stable=True), num_counted, num_chunks


def _chunk_size(count: int, most: int) -> int:
    """Tokens in a chunk: about equal ones, but in whole tiles of a matrix unit."""
    even = -(-count // -(-count // most))
    return min(most, count, -(-even // 128) * 128)


def _cast(head: Unembedding) -> Unembedding:
    """The head with its kernel in the dtype of the product: cast once, not in every chunk."""
    return dataclasses.replace(head, kernel=head.kernel.astype(head.dtype))


def _keep(values, is_real):
    """Zero where a slot holds no counted token, whose values may be NaN."""
    mask = jnp.expand_dims(is_real, range(1, values.ndim))
    return jnp.where(mask, values, jnp.zeros((), values.dtype))


def _chunk(setup, head, teacher_head, tokens, is_real, step, columns, num_counted, with_gradient):
    """Terms of a chunk, and the gradient of its weighted loss for `hidden @ kernel`."""
    hidden, teacher, targets, weights = tokens
    raw = head.all_logits(hidden)
    if teacher_head is not None:
        teacher = teacher_head.all_logits(teacher)
        teacher = columns.floored(teacher, may_be_inf=teacher_head.bias is not None)
    elif isinstance(teacher, teachers.TeacherTopK):
        teacher = teacher.where(is_real)
    logits = columns.floored(raw, may_be_inf=head.bias is not None)
    terms, gradient = closed_form.token_terms(
        setup.loss, logits, teacher, targets, step, columns, num_counted,
        every_metric=setup.every_metric, with_gradient=with_gradient,
    )  # fmt: skip
    if not with_gradient:
        return terms, None
    gradient = gradient * weights.astype(jnp.float32)[:, None]
    if head.soft_cap is not None:  # the derivative of cap * tanh(x / cap)
        gradient = gradient * (1.0 - jnp.square(raw / head.soft_cap))
    return terms, gradient


def _d_hidden(head: Unembedding, gradient) -> Float[Array, "C D"]:
    """Gradient for the hidden states, from this device's columns."""
    dims = (((1,), (0 if head.tied else 1,)), ((), ()))
    product = jax.lax.dot_general(
        gradient.astype(head.dtype), head.kernel, dims, preferred_element_type=jnp.float32
    )
    return product * head.scale


def _d_head(head: Unembedding, hidden, gradient) -> Unembedding:
    """Gradient for kernel and bias, from this device's tokens."""
    pair: Any = head.scaled(hidden), gradient.astype(head.dtype)
    left, right = reversed(pair) if head.tied else pair
    kernel = jax.lax.dot_general(
        left, right, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    bias = None if head.bias is None else jnp.sum(gradient, axis=0)
    return dataclasses.replace(head, kernel=kernel, bias=bias)


def _no_terms(setup, teacher, slots) -> sums.TokenTerms:
    """Terms before any token is computed."""
    shows_kl = teachers.shows_kl(teacher, setup.loss.teacher_need, setup.every_metric)
    number, flag = jnp.zeros((slots,), jnp.float32), jnp.zeros((slots,), bool)
    return sums.TokenTerms(
        loss=number,
        kept=number,
        cross_entropy=number,
        entropy=number,
        student_ok=flag,
        teacher_ok=None if teacher is None else flag,
        teacher_kl=number if shows_kl else None,
    )
