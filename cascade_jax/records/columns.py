"""Reads columns of an Arrow table or a Parquet file as NumPy arrays, and checks them.

A column is read and checked when it is first asked for, in pieces of a few thousand rows, so that
a table of a million rows takes the memory of the columns in use and little more.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from cascade_jax.records import metadata as records_metadata
from cascade_jax.records import schema
from cascade_jax.records.schema import Field, RecordsError

_ROWS = 1 << 14  # of a table at once
_VALUES = 1 << 22  # checked at once
_UNSHARED = ("example_id", "inputs")  # texts that hardly occur twice


def offsets_of(lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_plus_1"]:
    """Where each row's values begin when rows lie end to end, and where the last ones end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def places_of(
    offsets: Int[np.ndarray, " n_plus_1"], rows: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " rows_plus_1"], Int[np.ndarray, " values"]]:
    """Offsets of some of the rows end to end, and where their values stand now."""
    lengths = np.diff(offsets)[rows]
    taken = offsets_of(lengths)
    return taken, np.arange(taken[-1]) + np.repeat(offsets[:-1][rows] - taken[:-1], lengths)


class Columns:
    """Columns of a whole table by name, and the offsets that lists laid end to end need.

    A column that the table does not have is None; so are tokens and entropies that are not known.

    Attributes:
      fields: the columns that such a table may have.
      names: those that it has, and others that are ignored.
    """

    def __init__(self, table: pa.Table | pq.ParquetFile, metadata: Mapping[str, Any], source: str):
        is_file = isinstance(table, pq.ParquetFile)
        self._table, self._metadata, self._source = table, metadata, source
        self.fields = schema.fields(metadata[schema.MODELS])
        self.names = frozenset((table.schema_arrow if is_file else table.schema).names)
        self.num_rows = table.metadata.num_rows if is_file else table.num_rows
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._make(name)
        return self._made[name]

    def check(self, only_at_once: bool = False) -> None:
        """Reads every column, and so makes every check."""
        for name, field in self.fields.items():
            if field.column.is_read_at_once or not only_at_once:
                self[name]
        self._check_statistics()

    def _make(self, name: str) -> None:
        field = self.fields.get(name) or self.setter_of(name)
        column = field.column
        if field.name not in self.names:
            self._made |= dict.fromkeys((name, field.name))
        elif column.shape != schema.ONE:
            self._make_lists(field)
        else:
            self._made[name] = self._texts(name) if column.is_text else self._read(field)[1]
        self._check(field)

    def setter_of(self, offsets: str) -> Field:
        """The column whose lists say what these offsets are.

        Raises:
          KeyError: there are no such offsets.
        """
        for field in self.fields.values():
            if field.column.sets_lengths and field.offsets[-1] == offsets:
                return field
        raise KeyError(offsets)

    # ---------------------------------------------------------------- reading

    def _chunks(self, field: Field) -> Iterator[pa.Array]:
        """A column in parts, of the schema's type and without nulls."""
        name, kind = field.name, field.column.type
        if isinstance(self._table, pq.ParquetFile):
            parts = self._table.iter_batches(_ROWS, columns=[name], use_threads=False)
            chunks = (batch.column(0) for batch in parts)
        else:
            chunks = iter(self._table.column(name).chunks)
        nulls = rows = 0
        try:
            for chunk in chunks:
                rows += len(chunk)
                if field.column.is_text:
                    chunk.validate(full=True)  # that it is UTF-8
                if chunk.type != kind:
                    chunk = self._cast(chunk, kind, name)
                nulls += chunk.null_count
                if not nulls:
                    yield chunk
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise RecordsError(
                f"{self._source}: column {name!r} can't be read: {reason}; the file is "
                "damaged, get another copy or make it anew"
            ) from error
        if nulls:
            raise RecordsError(f"{self._source}: column {name!r} holds {nulls} nulls")
        if rows != self.num_rows:  # checksums are of pages, not of the headers before them
            raise RecordsError(
                f"{self._source}: column {name!r} has {rows} rows, the file {self.num_rows}; the "
                "file is damaged, get another copy or make it anew"
            )

    def _cast(self, chunk: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
        try:
            return chunk.cast(kind)
        except pa.ArrowException:
            raise RecordsError(
                f"{self._source}: column {name!r} is {chunk.type}, must be {kind}"
            ) from None

    def _texts(self, name: str) -> np.ndarray:
        """Python strings; rows with the same text share one."""
        texts, start, shared = np.empty(self.num_rows, object), 0, {}
        for chunk in self._chunks(self.fields[name]):
            part = slice(start, start + len(chunk))
            if name in _UNSHARED:
                texts[part] = chunk.to_numpy(zero_copy_only=False)
            else:
                coded = chunk.dictionary_encode()
                different = np.empty(len(coded.dictionary), object)
                different[:] = [shared.setdefault(t, t) for t in coded.dictionary.to_pylist()]
                texts[part] = different[coded.indices.to_numpy()]
            start += len(chunk)
        return texts

    def _read(self, field: Field) -> tuple[list[np.ndarray], np.ndarray | pa.ChunkedArray]:
        """(lengths of the lists at each depth, the values end to end) of a column.

        Texts of tokens stay in Arrow: as Python strings they would take many times the memory.
        """
        column = field.column
        lengths = [[np.zeros(0, np.int64)] for _ in range(column.depth)]
        values, texts = np.zeros(0, column.dtype), []
        for chunk in self._chunks(field):
            for lengths_at_depth in lengths:
                lengths_at_depth.append(pc.list_value_length(chunk).to_numpy())
                chunk = pc.list_flatten(chunk)
                if chunk.null_count:
                    raise RecordsError(f"{self._source}: lists of column {field.name!r} hold nulls")
            if column.is_text and column.shape == schema.PER_TOKEN:
                texts.append(chunk)
            else:
                end = len(values)
                values.resize(end + len(chunk), refcheck=False)  # in place, not a second copy
                values[end:] = chunk.to_numpy(zero_copy_only=False)
        if texts:
            values = pa.chunked_array(texts)
        return [np.concatenate(parts) for parts in lengths], values

    def _make_lists(self, field: Field) -> None:
        """Makes the values of lists, and the offsets if no other column sets them."""
        shape, offsets = field.column.shape, field.offsets
        sets_offsets = bool(offsets) and self.setter_of(offsets[-1]) is field
        lengths, values = self._read(field)
        expected = [np.diff(self[name]) for name in offsets[: len(offsets) - sets_offsets]]
        width = 1
        if shape == schema.TOP_PER_TOKEN:
            width = self._metadata[schema.TOP_K]
        elif shape == schema.LAYERS_PER_TOKEN:
            first = int(np.argmax(expected[0] > 0)) if self.num_rows else 0
            has_token = self.num_rows and expected[0][first]
            width = max(int(lengths[0][first] // expected[0][first]), 1) if has_token else 1
        elif shape == schema.VECTOR:
            expected = [np.ones(self.num_rows, np.int64)]
            width = int(lengths[0][0]) if self.num_rows else 1
            if not width:
                raise RecordsError(f"{self._source}: column {field.name!r} holds empty lists")
        if not sets_offsets and not len(values) and np.any(expected[-1]):
            if not field.column.is_required:
                raise RecordsError(
                    f"{self._source}: column {field.name!r} is empty; leave it out where nothing "
                    "is known"
                )
            self._made[field.name] = None
            return
        for level, lengths_expected in enumerate(expected):
            self._check_lengths(field, level, lengths[level], lengths_expected, width)
        if sets_offsets:
            self._made[offsets[-1]] = offsets_of(lengths[-1])
        is_wide = shape in (schema.TOP_PER_TOKEN, schema.LAYERS_PER_TOKEN, schema.VECTOR)
        self._made[field.name] = values.reshape(-1, width) if is_wide else values

    # --------------------------------------------------------------- checking

    def _check_lengths(
        self,
        field: Field,
        level: int,
        lengths: Int[np.ndarray, " n"],
        expected: Int[np.ndarray, " n"],
        width: int,
    ) -> None:
        """Refuses lists of another length than `expected` times `width`; level 1: inner lists."""
        if np.array_equal(lengths, expected * width):
            return
        row = int(np.flatnonzero(lengths != expected * width)[0])
        must = f"that of row 0 has {width}"
        if field.offsets:
            must = f"{self.setter_of(field.offsets[level]).name!r} has {expected[row]}"
            is_top = field.column.shape == schema.TOP_PER_TOKEN
            unit = f"{schema.TOP_K} is {width}" if is_top else f"a token has {width} in others"
            must += f" and {unit}" * (width != 1)
        raise RecordsError(
            f"{self._source}: {field.name!r} of {('row', 'sample')[level]} {row} has "
            f"{lengths[row]} values, {must}"
        )

    def _check_statistics(self) -> None:
        """Rows of a task with a corpus metric have as many as it says, all others none."""
        metrics = records_metadata.corpus_metrics(self._metadata, self._source)
        offsets = self["statistics_offsets"]
        lengths = np.zeros(self.num_rows, np.int64) if offsets is None else np.diff(offsets)
        expected = np.zeros(self.num_rows, np.int64)
        if metrics:
            sizes = {task: metric.num_statistics for task, metric in metrics.items()}
            expected[:] = [sizes.get(task, 0) for task in self["task"]]
        wrong = np.flatnonzero(lengths != expected)
        if len(wrong):
            row = wrong[0]
            task = self["task"][row]
            described = f"{schema.CORPUS_METRICS} has {metrics.get(task)}"
            has = described if task in metrics else "has no corpus metric"
            raise RecordsError(
                f"{self._source}: example {self['example_id'][row]!r} (row {row}) has "
                f"{lengths[row]} statistics, must have {expected[row]}: its task {task!r} {has} "
                f"({len(wrong)} such rows)"
            )

    def _check(self, field: Field) -> None:
        """Refuses values that a column must not hold."""
        values, column = self._made[field.name], field.column
        if values is None:
            return
        if field.name == "example_id" and len(set(values)) != len(values):
            twice = collections.Counter(values).most_common(1)[0][0]
            raise RecordsError(
                f"{self._source}: example_id {twice!r} comes twice, every id must be unique"
            )
        if column.check is not None:
            self._refuse(field, column.check)
        if column.is_falling:
            self._refuse(field, schema.FALLING)
            self._refuse(field, schema.TOGETHER_ONE)

    def _refuse(self, field: Field, check: schema.Check) -> None:
        """Refuses a column with a value that a check does not allow."""
        values, count, first = self._made[field.name], 0, None
        step = max(_VALUES // max(values[:1].size, 1), 1)
        for start in range(0, len(values), step):
            bad = ~check.is_allowed(values[start : start + step])
            count += int(np.count_nonzero(bad))
            if first is None and count:
                place = np.argwhere(bad)[0]
                first = (int(place[0]) + start, *place[1:])
        if first is None:
            return
        row = first[0]
        for name in reversed(field.offsets):
            row = int(np.searchsorted(self[name], row, "right")) - 1
        raise RecordsError(
            f"{self._source}: {field.name} of example {self['example_id'][row]!r} (row {row}) is "
            f"{values[first]}, must be {check.allowed} ({count} such)"
        )


class Rows:
    """Columns of some of a table's rows, each made when first asked for.

    Args:
      columns: of the whole table.
      rows: which, in which order; None for all as they stand.
    """

    def __init__(self, columns: Columns, rows: Int[np.ndarray, " rows"] | None = None):
        self._columns, self._rows = columns, rows
        self._made: dict[str, Any] = {}
        self.fields = columns.fields

    def __contains__(self, name: str) -> bool:
        """Whether the table has the column."""
        return name in self.fields and name in self._columns.names

    def __getitem__(self, name: str) -> Any:
        """A column or offsets, or None.

        Raises:
          KeyError: no such table has them.
        """
        if self._rows is None:
            return self._columns[name]
        if name not in self._made:
            self._made[name] = self._taken(name)
        return self._made[name]

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Rows":
        """Some of these rows."""
        return Rows(self._columns, rows if self._rows is None else self._rows[rows])

    def value(self, name: str, row: int) -> Any:
        """What a column holds in a row, as an array, a text or a number.

        Lists of lists and lists of texts are Python's. None if the table has no such column.
        """
        field, values = self.fields[name], self._columns[name]
        if values is None:
            return None
        start = row if self._rows is None else int(self._rows[row])
        if not field.offsets:
            return values[start]
        spans = [self._columns[offsets] for offsets in field.offsets]
        start, stop = spans[0][start : start + 2]
        if len(spans) == 2:
            ends = spans[1][start : stop + 1]
            return [values[begin:end] for begin, end in itertools.pairwise(ends)]
        is_arrow = isinstance(values, pa.ChunkedArray)
        return values[start:stop].to_pylist() if is_arrow else values[start:stop]

    def _taken(self, name: str) -> Shaped[np.ndarray, "..."] | None:
        whole, rows = self._columns[name], self._rows
        if whole is None:
            return None
        field = self.fields.get(name)
        for offsets in (field or self._columns.setter_of(name)).offsets:
            taken, rows = places_of(self._columns[offsets], rows)
        if field is None:
            return taken
        return whole.take(rows) if isinstance(whole, pa.ChunkedArray) else whole[rows]
