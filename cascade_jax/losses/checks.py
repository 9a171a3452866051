"""Checks that arrays fit each other, before anything is computed from them.

Each raises a ValueError that names the arrays, their shapes or dtypes, and what is needed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cascade_jax.checks import require
from cascade_jax.losses import teachers


def check_tokens(shape: tuple[int, ...], targets, weights) -> None:
    """Checks that targets and weights have one number per token, of the right kind.

    Args:
      shape: of the student's logits or hidden states without the last axis.
    """
    for name, array in (("targets", targets), ("weights", weights)):
        if array.shape != shape:
            raise ValueError(f"{name} have shape {array.shape}; the student's tokens have {shape}")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets have dtype {targets.dtype}; must be an integer type")
    check_floating(weights=weights)


def check_targets(targets, weights, num_ids: int) -> None:
    """Checks that weights are not negative, and counted targets in the vocabulary.

    Inside `jax.jit` values are not known: there such a target makes the loss NaN.
    """
    if _is_traced(targets, weights):
        return
    targets, weights = np.asarray(targets), np.asarray(weights)
    if targets.shape != weights.shape:
        return  # refused by check_tokens
    if (weights < 0).any():
        first = _first(weights < 0)
        raise ValueError(
            f"{int((weights < 0).sum())} weights are negative; the first is {weights[first]} at "
            f"index {first}; allowed are 0 for padding and numbers above 0"
        )
    outside = (weights != 0) & ((targets < 0) | (targets >= num_ids))
    if outside.any():
        first = _first(outside)
        raise ValueError(
            f"{int(outside.sum())} counted targets are outside the vocabulary of {num_ids} "
            f"tokens; the first is {int(targets[first])} at index {first}"
        )


def _is_traced(*arrays) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def _first(mask) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(np.argwhere(mask)[0].tolist())


def check_floating(**arrays) -> None:
    """Checks that named arrays hold floating-point numbers."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} have dtype {array.dtype}; must be a floating type")


def check_teacher(loss, teacher, student_shape: tuple[int, ...], weights) -> None:
    """Checks that a teacher fits the student and has what the loss needs.

    Args:
      loss: the variant.
      teacher: logits, facts of `teachers.py`, or None.
      student_shape: of the student's logits, padding columns left out.
      weights: of the tokens; facts of tokens that do not count are not looked at.
    """
    name, need = type(loss).__name__, loss.teacher_need
    if teacher is None:
        if need != "nothing":
            raise ValueError(f"{name} needs the teacher's {need}, and got None")
        return
    *tokens, vocabulary = student_shape
    match teacher:
        case teachers.TeacherHidden():
            theirs = (*teacher.hidden.shape[:-1], teacher.unembedding.num_ids)
        case teachers.TeacherArgmax():
            theirs = (*teacher.is_correct.shape, vocabulary)
            if teacher.is_correct.dtype != bool:
                raise ValueError(f"is_correct has dtype {teacher.is_correct.dtype}; must be bool")
            if need in ("most likely token", "distribution"):
                raise ValueError(
                    f"{name} needs the teacher's {need}, and TeacherArgmax only says whether "
                    "its argmax is the label; give logits, hidden states or TeacherTopK"
                )
        case teachers.TeacherTopK():
            theirs = (*teacher.ids.shape[:-1], vocabulary)
        case jax.Array():
            theirs = teacher.shape
            check_floating(**{"the teacher's logits": teacher})
            if teacher.ndim < 1:
                raise ValueError("the teacher's logits are a scalar; must be like the student's")
        case _:
            kind = type(teacher).__name__
            raise ValueError(
                f"the teacher is of type {kind}; must be logits or one of losses/teachers.py"
            )
    if theirs[-1] != vocabulary:
        raise ValueError(
            f"the student has {vocabulary} tokens and the teacher {theirs[-1]}; a cascade's models "
            "share one vocabulary (padding columns: set vocab_size)"
        )
    if theirs[:-1] != tuple(tokens):
        raise ValueError(
            f"the teacher's tokens have shape {theirs[:-1]} and the student's {tuple(tokens)}"
        )
    if isinstance(teacher, teachers.TeacherTopK):
        _check_top_k(teacher, vocabulary, weights)


def _check_top_k(teacher, vocabulary, weights) -> None:
    log_probs, ids = teacher.log_probs, teacher.ids
    if log_probs.shape != ids.shape:
        shapes = f"log_probs {log_probs.shape} and ids {ids.shape}"
        raise ValueError(f"the teacher's top-k has {shapes}; both must have one shape")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"the teacher's top-k ids have dtype {ids.dtype}; must be an integer type")
    check_floating(**{"the teacher's top-k log_probs": log_probs})
    k, allowed = teacher.k, f"1 to {vocabulary}, the vocabulary"
    require(1 <= k <= vocabulary, "the teacher's k", k, allowed)
    if _is_traced(ids, weights):
        return
    counted = np.asarray(weights) != 0
    ids = np.sort(np.asarray(ids).astype(np.int64), axis=-1)
    outside = (ids[..., 0] < 0) | (ids[..., -1] >= vocabulary)
    twice = (ids[..., 1:] == ids[..., :-1]).any(-1)
    for wrong, what in ((outside, "outside the vocabulary"), (twice, "that occur twice")):
        wrong = wrong & counted
        if wrong.any():
            first = _first(wrong)
            raise ValueError(
                f"the teacher's top-k has ids {what} on {int(wrong.sum())} counted tokens, first "
                f"at index {first}: {ids[first].tolist()}; allowed are different ids in "
                f"[0, {vocabulary})"
            )
