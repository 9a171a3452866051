"""Where rows come from: local JSONL folders, TFDS, or a generator, all behind one seqio interface.

A data folder holds `<task, with / written __>/<split>.jsonl`, one JSON object a line, with the
field names of the TFDS builder of that name. While a folder is set (`set_data_dir`), every
`TfdsOrJsonlSource` reads from it; otherwise it reads from TFDS. Both give the same fields with the
same dtypes, so that one list of preprocessors serves both.
"""

import abc
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from cascade_jax.data import lean_tensorflow as lean_tensorflow  # first: keeps it off the devices
from cascade_jax.data import presence, slices
from cascade_jax.data.jsonl import FieldType as FieldType
from cascade_jax.data.jsonl import ProblemOf as ProblemOf
from cascade_jax.data.jsonl import Rows, count_rows, jsonl_path, read_jsonl

_data_dir: Path | None = None
_DTYPES = {str: tf.string, int: tf.int64, float: tf.float32, bool: tf.bool}
_LISTS = {list[str]: tf.string, list[int]: tf.int64}


def set_data_dir(path: str | os.PathLike | None) -> None:
    """Sets the folder that every `TfdsOrJsonlSource` of this process reads from.

    None (or "") stands for TFDS. The folder is read only when a data set is opened, so it may be
    set after the tasks have been registered, and need not exist for tasks that are never opened.
    """
    global _data_dir
    _data_dir = Path(path) if path else None


def get_data_dir() -> Path | None:
    """The folder set by `set_data_dir`, or None for TFDS."""
    return _data_dir


def _dtype(kind: FieldType) -> tf.DType:
    return tf.int64 if isinstance(kind, range) else (_DTYPES | _LISTS)[kind]


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"choices/text": x} -> {"choices": {"text": x}}."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        level = nested
        for key in parents:
            level = level.setdefault(key, {})
        level[last] = value
    return nested


class RowsSource(seqio.DataSource):
    """A source whose rows are held in memory, shuffled as a whole and served by tf.data ops.

    Nothing in its tf.data graph calls Python, so iterators over it can be saved and restored.
    """

    def __init__(self, splits: Sequence[str], fields: Mapping[str, FieldType]):
        """Args: splits: names of the task's splits; fields: as in `read_jsonl`."""
        super().__init__(splits=splits)
        self.fields = dict(fields)

    @abc.abstractmethod
    def rows(self, split: str) -> Rows:
        """All rows of a split, always in the same order, keyed by the field paths."""

    def row_spec(self) -> dict[str, Any]:
        """Types of a row's declared fields, in the form of `tf.data.Dataset.element_spec`."""
        kinds = self.fields.items()
        return _nest({f: tf.TensorSpec([None] if k in _LISTS else [], _dtype(k)) for f, k in kinds})

    def fingerprint(self, split: str) -> str:
        """A text that is equal exactly for the same rows in the same order."""
        text = json.dumps(self.rows(split), sort_keys=True)
        return f"rows-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Any row can go to any shard."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """One shard: rows are divided in `get_dataset`."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Number of rows of a split."""
        return len(self.rows(split))

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused_by_sources
    ) -> tf.data.Dataset:
        """The rows as a tf.data.Dataset; arguments as in `seqio.DataSource.get_dataset`."""
        rows = self.rows(split)
        order = np.random.default_rng(seed).permutation(len(rows)) if shuffle else range(len(rows))
        if shard_info is not None and shard_info.num_shards > 1:
            order = order[shard_info.index :: shard_info.num_shards]
        columns = {}
        for field, kind in self.fields.items():
            column = [rows[i][field] for i in order]
            if kind in _LISTS:
                columns[field] = tf.ragged.constant(column, _LISTS[kind], ragged_rank=1)
            else:
                columns[field] = tf.constant(column, _dtype(kind))
        return tf.data.Dataset.from_tensor_slices(_nest(columns))


class GeneratedSource(RowsSource):
    """Rows made by a function of the split name; made once and kept."""

    def __init__(self, make_rows: Callable[[str], Rows], splits: Sequence[str], fields: Mapping):
        """Args: make_rows: split name -> rows, the same at every call; the rest as RowsSource."""
        super().__init__(splits, fields)
        self._make_rows = functools.cache(make_rows)

    def rows(self, split: str) -> Rows:
        """All rows of a split."""
        return self._make_rows(split)


class TfdsOrJsonlSource(RowsSource):
    """Rows of `<data folder>/<name>/<split>.jsonl` while a data folder is set, else of TFDS.

    A split may be a slice of a file, in TFDS's notation (`slices.SplitSlice`). Rows that another
    split holds out of the same file are never in "train" (`slices.rows_of`).

    Example: ``TfdsOrJsonlSource("imdb_reviews:1.0.0", {"text": str, "label": range(2)},
    splits={"train": "train[:-200]", "validation": "train[-200:]", "test": "test"})`` serves the
    last 200 rows of train.jsonl, or of the TFDS split "train", as the task's split "validation".

    Attributes: name (of the local folder, with TFDS's slashes); tfds_name, is_in_tfds and manual as
    in `__init__`.
    """

    def __init__(
        self,
        tfds_name: str,
        fields: Mapping[str, FieldType],
        splits: Mapping[str, str],
        *,
        tfds_splits: Mapping[str, str] | None = None,
        is_in_tfds: bool = True,
        name: str | None = None,
        blank_texts: bool | Collection[str] = True,
        training_flag: bool = False,
        manual: str | None = None,
        problem_of: ProblemOf | None = None,
    ):
        """Declares where rows come from; nothing is opened here.

        Args:
          tfds_name: TFDS builder with version, "glue/sst2:2.0.0".
          fields: the fields that the task's preprocessors need, as in `read_jsonl`.
          splits: the task's split names, and the file (without .jsonl) or slice of a file that each
            comes from.
          tfds_splits: the same for TFDS, where it differs.
          is_in_tfds: False for data that only a local folder has.
          name: of the local folder; None for the builder's, without its version.
          blank_texts: as in `read_jsonl`; rows of TFDS are not checked.
          training_flag: whether each row gets a flag "is_training", true in the split "train";
            seqio does not pass the split to preprocessors.
          manual: for data that TFDS cannot download, what to put where.
          problem_of: as in `read_jsonl`; rows of TFDS are not checked.

        Raises:
          ValueError: a slice of another form.
        """
        super().__init__(tuple(splits), fields)
        self.name = name or tfds_name.partition(":")[0]
        self._checks = {"blank_texts": blank_texts, "problem_of": problem_of}
        self._slices = {split: slices.parse_slice(text) for split, text in splits.items()}
        self.is_in_tfds = is_in_tfds
        self._training_flag = training_flag
        self.manual = manual
        self.tfds_name = tfds_name if ":" in tfds_name else f"{tfds_name}:*.*.*"
        self._tfds_splits = dict(tfds_splits or splits)
        self._tfds = seqio.TfdsDataSource(self.tfds_name, splits=self._tfds_splits)

    def _check_split(self, split: str) -> None:
        if split not in self._slices:
            raise ValueError(f"{self.name} has no split {split!r}; it has {sorted(self._slices)}")

    def _split_file(self, split: str) -> Path:
        self._check_split(split)
        return jsonl_path(_data_dir, self.name, self._slices[split].split)

    def _row_numbers(self, split: str, size: int) -> Sequence[int]:
        try:
            return slices.rows_of(split, self._slices, size)
        except ValueError as error:
            raise ValueError(f"{self._split_file(split)}: {error}") from None

    def rows(self, split: str) -> Rows:
        """Reads the split's file; needs a data folder."""
        every = read_jsonl(self._split_file(split), self.fields, **self._checks)
        return [every[number] for number in self._row_numbers(split, len(every))]

    def fingerprint(self, split: str) -> str:
        """The file's hash and the rows used, or the TFDS builder with its version and split."""
        if _data_dir is None:
            return f"tfds-{self.tfds_name}-{self._tfds_splits[split]}"
        path = self._split_file(split)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows = self._row_numbers(split, size := count_rows(path))
        part = "" if len(rows) == size else f"[{slices.as_ranges(rows)}]"
        return f"file-{digest[:16]}{part}"

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Local rows can be divided freely, TFDS files cannot."""
        return _data_dir is not None

    def list_shards(self, split: str) -> Sequence[str]:
        """TFDS's files, or the one local file."""
        if _data_dir is not None:
            return [str(self._split_file(split))]
        with self._in_tfds():
            return self._tfds.list_shards(split)

    def num_input_examples(self, split: str) -> int | None:
        """Number of rows of a split."""
        if _data_dir is not None:
            return len(self._row_numbers(split, count_rows(self._split_file(split))))
        with self._in_tfds():
            return self._tfds.num_input_examples(split)

    def check_file(self, split: str) -> None:
        """Raises the FileNotFoundError of `jsonl_path` if a data folder is set that lacks a split.

        Raises:
          ValueError: the task has no such split.
        """
        if _data_dir is not None:
            self._split_file(split)

    def is_available(self, split: str) -> bool:
        """Whether a split can be read without a download.

        Raises:
          ValueError: the task has no such split.
        """
        self._check_split(split)
        if _data_dir is None:
            return self.is_in_tfds and self._is_prepared(self._tfds_splits[split])
        return presence.has_rows(_data_dir, self.name, split, self._slices)

    def _is_prepared(self, tfds_split: str) -> bool:
        data_dir = self._tfds.tfds_dataset.data_dir
        folders = tfds.core.utils.file_utils.list_data_dirs(data_dir)
        return presence.is_prepared(folders, self.tfds_name, tfds_split)

    def location(self) -> dict[str, Any]:
        """What says whether its rows are here, as JSON values."""
        return {
            "name": self.name,
            "splits": {split: str(part) for split, part in self._slices.items()},
            "is_in_tfds": self.is_in_tfds,
            "tfds_name": self.tfds_name,
            "tfds_splits": dict(self._tfds_splits),
        }

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused_by_sources
    ) -> tf.data.Dataset:
        """The declared fields of a split as a tf.data.Dataset.

        Raises:
          FileNotFoundError: see `jsonl_path`; or TFDS requires a manual download.
          ValueError: see `read_jsonl` and `slices.rows_of`; or no data folder is set and the data
            is not in TFDS.
        """
        if _data_dir is not None:
            dataset = super().get_dataset(split, shuffle, seed, shard_info)
        else:
            with self._in_tfds():
                dataset = self._tfds.get_dataset(split, shuffle, seed, shard_info)
            dataset = dataset.map(self._declared_fields, num_parallel_calls=tf.data.AUTOTUNE)
        if not self._training_flag:
            return dataset
        return dataset.map(lambda row: row | {"is_training": tf.constant(split == slices.TRAIN)})

    @contextlib.contextmanager
    def _in_tfds(self):
        """Explains what to do where TFDS lacks the data set, or cannot download it."""
        folder = f"a data folder (DATA_DIR) that holds {self.name.replace('/', '__')}/<split>.jsonl"
        message = f"{self.name} is not in TFDS: set {folder}"
        if not self.is_in_tfds:
            raise ValueError(message)
        try:
            yield
        except tfds.core.DatasetNotFoundError:
            raise ValueError(message) from None
        except (AssertionError, FileNotFoundError, tf.errors.NotFoundError) as error:
            if self.manual is None:
                raise
            raise FileNotFoundError(
                f"{self.name} must be downloaded by hand: {self.manual}; or set {folder}"
            ) from error

    def _declared_fields(self, example: Mapping[str, Any]) -> dict[str, Any]:
        picked = {}
        for field, kind in self.fields.items():
            value = example
            for key in field.split("/"):
                value = value[key]
            dtype = _dtype(kind)
            picked[field] = value if dtype == tf.string else tf.cast(value, dtype)
        return _nest(picked)
