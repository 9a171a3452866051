"""What a collection asks every model: examples, how each is answered, and the loop over batches."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from cascade_jax import progress
from cascade_jax.data import pipeline
from cascade_jax.data.options import OPTIONS, option_ids
from cascade_jax.data.vocabulary import pieces
from cascade_jax.inference.groups import Group, plan
from cascade_jax.parallel import hosts, rules
from cascade_jax.parallel.compiling import compile_together
from cascade_jax.records.schema import GREEDY, RANK, TEACHER_FORCED

DECODINGS = (GREEDY, RANK, TEACHER_FORCED)


@dataclasses.dataclass(frozen=True)
class Questions:
    """What every model of a collection is asked."""

    examples: Sequence[pipeline.Example]  # of all tasks
    mixture: pipeline.OpenMixture
    data: pipeline.DataConfig  # lengths, and how many are answered at once
    mesh: Mesh
    decoding: Mapping[str, str]  # by task, how it is answered
    # Called before each batch, with whether a program may be compiled for it; may end the
    # collection.
    before_batch: Callable[[bool], None] = lambda may_compile: None

    @functools.cached_property
    def piece_of(self) -> Callable[[int], str]:
        """`pieces.piece_of` of the mixture's vocabulary, whose results are kept."""
        return functools.cache(functools.partial(pieces.piece_of, self.mixture.vocabulary))

    def rows_of(self, task: str) -> list[int]:
        """Indices of the examples of a task."""
        return [row for row, example in enumerate(self.examples) if example.task == task]


_Batch = TypeVar("_Batch")


def decoding_by_task(
    decoding: str, mixture: pipeline.OpenMixture, data: pipeline.DataConfig, split: str
) -> dict[str, str]:
    """How each task of a split is answered: by RANK only where its rows have options."""
    by_default = decoding if decoding == TEACHER_FORCED else GREEDY
    by_task = dict.fromkeys(mixture.tasks_with(split), by_default)
    for task in by_task if decoding == RANK else ():
        first = next(iter(pipeline.decode_examples(data, task, split, limit=1)), None)
        if first is not None and OPTIONS in first.features:
            by_task[task] = RANK
    return by_task


def input_length(example: pipeline.Example) -> int:
    """Number of tokens of the input."""
    return int(np.count_nonzero(example.inputs))


def options_of(
    example: pipeline.Example, mixture: pipeline.OpenMixture, data: pipeline.DataConfig
) -> dict[str, tuple[int, ...]]:
    """Ids of an example's options by their text, each as a target: cut to length, EOS at its end.

    Raises:
      ValueError: see `options.option_ids`.
    """
    where = f"example {example.example_id!r}"
    return option_ids(example.features[OPTIONS], mixture.vocabulary, data.target_length, where)


# ------------------------------------------------------------------ the loop over batches


def batches(
    fn: Callable,
    arguments: Callable[[jax.Array, list[int]], tuple],
    questions: Questions,
    rows: list[int],
    bar: tqdm.tqdm | None = None,
) -> Iterator[tuple[list[int], Any, float]]:
    """Runs a jitted function on some of the examples in their order, with inputs of one length.

    Args:
      fn: jitted, or with a `lower` as jitted functions have.
      arguments: `(inputs, rows)` -> the arguments of `fn`, of the same shapes for every batch.
      questions, rows: the examples, and the indices of those to run.
      bar: counts the examples.

    Yields:
      The batch's rows, and the others as `grouped_batches` yields them.
    """
    size, shape = questions.data.batch_size, (questions.data.input_length,)
    groups = [Group(rows[i : i + size], size, shape) for i in range(0, len(rows), size)]

    def by_rows(inputs, group):
        return arguments(inputs, group.rows)

    for group, output, seconds in grouped_batches(fn, by_rows, questions, groups, bar):
        yield group.rows, output, seconds


def grouped(
    questions: Questions,
    rows: Sequence[int],
    others: Sequence[int] | None = None,
    limit: int | None = None,
) -> list[Group]:
    """Some of the examples in batches of similar lengths, for `grouped_batches`.

    Args:
      questions, rows: the examples, and the indices of those to run.
      others: of each row, another length than that of its input, such as its target's.
      limit: the most that it may be.
    """
    data = questions.data
    lengths = [[input_length(questions.examples[row]) for row in rows]]
    limits = [data.input_length]
    if others is not None:
        lengths.append(list(others))
        limits.append(limit)
    table = np.array(lengths, np.int64).T
    return plan(rows, table, limits, data.batch_size)


def grouped_batches(
    fn: Callable,
    arguments: Callable[[jax.Array, Group], tuple],
    questions: Questions,
    groups: Sequence[Group],
    bar: tqdm.tqdm | None = None,
) -> Iterator[tuple[Group, Any, float]]:
    """Runs a jitted function on batches whose first length is that of the inputs.

    Args:
      fn: jitted, or with a `lower` as jitted functions have.
      arguments: `(inputs, group)` -> the arguments of `fn`.
      questions, groups: the examples, and their batches.
      bar: counts the examples.

    Yields:
      The batch, what `fn` returns for it as NumPy arrays, whose last rows may only fill the batch
      up, and the seconds of each row.
    """
    sharding = rules.batch_sharding(questions.mesh)

    def group_arguments(group: Group) -> tuple:
        members = [questions.examples[row] for row in group.rows]
        _, inputs = next(pipeline.batch_inputs(members, group.size, sharding, group.shape[0]))
        return arguments(inputs, group)

    for group, output, seconds in calls(fn, group_arguments, questions, groups):
        # Rows that only fill the batch up take their part of the time too.
        yield group, output, seconds / group.size
        if bar is not None:
            bar.update(len(group.rows))


def calls(
    fn: Callable,
    arguments: Callable[[_Batch], tuple],
    questions: Questions,
    batches: Iterable[_Batch],
) -> Iterator[tuple[_Batch, Any, float]]:
    """Calls a jitted function for one batch after the other, on all hosts.

    Args:
      fn: jitted, or with a `lower` as jitted functions have.
      arguments: batch -> the arguments of `fn`.
      questions: the mesh, and what is called before each batch.
      batches: of any kind.

    Yields:
      The batch, what `fn` returns for it as NumPy arrays, and the seconds it took, without those of
      compiling.
    """
    seen = set()
    for batch in batches:
        with jax.set_mesh(questions.mesh):
            values = arguments(batch)
            shapes = tuple(leaf.shape for leaf in jax.tree.leaves(values))
            questions.before_batch(shapes not in seen)
            if shapes not in seen:  # else compiling would count as decoding time
                compile_together(fn, *values)
            seen.add(shapes)
            start = time.perf_counter()
            output = hosts.to_host(fn(*values))
            seconds = time.perf_counter() - start
        yield batch, output, seconds


def to_global(tree: Any, questions: Questions) -> Any:
    """NumPy arrays, whose leading axis is the batch, as global arrays."""
    sharding = rules.batch_sharding(questions.mesh)

    def split(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(split, tree)


@functools.lru_cache(maxsize=32)
def with_rules(jitted: Callable, table: rules.Table) -> Callable:
    """A jitted function that is traced under sharding rules.

    JAX's cache of traces does not know the rules: the function itself would keep the first ones.
    """

    @functools.wraps(jitted)
    def traced(*args):
        with rules.applied(table):
            return jitted.__wrapped__(*args)

    return jax.jit(traced)


def filled(group: Group) -> list[int]:
    """The rows of a batch, the last one repeated up to its size."""
    return group.rows + group.rows[-1:] * (group.size - len(group.rows))


def progress_bar(label: str, count: int, stays: bool = True, unit: str = "example") -> tqdm.tqdm:
    """Counts examples, or other units; on many hosts the first one draws it."""
    is_hidden = not hosts.is_first()
    return progress.progress_bar(total=count, desc=label, unit=unit, leave=stays, disable=is_hidden)
