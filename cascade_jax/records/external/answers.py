"""One model's answer to one example in the fields of the plain table, and every check on them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.names import did_you_mean
from cascade_jax.records.external.lines import Line, shown

NUMBERS = ("quality", "flops_per_token", "input_tokens", "flops", "seconds")
_LARGEST_LOG_PROB = 1e-3  # rounding can leave one a little above 0


@dataclasses.dataclass(frozen=True)
class ModelAnswer:
    """One model's answer to one example; None is not known.

    Attributes:
      example_id, line: which, and where it is from.
      text: the answer.
      log_probs: of its tokens; without any for a teacher of which only the text is known.
      top_log_probs, top_ids: for each token the largest, descending; tokens may differ in number.
      numbers: all fields that hold one, such as quality, input_tokens or one of the user's own.
      has_log_probs: whether the file gives log-probs, be it of no token.
    """

    example_id: str
    line: Line
    text: str
    log_probs: Float[np.ndarray, " L"]
    tokens: Int[np.ndarray, " L"] | None
    entropies: Float[np.ndarray, " L"] | None
    pieces: list[str] | None
    top_log_probs: list[Float[np.ndarray, " _"]] | None
    top_ids: list[Int[np.ndarray, " _"]] | None
    embedding: Float[np.ndarray, " D"] | None
    statistics: Int[np.ndarray, " _"] | None
    numbers: Mapping[str, int | float]
    has_log_probs: bool


def checked(line: Line, example_id: str, given: Mapping[str, Any]) -> ModelAnswer:
    """An answer of the plain table's fields.

    Raises:
      ExchangeError: which field has what, and what is allowed.
    """
    line = Line(f"{line.where} (id {example_id!r})", {**line.row, **given})
    text = given.get("answer")
    if not isinstance(text, str):
        near = did_you_mean("answer", given) if "answer" not in given else ""
        raise line.fail(f"answer is {shown(text)}; must be a text{near}")
    numbers = {k: v for k, v in line.row.items() if type(v) in (int, float)}
    for name in NUMBERS:
        if line.row.get(name) is None:
            continue
        is_count = name == "input_tokens"
        kinds, what = (int, "a whole number") if is_count else ((int, float), "a number")
        value = line.get(name, kinds, what)
        if not math.isfinite(value) or value < 0:
            raise line.fail(f"{name} is {value}; must be finite and 0 or more")
    log_probs = _list(line, "log_probs", np.float32, given.get("log_probs"))
    log_probs = np.zeros(0, np.float32) if log_probs is None else log_probs
    lists = {
        "tokens": _list(line, "tokens", np.int32, given.get("tokens")),
        "entropies": _list(line, "entropies", np.float32, given.get("entropies")),
        "pieces": _texts(line, given.get("pieces")),
        "top_log_probs": _lists(line, "top_log_probs", np.float32, given.get("top_log_probs")),
        "top_ids": _lists(line, "top_ids", np.int32, given.get("top_ids")),
    }
    for name, values in lists.items():
        if values is not None and len(values) != len(log_probs):
            raise line.fail(f"{name} has {len(values)} values, log_probs {len(log_probs)}")
    if lists["top_ids"] is not None:
        sizes = [list(map(len, lists[name] or ())) for name in ("top_log_probs", "top_ids")]
        if sizes[0] != sizes[1]:
            raise line.fail("top_log_probs and top_ids must have as many values at each token")
    return ModelAnswer(
        example_id,
        Line(line.where, {}),  # what it holds would take many times the memory of all the rest
        text,
        log_probs,
        embedding=_list(line, "embedding", np.float32, given.get("embedding")),
        statistics=_list(line, "statistics", np.int64, given.get("statistics")),
        numbers=numbers,
        has_log_probs=given.get("log_probs") is not None,
        **lists,
    )


def _list(line: Line, name: str, dtype: type, values: Any) -> np.ndarray | None:
    if values is None:
        return None
    kinds = {int} if np.issubdtype(dtype, np.integer) else {int, float}
    what = "whole numbers" if len(kinds) == 1 else "numbers"
    if not isinstance(values, list):
        raise line.fail(f"{name} is {shown(values)}; must be a list of {what}")
    if not set(map(type, values)) <= kinds:
        i = next(i for i, value in enumerate(values) if type(value) not in kinds)
        raise line.fail(f"{name}[{i}] is {shown(values[i])}; must be one of a list of {what}")
    try:
        found = np.array(values, dtype)
    except OverflowError:
        raise line.fail(f"{name} holds a number that is too large for {dtype.__name__}") from None
    bad, allowed = np.zeros(0, int), "finite"
    if "log_probs" in name:
        bad = np.flatnonzero(~(np.isfinite(found) & (found <= _LARGEST_LOG_PROB)))
        allowed = "finite and at most 0, the natural logarithm of a probability"
    elif dtype is np.float32:
        bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise line.fail(f"{name}[{bad[0]}] is {values[bad[0]]}; must be {allowed}")
    return found


def _lists(line: Line, name: str, dtype: type, values: Any) -> list[np.ndarray] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(inner, list) for inner in values):
        raise line.fail(f"{name} is {shown(values)}; must be a list for each token")
    # All at once: a call for each token would take most of the time of a file.
    flat = _list(line, f"{name} end to end", dtype, [v for inner in values for v in inner])
    sizes = np.array([len(inner) for inner in values], np.int64)
    ends = np.cumsum(sizes)
    if dtype is np.float32:
        rises = np.flatnonzero(flat[1:] > flat[:-1]) + 1
        rises = rises[~np.isin(rises, ends)]  # from one token to the next it may
        if len(rises):
            i = int(np.searchsorted(ends, rises[0], "right"))
            raise line.fail(f"{name}[{i}] is {shown(values[i])}; must go down")
    return [flat[start:end] for start, end in zip(ends - sizes, ends, strict=True)]


def _texts(line: Line, values: Any) -> list[str] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise line.fail(f"pieces is {shown(values)}; must be a list of texts")
    return values
