"""The forms in which a loss gets the teacher's outputs.

| given | serves |
|---|---|
| logits, as an array | every variant (plain head) |
| TeacherHidden | every variant (fused head): logits are made chunk by chunk |
| TeacherArgmax | CAT-Xent and its -L and -S forms: was the teacher right? |
| TeacherTopK | every variant: k log-probs, the rest of the vocabulary as one more bucket |
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import numerics
from cascade_jax.unembedding import Unembedding

# What float32 can tell from 0 when it adds up probabilities that make 1.
_SMALLEST_TAIL = 1e-7


@flax.struct.dataclass
class TeacherHidden:
    """The teacher's hidden states [*n, D] and its last map, for the fused head."""

    hidden: Float[Array, "*n D"]
    unembedding: Unembedding


@flax.struct.dataclass
class TeacherArgmax:
    """For each token, whether no token has a larger teacher logit than the label."""

    is_correct: Bool[Array, "*n"]


@flax.struct.dataclass
class TeacherTopK:
    """The teacher's k most likely tokens, the most likely one first or not.

    Attributes:
      log_probs: their log-probs, over the whole vocabulary and at temperature 1.
      ids: their token ids, all different.
      label_is_best: whether no token has a larger teacher logit than the label; None finds it from
        `log_probs`, which must not be rounded then.
      log_tail: log of what the k leave to the other tokens; None takes 1 less their sum.
    """

    log_probs: Float[Array, "*n k"]
    ids: Int[Array, "*n k"]
    label_is_best: Bool[Array, "*n"] | None = None
    log_tail: Float[Array, "*n"] | None = None

    @property
    def k(self) -> int:
        return self.ids.shape[-1]

    def buckets(self, num_ids: int) -> Float[Array, "*n buckets"]:
        """Log-probs of the k tokens and, unless they are all, of the others together.

        The tail is at least 1e-7, float32's resolution of what the k leave. Rounded log-probs and
        tail need not add up to 1.
        """
        log_p = jnp.maximum(self.log_probs.astype(jnp.float32), numerics.LOWEST)
        if self.k >= num_ids:
            return log_p
        if self.log_tail is None:
            tail = 1.0 - jnp.sum(jnp.exp(log_p), axis=-1, keepdims=True)
        else:
            tail = jnp.exp(self.log_tail.astype(jnp.float32))[..., None]
        return jnp.concatenate([log_p, jnp.log(jnp.maximum(tail, _SMALLEST_TAIL))], axis=-1)

    def is_correct(self, targets: Int[Array, "*n"]) -> Bool[Array, "*n"]:
        """`label_is_best`; else whether the label is among the k and none of them is likelier."""
        if self.label_is_best is not None:
            return self.label_is_best
        best = jnp.max(self.log_probs, axis=-1, keepdims=True)
        return jnp.any((self.ids == targets[..., None]) & (self.log_probs >= best), axis=-1)

    def argmax(self) -> Int[Array, "*n"]:
        """Id of the most likely token; of several, the smallest id."""
        best = jnp.max(self.log_probs, axis=-1, keepdims=True)
        largest = jnp.iinfo(self.ids.dtype).max
        return jnp.min(jnp.where(self.log_probs >= best, self.ids, largest), axis=-1)

    def where(self, counted: Bool[Array, "*n"]) -> "TeacherTopK":
        """The same on counted tokens, and harmless figures elsewhere."""
        harmless = jnp.arange(self.k, dtype=self.ids.dtype)
        tail, of_each = self.log_tail, -jnp.log(self.k + 1.0)
        if tail is not None:
            tail = jnp.where(counted, tail, of_each)
        counted = counted[..., None]
        return dataclasses.replace(
            self,
            log_probs=jnp.where(counted, self.log_probs, of_each),
            ids=jnp.where(counted, self.ids, jnp.expand_dims(harmless, range(counted.ndim - 1))),
            log_tail=tail,
        )


Teacher = jax.Array | TeacherHidden | TeacherArgmax | TeacherTopK


def with_wide_ids(teacher: Teacher | None) -> Teacher | None:
    """With top-k ids as int32, which can be compared with any size of vocabulary."""
    if not isinstance(teacher, TeacherTopK):
        return teacher
    return dataclasses.replace(teacher, ids=teacher.ids.astype(jnp.int32))


def verdict(
    teacher: Teacher | None,
    targets: Int[Array, "*n"],
    compare_logits: Callable[[Array], tuple[Bool[Array, "*n"], Bool[Array, "*n"]]],
) -> tuple[Bool[Array, "*n"] | None, Bool[Array, "*n"] | bool]:
    """Whether the teacher (None: neither) is right on each token, and whether its outputs are NaN.

    `compare_logits` computes both from logits, which each head has in its own form.
    """
    match teacher:
        case None:
            return None, False
        case TeacherArgmax():
            return teacher.is_correct, False
        case TeacherTopK():
            return teacher.is_correct(targets), jnp.isnan(teacher.log_probs).any(-1)
        case _:
            return compare_logits(teacher)


def shows_kl(teacher: Teacher | None, need: str, every_metric: bool) -> bool:
    """Whether KL(p_L || p_S) is measured: its whole p_L is known, and used or asked for.

    A loss whose `teacher_need` is only the argmax is spared the teacher's softmax in training.
    """
    if teacher is None or isinstance(teacher, TeacherArgmax | TeacherTopK):
        return False
    return every_metric or need == "distribution"
