"""Records as a plain table of JSONL, from which `exchange.from_jsonl` makes the same records."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cascade_jax import files
from cascade_jax.records import table as records
from cascade_jax.records.external.formats import METADATA

_MODELS = ("student", "teacher")


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
    names = ("mixture", "task", "split", "inputs", "target", "metric")
    texts = {name: getattr(table, name)[row] for name in names}
    found = {"id": table.example_id[row], **texts} | {m: _answer(table, m, row) for m in _MODELS}
    return found if table.cascade_answer is None else found | {"cascade": _cascade(table, row)}


def _cascade(table: records.Records, row: int) -> Mapping[str, Any]:
    """What the live cascade wrote."""
    span = slice(table.cascade_offsets[row], table.cascade_offsets[row + 1])
    found: dict[str, Any] = {"answer": table.cascade_answer[row]}
    for name in ("tokens", "is_deferred", "uncertainties"):
        found[name] = _plain(getattr(table, f"cascade_{name}")[span])
    found["pieces"] = table.pieces("cascade", row)
    for name in ("quality", "flops"):
        found[name] = getattr(table, f"cascade_{name}")[row].item()
    if table.cascade_statistics is not None:
        counts = slice(table.statistics_offsets[row], table.statistics_offsets[row + 1])
        found["statistics"] = _plain(table.cascade_statistics[counts])
    return found


def _answer(table: records.Records, model: str, row: int) -> Mapping[str, Any]:
    """What a model said, without what is not known."""

    def column(name: str) -> Any:
        return getattr(table, f"{model}_{name}", None)

    offsets = column("offsets")
    span = slice(offsets[row], offsets[row + 1])
    found: dict[str, Any] = {"answer": column("answer")[row]}
    for name in ("log_probs", "tokens", "entropies", "top_log_probs", "top_ids"):
        if column(name) is not None:
            found[name] = _plain(column(name)[span])
    found["pieces"] = table.pieces(model, row)
    if column("embeddings") is not None:
        found["embedding"] = _plain(column("embeddings")[row])
    for name in ("quality", "flops_per_token", "input_tokens", "flops", "seconds"):
        if column(name) is not None:
            found[name] = column(name)[row].item()
    counts = slice(table.statistics_offsets[row], table.statistics_offsets[row + 1])
    if len(column("statistics")):
        found["statistics"] = _plain(column("statistics")[counts])
    return {name: value for name, value in found.items() if value is not None}


def _plain(values: np.ndarray) -> list:
    """Numbers for JSON; float32 in the fewest digits that give it back."""
    if values.dtype != np.float32:
        return values.tolist()
    if values.ndim > 1:
        return [_plain(inner) for inner in values]
    return [float(str(value)) for value in values]
