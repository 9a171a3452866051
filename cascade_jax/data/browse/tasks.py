"""Registered tasks and mixtures, and whether their data is on this machine; downloads nothing."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_jax.data import catalog
from cascade_jax.names import did_you_mean

if TYPE_CHECKING:  # see data/mixtures.py
    import seqio

# Values of `TaskFacts.data`; where a data folder lacks some splits, FOLDER and those it has.
YES = "yes"
FOLDER = "folder"
NOT_IN_FOLDER = "not in the folder"
NOT_PREPARED = "TFDS not prepared"
MANUAL = "manual download"
NEEDS_FOLDER = "needs a data folder"
UNKNOWN = "-"


@dataclass(frozen=True)
class TaskFacts:
    """One line of the list of tasks."""

    name: str
    suite: str  # as in its card; "-" for a task without one
    kind: str  # likewise
    metrics: tuple[str, ...]  # names, the one of single examples first
    source: str  # TFDS builder with its version, or the folder's name where TFDS has none
    splits: tuple[str, ...]
    data: str  # whether it is on this machine; one of the constants above
    manual: str = ""  # what to download by hand and where to put it


def facts_of(task: seqio.Task, name: str | None = None) -> TaskFacts:
    """Facts of a task; `name` is the registered one of a task that is a copy."""
    name = name or task.name
    card = catalog.card_of(name)
    suite, kind = (card.suite, card.kind) if card else (UNKNOWN, UNKNOWN)
    metrics = tuple(map(_metric_name, task.metric_fns))
    source, manual = _source_name(task.source), getattr(task.source, "manual", None) or ""
    return TaskFacts(name, suite, kind, metrics, source, tuple(task.splits), _data(task), manual)


def can_read(task: seqio.Task, split: str) -> bool:
    """Whether a split can be read without a download; True where the source does not say."""
    has_split = getattr(task.source, "is_available", None)
    return has_split is None or has_split(split)


def is_available(facts: TaskFacts) -> bool:
    """Whether some split of a task can be read without a download."""
    return facts.data == YES or facts.data.startswith(FOLDER)


def list_tasks(suite: str | None = None) -> list[TaskFacts]:
    """Facts of the registered tasks of a suite, or of all; see `select_suite`."""
    import seqio

    names = seqio.TaskRegistry.names()
    return select_suite((facts_of(seqio.TaskRegistry.get(name)) for name in names), suite)


def select_suite(tasks: Iterable[TaskFacts], suite: str | None) -> list[TaskFacts]:
    """The tasks of a suite, or all, by suite and name.

    Raises:
      ValueError: no task is of that suite (the nearest, and all, are listed).
    """
    tasks = list(tasks)
    suites = sorted({facts.suite for facts in tasks})
    if suite is not None and suite not in suites:
        hint = did_you_mean(suite, suites)
        raise ValueError(f"no task is of suite {suite!r}{hint} (there are: {', '.join(suites)})")
    chosen = [facts for facts in tasks if suite in (None, facts.suite)]
    return sorted(chosen, key=lambda facts: (facts.suite, facts.name))


def _metric_name(metric_fn: Any) -> str:
    """`accuracy` of a function or a partial of it, `binary_f1` of an object of class BinaryF1."""
    while isinstance(metric_fn, functools.partial):
        metric_fn = metric_fn.func
    name = getattr(metric_fn, "__name__", None) or type(metric_fn).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _source_name(source: seqio.DataSource) -> str:
    import seqio

    from cascade_jax.data import sources

    if isinstance(source, sources.TfdsOrJsonlSource):
        if source.is_in_tfds:
            return source.tfds_name.removesuffix(":*.*.*")
        return f"{source.name.replace('/', '__')} (folder)"
    if isinstance(source, sources.GeneratedSource):
        return "made by a program"
    if isinstance(source, seqio.TfdsDataSource):
        return source.tfds_dataset.name
    return type(source).__name__


def _data(task: seqio.Task) -> str:
    from cascade_jax.data import sources

    source = task.source
    if isinstance(source, sources.GeneratedSource):
        return YES
    if not isinstance(source, sources.TfdsOrJsonlSource):
        return UNKNOWN
    facts = sources.get_data_dir(), source.is_in_tfds, bool(source.manual)
    return data_of(list(task.splits), source.is_available, *facts)


def data_of(
    splits: Collection[str],
    has_split: Callable[[str], bool],
    data_dir: Path | None,
    is_in_tfds: bool,
    is_manual: bool,
) -> str:
    """The value of `TaskFacts.data` for rows of a data folder, if one is set, or of TFDS."""
    have = [split for split in splits if has_split(split)]
    if data_dir is not None:
        if not have:
            return NOT_IN_FOLDER
        return FOLDER if len(have) == len(splits) else f"{FOLDER}: {', '.join(have)}"
    if have:
        return YES
    if not is_in_tfds:
        return NEEDS_FOLDER
    return MANUAL if is_manual else NOT_PREPARED


@dataclass(frozen=True)
class MixtureFacts:
    """A mixture and how often it draws each task."""

    name: str
    rates: Mapping[str, float]  # by task; NaN where it is a number of rows that is unknown

    @property
    def total(self) -> float:
        """Sum of the rates; NaN if one is unknown."""
        return sum(self.rates.values())

    def shares(self) -> dict[str, float]:
        """Task name -> share of the rows that are drawn from it."""
        return {name: rate / self.total for name, rate in self.rates.items()}


def mixture_facts(mixture: seqio.Mixture) -> MixtureFacts:
    """Tasks and rates of a mixture, in order of the names."""
    tasks = sorted(mixture.tasks, key=lambda task: task.name)
    return MixtureFacts(mixture.name, {task.name: _rate(mixture, task) for task in tasks})


def list_mixtures() -> list[MixtureFacts]:
    """Facts of all registered mixtures, by name."""
    import seqio

    names = sorted(seqio.MixtureRegistry.names())
    return [mixture_facts(seqio.MixtureRegistry.get(name)) for name in names]


def _rate(mixture: seqio.Mixture, task: seqio.Task) -> float:
    try:
        return float(mixture.get_rate(task))
    except (LookupError, ValueError, OSError, TypeError):
        return math.nan  # TFDS knows no sizes of data that is not prepared
