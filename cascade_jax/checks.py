"""Checks of settings: each raises a ValueError with the value and what is allowed.

Names out of a list of choices are checked by `names.check_choice`.
"""

import math
import numbers
from typing import Any

from cascade_jax.short_text import cut_short

LARGEST = 2**31 - 1  # of a size, a number of steps or a seed: what devices count with


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number; True and False are none."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def whole_number(
    name: str, value: Any, least: int, optional: bool = False, most: int = LARGEST
) -> None:
    """Refuses what is not an integer from `least` to `most`, nor None where it is optional."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (optional and value is None) and not (is_whole and least <= value <= most):
        allowed = f"of at least {least}" + f" and at most {most}" * (is_whole and value > most)
        if least < 0:
            allowed = f"from {least} to {most}"
        rest = ", or None" * optional
        raise ValueError(f"{name} is {shown(value)}; must be an integer {allowed}{rest}")


def positive(name: str, value: Any, optional: bool = False, most: float = math.inf) -> None:
    """Refuses what is not a finite number above 0 up to `most`, nor None where it is optional."""
    if not (optional and value is None) and not (is_number(value) and 0 < value <= most):
        at_most = f" and at most {most:g}" * (is_number(value) and value > most)
        rest = ", or None" * optional
        raise ValueError(f"{name} is {shown(value)}; must be a number above 0{at_most}{rest}")


def true_or_false(name: str, value: Any) -> None:
    """Refuses what is neither True nor False."""
    require(isinstance(value, bool), name, value, "True or False")


def require(is_allowed: bool, name: str, value: Any, allowed: str) -> None:
    """Refuses a value unless `is_allowed`; `allowed` says in words what it must be."""
    if not is_allowed:
        raise ValueError(f"{name} is {shown(value)}; must be {allowed}")


def shown(value: Any) -> str:
    """A value for a message, cut short: repr, and of a number of very many digits their count."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of {math.floor(math.log10(abs(value))) + 1} digits"
    return cut_short(repr(value))
