"""Where rows come from: local JSONL folders, TFDS, or a generator, all behind one seqio interface.

A data folder holds `<task, with / written __>/<split>.jsonl`, one JSON object a line, with the
field names of the TFDS builder of that name. While a folder is set (`set_data_dir`), every
`TfdsOrJsonlSource` reads from it; otherwise it reads from TFDS. Both give the same fields with the
same dtypes, so that one list of preprocessors serves both.
"""

import abc
import contextlib
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

# What a field may be: a text, a number, a flag, a list of texts, or a class label range(n).
FieldType = Any
Rows = list[dict[str, Any]]

_data_dir: Path | None = None
_KINDS = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of strings",
}
_DTYPES = {str: tf.string, int: tf.int64, float: tf.float32, bool: tf.bool, list[str]: tf.string}


def set_data_dir(path: str | os.PathLike | None) -> None:
    """Sets the folder that every `TfdsOrJsonlSource` of this process reads from.

    The folder is looked at only when a data set is opened, so that it may be set after the tasks
    have been registered, and need not exist for tasks that are never opened.

    Args:
      path: folder of JSONL files, or None (or "") for TFDS.
    """
    global _data_dir
    _data_dir = Path(path) if path else None


def get_data_dir() -> Path | None:
    """The folder set by `set_data_dir`, or None for TFDS."""
    return _data_dir


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""


def jsonl_path(data_dir: Path, name: str, split: str) -> Path:
    """Path of one split's file.

    Args:
      data_dir: the data folder.
      name: task name with TFDS's slashes, e.g. "glue/sst2".
      split: file name without ".jsonl".

    Raises:
      FileNotFoundError: if the data folder, the task's folder or the file is missing; the message
        lists what is there.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"data folder {str(data_dir)!r} does not exist; give a folder that holds "
            "<task>/<split>.jsonl, or none to read from TFDS"
        )
    folder = data_dir / name.replace("/", "__")
    if not folder.is_dir():
        tasks = sorted(child.name for child in data_dir.iterdir() if child.is_dir())
        raise FileNotFoundError(
            f"data folder {str(data_dir)!r} has no task folder {folder.name!r}; it has "
            f"{len(tasks)}{_nearest(folder.name, tasks)}"
        )
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        splits = sorted(child.stem for child in folder.glob("*.jsonl"))
        raise FileNotFoundError(f"{str(folder)!r} has no split {split!r}; it has {splits}")
    return path


def _describe(kind: FieldType) -> str:
    if isinstance(kind, range):
        return f"an integer from {kind.start} to {kind.stop - 1}"
    return _KINDS[kind]


def _fits(value: Any, kind: FieldType) -> bool:
    if isinstance(kind, range):
        return type(value) is int and value in kind
    if kind is float:
        return type(value) in (int, float)
    if kind == list[str]:
        return isinstance(value, list) and all(type(item) is str for item in value)
    return type(value) is kind


def _is_blank(value: Any) -> bool:
    """Whether it is a text without a word, or a list that is empty or holds one."""
    if isinstance(value, list):
        return not value or any(map(_is_blank, value))
    return isinstance(value, str) and not value.strip()


def _pick(row: Any, field: str, kind: FieldType, where: str, blank_texts: bool) -> Any:
    """The value at path `field` ("choices/text") of a parsed line, checked."""
    value = row
    for key in field.split("/"):
        if not isinstance(value, dict) or key not in value:
            present = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"{where}: lacks field {field!r}; the line has {present}")
        value = value[key]
    if not _fits(value, kind):
        shown = json.dumps(value, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ValueError(f"{where}: field {field!r} is {shown}, must be {_describe(kind)}")
    if not blank_texts and _is_blank(value):
        raise ValueError(f"{where}: field {field!r} is {value!r}, must have text")
    return value


def read_jsonl(path: Path, fields: Mapping[str, FieldType], *, blank_texts: bool = True) -> Rows:
    """Reads and checks a JSONL file; blank lines are skipped.

    Args:
      path: the file, UTF-8.
      fields: path of each wanted field ("label", "choices/text") and its type: str, int, float,
        bool, list[str], or range(n) for a class label.
      blank_texts: whether a text may be blank, and a list of texts empty.

    Returns:
      One dictionary a line, keyed by the field paths.

    Raises:
      ValueError: "<file>:<line>: ..." for a line that does not parse, lacks a field or has one of
        another type, or blank where that may not be; also if the file has no line.
    """
    rows = []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line.decode("utf-8").rstrip())
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 ({error.reason})") from None
            except json.JSONDecodeError as error:
                what = error.msg.removesuffix(" at")
                raise ValueError(
                    f"{where}: not a JSON object ({what} at column {error.colno})"
                ) from None
            rows.append({f: _pick(row, f, kind, where, blank_texts) for f, kind in fields.items()})
    if not rows:
        raise ValueError(f"{path}: is empty; a split needs at least one line")
    return rows


def _dtype(kind: FieldType) -> tf.DType:
    return tf.int64 if isinstance(kind, range) else _DTYPES[kind]


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

    def fingerprint(self, split: str) -> str:
        """A text that two sets of rows share exactly if they are the same rows in one order."""
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
            if kind == list[str]:
                columns[field] = tf.ragged.constant(column, dtype=tf.string, ragged_rank=1)
            else:
                columns[field] = tf.constant(column, dtype=_dtype(kind))
        return tf.data.Dataset.from_tensor_slices(_nest(columns))


class GeneratedSource(RowsSource):
    """Rows made by a function of the split name; made once and kept."""

    def __init__(
        self,
        make_rows: Callable[[str], Rows],
        splits: Sequence[str],
        fields: Mapping[str, FieldType],
    ):
        """Args: make_rows: split name -> rows, the same at every call; the rest as RowsSource."""
        super().__init__(splits, fields)
        self._make_rows = make_rows
        self._made: dict[str, Rows] = {}

    def rows(self, split: str) -> Rows:
        """All rows of a split."""
        if split not in self._made:
            self._made[split] = self._make_rows(split)
        return self._made[split]


class TfdsOrJsonlSource(RowsSource):
    """Rows of `<data folder>/<name>/<split>.jsonl` while a data folder is set, else of TFDS.

    Example: ``TfdsOrJsonlSource("imdb_reviews:1.0.0", {"text": str, "label": range(2)},
    splits={"train": "train", "validation": "test"})`` serves the file test.jsonl, or the TFDS
    split "test", as the task's split "validation".
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
        blank_texts: bool = True,
    ):
        """Declares where rows come from; nothing is opened here.

        Args:
          tfds_name: TFDS builder with version, "glue/sst2:2.0.0".
          fields: the fields that the task's preprocessors need, as in `read_jsonl`.
          splits: the task's split names, and the file (without .jsonl) that each comes from.
          tfds_splits: the same for TFDS, where it differs.
          is_in_tfds: False for data that only a local folder has.
          name: of the local folder; None for the builder's, without its version.
          blank_texts: as in `read_jsonl`; rows of TFDS are not checked.
        """
        super().__init__(tuple(splits), fields)
        self.name = name or tfds_name.partition(":")[0]
        self._blank_texts = blank_texts
        self._files = dict(splits)
        self._is_in_tfds = is_in_tfds
        self._tfds_name = tfds_name if ":" in tfds_name else f"{tfds_name}:*.*.*"
        self._tfds_splits = dict(tfds_splits or splits)
        self._tfds = seqio.TfdsDataSource(self._tfds_name, splits=self._tfds_splits)

    def _split_file(self, split: str) -> Path:
        if split not in self._files:
            raise ValueError(f"{self.name} has no split {split!r}; it has {sorted(self._files)}")
        return jsonl_path(_data_dir, self.name, self._files[split])

    def rows(self, split: str) -> Rows:
        """Reads the split's file; needs a data folder."""
        return read_jsonl(self._split_file(split), self.fields, blank_texts=self._blank_texts)

    def fingerprint(self, split: str) -> str:
        """The file's hash, or the TFDS builder with its version and split."""
        if _data_dir is None:
            return f"tfds-{self._tfds_name}-{self._tfds_splits[split]}"
        digest = hashlib.sha256(self._split_file(split).read_bytes()).hexdigest()
        return f"file-{digest[:16]}"

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
            with open(self._split_file(split), "rb") as lines:
                return sum(1 for line in lines if line.strip())
        with self._in_tfds():
            return self._tfds.num_input_examples(split)

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused_by_sources
    ) -> tf.data.Dataset:
        """The declared fields of a split as a tf.data.Dataset.

        Raises:
          FileNotFoundError, ValueError: see `jsonl_path` and `read_jsonl`.
          ValueError: no data folder is set and the data is not in TFDS.
        """
        if _data_dir is not None:
            return super().get_dataset(split, shuffle, seed, shard_info)
        with self._in_tfds():
            dataset = self._tfds.get_dataset(split, shuffle, seed, shard_info)
        return dataset.map(self._declared_fields, num_parallel_calls=tf.data.AUTOTUNE)

    @contextlib.contextmanager
    def _in_tfds(self):
        """Says what to do where TFDS has no such data set, in place of a list of all it has."""
        message = (
            f"{self.name} is not in TFDS: set a data folder (DATA_DIR) that holds "
            f"{self.name.replace('/', '__')}/<split>.jsonl"
        )
        if not self._is_in_tfds:
            raise ValueError(message)
        try:
            yield
        except tfds.core.DatasetNotFoundError:
            raise ValueError(message) from None

    def _declared_fields(self, example: Mapping[str, Any]) -> dict[str, Any]:
        picked = {}
        for field, kind in self.fields.items():
            value = example
            for key in field.split("/"):
                value = value[key]
            dtype = _dtype(kind)
            picked[field] = value if dtype == tf.string else tf.cast(value, dtype)
        return _nest(picked)
