"""Token masks alpha: which target tokens a cascade-aware loss counts.

Example: six tokens, S and L say whose argmax is the label.

    S         1 1 0 0 1 0
    L         1 0 1 0 1 0
    "either"  1 1 1 0 1 0    only tokens that both get wrong are dropped (CAT, equation 8)
    "teacher" 1 0 1 0 1 0    CAT-*-L (CAT, equations 11 and 13)
    "student" 1 1 0 0 1 0    CAT-*-S (CAT, equations 12 and 14)
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cascade_jax.names import check_choice

RULES = ("either", "teacher", "student")


def token_mask(
    rule: str, student_is_correct: Bool[Array, "*n"], teacher_is_correct: Bool[Array, "*n"]
) -> Float[Array, "*n"]:
    """alpha as float32 0 or 1; made of booleans, so it is constant for the gradient.

    Args:
      rule: one of RULES.
      student_is_correct, teacher_is_correct: from `terms.is_correct`, of the forward pass that the
        loss uses.

    Raises:
      ValueError: for another rule.
    """
    check_choice("alpha rule", rule, RULES)
    match rule:
        case "either":
            kept = student_is_correct | teacher_is_correct
        case "teacher":
            kept = teacher_is_correct
        case "student":
            kept = student_is_correct
    return kept.astype(jnp.float32)
