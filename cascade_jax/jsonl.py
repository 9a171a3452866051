"""Reading JSONL: one JSON object a line, with messages that name file and line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_objects(
    path: str | Path, error: type[ValueError] = ValueError
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("<file>:<line>", object) of a UTF-8 file; blank lines are skipped.

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
                value = json.loads(line.decode("utf-8-sig").rstrip())
            except UnicodeDecodeError as problem:
                raise error(f"{where}: not UTF-8 ({problem.reason})") from None
            except json.JSONDecodeError as problem:
                what = problem.msg.removesuffix(" at")
                what += f" at column {problem.colno}"
                raise error(f"{where}: not a JSON object ({what})") from None
            except RecursionError:
                raise error(f"{where}: nested too deeply to be read") from None
            if rb"\ud" in line.lower() and _has_half_a_character(value):
                half = "half of a character, such as \\ud83d alone, which is no text"
                raise error(f"{where}: holds {half}")
            if not isinstance(value, dict):
                raise error(f"{where}: is {shown(value)}; must be an object {{...}}")
            yield where, value


def _has_half_a_character(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(value: Any) -> str:
    """A value as JSON, cut short, for messages."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to be shown"
    return text if len(text) <= 60 else text[:57] + "..."
