"""The records table: what the models of a cascade answered, one Parquet row per example.

This is an exchange format: whoever has answers and log-probs from another system writes this table
and can use everything after it. Its columns are `schema.COLUMNS` (docs/records.md shows them), its
metadata are described in metadata.py. Columns hold no nulls; others are ignored.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from cascade_jax import files, json_text
from cascade_jax.checks import shown
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.hidden_states import STATES, HiddenStates
from cascade_jax.deferral.scores.samples.answers import SampledAnswers
from cascade_jax.names import did_you_mean
from cascade_jax.records import columns as records_columns
from cascade_jax.records import metadata as records_metadata
from cascade_jax.records import schema
from cascade_jax.records.schema import METADATA_KEY, PAIR, RecordsError
from cascade_jax.task_metrics import corpus

_STATE_FLOPS = "input_state_flops"


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """A records table in memory: its columns are attributes, lists laid end to end.

    ``records.student_quality`` is a NumPy array [n]. Tokens of the student's answer to example i
    are ``student_tokens[student_offsets[i] : student_offsets[i + 1]]``; likewise log-probs and
    entropies, and other models' and the live cascade's. Statistics of all models lie from
    ``statistics_offsets[i]``; `statistics` gives a task's. Samples of example i are those from
    ``student_sample_offsets[i]``, tokens of sample j from ``student_sample_token_offsets[j]``.

    What a table does not have is None. Columns that `read` does not read at once are read from the
    file, which stays open, and checked when they are first used.

    In tables of two models with other names, "student" and "teacher" stand for the two as well.

    Attributes:
      columns: of these rows, by name.
      metadata: see metadata.py.
      source: the file.
    """

    columns: records_columns.Rows
    metadata: Mapping[str, Any]
    source: str = ""

    def __len__(self) -> int:
        return len(self.example_id)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("columns", "metadata", "source"):
            raise AttributeError(name)  # copied or unpickled, and not yet filled
        own = self._own(name)
        try:
            return self.columns[own]
        except KeyError:
            hint = did_you_mean(own, self.columns.fields)
            raise AttributeError(f"records have no column {name!r}{hint}") from None

    def _own(self, name: str) -> str:
        """A column's name, with the model's own name in place of its role."""
        role, _, rest = name.partition("_")
        if role not in PAIR or role in self.models:
            return name
        if len(self.models) > len(PAIR):
            raise RecordsError(
                f"{self.source}: two models are compared here, a {' and a '.join(PAIR)}; the table "
                f"holds answers of {len(self.models)}: {', '.join(self.models)}"
            )
        return f"{self.models[PAIR.index(role)]}_{rest}"

    @property
    def name(self) -> str:
        """The first model's label in tables and plots."""
        return self.metadata["name"]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in order of cost."""
        return tuple(self.metadata[schema.MODELS])

    def stated(self, model: str, key: str) -> Any:
        """What the metadata state of a model, "checkpoint" say; None if nothing."""
        return self.metadata.get(self._own(f"{model}_{key}"))

    def pieces(self, model: str, row: int) -> list[str] | None:
        """Text of each token of an answer; None if the table has none.

        Args:
          model: one of `models`, or "cascade".
          row: of the example.
        """
        name = self._own(f"{model}_pieces")
        if name not in self.columns.fields:
            raise ValueError(f"model is {model!r}; must be one of {(*self.models, schema.LIVE)}")
        return self.columns.value(name, row)

    @property
    def student(self) -> AnswerTokens:
        """The first model's answers, as deferral scores take them."""
        return self.answers(self.models[0])

    def answers(self, model: str) -> AnswerTokens:
        """A model's answers, as deferral scores take them."""
        if model not in self.models:
            raise ValueError(f"model is {model!r}; must be one of {self.models}")
        columns = self.columns
        more: dict[bool, dict[str, Any]] = {True: {}, False: {}}
        for field in columns.fields.values():
            if field.column.is_for_scores and field.owner == model and field.name in columns:
                more[bool(field.offsets)][field.column.name] = columns[field.name]
        top, embedding = f"{model}_top_log_probs", f"{model}_embedding"
        has_samples = f"{model}_sample_answers" in columns
        has_states = any(f"{model}_{name}_state" in columns for name in STATES)
        return AnswerTokens(
            log_probs=columns[f"{model}_log_probs"],
            entropies=columns[f"{model}_entropies"],
            offsets=columns[f"{model}_offsets"],
            example_ids=self.example_id,
            top_log_probs=columns[top] if top in columns else None,
            embeddings=columns[embedding] if embedding in columns else None,
            per_token=more[True],
            per_example=more[False],
            samples_fn=functools.partial(self._samples, model) if has_samples else None,
            states_fn=functools.partial(self._states, model) if has_states else None,
        )

    def _samples(self, model: str) -> SampledAnswers:
        """A model's sampled answers, which are read only when a score asks for them."""
        column = {
            name: self.columns[f"{model}_{name}"]
            for name in ("sample_answers", "sample_log_probs", "sample_tokens", "answer")
        }
        states = f"{model}_sample_state_eigenvalues"
        return SampledAnswers(
            texts=column["sample_answers"],
            offsets=self.columns[f"{model}_sample_offsets"],
            log_probs=column["sample_log_probs"],
            token_offsets=self.columns[f"{model}_sample_token_offsets"],
            tokens=column["sample_tokens"],
            greedy=column["answer"],
            state_eigenvalues=self.columns[states] if states in self.columns else None,
        )

    def _states(self, model: str) -> HiddenStates:
        """A model's hidden states, which are read only when a score asks for them."""
        is_first = model == self.models[0]
        layers = self.metadata.get(schema.STATE_LAYERS) if is_first else None
        count, parts = 1 if layers is None else len(layers), {}
        for name in (*STATES, _STATE_FLOPS):
            column = f"{model}_{name}" if name == _STATE_FLOPS else f"{model}_{name}_state"
            values = self.columns[column] if column in self.columns else None
            width = count if values is None else values.shape[1]
            if width % count or (name == _STATE_FLOPS and width != count):
                raise RecordsError(
                    f"{self.source}: {column} has {width} values in each row, not as many for each "
                    f"of {count} layers; metadata under {schema.STATE_LAYERS!r} have {layers}"
                )
            parts[name] = values
        stated = [self.stated(model, key) for key in ("saved", "checkpoint")]
        states = {
            name: v if v is None else v.reshape(len(v), count, -1) for name, v in parts.items()
        }
        flops = states.pop(_STATE_FLOPS)
        return HiddenStates(
            layers=layers,
            model=str(next(filter(None, stated), "")),
            input_flops=None if flops is None else flops[:, :, 0],
            **states,
        )

    def decoding(self, task: str) -> str:
        """How the answers of a task were made: "greedy", say; "" if unknown."""
        stated = self.metadata.get(schema.DECODING, "")
        return stated if isinstance(stated, str) else str(stated.get(task, ""))

    def statistics(self, task: str) -> corpus.Statistics | None:
        """Additive statistics of the rows of a task, in their order; None if it has none."""
        described = self.metadata.get(schema.CORPUS_METRICS, {})
        if task not in described:
            return None
        metric, rows = corpus.build(described[task]), np.flatnonzero(self.task == task)
        places = self.statistics_offsets[rows][:, None] + np.arange(metric.num_statistics)
        ends = self.models[0], self.models[-1]
        counts = [self.columns[f"{model}_statistics"][places] for model in ends]
        return corpus.Statistics(metric, *counts)

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Records":
        """These rows, in this order."""
        return dataclasses.replace(self, columns=self.columns.take(np.asarray(rows)))


# ------------------------------------------------------------------ writing and reading


def write(
    path: str | os.PathLike,
    rows: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    **parquet: Any,
) -> None:
    """Writes a records file, whole or not at all.

    Args:
      path: the file; its folder is made. An older file stays until the new one is complete.
      rows: columns by name (sequences, NumPy or Arrow arrays), or one mapping per example. The
        largest log-probs of an answer may be an array [L, K].
      metadata: JSON values; name, mixture and split are required, schema_version and models are
        added.
      **parquet: options of `pyarrow.parquet.write_table`: how the columns are coded.

    Raises:
      RecordsError: what `read` would refuse is refused here already.
    """
    path = pathlib.Path(path)
    metadata = records_metadata.upgraded(metadata, str(path))
    table = _to_table(rows, metadata, str(path))
    records_columns.Columns(table, metadata, str(path)).check()
    try:
        text = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordsError(f"{path}: the metadata must be JSON values: {error}") from None
    with files.replacing(path) as temporary:
        table = table.replace_schema_metadata({METADATA_KEY: text})
        # A page that changes on a disk or on its way is refused by `read`; costs 0.03 s for 30 MB.
        options = {"row_group_size": _ROW_GROUP, "write_page_checksum": True, **parquet}
        pq.write_table(table, temporary, **options)


_ROW_GROUP = 1 << 17  # rows; a reader holds one column of one group at a time


def _to_table(
    rows: Mapping[str, Any] | Iterable[Mapping[str, Any]], metadata: Mapping[str, Any], source: str
) -> pa.Table:
    """An Arrow table of the schema's columns and types."""
    models = metadata[schema.MODELS]
    if not isinstance(rows, Mapping):
        rows = list(rows)
        first = rows[0] if rows else schema.arrow_schema(models).names
        schema.check_columns(first, metadata if rows else {schema.MODELS: models}, source)
        names = schema.arrow_schema(models, first).names
        for number, row in enumerate(rows):
            if lacking := [name for name in names if name not in row]:
                raise RecordsError(f"{source}: row {number} lacks {', '.join(map(repr, lacking))}")
        rows = {name: [row[name] for row in rows] for name in names}
    else:
        schema.check_columns(rows, metadata, source)
    arrow_schema, arrays = schema.arrow_schema(models, rows), []
    for field in arrow_schema:
        try:
            arrays.append(_to_array(rows[field.name], field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RecordsError(
                f"{source}: column {field.name!r} must hold {field.type}: {error}"
            ) from None
    lengths = {name: len(array) for name, array in zip(arrow_schema.names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise RecordsError(f"{source}: columns of different lengths: {lengths}")
    return pa.table(arrays, schema=arrow_schema)


def _to_array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    # A 2-D NumPy array is a sequence of its rows; Arrow takes 1-D ones only.
    values = list(values) if getattr(values, "ndim", 1) > 1 else values
    if getattr(next(iter(values), None), "ndim", 1) > 1:
        values = [value.ravel() for value in values]
    if pa.types.is_integer(schema.innermost(kind)):
        array = pa.array(values)
        if pa.types.is_floating(schema.innermost(array.type)):
            return array.cast(kind)  # which refuses fractions; made so at once they are cut off
    return pa.array(values, type=kind)


def read(path: str | os.PathLike) -> Records:
    """Reads and checks a records file.

    Ids, numbers and the first model's log-probs are read at once; every other column when it is
    first used, which raises a RecordsError then if the column is not as it should be.

    Raises:
      FileNotFoundError: no such file.
      RecordsError: not a records file, another schema version, a missing column, a null, a log-prob
        that is not finite or above 0, a quality outside [0, 1], an example_id that comes twice,
        statistics that do not fit the corpus metric of their task.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        hint = did_you_mean(path.name, [file.name for file in path.parent.glob("*.parquet")])
        raise FileNotFoundError(f"{path}: no such records file{hint}")
    try:
        # Without these settings whole columns are read before their first row is there.
        settings = {"pre_buffer": False, "buffer_size": 1 << 20}
        file = pq.ParquetFile(path, **settings, page_checksum_verification=True)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, such as a permission; Arrow's own have no number
        reason = " ".join(str(error).split())
        raise RecordsError(f"{path} is not a records file: not Parquet ({reason})") from None
    metadata = records_metadata.upgraded(_stated_metadata(file, path), str(path))
    schema.check_columns(names, metadata, str(path))
    columns = records_columns.Columns(file, metadata, str(path))
    columns.check(only_at_once=True)
    _ = columns[f"{metadata[schema.MODELS][0]}_log_probs"]
    return Records(records_columns.Rows(columns), metadata, str(path))


def _stated_metadata(file: pq.ParquetFile, path: pathlib.Path) -> dict[str, Any]:
    """What stands under our key; polars writes it beside, not in, the Arrow schema."""
    key = METADATA_KEY.encode()
    text = (file.schema_arrow.metadata or {}).get(key, (file.metadata.metadata or {}).get(key))
    if text is None:
        raise RecordsError(
            f"{path} is not a records file: its Parquet metadata lack the key {METADATA_KEY!r}"
        )
    try:
        metadata = json_text.parse(text)
    except ValueError as error:
        raise RecordsError(f"{path}: the metadata are not JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise RecordsError(f"{path}: the metadata must be a JSON object, got {shown(metadata)}")
    return {"schema_version": None, **metadata}  # refused where it is not stated
