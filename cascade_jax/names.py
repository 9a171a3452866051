"""Hints for names that do not exist: the nearest one that does."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """What an error adds about a name: "; did you mean 'train'?", or nothing if none is near.

    Args:
      name: what was given.
      known: what there is.
      cutoff: how alike they must be, from 0 to 1.
    """
    near = difflib.get_close_matches(str(name), list(known), 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest(name: object, known: Iterable[str]) -> str:
    """The most alike of the known names, however far it is."""
    return difflib.get_close_matches(str(name), list(known), 1, cutoff=0.0)[0]
