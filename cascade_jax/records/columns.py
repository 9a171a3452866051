"""From an Arrow table or a Parquet file to NumPy arrays, a column at a time, with every check.

A column is read and checked when it is first asked for, in pieces of a few thousand rows, so that
a table of a million rows takes the memory of the columns in use and little more.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from cascade_jax.records import schema
from cascade_jax.records.schema import RecordsError

_ROWS = 1 << 14  # of a table at once
_VALUES = 1 << 22  # checked at once
_CASCADE = "cascade"
_PER_TOKEN = ("tokens", "entropies", "top_log_probs", "top_ids", "is_deferred", "uncertainties")
_UNSHARED = ("example_id", "inputs")  # texts that hardly come twice
# Log-softmax rounding can leave a log-prob a little above 0; a probability is far above.
_LARGEST_LOG_PROB = 1e-3


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
    """Columns of a whole table by name.

    Names are those of the schema, but `student_embeddings` [n, D], and `student_offsets`,
    `teacher_offsets`, `cascade_offsets` and `statistics_offsets` of the lists laid end to end. What
    an optional column holds is None without it; so are tokens and entropies that are not known.
    """

    def __init__(self, table: pa.Table | pq.ParquetFile, metadata: Mapping[str, Any], source: str):
        is_file = isinstance(table, pq.ParquetFile)
        self._table, self._metadata, self._source = table, metadata, source
        self.names = frozenset((table.schema_arrow if is_file else table.schema).names)
        self.num_rows = table.metadata.num_rows if is_file else table.num_rows
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._make(name)
        return self._made[name]

    def check(self) -> None:
        """Makes every column, and so every check."""
        for name in schema.present_schema(self.names).names:
            self[{schema.EMBEDDING: "student_embeddings"}.get(name, name)]
        self["statistics_offsets"]

    def _make(self, name: str) -> None:
        model, _, kind = name.partition("_")
        column = {"student_embeddings": schema.EMBEDDING}.get(name, name)
        if kind == "offsets" or name in schema.STATISTICS:
            if name == "statistics_offsets" or name in schema.STATISTICS:
                self._make_statistics()
            elif model == _CASCADE:
                self._make_cascade_tokens()
            else:
                self._make(f"{model}_log_probs")
        elif column not in self.names:
            self._made[name] = None
        elif name in schema.TEXTS or kind == "answer":
            self._made[name] = self._texts(name)
        elif name == "cascade_tokens":
            self._make_cascade_tokens()
        elif name == schema.CASCADE_STATISTICS:
            self._made[name] = self._fitting(
                name, np.diff(self["statistics_offsets"]), "the student's"
            )
        elif kind == "log_probs":
            offsets, self._made[name] = self._lists(name)
            self._made[f"{model}_offsets"] = offsets
        elif kind in _PER_TOKEN:
            self._made[name] = self._per_token(name, model)
        elif kind == "pieces":
            self._made[name] = self._pieces(name, model)
        elif name == "student_embeddings":
            self._made[name] = self._embeddings()
        else:
            self._made[name] = self._numbers(name)
        self._check(name)

    def _make_cascade_tokens(self) -> None:
        """Of the live cascade, whose tokens say how long its other lists are."""
        offsets = tokens = None
        if schema.CASCADE[0] in self.names:
            offsets, tokens = self._lists("cascade_tokens")
        self._made |= {"cascade_offsets": offsets, "cascade_tokens": tokens}

    # ---------------------------------------------------------------- reading

    def _chunks(self, name: str) -> Iterator[pa.Array]:
        """A column in parts, of the schema's type and without nulls."""
        kind = schema.TYPES[name]
        if isinstance(self._table, pq.ParquetFile):
            parts = self._table.iter_batches(_ROWS, columns=[name], use_threads=False)
            chunks = (batch.column(0) for batch in parts)
        else:
            chunks = iter(self._table.column(name).chunks)
        nulls = 0
        try:
            for chunk in chunks:
                if chunk.type != kind:
                    chunk = self._cast(chunk, kind, name)
                nulls += chunk.null_count
                if not nulls:
                    yield chunk
        except (pa.ArrowException, OSError) as error:
            raise RecordsError(f"{self._source}: column {name!r} can't be read: {error}") from error
        if nulls:
            raise RecordsError(f"{self._source}: column {name!r} holds {nulls} nulls")

    def _cast(self, chunk: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
        try:
            return chunk.cast(kind)
        except pa.ArrowException:
            raise RecordsError(
                f"{self._source}: column {name!r} is {chunk.type}, must be {kind}"
            ) from None

    def _numbers(self, name: str) -> np.ndarray:
        kind = schema.TYPES[name].to_pandas_dtype()
        parts = [chunk.to_numpy(zero_copy_only=False) for chunk in self._chunks(name)]
        return np.concatenate([np.zeros(0, kind), *parts])

    def _texts(self, name: str) -> np.ndarray:
        """Python strings; rows with the same text share one."""
        found, at, shared = np.empty(self.num_rows, object), 0, {}
        for chunk in self._chunks(name):
            part = slice(at, at + len(chunk))
            if name in _UNSHARED:
                found[part] = chunk.to_numpy(zero_copy_only=False)
            else:
                coded = chunk.dictionary_encode()
                texts = np.empty(len(coded.dictionary), object)
                texts[:] = [shared.setdefault(text, text) for text in coded.dictionary.to_pylist()]
                found[part] = texts[coded.indices.to_numpy()]
            at += len(chunk)
        return found

    def _parts(self, name: str) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """(lengths of the lists, their values end to end), part after part."""
        for chunk in self._chunks(name):
            values = pc.list_flatten(chunk)
            if values.null_count:
                raise RecordsError(f"{self._source}: lists of column {name!r} hold nulls")
            yield pc.list_value_length(chunk).to_numpy(), values

    def _lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and values of lists whose lengths nothing else says."""
        kind = schema.TYPES[name].value_type.to_pandas_dtype()
        lengths, values = [np.zeros(0, np.int64)], [np.zeros(0, kind)]
        for part_lengths, part in self._parts(name):
            lengths.append(part_lengths)
            values.append(part.to_numpy())
        return offsets_of(np.concatenate(lengths)), np.concatenate(values)

    def _fitting(self, name: str, wanted: np.ndarray, what: str) -> np.ndarray | None:
        """Values of lists that must have the wanted lengths; None if all of them are empty."""
        kind = schema.TYPES[name].value_type.to_pandas_dtype()
        found, at, lengths = np.empty(int(np.sum(wanted)), kind), 0, [np.zeros(0, np.int64)]
        for part_lengths, part in self._parts(name):
            lengths.append(part_lengths)
            if at + len(part) <= len(found):
                found[at : at + len(part)] = part.to_numpy(zero_copy_only=False)
            at += len(part)
        if at == 0 and len(found):
            return None
        self._check_lengths(name, np.concatenate(lengths), wanted, what)
        return found

    def _check_lengths(self, name: str, lengths: np.ndarray, wanted: np.ndarray, what: str) -> None:
        if np.array_equal(lengths, wanted):
            return
        row = int(np.flatnonzero(lengths != wanted)[0])
        found, wanted = lengths[row], wanted[row]
        if name.endswith("_tokens"):  # the text is about the log-probs
            name, found, wanted = name.replace("tokens", "log_probs"), wanted, found
        raise RecordsError(
            f"{self._source}: {name!r} of row {row} has {found} values, {what} are {wanted}"
        )

    def _per_token(self, name: str, model: str) -> np.ndarray | None:
        lengths, top_k = np.diff(self[f"{model}_offsets"]), 1
        what = "the tokens of that answer"
        if "_top_" in name:
            top_k = self._metadata[schema.TOP_K]
            what = f"{top_k} for each token of that answer"
        values = self._fitting(name, lengths * top_k, what)
        if "_top_" not in name and model != _CASCADE:
            return values
        if values is None:
            raise RecordsError(
                f"{self._source}: column {name!r} is empty; leave it out where nothing is known"
            )
        return values.reshape(-1, top_k) if "_top_" in name else values

    def _pieces(self, name: str, model: str) -> pa.ChunkedArray:
        """Kept as Arrow lists: as Python strings they would take many times the memory."""
        chunks = list(self._chunks(name))
        lengths = [np.zeros(0, np.int64)]
        for chunk in chunks:
            lengths.append(pc.list_value_length(chunk).to_numpy())
            if pc.list_flatten(chunk).null_count:
                raise RecordsError(f"{self._source}: lists of column {name!r} hold nulls")
        wanted = np.diff(self[f"{model}_offsets"])
        self._check_lengths(name, np.concatenate(lengths), wanted, "the tokens of that answer")
        return pa.chunked_array(chunks, type=pa.list_(pa.string()))

    def _embeddings(self) -> np.ndarray:
        width = None
        for lengths, _ in self._parts(schema.EMBEDDING):
            width = int(lengths[0]) if len(lengths) else None
            break
        wanted = np.full(self.num_rows, width or 1)
        values = self._fitting(schema.EMBEDDING, wanted, "those of the first")
        if values is None:
            raise RecordsError(f"{self._source}: column {schema.EMBEDDING!r} holds empty lists")
        return values.reshape(self.num_rows, width or 1)

    def _make_statistics(self) -> None:
        student, teacher = schema.STATISTICS
        if student not in self.names:
            self._made["statistics_offsets"] = np.zeros(self.num_rows + 1, np.int64)
            self._made |= {name: np.zeros(0, np.int64) for name in schema.STATISTICS}
        else:
            offsets, self._made[student] = self._lists(student)
            self._made["statistics_offsets"] = offsets
            lengths, values = self._lists(teacher)
            self._check_lengths(teacher, np.diff(lengths), np.diff(offsets), "the student's")
            self._made[teacher] = values
            for name in schema.STATISTICS:
                self._refuse(name, lambda values: values < 0, "0 or more", offsets)
        self._check_statistics()

    # --------------------------------------------------------------- checking

    def _check_statistics(self) -> None:
        """Rows of a task with a corpus metric have as many as it says, all others none."""
        metrics = schema.corpus_metrics(self._metadata, self._source)
        lengths = np.diff(self._made["statistics_offsets"])
        wanted = np.zeros(self.num_rows, np.int64)
        if metrics:
            sizes = {task: metric.num_statistics for task, metric in metrics.items()}
            wanted[:] = [sizes.get(task, 0) for task in self["task"]]
        wrong = np.flatnonzero(lengths != wanted)
        if len(wrong):
            row = wrong[0]
            task = self["task"][row]
            described = f"{schema.CORPUS_METRICS} has {metrics.get(task)}"
            has = described if task in metrics else "has no corpus metric"
            raise RecordsError(
                f"{self._source}: example {self['example_id'][row]!r} (row {row}) has "
                f"{lengths[row]} statistics, must have {wanted[row]}: its task {task!r} {has} "
                f"({len(wrong)} such rows)"
            )

    def _check(self, name: str) -> None:
        """Refuses values that a column must not hold."""
        model, _, kind = name.partition("_")
        if self._made.get(name) is None:
            return
        if name == "example_id":
            self._check_unique()
        elif kind in ("log_probs", "top_log_probs"):
            self._refuse(name, _is_no_log_prob, "finite and at most 0", self[f"{model}_offsets"])
        elif kind == "entropies":
            self._refuse(name, _is_infinite, "finite", self[f"{model}_offsets"])
        elif kind == "embeddings":
            self._refuse(name, _is_infinite, "finite")
        elif kind == "uncertainties":
            allowed = "finite and 0 or more"
            self._refuse(name, lambda v: _is_no_log_prob(-v), allowed, self[f"{model}_offsets"])
        elif name == schema.CASCADE_STATISTICS:
            self._refuse(name, lambda v: v < 0, "0 or more", self["statistics_offsets"])
        elif kind == "top_ids":
            self._refuse(name, lambda ids: ids < 0, "0 or more", self[f"{model}_offsets"])
        elif kind == "quality":
            self._refuse(name, lambda v: ~((v >= 0) & (v <= 1)), "in [0, 1]")
        elif kind in ("flops_per_token", "flops"):
            self._refuse(name, lambda v: ~(np.isfinite(v) & (v > 0)), "finite and positive")
        elif kind in ("seconds", "input_tokens"):
            self._refuse(name, lambda v: ~(np.isfinite(v) & (v >= 0)), "finite and 0 or more")
        if kind == "top_log_probs":
            self._refuse(
                name,
                lambda v: np.pad(np.diff(v, axis=1) > 0, ((0, 0), (1, 0))),
                "at most the one before it: a token's go down from the largest",
                self[f"{model}_offsets"],
            )

    def _check_unique(self) -> None:
        ids = self._made["example_id"]
        seen: set[str] = set()
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if i in seen or seen.add(i))
            raise RecordsError(
                f"{self._source}: example_id {twice!r} comes twice, every id must be unique"
            )

    def _refuse(
        self,
        name: str,
        is_bad: Callable[[Shaped[np.ndarray, "..."]], Shaped[np.ndarray, "..."]],
        allowed: str,
        offsets: Int[np.ndarray, " n_plus_1"] | None = None,
    ) -> None:
        """Refuses a column with a bad value; `offsets` of lists say which row it is of."""
        values, count, first = self._made[name], 0, None
        step = max(_VALUES // max(values[:1].size, 1), 1)
        for start in range(0, len(values), step):
            bad = is_bad(values[start : start + step])
            count += int(np.count_nonzero(bad))
            if first is None and count:
                place = tuple(int(axis[0]) for axis in np.nonzero(bad))
                first = (place[0] + start, *place[1:])
        if first is None:
            return
        row = first[0]
        if offsets is not None:
            row = int(np.searchsorted(offsets, row, "right")) - 1
        raise RecordsError(
            f"{self._source}: {name} of example {self['example_id'][row]!r} (row {row}) is "
            f"{values[first]}, must be {allowed} ({count} such)"
        )


def _is_infinite(values: np.ndarray) -> np.ndarray:
    return ~np.isfinite(values)


def _is_no_log_prob(values: np.ndarray) -> np.ndarray:
    return ~(np.isfinite(values) & (values <= _LARGEST_LOG_PROB))


class Rows:
    """Columns of some of a table's rows, each made when first asked for.

    Args:
      columns: of the whole table.
      rows: which, in which order; None for all as they stand.
    """

    def __init__(self, columns: Columns, rows: Int[np.ndarray, " rows"] | None = None):
        self._columns, self._rows = columns, rows
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if self._rows is None:
            return self._columns[name]
        if name not in self._made:
            self._made[name] = self._taken(name)
        return self._made[name]

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Rows":
        """Some of these rows."""
        return Rows(self._columns, rows if self._rows is None else self._rows[rows])

    def pieces(self, name: str, row: int) -> list[str] | None:
        """A row's texts of tokens; None if the table has none."""
        whole = self._columns[name]
        at = row if self._rows is None else int(self._rows[row])
        return None if whole is None else whole[at].as_py()

    def _taken(self, name: str) -> np.ndarray | None:
        whole = self._columns[name]
        model, _, kind = name.partition("_")
        if whole is None:
            return None
        if kind in ("offsets", "log_probs", *_PER_TOKEN) or name == schema.CASCADE_STATISTICS:
            lists = "statistics" if kind == "statistics" else model
            offsets, places = places_of(self._columns[f"{lists}_offsets"], self._rows)
            return offsets if kind == "offsets" else whole[places]
        return whole[self._rows]
