"""The plain head, reference of `fused.py`: a loss from whole logits, differentiated by JAX."""

import jax
import jax.numpy as jnp

from cascade_jax import numerics
from cascade_jax.losses import checks, schedules, sums, teachers, terms


def loss_sums(loss, student_logits, teacher, targets, weights, *, step, every_metric):
    """LossSums of one microbatch; arguments as in `variants.Loss.__call__`."""
    checks.check_targets(targets, weights, student_logits.shape[-1])
    arguments = student_logits, teacher, targets, weights
    student_logits, teacher, targets, weights = jax.tree.map(jnp.asarray, arguments)
    if isinstance(teacher, teachers.TeacherHidden):
        raise ValueError(
            "the plain head takes the teacher's logits, and got TeacherHidden; use fused.loss_sums"
        )
    checks.check_floating(student_logits=student_logits)
    checks.check_tokens(student_logits.shape[:-1], targets, weights)
    checks.check_teacher(loss, teacher, student_logits.shape, weights)
    counted = weights != 0
    # Padding may hold NaN: replace the inputs, or the gradient of `where` would be NaN too.
    student_logits = jnp.where(counted[..., None], student_logits, 0)
    targets = jnp.where(counted, targets.astype(jnp.int32), 0)
    if isinstance(teacher, teachers.TeacherTopK):
        teacher = teachers.with_wide_ids(teacher).where(counted)
    elif isinstance(teacher, jax.Array):
        teacher = jnp.where(counted[..., None], teacher, 0)
    terms = token_terms(loss, student_logits, teacher, targets, step, every_metric)
    return sums.reduce(terms, weights, loss.normalizer)


def token_terms(loss, student_logits, teacher, targets, step, every_metric) -> sums.TokenTerms:
    """Per-token terms; logits and facts must be finite on every token."""
    student_ok = terms.is_correct(student_logits, targets)
    teacher_ok, teacher_is_nan = teachers.verdict(
        teacher,
        targets,
        lambda z: (terms.is_correct(z, targets), jnp.isnan(jnp.max(z, axis=-1))),
    )
    labels, label_ok = targets, student_ok
    if loss.labels == "teacher":
        is_top_k = isinstance(teacher, teachers.TeacherTopK)
        labels = teacher.argmax() if is_top_k else jnp.argmax(teacher, axis=-1)
        label_ok = terms.is_correct(student_logits, labels)
    coefficients = loss.coefficients(label_ok, teacher_ok, step)
    smoothing = loss.label_smoothing
    per_token = coefficients.hard * terms.cross_entropy(
        student_logits, labels, label_smoothing=smoothing
    )
    if coefficients.soft is not None:
        per_token = per_token + coefficients.soft * _soft(loss, student_logits, teacher, step)
    if coefficients.uniform is not None:
        to_uniform = loss.direction == "to_uniform"
        kl = (terms.kl_to_uniform if to_uniform else terms.kl_from_uniform)(student_logits)
        per_token = per_token + coefficients.uniform * kl
    if loss.z_loss:
        log_z = numerics.log_sum_exp(student_logits)
        per_token = per_token + coefficients.kept * (loss.z_loss * jnp.square(log_z))
    teacher_kl = None
    if teachers.shows_kl(teacher, loss.teacher_need, every_metric):
        teacher_kl = terms.forward_kl(student_logits, teacher)
    is_wrong = (targets < 0) | (targets >= student_logits.shape[-1])
    if loss.needs_teacher:
        is_wrong = is_wrong | teacher_is_nan
    return sums.TokenTerms(
        loss=jnp.where(is_wrong, jnp.nan, per_token),
        kept=coefficients.kept,
        cross_entropy=terms.cross_entropy(student_logits, targets),
        entropy=numerics.entropy(numerics.log_probs(student_logits)),
        student_ok=student_ok,
        teacher_ok=teacher_ok,
        teacher_kl=teacher_kl,
    )


def _soft(loss, student_logits, teacher, step):
    """The divergence at the loss's temperature, without the factor T^2."""
    temperature = schedules.value_at(loss.temperature, step)
    if isinstance(teacher, teachers.TeacherTopK):
        student = terms.top_k_log_probs(student_logits, teacher.ids)
        teacher = teacher.buckets(student_logits.shape[-1])
    else:
        student = student_logits
    return terms.divergence(
        loss.divergence, student, teacher, temperature=temperature, beta=loss.beta
    )
