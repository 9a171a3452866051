"""Registers tasks and mixtures, with what all tasks of this package share."""

import math
from collections.abc import Callable, Sequence

import seqio

from cascade_jax.data import catalog, features
from cascade_jax.names import did_you_mean

RATE_CAP = 3000  # as in FLAN 2021's code
# Where TFDS looks for what one has to download by hand.
MANUAL_FOLDER = "the manual folder of TFDS (~/tensorflow_datasets/downloads/manual)"


def add_task(
    name: str,
    source: seqio.DataSource,
    preprocessors: Sequence[Callable],
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable | None = None,
    *,
    suite: str,
    kind: str,
) -> str:
    """Registers a task, unless its name is registered already, and returns the name.

    Args:
      name: with its version, "demo_last_v1"; a changed prompt is a new version.
      source: where the rows come from.
      preprocessors: from the source's fields to the texts "inputs" and "targets"; where the answer
        is one of a few, also to the list of texts "options".
      metric_fns: the first measures each example by itself too, the others whole splits only.
      postprocess_fn: as in seqio; None leaves text unchanged.
      suite, kind: see `catalog.TaskCard`.
    """
    catalog.add_card(name, catalog.TaskCard(suite, kind))
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=[*preprocessors, *features.tokenizing()],
            output_features=features.output_features(),
            metric_fns=list(metric_fns),
            postprocess_fn=postprocess_fn,
        )
    return name


def add_mixture(name: str, tasks: Sequence[str], rate: float | Callable) -> str:
    """Registers a mixture, unless its name is registered already, and returns the name.

    Args:
      name: with its version.
      tasks: names of its tasks.
      rate: share of each task, or a function of the task that gives it.

    Raises:
      ValueError: tasks that are not registered, all of them, with the nearest names.
    """
    if name not in seqio.MixtureRegistry.names():
        pairs = [task if isinstance(task, tuple) else (task, rate) for task in tasks]
        known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
        missing = [task for task, _ in pairs if task not in known]
        if missing:
            listed = ", ".join(f"{task!r}{did_you_mean(task, known)}" for task in missing)
            raise ValueError(f"mixture {name!r} has tasks that are not registered: {listed}")
        seqio.MixtureRegistry.add(name, list(tasks), default_rate=rate)
    return name


def proportional(
    train_rows: Callable[[seqio.DataSource], int], cap: float = math.inf
) -> Callable[[seqio.Task], float]:
    """A rate for `add_mixture`: training rows, at most `cap`.

    Args:
      train_rows: number of training rows by the task's source; not by the task, since a copy on
        another vocabulary has another name.
      cap: rows beyond it do not count.
    """

    def rate(task: seqio.Task) -> float:
        return float(min(train_rows(task.source), cap))

    return rate


def add_mixtures(
    suite: str, tasks: Sequence[str], train_rows: Callable[[seqio.DataSource], int]
) -> tuple[str, ...]:
    """Registers the four mixtures that every suite has, and gives back their names.

    ``cascade_<suite>_v1`` draws by training rows, at most 3,000 (as FLAN 2021's code has it),
    ``..._cap_30000_v1`` at most 30,000 (as the FLAN Collection), ``..._proportional_v1`` by all of
    them, and ``..._equal_v1`` each task alike.

    Args:
      suite: the suite's name.
      tasks: names of its tasks.
      train_rows: as for `proportional`.
    """
    rates = {
        "": proportional(train_rows, RATE_CAP),
        "_cap_30000": proportional(train_rows, 30_000),
        "_proportional": proportional(train_rows),
        "_equal": 1.0,
    }
    return tuple(add_mixture(f"cascade_{suite}{n}_v1", tasks, rate) for n, rate in rates.items())


def rows_in_train(source: seqio.DataSource) -> int:
    """For `proportional`: rows of the split "train" as it is read."""
    return source.num_input_examples("train")


def references_as_target(output: str, example=None, is_target: bool = False, **_unused):
    """seqio postprocessor: a target is all its reference texts, if the row has any."""
    if not is_target or example is None or not len(example["references"]):
        return output
    return [text.decode("utf-8") for text in example["references"]]
