"""Unknown names: "did you mean ...?", and the nearest known ones."""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

from cascade_jax.short_text import cut_short


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """What an error adds about an unknown name: "; did you mean 'train'?", or nothing.

    `cutoff` is the least similarity, from 0 to 1.
    """
    near = nearest_names(name, known, 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raises ValueError unless a field's value is one of the choices (the nearest is named)."""
    choices = list(choices)
    if value not in choices:
        hint, shown = did_you_mean(value, choices), cut_short(repr(value))  # of a file, say
        raise ValueError(f"{field} is {shown}; must be one of {', '.join(choices)}{hint}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The most similar of the known names, whatever its similarity."""
    return nearest_names(name, known, 1)[0]


def nearest_names(
    name: object, known: Iterable[str], count: int = 3, cutoff: float = 0.0
) -> list[str]:
    """At most `count` known names of at least a similarity, the most similar first."""
    return difflib.get_close_matches(str(name), list(known), count, cutoff)


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names with commas between, no more than `most` of them, and then how many there are."""
    text = ", ".join(map(cut_short, names[:most]))
    return text if len(names) <= most else f"{text}, ... ({len(names)} in all)"


def matching_tasks(patterns: Iterable[str], tasks: Sequence[str]) -> list[str]:
    """The tasks that match some pattern such as "wmt22_*", in their order.

    Raises:
      ValueError: patterns that no task matches, all of them.
    """
    patterns = list(patterns)
    chosen = {pattern: fnmatch.filter(tasks, pattern) for pattern in patterns}
    unmatched = [pattern for pattern in patterns if not chosen[pattern]]
    if unmatched:
        nearest_ones = [f"; nearest is {nearest(p, tasks)!r}" if tasks else "" for p in unmatched]
        listed = ", ".join(f"{p!r}{near}" for p, near in zip(unmatched, nearest_ones, strict=True))
        raise ValueError(f"no task matches {listed} of {len(tasks)} tasks")
    chosen = set().union(*chosen.values())
    return [task for task in tasks if task in chosen]
