"""Rows of tasks for their tests: written into a data folder, and read as examples."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import seqio

from cascade_jax.data import features, sources
from tasks.flan2021 import DATA_SETS
from tests.support import fakes


def write(folder: Path, place: str, rows: Sequence[dict], split: str, before: str = "") -> Path:
    """Writes `<folder>/<place>/<split>.jsonl`, and makes the folder the data folder."""
    sources.set_data_dir(folder)
    return fakes.write_jsonl(folder, place, split, rows, before)


def write_flan(
    folder: Path, name: str, rows: Sequence[dict], split: str = "test", before: str = ""
) -> Path:
    """`write` where a FLAN task of that name looks for a split."""
    task = DATA_SETS[name]
    place = (task.folder or task.tfds_name.partition(":")[0]).replace("/", "__")
    return write(folder, place, rows, task.splits[split].partition("[")[0], before)


def examples(task_name: str, split: str, skip: int = 0) -> Iterator[dict[str, Any]]:
    """A task's examples in file order, uncut."""
    task = seqio.TaskRegistry.get(task_name)
    dataset = task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False)
    return dataset.skip(skip).as_numpy_iterator()


def texts_of(example: dict[str, Any]) -> tuple[str, str]:
    """Input and target as text."""
    return tuple(example[f"{f}_pretokenized"].decode() for f in (features.INPUTS, features.TARGETS))
