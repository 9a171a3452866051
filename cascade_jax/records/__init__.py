"""The records table: what the models of a cascade answered, one Parquet row per example."""

from cascade_jax.records.alignment import align
from cascade_jax.records.schema import METADATA_KEY, SCHEMA, SCHEMA_VERSION, RecordsError
from cascade_jax.records.table import Records, read, write

__all__ = [
    "METADATA_KEY",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Records",
    "RecordsError",
    "align",
    "read",
    "write",
]
