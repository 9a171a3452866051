"""Reading JSONL: one JSON object a line, with messages that name file and line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cascade_jax import json_text

IDS = ("example_id", "custom_id", "id", "request_id")  # a line's id is the first that it has
_SOME_ID = [re.compile(rb'"%s"\s*:\s*("[\x20-\x7e]{1,60}?"|\d{1,60})' % n.encode()) for n in IDS]


def read_objects(
    path: str | Path, error: type[ValueError] = ValueError, *, allow_nan: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("<file>:<line>", object) of a UTF-8 file; blank lines are skipped.

    Args:
      path: the file.
      error: of a line that is refused.
      allow_nan: see `json_text.parse`.

    Raises:
      FileNotFoundError: no such file.
      error: a line that is no JSON object.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = json_text.parse(line.rstrip(), where, allow_nan=allow_nan)
            except ValueError as problem:
                reason = str(problem).removeprefix(where)
                raise error(f"{where}{_id_of(line)}{reason}") from None
            if not isinstance(value, dict):
                raise error(f"{where}: is {json_text.shown(value)}; must be an object {{...}}")
            yield where, value


def _id_of(line: bytes) -> str:
    """The id of a line that can not be read, as far as it shows: ` (id "q1")`, or nothing."""
    match = next((match for name in _SOME_ID if (match := name.search(line))), None)
    return f" (id {match[1].decode()})" if match else ""
