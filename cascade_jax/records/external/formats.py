"""Answers as other systems write them, a line of JSON each, in the plain table's fields."""

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any

from cascade_jax.records import schema
from cascade_jax.records.external import answer_span, openai, vllm
from cascade_jax.records.external.answers import ModelAnswer, checked, model_columns
from cascade_jax.records.external.lines import Line, listed_keys
from cascade_jax.records.external.notes import HAS_REASONING

OPENAI, VLLM, TABLE = "openai", "vllm", "table"
FORMATS = (OPENAI, VLLM, TABLE)
_REASONING = re.compile(r"\s*(<think>|<\|channel\|>analysis)")
METADATA = "cascade_jax"  # a table's first line may hold the metadata of records, under this key


def recognised(line: Line, models: Iterable[str]) -> str:
    """The format of a line; in that of a table, answers of the models stand under their names.

    Raises:
      LineError: it looks like none of them.
    """
    row = line.row
    if {"choices", "response"} & set(row) or openai.is_ollama(row):
        return OPENAI
    if "outputs" in row or "token_ids" in row or "prompt_logprobs" in row:
        return VLLM
    if {*models, "answer", METADATA} & set(row):
        return TABLE
    if row.get("error") is not None:  # a request that failed
        return OPENAI
    raise line.fail(
        f"has {listed_keys(row)}; must be a chat completion (choices), an "
        "output of vLLM (outputs or token_ids) or a line of a plain table (answer, or student and "
        "teacher); --format says which"
    )


def answer_of(line: Line, form: str, compares: bool = True) -> ModelAnswer:
    """A line that holds one model's answer.

    Raises:
      UnusableError: an answer that is none, or has no log-probs of its own.
      LineError: a field that is missing or has a value that is not allowed.
    """
    example_id = line.example_id()
    fields_fn = {OPENAI: openai.fields, VLLM: vllm.fields}.get(form)
    if fields_fn is None:
        return table_answer(line, example_id, compares)
    notes: collections.Counter = collections.Counter()
    fields = fields_fn(Line(f"{line.where} (id {example_id!r})", line.row), notes)
    notes[HAS_REASONING] += bool(_REASONING.match(str(fields.get("answer"))))
    fields |= {name: value for name, value in _more(line).items() if name != "answer"}
    return checked(line, example_id, fields, {kind: n for kind, n in notes.items() if n})


def table_answer(line: Line, example_id: str, compares: bool) -> ModelAnswer:
    """A model's answer in a plain table.

    Args:
      line: its fields.
      example_id: of the example.
      compares: whether the answer is looked for in its pieces, if there are any. Those of a table
        that is made of records stand as they are.

    Raises:
      UnusableError: an answer that is none, or has no log-probs of its own.
      LineError: a field that is missing or has a value that is not allowed.
    """
    notes: collections.Counter = collections.Counter()
    if compares:
        row = _spelled(Line(f"{line.where} (id {example_id!r})", line.row), notes)
        line = Line(line.where, row)
    return checked(line, example_id, line.row, {kind: n for kind, n in notes.items() if n})


def _spelled(line: Line, notes: collections.Counter) -> Mapping[str, Any]:
    """The fields with the answer's tokens alone, by their pieces."""
    row = line.row
    shapes = schema.PER_TOKEN, schema.TOP_PER_TOKEN, schema.LAYERS_PER_TOKEN
    names = [name for name, column in model_columns().items() if column.shape in shapes]
    lists = {name: row[name] for name in names if row.get(name) is not None}
    pieces = lists.get("pieces")
    if not pieces or "log_probs" not in lists or not isinstance(row.get("answer"), str):
        return row
    are_lists = all(isinstance(values, list) for values in lists.values())
    if not are_lists or len(set(map(len, lists.values()))) > 1 or set(map(type, pieces)) != {str}:
        return row  # which is refused
    start, stop = answer_span.checked_span(line, row["answer"], pieces, notes, name="pieces")
    return {**row, **{name: values[start:stop] for name, values in lists.items()}}


def _more(line: Line) -> dict[str, Any]:
    """What a user has added to a line of another system, by its names in the plain table."""
    names = line.row.keys() & model_columns().keys()
    shapes = (schema.ONE, schema.VECTOR)
    return {name: line.row[name] for name in names if model_columns()[name].shape in shapes}
