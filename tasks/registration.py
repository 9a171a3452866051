"""What every task of this package has in common when it is registered."""

import math
from collections.abc import Callable, Sequence

import seqio

from cascade_jax.data import catalog, features

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
    """Registers a task, unless one of this name is there already, and gives back its name.

    Args:
      name: with its version, "demo_last_v1"; a changed prompt is a new version.
      source: where the rows come from.
      preprocessors: from the source's fields to the texts "inputs" and "targets"; where the answer
        is one of a few, also to the list of texts "options".
      metric_fns: the first measures each example by itself too, the others whole splits only.
      postprocess_fn: as in seqio; None leaves text as it is.
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
    """Registers a mixture, unless one of this name is there already, and gives back its name.

    Args:
      name: with its version.
      tasks: names of its tasks.
      rate: share of each task, or a function of the task that gives it.
    """
    if name not in seqio.MixtureRegistry.names():
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


def rows_in_train(source: seqio.DataSource) -> int:
    """For `proportional`: rows of the split "train" as it is read."""
    return source.num_input_examples("train")


def references_as_target(output: str, example=None, is_target: bool = False, **_unused):
    """seqio postprocessor: a target is all its reference texts, if the row has any."""
    if not is_target or example is None or not len(example["references"]):
        return output
    return [text.decode("utf-8") for text in example["references"]]
