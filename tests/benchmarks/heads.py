"""The loss heads that `loss_head.py` compares, ours and those of public packages."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.losses import fused, teachers, variants
from cascade_jax.unembedding import Unembedding


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is computed. `metrics`: "needed" is what costs nothing beside the loss."""

    tokens: int = 4096
    features: int = 512
    teacher_features: int = 768
    vocab: int = 32128
    dtype: str = "float32"
    chunk_tokens: int | None = None
    metrics: str = "needed"
    microbatches: int = 1


########################################### The heads ###########################################


@dataclasses.dataclass(frozen=True)
class Head:
    """A way to the loss and its gradients.

    Attributes:
      name: in the table.
      make: (sizes, loss, mesh or None) -> step; step(trained, fixed) -> ((loss sum, metrics),
        gradients) with trained = (hidden, kernel) and fixed = (teacher's hidden and kernel,
        targets, weights), the teacher's being None for a loss that needs none.
      package: (module, name for pip) of a peer, which has the cross-entropy alone.
      by_token_id: its kernel is [V, D] and not [D, V].
      vocab_multiple: what the vocabulary must be a multiple of.
    """

    name: str
    make: Callable
    package: tuple[str, str] | None = None
    by_token_id: bool = False
    vocab_multiple: int = 1


def plain(sizes: Sizes, loss: variants.Loss, mesh: Mesh | None) -> Callable:
    """Whole logits of both models, then the variant; gradients by JAX."""

    def logits(hidden, kernel):
        result = Unembedding(kernel, dtype=sizes.dtype).logits(hidden)
        if mesh is None:
            return result
        split = NamedSharding(mesh, PartitionSpec("data", "tensor"))
        return jax.lax.with_sharding_constraint(result, split)

    def value(trained, fixed):
        teacher_hidden, teacher_kernel, targets, weights = fixed
        teacher = None if teacher_hidden is None else logits(teacher_hidden, teacher_kernel)
        return _shown(sizes, loss(logits(*trained), teacher, targets, weights, **_every(sizes)))

    return jax.value_and_grad(value, has_aux=True)


def by_hand(sizes: Sizes, loss: variants.Loss, mesh: Mesh | None) -> Callable:
    """What one would write down: the loss alone, no metrics, no options, no care for padding."""
    is_dist = isinstance(loss, variants.Dist)

    def is_right(logits, targets):
        return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] >= logits.max(-1)

    def value(trained, fixed):
        teacher_hidden, teacher_kernel, targets, weights = fixed
        logits = trained[0] @ trained[1]
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        per_token = -jnp.take_along_axis(log_p, targets[:, None], axis=-1)[:, 0]
        if teacher_hidden is not None:
            theirs = teacher_hidden @ teacher_kernel
            if is_dist:
                soft = jax.nn.softmax(theirs.astype(jnp.float32))
                per_token = 0.5 * per_token - 0.5 * jnp.sum(soft * log_p, axis=-1)
            weights = weights * (is_right(logits, targets) | is_right(theirs, targets))
        return jnp.sum(weights * per_token), {}

    return jax.value_and_grad(value, has_aux=True)


def fused_head(sizes: Sizes, loss: variants.Loss, mesh: Mesh | None) -> Callable:
    """cascade_jax.losses.fused."""
    layout = None if mesh is None else fused.Layout(mesh, "data")

    def value(trained, fixed):
        teacher_hidden, teacher_kernel, targets, weights = fixed
        teacher = None
        if teacher_hidden is not None:
            teacher = teachers.TeacherHidden(
                teacher_hidden, Unembedding(teacher_kernel, dtype=sizes.dtype)
            )
        result = fused.loss_sums(
            loss, trained[0], Unembedding(trained[1], dtype=sizes.dtype), teacher, targets,
            weights, chunk_tokens=sizes.chunk_tokens, layout=layout, **_every(sizes),
        )  # fmt: skip
        return _shown(sizes, result)

    return jax.value_and_grad(value, has_aux=True)


def _every(sizes):
    return {"every_metric": sizes.metrics == "every"}


def _shown(sizes, result):
    return result.loss_sum, {} if sizes.metrics == "none" else result.metrics


def jax_cce(sizes: Sizes, loss: variants.Loss, mesh: Mesh | None) -> Callable:
    """The package jax-cce, in chunks of the vocabulary that have no remainder."""
    import jax_cce as package

    chunk = max(size for size in range(1, 4097) if sizes.vocab % size == 0)
    mean = functools.partial(package.linear_cross_entropy, chunk_size=chunk)
    return _peer(lambda x, w, y: x.shape[0] * mean(x, w, y), mesh, columns=0)


def tokamax(sizes: Sizes, loss: variants.Loss, mesh: Mesh | None, *, implementation) -> Callable:
    """The package tokamax."""
    import tokamax as package

    def value(x, w, y):
        return package.linear_softmax_cross_entropy_loss(
            x, y, w, reduction="sum", implementation=implementation
        )

    return _peer(value, mesh, columns=1)


def _peer(value, mesh, columns):
    """`step` of a function (hidden, kernel, targets) -> loss sum.

    On a mesh all chips split the tokens and each takes the whole kernel, the best these packages
    can do there; the kernel's gradient is added up in its own dtype.
    """
    gradient_fn = jax.value_and_grad(value, (0, 1))
    if mesh is None:

        def step(trained, fixed):
            result, gradients = gradient_fn(*trained, fixed[2])
            return (result, {}), gradients

        return step

    def on_each(x, w, y):
        result, (dx, dw) = gradient_fn(x, w, y)
        scatter = functools.partial(
            jax.lax.psum_scatter, axis_name="tensor", scatter_dimension=columns, tiled=True
        )
        gradients = dx.astype(x.dtype), jax.lax.psum(scatter(dw.astype(w.dtype)), "data")
        return (jax.lax.psum(result, ("data", "tensor")), {}), gradients

    tokens = PartitionSpec(("data", "tensor"))
    split = PartitionSpec(*[None] * columns, "tensor")
    mapped = jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(tokens, PartitionSpec(), tokens),
        out_specs=((PartitionSpec(), {}), (tokens, split)),
        check_vma=False,
    )
    return lambda trained, fixed: mapped(*trained, fixed[2])


def in_microbatches(head: Head, sizes: Sizes, loss: variants.Loss, mesh: Mesh | None) -> Callable:
    """The head's step over several microbatches in a scan, gradients added in float32.

    As in training, the fused head adds the output matrix's gradient itself.
    """
    adds_itself = head.name == FUSED.name
    layout = None if mesh is None else fused.Layout(mesh, "data")
    step = head.make(sizes, loss, mesh)

    def cut(rows):
        parts = rows.reshape(-1, sizes.microbatches, *rows.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return parts
        split = NamedSharding(mesh, PartitionSpec(None, "data"))
        return jax.lax.with_sharding_constraint(parts, split)

    def begin(kernel, teacher_kernel):
        theirs = None
        if teacher_kernel is not None:
            theirs = Unembedding(teacher_kernel, dtype=sizes.dtype)
        return fused.HeadState.begin(Unembedding(kernel, dtype=sizes.dtype), theirs, layout)

    def fused_part(head_state, hidden, teacher_hidden, labels):
        def value(hidden):
            result, state = fused.microbatch_sums(
                loss, hidden, teacher_hidden, *labels, head_state,
                chunk_tokens=sizes.chunk_tokens, layout=layout, **_every(sizes),
            )  # fmt: skip
            return result.loss_sum, state.gradient

        return jax.value_and_grad(value, has_aux=True)(hidden)

    def whole_step(trained, fixed):
        hidden, kernel = trained
        teacher_hidden, teacher_kernel, *labels = fixed
        state = begin(kernel, teacher_kernel) if adds_itself else None

        def add(carry, part):
            (loss_sum, total), (hidden, teacher_hidden, labels) = carry, part
            if adds_itself:
                arguments = state.replace(gradient=total), hidden, teacher_hidden, labels
                (more, total), d_hidden = fused_part(*arguments)
            else:
                (more, _), (d_hidden, d_kernel) = step(
                    (hidden, kernel), (teacher_hidden, teacher_kernel, *labels)
                )
                total = total + d_kernel.astype(jnp.float32)
            return (loss_sum + more, total), d_hidden

        zero = state.gradient if adds_itself else jnp.zeros(kernel.shape, jnp.float32)
        parts = jax.tree.map(cut, (hidden, teacher_hidden, labels))
        (loss_sum, total), d_hidden = jax.lax.scan(add, (jnp.zeros(()), zero), parts)
        d_hidden = d_hidden.swapaxes(0, 1).reshape(hidden.shape)
        if adds_itself:
            total = total.total(state.student).kernel
            total = total if total.shape == kernel.shape else total.T
        return (loss_sum, {}), (d_hidden, total.astype(kernel.dtype))

    return whole_step


PLAIN = Head("plain", plain)
BY_HAND = Head("by hand, no metrics", by_hand)
FUSED = Head("fused", fused_head)
CCE = Head("jax-cce", jax_cce, ("jax_cce", "jax-cce"), by_token_id=True)
TOKAMAX_XLA = Head(
    "tokamax (xla)", functools.partial(tokamax, implementation="xla"), ("tokamax", "tokamax")
)
TOKAMAX_MOSAIC = Head(
    "tokamax (mosaic_tpu)", functools.partial(tokamax, implementation="mosaic_tpu"),
    ("tokamax", "tokamax"), vocab_multiple=512,  # other vocabularies give wrong losses on v5e
)  # fmt: skip


def heads_of(loss: variants.Loss, peers: tuple[Head, ...]) -> tuple[Head, ...]:
    """The heads that have the variant."""
    has_peers = isinstance(loss, variants.Xent) and not loss.needs_teacher
    return (PLAIN, BY_HAND, FUSED, *(peers if has_peers else ()))


def shapes(sizes: Sizes, loss: variants.Loss, head: Head) -> tuple:
    """(trained, fixed) as shapes and dtypes."""

    def array(*shape, dtype=sizes.dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    n, d, d_l, v = sizes.tokens, sizes.features, sizes.teacher_features, sizes.vocab
    teacher = (array(n, d_l), array(d_l, v)) if loss.needs_teacher else (None, None)
    kernel = array(v, d) if head.by_token_id else array(d, v)
    labels = array(n, dtype="int32"), array(n, dtype="float32")
    return (array(n, d), kernel), (*teacher, *labels)


def compile_step(head: Head, sizes: Sizes, loss: variants.Loss) -> jax.stages.Compiled:
    """The head's step for one CPU device."""
    step = jax.jit(head.make(sizes, loss, None))
    return step.lower(*shapes(sizes, loss, head)).compile()
