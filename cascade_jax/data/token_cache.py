"""Small tasks, tokenised once: ids in memory and, optionally, in a folder.

The cache holds uncut token ids in the order of the source's rows. Batches are the same as without
it: rows are shuffled as a whole by the seed, the shuffle buffer holds example numbers in place of
examples (so that saved states stay small), and each example is cut and ended when it is drawn.

A task is cached if

- it ends in the steps of `features.tokenizing()`, and no step before takes a seed or a length;
- each row becomes examples by itself, and always the same (checked on the first rows);
- its source knows its number of rows and has a `fingerprint(split)`.

Any other is read anew in each epoch. A source that does not shuffle its rows as a whole (TFDS) is
shuffled better with the cache, and so in another order.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf
import tqdm
from jaxtyping import Int, Integer

import cascade_jax
from cascade_jax import array_file
from cascade_jax.data import features
from cascade_jax.data.vocabulary import load

FORMAT = 1  # of the files
CHECKED_ROWS = 32  # tokenised at every start, to check that the cached ids are up to date
_CHUNK = 1024
_PATIENCE_SECONDS = 3  # before a progress bar shows
_NAMES = (features.INPUTS, features.TARGETS)

# By key: the preprocessors that made the ids, and the ids.
_in_memory: dict[str, tuple[list, "CachedTokens | None"]] = {}


@dataclass(frozen=True)
class CachedTokens:
    """Token ids of one task's split, whole, without EOS.

    Examples row_splits[r] to row_splits[r + 1] come from row r of the source; ids splits[e] to
    splits[e + 1] of a feature's values are those of example e.

    Example: rows 0 and 2 of three became one example each, with targets "5 6" and "7":
    ``row_splits = [0 1 1 2]``, ``values["targets"] = [5 6 7]``, ``splits["targets"] = [0 2 3]``.
    """

    row_splits: Int[np.ndarray, " R+1"]
    values: Mapping[str, Integer[np.ndarray, " T"]]  # by feature, in the smallest dtype
    splits: Mapping[str, Int[np.ndarray, " E+1"]]  # by feature

    @property
    def ids(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By feature, `values` and `splits`."""
        return {name: (self.values[name], self.splits[name]) for name in _NAMES}

    def lengths(self, name: str) -> Int[np.ndarray, " E"]:
        """Ids of each example's feature, without EOS."""
        return np.diff(self.splits[name])

    def order(self, seed: int, shard: seqio.ShardInfo) -> Int[np.ndarray, " N"]:
        """Numbers of the examples of a shard, rows shuffled as `sources.RowsSource` does."""
        rows = np.random.default_rng(seed).permutation(len(self.row_splits) - 1)
        rows = rows[shard.index :: shard.num_shards]
        starts, counts = self.row_splits[rows], np.diff(self.row_splits)[rows]
        # The k-th example of its row: counts upwards from 0 within each row.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(starts, counts) + within

    def dataset(
        self, task: seqio.Task, lengths: Mapping[str, int], seed: int, shard: seqio.ShardInfo
    ) -> tf.data.Dataset:
        """The examples, endless and shuffled, as from `task.get_dataset`."""
        held = {
            name: (tf.constant(ids), tf.constant(splits))
            for name, (ids, splits) in self.ids.items()
        }

        # Nothing for AutoGraph to convert, which takes a while for many tasks.
        @tf.autograph.experimental.do_not_convert
        def example(number: tf.Tensor) -> dict[str, tf.Tensor]:
            ids_by_name = {}
            for name, (values, splits) in held.items():
                feature = task.output_features[name]
                ids = tf.cast(values[splits[number] : splits[number + 1]], feature.dtype)
                ids_by_name[name] = features.cut(ids, feature, lengths[name])
            return ids_by_name

        dataset = tf.data.Dataset.from_tensor_slices(self.order(seed, shard)).repeat()
        dataset = dataset.shuffle(task.shuffle_buffer_size, seed=seed)
        return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def cached_tokens(
    task: seqio.Task, name: str, split: str, max_rows: int, cache_dir: str | None = None
) -> CachedTokens | None:
    """The token ids of a task's split, made now if they are neither in memory nor in `cache_dir`.

    None if the task cannot be kept or has more than `max_rows` rows. `name` is its registered one,
    as it may be a copy on another vocabulary.
    """
    fingerprint = getattr(task.source, "fingerprint", None)
    rows = _num_rows(task.source, split)
    if not fingerprint or rows is None or rows > max_rows or not _is_fixed(task):
        return None
    vocabularies = [load.fingerprint(task.output_features[n].vocabulary) for n in _NAMES]
    parts = [FORMAT, cascade_jax.__version__, name, split, fingerprint(split), *vocabularies]
    key, steps = json.dumps(parts), list(task.preprocessors)
    steps_before, tokens = _in_memory.get(key, (None, None))
    if steps_before == steps:
        return tokens
    path = None if cache_dir is None else _path(cache_dir, name, split, key)
    tokens = path and _read(path, key)
    if tokens is None or not _is_up_to_date(tokens, task, split):
        tokens = _make(task, name, split, rows)
        if tokens is not None and path is not None:
            _write(path, key, tokens)
    _in_memory[key] = steps, tokens
    return tokens


def _num_rows(source: seqio.DataSource, split: str) -> int | None:
    try:
        return source.num_input_examples(split)
    except (KeyError, ValueError):  # missing, or TFDS has no sizes: reading it will say so
        return None


def _is_fixed(task: seqio.Task) -> bool:
    """Whether a task ends in our tokenisation, and no step before depends on seed or length."""
    steps = task.preprocessors
    depends = features.parameters_of(steps[:-2]) & {"seed", "seeds", "sequence_length"}
    return features.ends_in_tokenizing(steps) and not depends and bool(task.shuffle_buffer_size)


# ------------------------------------------------------------------ making


def _applied(task: seqio.Task, steps: int, seed: int | None = None) -> Callable:
    """The task's first preprocessors, as a function from rows to examples."""
    shorter = task.replace(preprocessors=list(task.preprocessors[:steps]))

    def apply(rows: tf.data.Dataset) -> tf.data.Dataset:
        return shorter.preprocess_postcache(shorter.preprocess_precache(rows, seed), None, seed)

    return apply


def _row_by_row(rows: tf.data.Dataset, apply: Callable) -> tf.data.Dataset:
    """(row number, example), with every row preprocessed as a data set of its own."""

    def examples(number: tf.Tensor, row: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        return apply(tf.data.Dataset.from_tensors(row)).map(lambda example: (number, example))

    return rows.enumerate().flat_map(examples)


def _ids_only(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: example[name] for name in _NAMES}


def _make(task: seqio.Task, name: str, split: str, num_rows: int) -> CachedTokens | None:
    """Tokenises a whole split; None if its rows do not become examples one by one."""
    rows = task.source.get_dataset(split, shuffle=False)
    steps = len(task.preprocessors) - 1
    # disable=None: unless in a terminal.
    options = {"unit": " rows", "delay": _PATIENCE_SECONDS, "leave": False, "disable": None}
    with tqdm.tqdm(total=num_rows, desc=f"tokenising {name}", **options) as bar:
        ids = _collect(_applied(task, steps, seed=0)(rows).map(_ids_only), bar)
    by_row = _row_by_row(rows.take(CHECKED_ROWS), _applied(task, steps, seed=1))
    head = list(by_row.as_numpy_iterator())
    if any(len(splits) <= len(head) for _, splits in ids.values()):
        return None
    if not _are_examples(ids, range(len(head)), [example for _, example in head]):
        return None
    examples = len(ids[_NAMES[0]][1]) - 1
    row_of_example = np.arange(examples)
    if examples != num_rows or [row for row, _ in head] != list(range(len(head))):
        # Some rows became no example or several; tokenising is not needed to see which.
        numbered = _row_by_row(rows, _applied(task, steps - 1)).map(lambda row, _: row)
        row_of_example = np.fromiter(numbered.as_numpy_iterator(), np.int64)
    if len(row_of_example) != examples:
        return None
    row_splits = np.searchsorted(row_of_example, np.arange(num_rows + 1))
    return CachedTokens(
        row_splits,
        {name: _in_smallest_dtype(values) for name, (values, _) in ids.items()},
        {name: splits for name, (_, splits) in ids.items()},
    )


def _in_smallest_dtype(ids: np.ndarray) -> np.ndarray:
    return ids.astype(np.uint16) if ids.max(initial=0) < 1 << 16 else ids


def _is_up_to_date(tokens: CachedTokens, task: seqio.Task, split: str) -> bool:
    """Whether rows spread over the split still give these ids; a changed prompt does not."""
    num_rows = len(tokens.row_splits) - 1
    # Files of TFDS would have to be read to their end.
    is_in_memory = task.source.supports_arbitrary_sharding
    stride = max(1, -(-num_rows // CHECKED_ROWS)) if is_in_memory else 1
    rows = task.source.get_dataset(split, shuffle=False).shard(stride, 0).take(CHECKED_ROWS)
    now = _applied(task, len(task.preprocessors) - 1)(rows).map(_ids_only)
    examples = list(now.as_numpy_iterator())
    numbers = [
        number
        for row in range(0, num_rows, stride)[:CHECKED_ROWS]
        for number in range(*tokens.row_splits[row : row + 2])
    ]
    return len(examples) == len(numbers) and _are_examples(tokens.ids, numbers, examples)


def _are_examples(
    ids: Mapping[str, tuple], numbers: Sequence[int], examples: Sequence[Mapping[str, np.ndarray]]
) -> bool:
    return all(
        np.array_equal(values[splits[number] : splits[number + 1]], example[name])
        for name, (values, splits) in ids.items()
        for number, example in zip(numbers, examples, strict=True)
    )


def _collect(dataset: tf.data.Dataset, bar: tqdm.tqdm) -> dict[str, tuple]:
    """By feature, all ids one after the other, and where each example starts."""
    values = {name: [np.zeros(0, np.int32)] for name in _NAMES}
    lengths = {name: [np.zeros(0, np.int64)] for name in _NAMES}
    for chunk in dataset.ragged_batch(_CHUNK):
        for name in _NAMES:
            values[name].append(chunk[name].values.numpy())
            lengths[name].append(chunk[name].row_lengths().numpy())
        bar.update(len(lengths[_NAMES[0]][-1]))
    splits = {n: np.concatenate([[0], np.cumsum(np.concatenate(lengths[n]))]) for n in _NAMES}
    return {name: (np.concatenate(values[name]), splits[name]) for name in _NAMES}


# ------------------------------------------------------------------ files


def _path(cache_dir: str, name: str, split: str, key: str) -> Path:
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(cache_dir) / f"{name}-{split}-{digest}.npz"


def _write(path: Path, key: str, tokens: CachedTokens) -> None:
    arrays = {"key": np.array(key), "row_splits": tokens.row_splits}
    for name in _NAMES:
        arrays |= {f"{name}_values": tokens.values[name], f"{name}_splits": tokens.splits[name]}
    array_file.write(path, arrays)


def _read(path: Path, key: str) -> CachedTokens | None:
    """The tokens in a file; None if it is missing, damaged or has another key."""
    try:
        arrays = array_file.read(path)
        if str(array_file.checked(arrays, "key", "U", (), str(path))) != key:
            return None
        values, splits = {}, {}
        for name in _NAMES:
            values[name] = array_file.checked(arrays, f"{name}_values", "iu", (None,), str(path))
            splits[name] = _splits(arrays, f"{name}_splits", path, len(values[name]))
        examples = len(splits[_NAMES[0]]) - 1
        if any(len(starts) != examples + 1 for starts in splits.values()):
            raise ValueError(f"{path}: features of different numbers of examples")
        return CachedTokens(_splits(arrays, "row_splits", path, examples), values, splits)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"{path}: damaged, made anew ({str(error).removeprefix(f'{path}: ')})")
        return None


def _splits(
    arrays: Mapping[str, np.ndarray], name: str, path: Path, end: int
) -> Int[np.ndarray, " n"]:
    """An array that rises from 0 to `end`."""
    splits = array_file.checked(arrays, name, "i", (None,), str(path))
    if len(splits) == 0 or splits[0] != 0 or splits[-1] != end or np.any(np.diff(splits) < 0):
        raise ValueError(f"{path}: array {name!r} does not rise from 0 to {end}")
    return splits
