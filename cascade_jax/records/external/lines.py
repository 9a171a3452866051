"""Lines of JSONL files, and errors that name file, line and value."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cascade_jax import jsonl
from cascade_jax.json_text import shown
from cascade_jax.jsonl import IDS
from cascade_jax.short_text import cut_short


class LineError(ValueError):
    """A line that can not be used: file, line, what is there and what is allowed."""


class UnusableError(LineError):
    """An answer that is no answer, or has no log-probs of its own; its example can be dropped.

    Attributes:
      reason: what is wrong, in words for all such answers (`notes`).
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of a file.

    Attributes:
      where: file and line, for messages.
      row: what it holds.
    """

    where: str
    row: Mapping[str, Any]

    def fail(self, problem: str) -> LineError:
        """An error about it, to raise."""
        return LineError(f"{self.where}: {problem}")

    def unusable(self, reason: str, problem: str) -> UnusableError:
        """An error about an answer whose example can be dropped, to raise."""
        return UnusableError(reason, f"{self.where}: {problem}")

    def get(self, path: str, kind: type | tuple[type, ...], what: str) -> Any:
        """The value at a path such as "choices/0/message/content", which must be of a kind."""
        value: Any = self.row
        for key in path.split("/"):
            value = step(value, key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(f"{_named(path)} is {shown(value)}; must be {what}")
        return value

    def example_id(self) -> str:
        """The id that joins lines of several files."""
        name = next((name for name in IDS if self.row.get(name) is not None), None)
        if name is None:
            raise self.fail(
                f"has no id to join by; must have one of {', '.join(IDS)} (it has "
                f"{listed_keys(self.row)})"
            )
        value = self.row[name]
        if type(value) not in (str, int) or value == "":
            raise self.fail(f"{name} is {shown(value)}; must be a text or a whole number")
        return str(value)


def read_lines(path: str | Path) -> Iterator[Line]:
    """The objects of a JSONL file; blank lines are skipped.

    NaN and infinities are taken, since servers in Python write them: what uses a number checks it.

    Raises:
      FileNotFoundError: no such file.
      LineError: a line that is no JSON object.
    """
    return (Line(where, row) for where, row in jsonl.read_objects(path, LineError, allow_nan=True))


def step(value: Any, key: str) -> Any:
    """What stands in an object under a key, or in a list at an index; None if nothing does."""
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return None


def check_one(line: Line, name: str) -> None:
    """Refuses a list of answers that does not hold one."""
    answers = line.get(name, list, "a list of one answer")
    if len(answers) != 1:
        raise line.fail(f"{name} has {len(answers)} answers; must have one (n = 1)")


def listed_keys(row: Mapping[str, Any]) -> str:
    """The keys of an object, for messages."""
    text = ", ".join(key if key.isprintable() else ascii(key) for key in row)
    return cut_short(text) or "nothing"


def _named(path: str) -> str:
    """ "choices/0/message" as "choices[0].message"."""
    first, *rest = path.split("/")
    return first + "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in rest)
