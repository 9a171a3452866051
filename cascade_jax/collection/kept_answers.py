"""Answers of the large model out of a table that is there, so that it answers a split only once."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cascade_jax import records
from cascade_jax.records import schema

# Of metadata, what is not about the large model, the examples and how they are answered.
_OF_STUDENT = ("name", "loss", schema.TOP_K, "embeddings", schema.FIGURES, schema.POLICY)
_OF_STUDENT += (schema.PROBES, schema.STATE_LAYERS)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelColumns:
    """What a records table holds of one model.

    Attributes:
      columns: those of the model by their names in the table, in the order of the examples.
      metrics: name of each example's quality.
      figures: by task and metric, the value on the split; None for one that is not defined.
    """

    columns: Mapping[str, Any]
    metrics: Sequence[str]
    figures: Mapping[str, Mapping[str, float | None]]


def find(folder: Path, metadata: Mapping[str, Any]) -> Path | None:
    """A table of a folder in which the same large model answers the same examples; None for none.

    Args:
      folder: of the tables of one split.
      metadata: of the table to be made.
    """
    expected = _compared(metadata)
    for file in sorted(folder.glob("*.parquet")):
        try:
            theirs = records.read(file).metadata
        except (records.RecordsError, OSError):  # of another version, say, or being replaced
            continue
        if schema.FIGURES in theirs and _compared(theirs) == expected:
            return file
    return None


def _compared(metadata: Mapping[str, Any]) -> dict[str, Any]:
    student = f"{schema.PAIR[0]}_"
    return {
        key: value
        for key, value in metadata.items()
        if key not in _OF_STUDENT and not key.startswith(student)
    }


def read_teacher(file: Path, example_ids: Sequence[str]) -> ModelColumns | None:
    """What a table holds of the large model; None if its examples are others after all."""
    table = records.read(file)
    if list(table.example_id) != list(example_ids):
        return None
    role = schema.PAIR[-1]
    present = pq.read_schema(file).names
    names = [
        name
        for name, field in schema.fields(schema.PAIR).items()
        if field.owner == role and name in present
    ]
    figures = {
        task: {metric: both[role] for metric, both in by_metric.items()}
        for task, by_metric in table.metadata[schema.FIGURES].items()
    }
    arrays = pq.read_table(file, columns=names)
    return ModelColumns({name: arrays[name] for name in names}, list(table.metric), figures)
