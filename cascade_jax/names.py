"""Unknown names: "did you mean ...?", and the nearest known ones."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """What an error adds about a name: "; did you mean 'train'?", or nothing if none is near.

    Args:
      name: the unknown name.
      known: the names that exist.
      cutoff: least similarity, from 0 to 1.
    """
    near = nearest_names(name, known, 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raises ValueError unless a field's value is one of the choices (the nearest is named)."""
    choices = list(choices)
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{field} is {value!r}; must be one of {', '.join(choices)}{hint}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The most similar of the known names, whatever its similarity."""
    return nearest_names(name, known, 1)[0]


def nearest_names(
    name: object, known: Iterable[str], count: int = 3, cutoff: float = 0.0
) -> list[str]:
    """At most `count` known names of at least a similarity, the most similar first."""
    return difflib.get_close_matches(str(name), list(known), count, cutoff)
