"""Lengths that leave nothing whole: a task whose every target would be cut off."""

import inspect

import numpy as np
import seqio

from cascade_jax.data import catalog, features
from cascade_jax.data.mixtures import DataConfig, OpenMixture
from cascade_jax.data.token_cache import CachedTokens, cached_tokens

LOOKED_AT = 1024  # examples of a task that is not kept in memory


def check_lengths(mixture: OpenMixture, config: DataConfig, split: str) -> None:
    """Refuses a target_length that cuts off every target of a task.

    Tasks of kind "language_modeling", whose texts have no end that matters, and tasks that fit
    their texts to the lengths themselves are let pass.

    Args:
      mixture: from `open_mixture(config)`.
      config: with the lengths; small tasks are tokenised and kept as for training.
      split: tasks without it are left out.

    Raises:
      ValueError: names the task, the lengths, and what would be enough for some and for all.
    """
    for name, task in mixture.tasks_with(split).items():
        kept = cached_tokens(task, name, split, config.cache_rows, config.cache_dir)
        check_task_lengths(task, name, split, config, kept)


def check_task_lengths(
    task: seqio.Task, name: str, split: str, config: DataConfig, kept: CachedTokens | None
) -> None:
    """`check_lengths` of one task; `kept` are its token ids, if it has them."""
    card = catalog.card_of(name)
    if card is not None and card.kind == "language_modeling":
        return
    if kept is not None:
        lengths = kept.lengths(features.TARGETS) + 1  # EOS
        if not len(lengths) or lengths.min() <= config.target_length:
            return
        seen = "every one"
    else:
        lengths = _first_lengths(task, split, config.target_length)
        if not len(lengths) or lengths.min() <= config.target_length:
            return
        seen = f"each of the first {len(lengths)}"
    raise ValueError(
        f"target_length {config.target_length} (input_length {config.input_length}) cuts off "
        f"targets of task {name!r}, split {split!r}: {seen}. With EOS they have {lengths.min()} "
        f"to {lengths.max()} tokens: give at least {lengths.min()}, for all of them "
        f"{lengths.max()}"
    )


def _first_lengths(task: seqio.Task, split: str, enough: int) -> np.ndarray:
    """Lengths of the first targets with EOS, up to one that fits."""
    told = {name for step in task.preprocessors[:-1] for name in inspect.signature(step).parameters}
    if list(task.preprocessors[-1:]) != features.tokenizing()[1:] or "sequence_length" in told:
        return np.zeros(0, np.int64)
    examples = task.get_dataset(None, split=split, shuffle=False, try_in_mem_cache=False)
    lengths = []
    for example in examples.take(LOOKED_AT).as_numpy_iterator():
        lengths.append(len(example[features.TARGETS]))
        if lengths[-1] <= enough:
            break
    return np.array(lengths)
