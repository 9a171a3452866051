"""Fields of the plain table, checked by the row of `schema.COLUMNS` that each belongs to."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cascade_jax.names import did_you_mean
from cascade_jax.records import schema
from cascade_jax.records.external import notes as kinds
from cascade_jax.records.external.lines import Line, LineError, shown
from cascade_jax.records.schema import Column


@functools.cache
def columns_about(*owners: str) -> Mapping[str, Column]:
    """The columns that are about answers of these owners (`Column.owner`), by name."""
    return {column.name: column for column in schema.COLUMNS if column.owner in owners}


def model_columns() -> Mapping[str, Column]:
    """The columns that a model's object in a line may hold, by name."""
    return columns_about(schema.EVERY_MODEL, schema.DEFERRING_MODEL)


_NO_NOTES: Mapping[str, int] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One model's answer to one example.

    Attributes:
      example_id, where: the example, and file and line of the answer. (The line itself would take
        many times the memory of all the rest.)
      values: what is known of it, by column.
      numbers: all fields that hold one, such as quality, input_tokens or one of the user's own.
      notes: what of it is left out or doubted, by kind (`notes.KINDS`), with how many.
    """

    example_id: str
    where: str
    values: Mapping[str, Any]
    numbers: Mapping[str, int | float]
    notes: Mapping[str, int]

    @property
    def text(self) -> str:
        """The answer."""
        return self.values["answer"]

    def fail(self, problem: str) -> LineError:
        """An error about it, to raise."""
        return LineError(f"{self.where}: {problem}")

    @property
    def num_tokens(self) -> int:
        """How many tokens have a log-prob; 0 for a model of which only the text is known."""
        return len(self.values.get("log_probs", ()))


def checked(
    line: Line, example_id: str, values: Mapping[str, Any], notes: Mapping[str, int] = _NO_NOTES
) -> ModelAnswer:
    """An answer of the plain table's fields.

    Raises:
      UnusableError: null in place of the answer; a sentinel in place of a log-prob; a log-prob that
        is another one among the likeliest.
      LineError: which field has what, and what is allowed.
    """
    row = values if values is line.row else {**line.row, **values}
    line = Line(f"{line.where} (id {example_id!r})", row)
    if values.get("answer", "") is None:
        raise line.unusable(
            kinds.NO_CONTENT,
            "answer is null; must be a text, and null is no empty answer. --unusable drop leaves "
            "such examples out",
        )
    if not isinstance(values.get("answer"), str):
        near = did_you_mean("answer", values) if "answer" not in values else ""
        raise line.fail(f"answer is {shown(values.get('answer'))}; must be a text{near}")
    _refuse_sentinels(line)
    _refuse_contradictions(line)
    line, twice = _with_each_once(line)
    if twice:
        notes = {**notes, kinds.LISTED_TWICE: notes.get(kinds.LISTED_TWICE, 0) + twice}
    return ModelAnswer(
        example_id,
        line.where,
        parsed(line, model_columns(), "log_probs"),
        numbers_of(line.row),
        notes,
    )


def _with_each_once(line: Line) -> tuple[Line, int]:
    """Without all but the first of equal ids at a token; and at how many tokens there were some."""
    ids, log_probs = line.row.get("top_ids"), line.row.get("top_log_probs")
    if not isinstance(ids, list) or not isinstance(log_probs, list):
        return line, 0
    kept = {}
    for i, (of_token, values) in enumerate(zip(ids, log_probs, strict=False)):
        are_lists = isinstance(of_token, list) and isinstance(values, list)
        if are_lists and len(of_token) == len(values) and set(map(type, of_token)) == {int}:
            first = dict(zip(reversed(of_token), reversed(values), strict=True))
            if len(first) < len(of_token):
                kept[i] = {token: first[token] for token in dict.fromkeys(of_token)}
    if not kept:
        return line, 0
    once = {
        "top_ids": [list(kept[i]) if i in kept else old for i, old in enumerate(ids)],
        "top_log_probs": [
            list(kept[i].values()) if i in kept else old for i, old in enumerate(log_probs)
        ],
    }
    return Line(line.where, {**line.row, **once}), len(kept)


def _refuse_sentinels(line: Line) -> None:
    """Refuses numbers that are no log-probs but stand for one that a server does not know."""
    log_probs = line.row.get("log_probs")
    if not isinstance(log_probs, list):
        return
    for i, value in enumerate(log_probs):
        is_number = type(value) in (int, float)
        # NaN is above nothing.
        if value is None or (is_number and not value > kinds.LEAST_LOG_PROB):
            raise line.unusable(
                kinds.SENTINEL,
                f"log_probs[{i}] is {'null' if value is None else value}; must be finite and at "
                "most 0, and servers write such a value where they know none. --unusable drop "
                "leaves such examples out",
            )


def _refuse_contradictions(line: Line) -> None:
    """Refuses a chosen token whose log-prob is another among the likeliest, where ids tell it."""
    names = ("tokens", "log_probs", "top_ids", "top_log_probs")
    lists = [line.row.get(name) for name in names]
    if not all(isinstance(values, list) for values in lists):
        return
    for i, (token, value, ids, others) in enumerate(zip(*lists, strict=False)):
        if type(value) not in (int, float) or not isinstance(ids, list) or token not in ids:
            continue
        same = [
            other
            for listed, other in zip(ids, others if isinstance(others, list) else (), strict=False)
            if listed == token and type(other) in (int, float)
        ]
        if same and all(abs(value - other) > kinds.ROUNDING for other in same):
            raise line.unusable(
                kinds.CONTRADICTED,
                f"top_log_probs[{i}] has {same[0]} for the chosen token {shown(token)}, whose "
                f"log_probs[{i}] is {value}; must be the same. --unusable drop leaves such "
                "examples out",
            )


def numbers_of(row: Mapping[str, Any]) -> dict[str, int | float]:
    """The fields that hold a number."""
    return {name: value for name, value in row.items() if type(value) in (int, float)}


def parsed(line: Line, columns: Mapping[str, Column], lengths: str) -> dict[str, Any]:
    """The fields of a line that are columns, as arrays, texts and numbers; without those it lacks.

    Args:
      line: what holds the fields.
      columns: those to look for, by name.
      lengths: name of the column that says how many tokens the answer has.

    Raises:
      LineError: which field has what, and what is allowed.
    """
    values = {
        name: _PARSERS[column.shape](line, column, value)
        for name, value in line.row.items()
        if value is not None and (column := columns.get(name)) is not None
    }
    count = len(values.get(lengths, ()))
    for name, value in values.items():
        if columns[name].shape in _TOKEN_SHAPES and len(value) != count:
            raise line.fail(f"{name} has {len(value)} values, {lengths} {count}")
    for name, other in _ALIKE:
        if name in values:
            sizes = [list(map(len, values.get(key, ()))) for key in (other, name)]
            if sizes[0] != sizes[1]:
                unit = "token" if name == "top_ids" else "sample"
                raise line.fail(f"{other} and {name} must have as many values at each {unit}")
    return values


_TOKEN_SHAPES = (schema.PER_TOKEN, schema.TOP_PER_TOKEN, schema.LAYERS_PER_TOKEN)
_ALIKE = (  # lists of lists, and those whose lengths they must have
    ("top_ids", "top_log_probs"),
    ("sample_tokens", "sample_log_probs"),
    ("sample_drawn_log_probs", "sample_log_probs"),
)


@functools.cache
def _kinds(column: Column) -> tuple[frozenset[type], str, str]:
    """Types of a column's values in Python, and words for one value and for several."""
    if column.is_text:
        return frozenset({str}), "a text", "texts"
    if column.dtype == bool:
        return frozenset({bool}), "true or false", "true and false"
    if column.dtype.kind == "i":
        return frozenset({int}), "a whole number", "whole numbers"
    return frozenset({int, float}), "a number", "numbers"


def _one(line: Line, column: Column, value: Any) -> Any:
    name, (types, what, _) = column.name, _kinds(column)
    if type(value) not in types:
        raise line.fail(f"{name} is {shown(value)}; must be {what}")
    if column.dtype.kind not in "if":
        return value
    # A quality on another scale may stand there unused, beside the metric that is asked for.
    check = schema.NOT_NEGATIVE if name == "quality" else column.check or schema.FINITE
    try:
        number = float(value)
    except OverflowError:
        raise line.fail(f"{name} is {shown(value)}; too large a number") from None
    if not check.is_allowed(number):
        raise line.fail(f"{name} is {value}; must be {check.allowed}")
    if column.dtype.kind == "i" and number > np.iinfo(column.dtype).max:
        raise line.fail(f"{name} is {value}; too large a number for {column.dtype}")
    return value


def _list(line: Line, column: Column, values: Any, name: str = "") -> np.ndarray | list[str]:
    name, (types, _, what) = name or column.name, _kinds(column)
    if not isinstance(values, list):
        raise line.fail(f"{name} is {shown(values)}; must be a list of {what}")
    if not types.issuperset(map(type, values)):
        i = next(i for i, value in enumerate(values) if type(value) not in types)
        raise line.fail(f"{name}[{i}] is {shown(values[i])}; must be one of a list of {what}")
    if column.is_text:
        return values
    try:
        array = np.array(values, column.dtype)
    except OverflowError:
        raise line.fail(f"{name} holds a number that is too large for {column.dtype}") from None
    if column.check is not None and not (is_allowed := column.check.is_allowed(array)).all():
        i = int(np.argmin(is_allowed))
        raise line.fail(f"{name}[{i}] is {values[i]}; must be {column.check.allowed}")
    return array


def _lists(line: Line, column: Column, values: Any) -> list[Shaped[np.ndarray, " _"]]:
    name = column.name
    if not isinstance(values, list) or not all(isinstance(inner, list) for inner in values):
        unit = "token" if column.shape in _TOKEN_SHAPES else "sample"
        raise line.fail(f"{name} is {shown(values)}; must be a list for each {unit}")
    # All at once: a call for each token would take most of the time of a file.
    flat = _list(line, column, [v for inner in values for v in inner], f"{name} end to end")
    sizes = np.array([len(inner) for inner in values], np.int64)
    ends = np.cumsum(sizes)
    if column.is_falling:
        is_rise = np.zeros(len(flat) + 1, bool)
        is_rise[1:-1] = flat[1:] > flat[:-1]
        is_rise[ends] = False  # from one token to the next it may
        if is_rise.any():
            i = int(np.searchsorted(ends, np.argmax(is_rise), "right"))
            raise line.fail(f"{name}[{i}] is {shown(values[i])}; must go down")
        totals = np.concatenate([[0.0], np.cumsum(np.exp(flat, dtype=np.float64))])
        sums = totals[ends] - totals[ends - sizes]
        if (is_over := sums > schema.MOST_PROBABILITY).any():
            i = int(np.argmax(is_over))
            raise line.fail(
                f"{name}[{i}] is {shown(values[i])}, probabilities that add up to {sums[i]:.4g}; "
                "must be at most 1"
            )
    return [flat[start:end] for start, end in zip(ends - sizes, ends, strict=True)]


def _layers(line: Line, column: Column, values: Any) -> Shaped[np.ndarray, "tokens layers"]:
    by_token = _lists(line, column, values)
    if len(sizes := sorted(set(map(len, by_token)))) > 1:
        raise line.fail(f"{column.name} has {sizes[0]} to {sizes[-1]} values at a token")
    return np.stack(by_token) if by_token else np.zeros((0, 1), column.dtype)


_PARSERS = {
    schema.ONE: _one,
    schema.PER_TOKEN: _list,
    schema.TOP_PER_TOKEN: _lists,
    schema.LAYERS_PER_TOKEN: _layers,
    schema.VECTOR: _list,
    schema.COUNTS: _list,
    schema.PER_SAMPLE: _list,
    schema.PER_SAMPLE_TOKEN: _lists,
}
