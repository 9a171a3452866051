"""The likeliest tokens at a place of an answer, of what servers list there."""

import collections
import math
from collections.abc import Hashable, Sequence
from typing import Any

from cascade_jax.records.external import notes as kinds

Key = Hashable


def likeliest(
    entries: Sequence[tuple[Key, float]],
    chosen: Key,
    notes: collections.Counter,
    *,
    rank: int = 0,
    is_in_place: bool = False,
) -> list[tuple[Key, float]]:
    """The listed tokens from the likeliest on, each once and none that need not be among them.

    Servers put the sampled token before the K likeliest, and some cut the list to K then. Where it
    is the least likely of the list it may be the hundredth of all: it counts only if its rank or
    its place says so, or if the probability that is left over is too small for another.

    Args:
      entries: tokens and log-probs; equal ones stay in this order.
      chosen: the sampled token.
      notes: gets what is left out (`notes.KINDS`).
      rank: of the sampled token among all tokens, from 1 on; 0 if not known.
      is_in_place: whether the list has the sampled token where its log-prob belongs.
    """
    known = [entry for entry in entries if entry[1] > kinds.LEAST_LOG_PROB]  # NaN is not
    notes[kinds.NO_ALTERNATIVE] += len(entries) - len(known)
    by_token: dict[Key, float] = {}
    for token, log_prob in known:
        by_token[token] = max(log_prob, by_token.get(token, log_prob))
    notes[kinds.LISTED_TWICE] += len(by_token) < len(known)
    top = sorted(by_token.items(), key=lambda entry: -entry[1])
    if len(top) > 1 and top[-1][0] == chosen and _is_outside(top, rank, is_in_place):
        top.pop()
        notes[kinds.OUTSIDE] += not rank
    return top


def _is_outside(top: list[tuple[Key, float]], rank: int, is_in_place: bool) -> bool:
    if rank or is_in_place:
        return rank > len(top)
    left_over = 1 - math.fsum(math.exp(min(log_prob, 0)) for _, log_prob in top)
    return left_over > math.exp(top[-1][1])


def token_key(token: Any, data: Any, log_prob: float, number: Any = None) -> Key:
    """What makes two entries of a list the same token: its id, else text and bytes.

    A part of a character shows as U+FFFD, and a special token as nothing, whichever it is. Such
    entries are told apart by their log-probs.
    """
    if type(number) is int:
        return number
    text = str(token)
    known = tuple(data) if isinstance(data, list) else tuple(text.encode(errors="replace"))
    is_unclear = not text or "\ufffd" in text
    return (text, tuple(map(str, known)), log_prob if is_unclear else None)
