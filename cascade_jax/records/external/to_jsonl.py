"""Records as a plain table of JSONL, from which `from_jsonl` makes the same records."""

import json
import os
from typing import Any

import numpy as np

from cascade_jax import files
from cascade_jax.records import schema
from cascade_jax.records import table as records
from cascade_jax.records.external.formats import METADATA


def to_jsonl(path: str | os.PathLike, output: str | os.PathLike) -> int:
    """Writes a records file as JSONL: its metadata, then a line for each row.

    Args:
      path: the records file.
      output: the file to write, whole or not at all.

    Returns:
      The number of rows.

    Raises:
      FileNotFoundError, RecordsError: see `records.read`.
      ValueError: output is the records file itself.
    """
    files.check_not_read(output, path)
    table = records.read(path)
    with files.replacing(output) as temporary, open(temporary, "w", encoding="utf-8") as lines:
        lines.write(json.dumps({METADATA: dict(table.metadata)}, ensure_ascii=False) + "\n")
        for row in range(len(table)):
            lines.write(json.dumps(_row(table, row), ensure_ascii=False) + "\n")
    return len(table)


def _row(table: records.Records, row: int) -> dict[str, Any]:
    """What is known of a row: the example's columns, and an object for each owner of answers."""
    line: dict[str, Any] = {"id": table.example_id[row]}
    for name, field in table.columns.fields.items():
        if name not in table.columns or name == "example_id":
            continue
        place = line if field.owner == schema.EXAMPLE else line.setdefault(field.owner, {})
        value = table.columns.value(name, row)
        if value is not None:
            place[field.column.name] = _plain(value)
    return line


def _plain(value: Any) -> Any:
    """A value for JSON; float32 in the fewest digits that give it back."""
    if isinstance(value, list) or getattr(value, "ndim", 0) > 1:
        return [_plain(inner) for inner in value]
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if value.dtype != np.float32:
        return value.tolist()
    return [float(str(number)) for number in value] if value.ndim else float(str(value))
