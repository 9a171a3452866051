"""Joins batches with cached teacher outputs, which are looked up ahead while a step runs."""

import collections
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import flax.struct
import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from cascade_jax import array_file
from cascade_jax.batch import Batch, DecoderBatch
from cascade_jax.data import example_keys, pipeline, placement
from cascade_jax.losses import teachers
from cascade_jax.parallel import rules
from cascade_jax.teacher_cache import identity
from cascade_jax.teacher_cache.format import MORE_NEED, Holding
from cascade_jax.teacher_cache.identity import CacheUser
from cascade_jax.teacher_cache.shards import CacheReader, TeacherCacheError

Facts = teachers.TeacherArgmax | teachers.TeacherTopK
_AHEAD = 2  # batches that are read and looked up while steps run
_PENDING = "pending.npz"  # in a saved position: rows that were read ahead


@flax.struct.dataclass
class CachedTeacherBatch:
    """A batch with cached facts of a teacher, which then need not be there.

    The first axis of the facts is that of the batch.
    """

    batch: Batch | DecoderBatch
    teacher: Facts


class Lookup:
    """Looks up the cached teacher outputs of a host's rows.

    Args:
      run: with a `teacher_cache`.
      mixture: its mixture, for messages.
      holding: what the cache holds.
    """

    def __init__(self, run: CacheUser, mixture: pipeline.OpenMixture, holding: Holding):
        self._run, self._mixture, self._holding = run, mixture, holding
        self._folder = Path(run.teacher_cache)
        remedy = f"make it again: {identity.command(self._folder)}"
        fingerprint = identity.digest(identity.read_fingerprint(self._folder))
        self._reader = CacheReader(self._folder, holding, fingerprint, remedy)
        self._needs_top_k = _needs_top_k(run)

    def __call__(self, rows: Mapping[str, np.ndarray], split: str) -> Facts:
        """Facts of `losses/teachers.py`, as NumPy arrays [rows, length, …].

        Raises:
          TeacherCacheError: the cache does not have an example (which), or is damaged.
        """
        architecture = self._run.data.architecture
        examples = list(example_keys.examples_of(rows, architecture))
        facts_of_examples = self._reader.find([example.key for example in examples])
        for example, facts in zip(examples, facts_of_examples, strict=True):
            if facts is None or len(facts.label_is_best) != len(example.places):
                raise TeacherCacheError(
                    f"run {self._run.name!r}: teacher cache {self._folder} does not have an example"
                    f" of split {split!r}: {identity.text_of(self._mixture, example)}. Were the "
                    f"data or a prompt changed? Make it anew in another folder: "
                    f"{identity.command(f'{self._folder}_2')}"
                )
        shape = len(next(iter(rows.values()))), _length(self._run.data)
        row = np.repeat([e.row for e in examples], [len(e.places) for e in examples]).astype(int)
        place = np.concatenate([np.zeros(0, int), *(e.places for e in examples)])

        def spread(name: str, dtype: Any, *more: int) -> np.ndarray:
            """What the cache holds of the examples at their places, 0 elsewhere."""
            array = np.zeros((*shape, *more), dtype)
            if examples:
                values = np.concatenate([getattr(facts, name) for facts in facts_of_examples])
                is_rounded = name not in ("label_is_best", "ids")
                array[row, place] = self._holding.unrounded(values) if is_rounded else values
            return array

        return _facts(self._holding if self._needs_top_k else None, spread)


def _needs_top_k(run: CacheUser) -> bool:
    return run.loss.teacher_need in MORE_NEED


def _facts(holding: Holding | None, array: Callable[..., Any]) -> Facts:
    """The facts of a batch out of `array(name, dtype, …)`; one bit of a token without a holding."""
    is_correct = array("label_is_best", bool)
    if holding is None:
        return teachers.TeacherArgmax(is_correct)
    id_dtype = np.uint16 if holding.vocab_size <= 1 << 16 else np.int32
    return teachers.TeacherTopK(
        array("log_probs", np.float32, holding.top_k),
        array("ids", id_dtype, holding.top_k),
        is_correct,
        array("log_tail", np.float32) if holding.has_tail else None,
    )


def _length(data: pipeline.DataConfig) -> int:
    """Positions of a row that have facts; more where inputs and targets share a row."""
    return data.target_length if data.row_length == data.input_length else data.row_length


def fact_shapes(run: CacheUser, sharding: Sharding) -> Facts:
    """Shapes of the facts that come with a batch of a run, without its data.

    Raises:
      TeacherCacheError: the loss needs more than one bit of a token, and no cache is there to say
        how much it holds.
    """
    rows = run.data.batch_size, _length(run.data)

    def shape(name: str, dtype: Any, *more: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*rows, *more), dtype, sharding=sharding)

    if not _needs_top_k(run):
        return _facts(None, shape)
    fingerprint = identity.read_fingerprint(Path(run.teacher_cache))
    if fingerprint is None:
        raise TeacherCacheError(
            f"run {run.name!r}: there is no teacher cache in {run.teacher_cache}, and how much it "
            f"holds of a token is not known without it; make it: "
            f"{identity.command(Path(run.teacher_cache))}"
        )
    return _facts(Holding(**fingerprint["holding"]), shape)


def _to_global(
    rows: Mapping[str, np.ndarray], facts: Facts, data: pipeline.DataConfig, sharding: Sharding
) -> CachedTeacherBatch:
    """A global batch, from the rows and facts of each host."""
    size = data.batch_size
    batch = placement.to_global_batch(rows, sharding, size, data.architecture)

    def joined(array: np.ndarray) -> jax.Array:
        shape = (size, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, shape)

    return CachedTeacherBatch(batch, jax.tree.map(joined, facts))


class CachedTeacherBatches:
    """As `pipeline.BatchIterator`, of CachedTeacherBatch.

    A thread reads batches and looks their examples up ahead of the steps. A saved position holds
    the rows of those that were read and not yet returned, so that it is that of the next step.
    """

    def __init__(self, run: CacheUser, lookup: Lookup, sharding: Sharding):
        """Opens the mixture; see `pipeline.train_batches`."""
        data = run.data
        shard = pipeline.host_shard(sharding, data.batch_size, data.row_length)
        self._data, self._lookup, self._sharding = data, lookup, sharding
        self._rows = pipeline.HostBatches(data, "train", shard)
        self._again: collections.deque = collections.deque()  # rows out of a saved position
        self._ahead: collections.deque = collections.deque()
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="teacher_cache")

    def __iter__(self) -> "CachedTeacherBatches":
        return self

    def __next__(self) -> CachedTeacherBatch:
        while len(self._ahead) <= _AHEAD:
            self._ahead.append(self._thread.submit(self._prepare))
        _, own, facts, error = self._ahead.popleft().result()
        if error is not None:
            raise error
        return _to_global(own, facts, self._data, self._sharding)

    def _prepare(self) -> tuple:
        """(rows as read, this host's rows, their facts, what went wrong)."""
        rows = own = None
        try:
            rows = self._again.popleft() if self._again else self._rows.read()
            own = self._rows.own_rows(rows)
            return rows, own, self._lookup(own, "train"), None
        except Exception as error:  # raised when its step comes
            return rows, own, None, error

    def get_state(self) -> bytes:
        """The position after the batches returned so far."""
        waiting = [future.result()[0] for future in self._ahead]
        waiting = [rows for rows in [*waiting, *self._again] if rows is not None]
        arrays = {f"{i}/{name}": a for i, rows in enumerate(waiting) for name, a in rows.items()}
        pending, packed = io.BytesIO(), io.BytesIO(self._rows.get_state())
        np.savez(pending, **arrays)
        with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_PENDING, pending.getvalue())
        return packed.getvalue()

    def set_state(self, state: bytes) -> None:
        """Goes to a saved position; see `pipeline.HostBatches`."""
        for future in self._ahead:
            future.result()
        self._ahead.clear()
        self._again.clear()
        self._rows.set_state(state)
        with zipfile.ZipFile(io.BytesIO(state)) as archive:
            if _PENDING not in archive.namelist():
                return
            pending = array_file.read(archive.read(_PENDING), "the rows of a saved position")
            batches: dict[int, dict[str, np.ndarray]] = {}
            for key, rows in pending.items():
                number, _, name = key.partition("/")
                batches.setdefault(int(number), {})[name] = rows
        self._again.extend(batches[number] for number in sorted(batches))


def held_out(run: CacheUser, lookup: Lookup, sharding: Sharding) -> Iterator[CachedTeacherBatch]:
    """The held-out batches of a run, as `pipeline.eval_batches` gives them."""
    data = run.data
    max_rows = run.eval_batches * data.batch_size
    for rows in pipeline.rows_once(data, sharding, run.eval_split, max_rows):
        yield _to_global(rows, lookup(rows, run.eval_split), data, sharding)


def open_batches(
    run: CacheUser, mixture: pipeline.OpenMixture, mesh: Mesh
) -> tuple[CachedTeacherBatches, list[CachedTeacherBatch]]:
    """Training batches from the first on, and the held-out batches, of a run that was checked."""
    holding = Holding(**identity.read_fingerprint(Path(run.teacher_cache))["holding"])
    lookup, sharding = Lookup(run, mixture, holding), rules.batch_sharding(mesh)
    batches = CachedTeacherBatches(run, lookup, sharding)
    evaluated = [] if run.eval_split is None else list(held_out(run, lookup, sharding))
    return batches, evaluated
