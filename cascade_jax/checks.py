"""Checks of settings: each raises a ValueError with the value and what is allowed.

Names out of a list of choices are checked by `names.check_choice`.
"""

import math
import numbers
from typing import Any


def whole_number(name: str, value: Any, least: int, optional: bool = False) -> None:
    """Refuses what is not an integer of at least `least`, nor None where it is optional."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (optional and value is None) and not (is_whole and value >= least):
        rest = ", or None" * optional
        raise ValueError(f"{name} is {value!r}; must be an integer of at least {least}{rest}")


def positive(name: str, value: Any, optional: bool = False) -> None:
    """Refuses what is not a finite number above 0, nor None where it is optional."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (optional and value is None) and not (is_number and 0 < value < math.inf):
        rest = ", or None" * optional
        raise ValueError(f"{name} is {value!r}; must be a number above 0{rest}")


def require(is_allowed: bool, name: str, value: Any, allowed: str) -> None:
    """Refuses a value unless `is_allowed`; `allowed` says in words what it must be."""
    if not is_allowed:
        raise ValueError(f"{name} is {value!r}; must be {allowed}")
