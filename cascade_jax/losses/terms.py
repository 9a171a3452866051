"""Per-token loss terms on arrays: elementwise over tokens, never a sum over them.

All take `axis`, the vocabulary axis, and `where`, a mask that broadcasts to the logits and is False
for columns that are no tokens (padding of the vocabulary). They work in float32 and return nats.
A logit of -inf is a token of probability 0; it stays finite in every value and gradient.

Example: the label has probability 0.8, the teacher gives it 0.5.

    student = log([0.8, 0.2]);  teacher = log([0.5, 0.5]);  target = 0
    cross_entropy(student, target)        = -log 0.8                             = 0.223
    soft_cross_entropy(student, teacher)  = -(0.5 log 0.8 + 0.5 log 0.2)         = 0.916
    forward_kl(student, teacher)          = 0.916 - log 2                        = 0.223
    reverse_kl(student, teacher)          = 0.8 log(0.8/0.5) + 0.2 log(0.2/0.5)  = 0.193
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cascade_jax import numerics

Logits = Float[Array, "..."]
PerToken = Float[Array, "..."]
Where = Bool[Array, "..."] | None


def cross_entropy(
    logits: Logits,
    targets: Int[Array, "..."],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    axis: int = -1,
    where: Where = None,
) -> PerToken:
    """Cross-entropy with the label, `-log p(y)`.

    With label smoothing e over V tokens the target is q = 1 - e on the label and e / (V - 1) on
    each other token, and the value is KL(q || p): the entropy of q is taken off, so that the best
    value is 0. The z-loss adds `z_loss * log(Z)^2`, Z being the sum of the exponentials of the
    logits. Both are as T5X has them.

    Args:
      logits: student logits of any floating dtype.
      targets: labels in [0, V), of the logits' shape without `axis`; one outside gives NaN.
      label_smoothing: e, in [0, 1).
      z_loss: its factor, at least 0; T5X uses 1e-4.
      axis, where: see the head of this file.

    Reference: CAT, equation 2 (its summand); Raffel et al. 2020 for smoothing and z-loss in T5.
    """
    x, where = _last(logits, axis, where)
    log_p = numerics.log_probs(x, where=where)
    picked = _pick(log_p, targets)
    value = -picked
    if label_smoothing:
        confidence, low, entropy = smoothed_target(label_smoothing, _num_ids(x, where))
        rest = jnp.sum(log_p if where is None else jnp.where(where, log_p, 0.0), axis=-1)
        value = -(low * rest + (confidence - low) * picked) - entropy
    if z_loss:
        value = value + z_loss * jnp.square(numerics.log_sum_exp(x, where=where))
    return value


def smoothed_target(label_smoothing: float, num_ids):
    """(probability of the label, of each other token, entropy) of the smoothed target."""
    confidence = 1.0 - label_smoothing
    low = label_smoothing / (num_ids - 1)
    log_low = jnp.log(low) if isinstance(low, jax.Array) else math.log(low)
    return confidence, low, -(confidence * math.log(confidence) + label_smoothing * log_low)


def divergence(
    name: str,
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    beta: float = 0.5,
    axis: int = -1,
    where: Where = None,
) -> PerToken:
    """How far the student's distribution is from the teacher's.

    | name | value |
    |---|---|
    | cross_entropy | `-sum_v p_L(v) log p_S(v)`: forward KL plus the teacher's entropy |
    | forward_kl | `KL(p_L || p_S)`: the student must cover all the teacher does |
    | reverse_kl | `KL(p_S || p_L)`: the student keeps to one mode |
    | jensen_shannon | beta KL(p_L || m) + (1 - beta) KL(p_S || m), m = beta p_L + (1 - beta) p_S |

    Args:
      name: one of `variants.DIVERGENCES`.
      student_logits, teacher_logits: of one shape.
      temperature: divides both logits; no T^2 factor here.
      beta: in (0, 1), of "jensen_shannon"; divided by beta (by 1 - beta) that tends to forward
        (reverse) KL at 0 (at 1).
      axis, where: see the head of this file.

    Reference: CAT, equation 3 (its second summand; no temperature); Hinton et al. 2015; Agarwal et
    al. 2024 (GKD) for the generalised Jensen-Shannon divergence.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {student_logits.shape} and teacher logits {teacher_logits.shape} "
            "must have one shape"
        )
    student, mask = _last(student_logits, axis, where)
    teacher, _ = _last(teacher_logits, axis, where)
    log_s = numerics.log_probs(student, temperature=temperature, where=mask)
    log_l = numerics.log_probs(teacher, temperature=temperature, where=mask)
    return jnp.sum(divergence_summand(name, log_s, log_l, beta), axis=-1)


soft_cross_entropy = functools.partial(divergence, "cross_entropy")
forward_kl = functools.partial(divergence, "forward_kl")
reverse_kl = functools.partial(divergence, "reverse_kl")
jensen_shannon = functools.partial(divergence, "jensen_shannon")


def kl_to_uniform(logits: Logits, *, axis: int = -1, where: Where = None) -> PerToken:
    """`KL(p || U) = log V - H(p)`, 0 where p is uniform. Reference: Gatekeeper's loss."""
    x, where = _last(logits, axis, where)
    log_p = numerics.log_probs(x, where=where)
    return jnp.log(_num_ids(x, where)) + jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def kl_from_uniform(logits: Logits, *, axis: int = -1, where: Where = None) -> PerToken:
    """`KL(U || p) = -log V - mean_v log p(v)`. Reference: Gatekeeper's loss, other direction."""
    x, where = _last(logits, axis, where)
    log_p = numerics.log_probs(x, where=where)
    count = _num_ids(x, where)
    rest = jnp.sum(log_p if where is None else jnp.where(where, log_p, 0.0), axis=-1)
    return -jnp.log(count) - rest / count


def is_correct(
    logits: Logits, targets: Int[Array, "..."], *, axis: int = -1, where: Where = None
) -> Bool[Array, "..."]:
    """True where no token has a larger logit than the label; a tie with the label is right.

    Reference: the argmax of CAT, equation 8, with the tie-break stated above.
    """
    x, where = _last(logits, axis, where)
    x = numerics.floored(x, where)
    return _pick(x, targets) >= jnp.max(x, axis=-1)


def top_k_log_probs(
    logits: Logits, ids: Int[Array, "... k"], *, axis: int = -1, where: Where = None
) -> Float[Array, "... buckets"]:
    """Log-probs of k tokens and, unless they are all, of the other tokens together as the last one.

    Example: probabilities [0.5, 0.2, 0.2, 0.1] and ids [0, 3] give log [0.5, 0.1, 0.4].

    Args:
      logits: of any floating dtype.
      ids: k different tokens each; one outside [0, V) gives NaN.
      axis, where: see the head of this file; with `where`, k must be below the number of tokens.
    """
    x, where = _last(logits, axis, where)
    x = numerics.floored(x, where)
    ids = ids.astype(jnp.int32)
    picked = jnp.take_along_axis(x, ids, axis=-1)
    picked = jnp.where((ids >= 0) & (ids < x.shape[-1]), picked, jnp.nan)
    log_z = numerics.log_sum_exp(x)[..., None]
    if ids.shape[-1] >= x.shape[-1]:
        return picked - log_z
    rest = jnp.put_along_axis(x, ids, numerics.LOWEST, axis=-1, inplace=False)
    rest = numerics.log_sum_exp(rest)[..., None]
    return jnp.concatenate([picked, rest], axis=-1) - log_z


def divergence_summand(name, log_student, log_teacher, beta) -> Float[Array, "*n K"]:
    """What `divergence` sums over the last axis, of finite log-probs (-1e30 for none)."""
    p_s, p_l = jnp.exp(log_student), jnp.exp(log_teacher)
    match name:
        case "cross_entropy":
            return -p_l * log_student
        case "forward_kl":
            return p_l * (log_teacher - log_student)
        case "reverse_kl":
            return p_s * (log_student - log_teacher)
        case "jensen_shannon":
            log_m = log_mixture(log_student, log_teacher, beta)
            return beta * p_l * (log_teacher - log_m) + (1 - beta) * p_s * (log_student - log_m)
    raise ValueError(f"divergence {name!r} is unknown")


def log_mixture(log_student, log_teacher, beta):
    """`log(beta p_L + (1 - beta) p_S)`."""
    return jnp.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))


def _last(logits, axis, where):
    """Logits and mask with the vocabulary as the last axis."""
    if where is not None:
        where = jnp.moveaxis(jnp.broadcast_to(where, logits.shape), axis, -1)
    return jnp.moveaxis(logits, axis, -1), where


def _num_ids(x, where):
    return x.shape[-1] if where is None else jnp.sum(where, axis=-1).astype(jnp.float32)


def _pick(values: Float[Array, "*n V"], targets: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """values at the targets; NaN where a target is outside [0, V)."""
    targets = targets.astype(jnp.int32)
    inside = (targets >= 0) & (targets < values.shape[-1])
    safe = jnp.where(inside, targets, 0)
    picked = jnp.take_along_axis(values, safe[..., None], axis=-1)[..., 0]
    return jnp.where(inside, picked, jnp.nan)
