"""Reading and checking JSONL files of a data folder.

A data folder holds `<task, with / written __>/<split>.jsonl`, one JSON object a line, with the
field names of the TFDS builder of that name.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_jax import json_text, jsonl
from cascade_jax.names import nearest_names

# What a field may be: a text, a number, a flag, a list of texts or of integers, or a class label
# range(n).
FieldType = Any
Rows = list[dict[str, Any]]
ProblemOf = Callable[[Mapping[str, Any]], str | None]

_KINDS = {
    str: "a string",
    int: "an integer of 64 bits",
    float: "a number in the range of float32",
    bool: "true or false",
    list[str]: "a list of strings",
    list[int]: "a list of integers of 64 bits",
}


def _nearest(name: str, names: Sequence[str]) -> str:
    close = nearest_names(name, names, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def jsonl_path(data_dir: Path, name: str, split: str) -> Path:
    """Path of one split's file.

    Args:
      data_dir: the data folder.
      name: task name with TFDS's slashes, e.g. "glue/sst2".
      split: file name without ".jsonl".

    Raises:
      FileNotFoundError: if the data folder, the task's folder or the file is missing; the message
        lists what exists.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"data folder {str(data_dir)!r} does not exist; give a folder that holds "
            "<task>/<split>.jsonl, or none to read from TFDS"
        )
    folder = data_dir / name.replace("/", "__")
    if not folder.is_dir():
        tasks = sorted(child.name for child in data_dir.iterdir() if child.is_dir())
        raise FileNotFoundError(
            f"data folder {str(data_dir)!r} has no task folder {folder.name!r}; it has "
            f"{len(tasks)}{_nearest(folder.name, tasks)}"
        )
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        splits = sorted(child.stem for child in folder.glob("*.jsonl"))
        raise FileNotFoundError(f"{str(folder)!r} has no split {split!r}; it has {splits}")
    return path


def _describe(kind: FieldType) -> str:
    if isinstance(kind, range):
        return f"an integer from {kind.start} to {kind.stop - 1}"
    return _KINDS[kind]


def _fits(value: Any, kind: FieldType) -> bool:
    if isinstance(kind, range):
        return type(value) is int and value in kind
    if kind is float:
        return type(value) in (int, float) and abs(value) < 2.0**128
    if kind in (list[str], list[int]):
        (item_kind,) = kind.__args__
        return isinstance(value, list) and all(_fits(item, item_kind) for item in value)
    return type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)


def _is_blank(value: Any) -> bool:
    """Whether it is a blank text, or a list that is empty or holds one."""
    if isinstance(value, list):
        return not value or any(map(_is_blank, value))
    return isinstance(value, str) and not value.strip()


def _pick(row: dict[str, Any], field: str, kind: FieldType, where: str, may_be_blank: bool) -> Any:
    """The value at path `field` ("choices/text") of a parsed line, checked."""
    value = row
    for key in field.split("/"):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{where}: lacks field {field!r}; the line has {sorted(row)}")
        value = value[key]
    if not _fits(value, kind):
        shown = json_text.shown(value)
        raise ValueError(f"{where}: field {field!r} is {shown}, must be {_describe(kind)}")
    if not may_be_blank and _is_blank(value):
        raise ValueError(f"{where}: field {field!r} is {value!r}, must have text")
    return value


def read_jsonl(
    path: Path,
    fields: Mapping[str, FieldType],
    *,
    blank_texts: bool | Collection[str] = True,
    problem_of: ProblemOf | None = None,
) -> Rows:
    """Reads and checks a JSONL file; blank lines are skipped.

    Args:
      path: the file, UTF-8.
      fields: path of each field to read ("label", "choices/text") and its type: str, int, float,
        bool, list[str], list[int], or range(n) for a class label.
      blank_texts: whether a text may be blank, and a list empty; or the fields where that may be.
      problem_of: describes what is wrong with a row of valid fields; None if nothing is.

    Returns:
      One dictionary a line, keyed by the field paths.

    Raises:
      ValueError: "<file>:<line>: ..." for a line that does not parse, lacks a field, has one of
        another type or blank where that may not be, or has a problem; also if the file has no line.
    """
    if isinstance(blank_texts, bool):
        blank_texts = fields if blank_texts else ()
    rows = []
    for where, row in jsonl.read_objects(path):
        picked = {f: _pick(row, f, k, where, f in blank_texts) for f, k in fields.items()}
        if problem_of is not None and (problem := problem_of(picked)):
            raise ValueError(f"{where}: {problem}")
        rows.append(picked)
    if not rows:
        raise ValueError(f"{path}: is empty; a split needs at least one line")
    return rows


def count_rows(path: Path) -> int:
    """Number of rows of a file, which is not checked."""
    with open(path, "rb") as lines:
        return sum(1 for line in lines if line.strip())
