"""Per-token loss terms. Every function is elementwise over tokens and never reduces over them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import numerics


def cross_entropy(logits: Float[Array, "*n V"], targets: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Cross-entropy with the label: `-log p(y)`, in nats.

    Args:
      logits: student logits of any floating dtype.
      targets: labels in [0, V).

    Returns:
      float32, one value per token.

    Reference: CAT, equation 2 (its summand).
    """
    log_p = numerics.log_probs(logits)
    return -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]


def soft_cross_entropy(
    student_logits: Float[Array, "*n V"], teacher_logits: Float[Array, "*n V"]
) -> Float[Array, "*n"]:
    """Cross-entropy with the teacher's distribution: `-sum_v p_L(v) log p_S(v)`, in nats.

    It is KL(p_L || p_S) plus the teacher's entropy, so its gradient for the student is that of the
    KL. A token that the teacher gives probability 0 (logit -inf) adds nothing.

    Reference: CAT, equation 3 (its second summand; no temperature).
    """
    log_student = numerics.log_probs(student_logits)
    teacher = jax.nn.softmax(teacher_logits.astype(jnp.float32), axis=-1)
    log_student = jnp.where(teacher > 0, log_student, 0.0)
    return -jnp.sum(teacher * log_student, axis=-1)


def is_correct(logits: Float[Array, "*n V"], targets: Int[Array, "*n"]) -> Bool[Array, "*n"]:
    """True where no token has a larger logit than the label; a tie with the label is right.

    Reference: the argmax of CAT, equation 8, with the tie-break stated above.
    """
    label_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return label_logit >= jnp.max(logits, axis=-1)
