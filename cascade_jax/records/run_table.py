"""Tables of finished runs: records without text, small enough to be kept beside the code.

Such a table is a records file as any other, which every command reads. Its metadata say under
"run" which run of a study it is, and under "examples" which examples it is about. A text stays only
where it says something without being read: of examples with equal inputs, all have as their inputs
the smallest of their ids, so that intervals still draw whole inputs; of others they are blank.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from msgspec import Meta

from cascade_jax import checks, files, json_file
from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.scores import DeferralScore
from cascade_jax.records import schema
from cascade_jax.records import table as records
from cascade_jax.records.schema import RecordsError

# Keys of the metadata.
RUN, EXAMPLES, SCORES = "run", "examples", "stored_scores"  # the last also a column
MANTISSA_BITS = 12  # that are kept of log-probs: a relative error of at most 2 ** -13
# What a table loses. Paths are of one machine, and the texts are the data's.
_LEFT_OUT = ("pieces", "top_log_probs", "top_ids", "embedding")
_LEFT_OUT += ("sample_answers", "sample_log_probs", "sample_tokens", "sample_drawn_log_probs")
_LEFT_OUT += ("mean_log_probs", "previous_attention", "self_attention_logs", "relevances")
_LEFT_OUT += ("surface_log_probs", "input_state", "answer_state", "sample_state_eigenvalues")
_EMPTY_TEXTS = ("target", "answer")
_ROUNDED = ("log_probs", "entropies", "seconds")
_Name = Annotated[str, Meta(min_length=1)]


@dataclasses.dataclass(frozen=True, order=True)
class Run:
    """Which run of a study a table is of.

    Attributes:
      pair: of models, on one set of test examples: "smollm2".
      size: of the student: "layers_10".
      loss: the name of its file in gin/losses; a Gatekeeper's with its weight, "gatekeeper_0.3".
      seed: of the student; what is compared has the same.
    """

    pair: _Name
    size: _Name
    loss: _Name
    seed: Annotated[int, Meta(ge=0)]

    def __post_init__(self):
        for name in ("pair", "size", "loss"):
            value = getattr(self, name)
            checks.require(isinstance(value, str) and bool(value), name, value, "a text")
        checks.whole_number("seed", self.seed, 0)

    def __str__(self) -> str:
        return f"{self.pair}, {self.size}, {self.loss}, seed {self.seed}"


def write(
    records_file: str | os.PathLike,
    output: str | os.PathLike,
    run: Run,
    scores: Mapping[str, DeferralScore] | None = None,
) -> records.Records:
    """Writes the table of a run from its records.

    Args:
      records_file: as `cascade-jax collect` wrote it.
      output: the file to write, whole or not at all.
      run: which run it is.
      scores: more deferral scores of the first model's answers by name, a router's say, for which
        the columns that stay do not suffice.

    Returns:
      What was written.

    Raises:
      FileNotFoundError, RecordsError: see `records.read`.
      ValueError: output is the records file, or a score that can not be computed.
    """
    files.check_not_read(output, records_file)
    table = records.read(records_file)
    if not len(table):
        raise RecordsError(f"{table.source}: the records hold no example")
    metadata = {k: v for k, v in table.metadata.items() if not k.endswith("_checkpoint")}
    for key in (schema.TOP_K, schema.POLICY, SCORES):
        metadata.pop(key, None)
    metadata |= {RUN: dataclasses.asdict(run), EXAMPLES: _fingerprint(table)}
    columns = {
        name: _column(table, field)
        for name, field in table.columns.fields.items()
        if name in table.columns and _stays(field)
    }
    if scores:
        values = {name: np.asarray(score(table.student)) for name, score in scores.items()}
        columns[f"{table.models[0]}_{SCORES}"] = np.stack(list(values.values()), axis=1)
        metadata[SCORES] = list(values)
    records.write(output, columns, metadata, **_parquet_options(table, columns))
    return records.read(output)


def run_of(table: records.Records) -> Run | None:
    """Which run a table is of; None where it does not say.

    Raises:
      RecordsError: metadata under "run" that are none.
    """
    stated = table.metadata.get(RUN)
    if stated is None:
        return None
    try:
        return json_file.from_values(stated, Run, f"{table.source}: metadata under {RUN!r}")
    except ValueError as error:
        raise RecordsError(str(error)) from None


def stored_score(table: records.Records, name: str) -> Float[np.ndarray, " n"] | None:
    """A score of the first model's answers that the table holds by name; None if it does not."""
    names = table.metadata.get(SCORES, ())
    values = getattr(table, f"{table.models[0]}_{SCORES}")
    if values is None or name not in names:
        return None
    if len(names) != values.shape[1]:
        held = f"{values.shape[1]} scores, the metadata {len(names)} names of them"
        raise RecordsError(f"{table.source}: the table holds {held}")
    return values[:, list(names).index(name)]


# ------------------------------------------------------------------ columns


def _stays(field: schema.Field) -> bool:
    return field.owner != schema.LIVE and field.column.name not in (*_LEFT_OUT, SCORES)


def _column(table: records.Records, field: schema.Field) -> Any:
    """What stays of a column: rows of it, as `records.write` takes them."""
    name, kind, owner = field.column.name, field.column, field.owner
    is_last = owner == table.models[-1]
    if name == "inputs":
        return _equal_inputs(table)
    if name in _EMPTY_TEXTS:
        return np.full(len(table), "", object)
    if name == "tokens" or (is_last and kind.shape == schema.PER_TOKEN):
        return [[]] * len(table)
    values = table.columns[field.name]
    if name in _ROUNDED and values is not None:
        values = rounded(values)
    if not field.offsets:
        return values
    if values is None:
        return [[]] * len(table)
    return np.split(values, table.columns[field.offsets[-1]][1:-1])


def rounded(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Values as float32 with 12 bits of mantissa; the bytes that become 0 take no room in a file.

    Example: -0.1 becomes -0.10000610.
    """
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    dropped = 23 - MANTISSA_BITS
    bits = ((bits + (1 << (dropped - 1))) >> dropped) << dropped
    return bits.astype(np.uint32).view(np.float32)


def _equal_inputs(table: records.Records) -> np.ndarray:
    """For examples with equal inputs the smallest of their ids, for others a blank text."""
    numbers = splits.text_numbers(table.inputs)
    order = np.argsort(table.example_id.astype(str), kind="stable")
    unique, first = np.unique(numbers[order], return_index=True)
    counts = np.bincount(numbers, minlength=len(unique))
    names = np.where(counts > 1, table.example_id[order[first]], "")
    return names[numbers].astype(object)


def _fingerprint(table: records.Records) -> str:
    """Of ids, inputs and targets, whatever their order; equal for equal examples alone."""
    texts = zip(table.example_id, table.inputs, table.target, strict=True)
    return splits.split_fingerprint([splits.example_fingerprint(*three) for three in texts])


def _parquet_options(table: records.Records, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Encodings under which few bytes are left: zeros apart from the others, ids by their ends."""
    floats = [
        name
        for name in columns
        if table.columns.fields[name].column.name in ("log_probs", "entropies")
        and table.columns.fields[name].owner != table.models[-1]
    ]
    paths = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in floats}
    encodings = {**paths, "example_id": "DELTA_BYTE_ARRAY", "inputs": "DELTA_BYTE_ARRAY"}
    plain = [name for name in columns if name not in floats and name not in encodings]
    return {
        "compression": "zstd",
        "compression_level": 19,
        "column_encoding": encodings,
        "use_dictionary": plain,
        "write_statistics": False,
    }
