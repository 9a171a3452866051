"""Per-token losses from logits with their gradients in closed form, on split vocabularies too.

With p the student's and l the teacher's distribution, q the (smoothed) label, at temperature T:

| term | gradient for the logits |
|---|---|
| ce | p - q |
| log(Z)^2 | 2 log(Z) p |
| KL(p, U) | p (log p + H(p)) |
| KL(U, p) | p - 1/V |
| divergence at T | r / T, r being for the logits divided by T: |
| cross_entropy, forward_kl | r = p - l |
| reverse_kl | r = p (log p - log l - KL(p, l)) |
| jensen_shannon, m its mixture | r = (1 - beta) p (log p - log m - KL(p, m)) |

Top-k facts: r is computed on the k + 1 buckets; the tail's goes to its tokens in proportion to p.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cascade_jax import numerics
from cascade_jax.losses import schedules, sums, teachers, terms
from cascade_jax.losses.columns import Columns


class _Softmax(NamedTuple):
    """A softmax by its logits and normaliser; p is made anew in every loop that uses it.

    Left alone, XLA on a CPU finds the common p, writes it to memory and reads it back for each sum:
    that takes longer than another exponential and holds more arrays. So every use asks with a
    number of its own, which adds a zero that the compiler cannot know to be one.

    Maximum and total stay apart: in their sum, log Z, rounding would eat what tells the probability
    of a confident token from 1.
    """

    logits: Float[Array, "C width"]  # over the temperature
    top: Float[Array, " C"]  # their maximum over the vocabulary
    total: Float[Array, " C"]  # sum of the exponentials of `logits - top`
    count: Int[Array, ""]  # a number of at least 0 that is not known when compiling

    @property
    def log_total(self) -> Float[Array, " C"]:
        return jnp.log(self.total)

    def shifted(self, use: int) -> Float[Array, "C width"]:
        """`logits - top`, not shared with that of another `use` (at least 0)."""
        return self.logits - (self.top + self._zero(use))[:, None]

    def exp(self, use: int) -> Float[Array, "C width"]:
        """Probabilities times `total`; `use` as in `shifted`."""
        return jnp.exp(self.shifted(use))

    def log_p(self, use: int) -> Float[Array, "C width"]:
        """Log-probs; `use` as in `shifted`."""
        return self.shifted(use) - (self.log_total + self._zero(use))[:, None]

    def _zero(self, use: int) -> Float[Array, ""]:
        return jnp.minimum(self.count + use, 0).astype(jnp.float32)


# Loops over [C, width] that are to stay apart.
_ENTROPY, _CROSS, _KL, _VALUE, _SMOOTHING, _GRADIENT = range(6)


def _softmax(logits, columns: Columns, count, temperature=1.0) -> _Softmax:
    if not (isinstance(temperature, int | float) and temperature == 1.0):
        logits = logits / temperature
    top = columns.max(logits)
    total = columns.sum(jnp.exp(logits - top[:, None]))
    return _Softmax(logits, top, total, count)


def token_terms(
    loss, logits, teacher, targets, step, columns, count, *, every_metric, with_gradient
):
    """Terms of C tokens, and the gradient of each token's loss for its logits.

    Args:
      loss, targets, step, every_metric: as in `variants.Loss.__call__`; targets [C].
      logits: float32 student logits [C, width], `columns.floored`.
      teacher: None, teacher logits like these, or facts, harmless on uncounted tokens.
      columns: which columns of the vocabulary these are.
      count: a number of at least 0 that is not known when compiling, such as that of the tokens.
      with_gradient: False gives None for the gradient.

    Returns:
      (TokenTerms, float32 gradient [C, width] or None).
    """
    student = _softmax(logits, columns, count)
    student_ok, picked = _label(student, targets, columns)
    teacher_ok, teacher_is_nan = _verdict(teacher, targets, columns)
    labels, label_ok, cross_entropy = targets, student_ok, -picked
    if loss.labels == "teacher":
        labels = _teacher_label(teacher, columns)
        label_ok, picked = _label(student, labels, columns)
    coefficients = loss.coefficients(label_ok, teacher_ok, step)
    shared = teacher_kl = None
    mean_shifted = columns.sum(student.exp(_ENTROPY) * student.shifted(_ENTROPY)) / student.total
    entropy = student.log_total - mean_shifted
    if teachers.shows_kl(teacher, loss.teacher_need, every_metric):
        shared, cross, teacher_kl = _compare(teacher, student, columns)

    factor, values, gradients = _hard(loss, coefficients, student, labels, picked, columns)
    if coefficients.soft is not None:
        if shared is not None and _is_papers_term(loss):
            # p - l as two summands, the first of which joins the label's p.
            values.append(coefficients.soft * cross)
            factor = factor + coefficients.soft
            gradients.append(-(coefficients.soft / shared.total)[:, None] * shared.exp(_GRADIENT))
        else:
            value, gradient = _soft(loss, logits, teacher, step, columns, student)
            values.append(coefficients.soft * value)
            gradients.append(coefficients.soft[:, None] * gradient)
    if coefficients.uniform is not None:
        value, gradient = _uniform(loss, student, entropy, columns)
        values.append(coefficients.uniform * value)
        gradients.append(coefficients.uniform[:, None] * gradient)
    gradients.append((factor / student.total)[:, None] * student.exp(_GRADIENT))
    is_wrong = (targets < 0) | (targets >= columns.num_ids) | (loss.needs_teacher & teacher_is_nan)
    terms = sums.TokenTerms(
        loss=jnp.where(is_wrong, jnp.nan, sum(values)),
        kept=coefficients.kept,
        cross_entropy=cross_entropy,
        entropy=entropy,
        student_ok=student_ok,
        teacher_ok=teacher_ok,
        teacher_kl=teacher_kl,
    )
    return terms, sum(gradients) if with_gradient else None


def _teacher_label(teacher, columns):
    """The teacher's most likely token."""
    if isinstance(teacher, teachers.TeacherTopK):
        return teacher.argmax()
    return columns.first_argmax(teacher)


def _label(student, labels, columns):
    """Whether no logit is larger than the label's, and the label's log-prob."""
    logit = columns.pick(student.logits, labels[:, None])[:, 0]
    return logit >= student.top, (logit - student.top) - student.log_total


def _compare(teacher_logits, student, columns):
    """The teacher's softmax, -sum p_L log p_S, and KL(p_L || p_S), at temperature 1."""
    teacher = _softmax(teacher_logits, columns, student.count)
    ours, difference = columns.sum(
        teacher.exp(_CROSS) * student.shifted(_CROSS),
        teacher.exp(_KL) * (teacher.shifted(_KL) - student.shifted(_KL)),
    )
    cross = student.log_total - ours / teacher.total
    kl = difference / teacher.total + (student.log_total - teacher.log_total)
    return teacher, cross, kl


def _is_papers_term(loss) -> bool:
    """Whether the soft term is the papers': it then shares its sums with the metrics."""
    fixed = not isinstance(loss.temperature, schedules.PiecewiseLinear)
    return loss.divergence == "cross_entropy" and fixed and loss.temperature == 1.0


def _verdict(teacher, targets, columns):
    """`teachers.verdict` on a vocabulary that may be split."""

    def compare_logits(logits):
        top = columns.max(logits)
        return columns.pick(logits, targets[:, None])[:, 0] >= top, jnp.isnan(top)

    return teachers.verdict(teacher, targets, compare_logits)


def _hard(loss, coefficients, student, labels, picked, columns):
    """The label's term and the z-loss: factor of p in the gradient, values, other gradients."""
    hard, width = coefficients.hard, student.logits.shape[-1]
    factor = on_label = hard
    values, gradients = [-hard * picked], []
    if loss.label_smoothing:
        confidence, low, entropy = terms.smoothed_target(loss.label_smoothing, columns.num_ids)
        is_token = columns.is_token(width)
        rest = columns.sum(jnp.where(is_token, student.log_p(_SMOOTHING), 0.0))
        values = [hard * (-(low * rest + (confidence - low) * picked) - entropy)]
        gradients = [-jnp.where(is_token, (hard * low)[:, None], 0.0)]
        on_label = hard * (confidence - low)
    if loss.z_loss:
        weight, log_z = coefficients.kept * loss.z_loss, student.top + student.log_total
        values.append(weight * jnp.square(log_z))
        factor = factor + 2.0 * weight * log_z
    is_label = columns.ids(width) == labels[:, None]
    gradients.append(-jnp.where(is_label, on_label[:, None], 0.0))
    return factor, values, gradients


def _uniform(loss, student, entropy, columns):
    """Value and gradient of the Gatekeeper's KL."""
    count = float(columns.num_ids)
    if loss.direction == "to_uniform":
        log_p = student.log_p(_GRADIENT)
        return jnp.log(count) - entropy, jnp.exp(log_p) * (log_p + entropy[:, None])
    is_token = columns.is_token(student.logits.shape[-1])
    rest = columns.sum(jnp.where(is_token, student.log_p(_SMOOTHING), 0.0))
    return -jnp.log(count) - rest / count, jnp.exp(student.log_p(_GRADIENT)) - jnp.where(
        is_token, 1.0 / count, 0.0
    )


def _soft(loss, logits, teacher, step, columns, student):
    """Value and gradient of the divergence at the loss's temperature, without the factor T^2.

    `student` is the softmax at temperature 1; the others are as in `token_terms`.
    """
    temperature = schedules.value_at(loss.temperature, step)
    if isinstance(teacher, teachers.TeacherTopK):
        return _top_k(loss, logits, teacher, temperature, columns, student)
    ours, theirs = (_softmax(z, columns, student.count, temperature) for z in (logits, teacher))

    def log_probs(use):
        return ours.log_p(use), theirs.log_p(use)

    value, r = _divergence(loss, log_probs, columns.sum)
    return value, r / temperature


def _divergence(loss, log_probs, total):
    """Value of the divergence, and its gradient r for what the student's are the log-softmax of.

    `log_probs(use)` gives the student's and the teacher's [C, K], `total` sums over the last axis.
    """
    value = total(terms.divergence_summand(loss.divergence, *log_probs(_VALUE), loss.beta))
    log_s, log_l = log_probs(_GRADIENT)
    p_s, p_l = jnp.exp(log_s), jnp.exp(log_l)
    match loss.divergence:
        case "cross_entropy" | "forward_kl":
            return value, p_s - p_l
        case "reverse_kl":
            return value, p_s * (log_s - log_l - value[:, None])
        case "jensen_shannon":
            ours, theirs = log_probs(_KL)
            kl = total(jnp.exp(ours) * (ours - terms.log_mixture(ours, theirs, loss.beta)))
            log_m = terms.log_mixture(log_s, log_l, loss.beta)
            return value, (1 - loss.beta) * p_s * (log_s - log_m - kl[:, None])


def _top_k(loss, logits, teacher, temperature, columns, student):
    """As `_soft`, on the teacher's k tokens and the tail."""
    log_s = columns.pick(logits, teacher.ids) - student.top[:, None]
    has_tail = teacher.k < columns.num_ids
    if has_tail:
        rest = columns.put(logits, teacher.ids, jnp.full(teacher.ids.shape, numerics.LOWEST))
        tail = _softmax(rest, columns, student.count)
        tail_mass = (tail.top - student.top) + tail.log_total
        log_s = jnp.concatenate([log_s, tail_mass[:, None]], axis=-1)
    log_s = log_s - student.log_total[:, None]
    log_s = numerics.log_probs(log_s, temperature=temperature)
    log_l = numerics.log_probs(teacher.buckets(columns.num_ids), temperature=temperature)
    value, r = _divergence(loss, lambda use: (log_s, log_l), lambda x: jnp.sum(x, axis=-1))
    spread = r[:, -1:] * jnp.exp(tail.log_p(_GRADIENT)) if has_tail else jnp.zeros_like(logits)
    return value, columns.put(spread, teacher.ids, r[:, : teacher.k]) / temperature
