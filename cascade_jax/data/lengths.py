"""Refuses tasks that a run can't learn from: no example, no whole target, options alike."""

import numpy as np
import seqio
from jaxtyping import Int

from cascade_jax.data import catalog, features, options
from cascade_jax.data.browse import token_counts
from cascade_jax.data.mixtures import DataConfig
from cascade_jax.data.token_cache import CachedTokens

LOOKED_AT = 1024  # examples of a task that is not kept in memory
_OPTIONS_LOOKED_AT = 256  # examples whose options are compared


def check_task(
    task: seqio.Task, name: str, split: str, config: DataConfig, kept: CachedTokens | None
) -> None:
    """Refuses a task without an example, and a target_length that cuts off every target.

    Tasks of kind "language_modeling", whose texts have no end that matters, and tasks that fit
    their texts to the lengths themselves may be cut.

    Args:
      task: perhaps a copy on another vocabulary.
      name: its registered name.
      split: which split.
      config: with the lengths.
      kept: its token ids, if it has them; else it is read up to the first target that fits.

    Raises:
      ValueError: names the task, and the length that its targets need.
    """
    card = catalog.card_of(name)
    is_modeling = card is not None and card.kind == "language_modeling"
    may_be_cut = is_modeling or not _is_cut_at_the_end(task)
    if kept is not None:
        lengths, seen = kept.lengths(features.TARGETS) + 1, "every target"  # EOS
    else:
        lengths = _first_lengths(task, split, config, may_be_cut)
        seen = f"each of the first {len(lengths)} targets"
    if not len(lengths):
        raise ValueError(
            f"task {name!r} has no example in split {split!r}: its filters keep no row; look at "
            "the rows of its source, or leave the task out"
        )
    if not may_be_cut:
        counts = token_counts.TokenCounts(lengths, config.target_length)
        token_counts.check_targets_fit({f"{name} ({split})": counts}, seen)


def check_options(task: seqio.Task, name: str, split: str, config: DataConfig) -> None:
    """Refuses a task if options of one of its first examples are the same ids.

    `collect` could not rank them, after a training that the cut or the vocabulary has spoilt. Tasks
    whose card says that their rows have no options are not read.

    Args:
      task, name, split, config: as in `check_task`.

    Raises:
      ValueError: names the example and both options.
    """
    card = catalog.card_of(name)
    if card is not None and card.kind not in catalog.WITH_OPTIONS:
        return
    trim = features.sequence_length(config.input_length, config.target_length)  # not of options
    examples = task.get_dataset(trim, split=split, shuffle=False, try_in_mem_cache=False)
    if options.OPTIONS not in examples.element_spec:
        return
    vocabulary = task.output_features[features.TARGETS].vocabulary
    rows = examples.take(_OPTIONS_LOOKED_AT).as_numpy_iterator()
    for _ in options.checked(rows, vocabulary, config.target_length, f"{name}/{split}"):
        pass


def _is_cut_at_the_end(task: seqio.Task) -> bool:
    """Whether lengths touch a task in the last of our own steps alone."""
    ends = any(features.cuts_at_the_end(step) for step in task.preprocessors[-1:])
    return ends and "sequence_length" not in features.parameters_of(task.preprocessors[:-1])


def _first_lengths(
    task: seqio.Task, split: str, config: DataConfig, may_be_cut: bool
) -> Int[np.ndarray, " N"]:
    """Lengths of the first targets with EOS, up to one that will do."""
    trim = features.sequence_length(config.input_length, config.target_length)
    examples = task.get_dataset(
        trim if may_be_cut else None, split=split, shuffle=False, try_in_mem_cache=False
    )
    lengths = []
    for example in examples.take(LOOKED_AT).as_numpy_iterator():
        lengths.append(len(example[features.TARGETS]))
        if may_be_cut or lengths[-1] <= config.target_length:
            break
    return np.array(lengths)
