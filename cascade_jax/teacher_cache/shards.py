"""The files of a teacher cache: written shard by shard, read by the keys of examples.

    fingerprint.json            identity of teacher and data, written first
    train-00000-0-of-1.array_record   facts of examples, several in a record
    train-00000-0-of-1.index.npz      their keys and numbers of tokens, and a checksum of each
                                      record; a shard without is not there
    complete.json               the shards and their sizes, written last

A shard is of one group of consecutive batches of a split, and of the rows of one of the hosts. What
is written appears whole or not at all, so that whoever makes the cache may be killed at any moment.
"""

import contextlib
import dataclasses
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade_jax import array_file, files, json_file
from cascade_jax.data.example_keys import KEY_BYTES
from cascade_jax.teacher_cache import shard_index
from cascade_jax.teacher_cache.format import Holding, TokenFacts

FINGERPRINT, COMPLETE = "fingerprint.json", "complete.json"
_RECORDS, _INDEX = ".array_record", ".index.npz"
_RECORD_BYTES = 4096  # about; one example that has more has a record of its own
_OPTIONS = "group_size:1,zstd:1"
_AT_RANDOM = "readahead_buffer_size:0,max_parallelism:0"
_SHARD_NAME = re.compile(r"[^/\\]+-\d+-\d+-of-\d+")


class TeacherCacheError(ValueError):
    """A teacher cache is missing, incomplete, or not that of this run."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard's place among the others.

    Attributes:
      split: e.g. "train".
      group: number of the group of batches.
      part, parts: the hosts' rows of each batch are so many parts, and this is which.
    """

    split: str
    group: int
    part: int
    parts: int

    @property
    def name(self) -> str:
        """File name without its ending."""
        return f"{self.split}-{self.group:05d}-{self.part}-of-{self.parts}"

    @classmethod
    def of(cls, name: str) -> "Shard":
        """The inverse of `name`."""
        split, group, part, _, parts = name.rsplit("-", 4)
        return cls(split, int(group), int(part), int(parts))


class ShardWriter:
    """Takes the examples of one shard. Use as a context, whose end puts the shard in its place.

    `holding` says what is kept of an example's facts, `fingerprint` is the cache's digest.
    """

    def __init__(self, folder: Path, shard: Shard, holding: Holding, fingerprint: str):
        self._place, self._holding = folder / shard.name, holding
        self._fingerprint = fingerprint
        self._keys, self._tokens, self._first, self._sums = [], [], [0], []
        self._known, self._block = set(), []
        self._right, self._log_probs = 0, 0.0
        self._file = files.replacing(f"{self._place}{_RECORDS}")

    def __enter__(self) -> "ShardWriter":
        from array_record.python import array_record_module

        self._temporary = self._file.__enter__()
        try:
            self._records = array_record_module.ArrayRecordWriter(str(self._temporary), _OPTIONS)
        except RuntimeError as error:
            raise self._write_error(error) from error
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            with contextlib.suppress(RuntimeError):  # a full disk, which `error` tells of
                self._records.close()
            self._file.__exit__(kind, error, traceback)
            return
        try:
            if self._block:
                self._end_record()
            self._records.close()
        except (RuntimeError, OSError) as failure:
            self._file.__exit__(type(failure), failure, None)
            if isinstance(failure, OSError):
                raise
            raise self._write_error(failure) from failure
        num_bytes = self._temporary.stat().st_size
        self._file.__exit__(None, None, None)
        self._write_index(num_bytes)

    def _write_error(self, error: RuntimeError) -> OSError:
        return OSError(f"{self._place}{_RECORDS} could not be written: {error}")

    def add(self, key: bytes, facts: TokenFacts, label_log_probs: np.ndarray) -> None:
        """Adds an example, unless the shard has it; labels' log-probs are for the summary."""
        if key in self._known:
            return
        self._known.add(key)
        self._keys.append(key)
        self._tokens.append(len(facts.label_is_best))
        self._block.append(facts)
        self._right += int(facts.label_is_best.sum())
        self._log_probs += float(label_log_probs.sum(dtype=np.float64))
        if self._holding.num_bytes(sum(self._tokens[self._first[-1] :])) >= _RECORD_BYTES:
            self._end_record()

    def _end_record(self) -> None:
        """Writes the examples since the last record as one."""
        columns = {}
        for field in dataclasses.fields(TokenFacts):
            values = [getattr(facts, field.name) for facts in self._block]
            columns[field.name] = None if values[0] is None else np.concatenate(values)
        record = self._holding.encode(TokenFacts(**columns))
        try:
            self._records.write(record)
        except RuntimeError as error:
            raise self._write_error(error) from error
        self._sums.append(zlib.crc32(record))
        self._first.append(len(self._keys))
        self._block = []

    def _write_index(self, num_bytes: int) -> None:
        facts = shard_index.ShardFacts(
            fingerprint=self._fingerprint,
            bytes=num_bytes,
            examples=len(self._keys),
            tokens=sum(self._tokens),
            right=self._right,
            log_probs=self._log_probs,
        )
        arrays = {
            "keys": np.frombuffer(b"".join(self._keys), np.uint8).reshape(-1, KEY_BYTES),
            "tokens": np.array(self._tokens, np.uint32),
            "first": np.array(self._first, np.uint32),
            "sums": np.array(self._sums, np.uint32),
            "facts": np.array(json.dumps(dataclasses.asdict(facts))),
        }
        array_file.write(f"{self._place}{_INDEX}", arrays)


# ------------------------------------------------------------------ finding


def shards_in(folder: Path, fingerprint: str) -> dict[str, dict]:
    """The whole shards of a folder by name, with the facts of each; those of another cache not."""
    shards = {}
    for file in sorted(folder.glob(f"*{_INDEX}")):
        name = file.name.removesuffix(_INDEX)
        try:
            facts = shard_index.read(file).facts
            size = (folder / f"{name}{_RECORDS}").stat().st_size
        except (OSError, ValueError):
            continue  # made anew
        if facts.fingerprint == fingerprint and facts.bytes == size and is_shard(name):
            shards[name] = dataclasses.asdict(facts) | {"index_bytes": file.stat().st_size}
    return shards


def is_shard(name: str) -> bool:
    """Whether a name is that of a shard."""
    return _SHARD_NAME.fullmatch(name) is not None


def read_json(folder: Path, name: str, kind: type) -> dict[str, Any] | None:
    """A JSON file of a cache, checked to have the fields of a dataclass; None if it is not there.

    Raises:
      TeacherCacheError: the file, and what is wrong with it.
    """
    try:
        values = json_file.read_object(folder / name)
        json_file.from_values(values, kind, str(folder / name))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TeacherCacheError(str(error)) from None
    return values


@dataclasses.dataclass(frozen=True)
class _Total:
    """Sums over the shards of a split."""

    examples: int
    tokens: int
    right: int
    log_probs: float
    bytes: int
    index_bytes: int


@dataclasses.dataclass(frozen=True)
class _Complete:
    """The fields of complete.json: the bytes of each shard, and figures of each split."""

    shards: dict[str, int]
    splits: dict[str, _Total]

    def __post_init__(self):
        for name in self.shards:
            if not is_shard(name):
                raise ValueError(f"shards holds {name!r}, which is no name of a shard")


def read_complete(folder: Path) -> dict[str, Any] | None:
    """complete.json; None if the cache is not finished."""
    return read_json(folder, COMPLETE, _Complete)


class CacheReader:
    """Finds facts by the keys of examples.

    Args:
      folder, holding: a complete cache and what it holds.
      fingerprint: its digest; a shard of another cache is refused.
      remedy: what to do about a shard that is gone or damaged, for messages.

    Raises:
      TeacherCacheError: a shard is missing, cut off, damaged or of another cache (which).
    """

    def __init__(self, folder: Path, holding: Holding, fingerprint: str, remedy: str):
        self._folder, self._holding, self._remedy = folder, holding, remedy
        self._fingerprint, self._readers = fingerprint, {}
        complete = read_complete(folder)
        if not complete or not complete["shards"]:
            raise TeacherCacheError(f"teacher cache {folder} has no finished shard; {remedy}")
        sizes = complete["shards"]
        self._names = sorted(sizes)
        indexes = [self._index(name, sizes[name]) for name in self._names]
        self._check_totals(complete["splits"], indexes)
        self._sums = [index.sums for index in indexes]
        keys = np.concatenate([index.keys for index in indexes]).view(">u8").astype(np.uint64)
        table = [
            np.column_stack(
                [np.full(len(index.tokens), shard), *_places(index.tokens, index.first)]
            )
            for shard, index in enumerate(indexes)
        ]
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        self._keys, self._table = keys[order], np.concatenate(table)[order]

    def _check_totals(
        self, totals: Mapping[str, Mapping], indexes: Sequence[shard_index.Index]
    ) -> None:
        """Refuses a list of shards that lacks some, or has others."""
        examples = dict.fromkeys(totals, 0)
        for name, index in zip(self._names, indexes, strict=True):
            split = Shard.of(name).split
            examples[split] = examples.get(split, 0) + index.facts.examples
        for split, total in totals.items():
            if examples[split] != total["examples"]:
                count = f"{total['examples']} examples of split {split!r}, its shards have"
                raise TeacherCacheError(
                    f"teacher cache {self._folder}: {COMPLETE} counts {count} {examples[split]}; "
                    f"delete {COMPLETE} and {self._remedy}"
                )

    def _index(self, name: str, size: int) -> shard_index.Index:
        place = self._folder / f"{name}{_RECORDS}"
        try:
            num_bytes = place.stat().st_size
            index = shard_index.read(self._folder / f"{name}{_INDEX}")
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise TeacherCacheError(
                f"teacher cache {self._folder}: {missing} is missing; {self._remedy}"
            ) from None
        except (OSError, ValueError) as error:
            raise self._damaged(f"{name}{_INDEX}", error) from None
        if index.facts.fingerprint != self._fingerprint:
            raise self._damaged(f"{name}{_INDEX}", "it is of another cache")
        if not num_bytes == size == index.facts.bytes:
            expected = size if num_bytes != size else index.facts.bytes
            raise self._damaged(place.name, f"it has {num_bytes} bytes and should have {expected}")
        return index

    def _damaged(self, name: str, why: Any) -> TeacherCacheError:
        return TeacherCacheError(
            f"teacher cache {self._folder}: {name} is damaged ({why}); delete it and {self._remedy}"
        )

    def find(self, keys: Sequence[bytes]) -> list[TokenFacts | None]:
        """The facts of examples by their keys; None for one that is not there."""
        numbers = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2).astype(np.uint64)
        places = np.searchsorted(self._keys[:, 0], numbers[:, 0])
        rows = []
        for place, key in zip(places.tolist(), numbers, strict=True):
            while place < len(self._keys) and self._keys[place, 0] == key[0]:
                if self._keys[place, 1] == key[1]:
                    break
                place += 1
            else:
                rows.append(None)
                continue
            rows.append(tuple(self._table[place].tolist()))
        blocks = self._read({row[:2]: row[4] for row in rows if row is not None})
        return [None if row is None else blocks[row[:2]][row[2] : row[2] + row[3]] for row in rows]

    def _read(self, tokens: dict[tuple[int, int], int]) -> dict[tuple[int, int], TokenFacts]:
        """By (shard, record), the facts of its so many tokens."""
        by_shard: dict[int, list[int]] = {}
        for shard, record in tokens:
            by_shard.setdefault(shard, []).append(record)
        facts = {}
        for shard, records in by_shard.items():
            for record, data in zip(records, self._records(shard, records), strict=True):
                count = tokens[shard, record]
                sums = self._sums[shard]
                if len(data) != self._holding.num_bytes(count):
                    raise self._damaged(f"{self._names[shard]}{_RECORDS}", "a record's length")
                if sums is not None and zlib.crc32(data) != sums[record]:
                    why = f"record {record} is not the one that its index is of"
                    raise self._damaged(f"{self._names[shard]}{_RECORDS}", why)
                facts[shard, record] = self._holding.decode(data, count)
        return facts

    def _records(self, shard: int, records: list[int]) -> Iterable[bytes]:
        from array_record.python import array_record_module

        name = f"{self._names[shard]}{_RECORDS}"
        try:
            if shard not in self._readers:
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    str(self._folder / name), _AT_RANDOM
                )
            return self._readers[shard].read(records)
        except (RuntimeError, IndexError, ValueError) as error:
            raise self._damaged(name, str(error).partition(";")[0]) from None


def _places(tokens: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each example: record, first token in the record, tokens, tokens of the whole record."""
    record = np.repeat(np.arange(len(first) - 1), np.diff(first))
    ends = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
    starts = ends[:-1] - ends[first[:-1]][record]
    return record, starts, tokens.astype(np.int64), np.diff(ends[first])[record]
