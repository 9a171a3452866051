"""Examples for decoding: one task's split in file order, with text, ids and metric target."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from cascade_jax.data import features
from cascade_jax.data.mixtures import DataConfig, OpenMixture, open_mixture
from cascade_jax.data.placement import host_shard
from cascade_jax.data.reading import reading
from cascade_jax.names import nearest_names


@dataclass(frozen=True)
class Example:
    """One row to answer.

    Attributes:
      example_id: "<task>/<split>/<index>", unique.
      task: registered task name.
      inputs_text, target_text: before tokenisation.
      target: what the task's metrics take as target (often the text, or a list of references).
      inputs: token ids, padded with 0.
      features: the seqio example, for the task's postprocessor.
    """

    example_id: str
    task: str
    inputs_text: str
    target_text: str
    target: Any
    inputs: Int[np.ndarray, " S"]
    features: Mapping[str, Any] = field(repr=False, compare=False)


def decode_examples(
    config: DataConfig, task_name: str, split: str, limit: int | None = None
) -> Iterator[Example]:
    """The examples of one task's split in file order, on every host alike.

    Args:
      config: gives vocabulary, lengths and data folder; its mixture must hold the task.
      task_name: one of `open_mixture(config).tasks`.
      split: which split.
      limit: the most examples; None for all.

    Raises:
      ValueError: the mixture has no such task (nearest names), or the task no such split.
    """
    from cascade_jax.data.lean_tensorflow import without_autograph

    mixture = open_mixture(config)
    if task_name not in mixture.tasks:
        near = ", ".join(nearest_names(task_name, mixture.tasks))
        raise ValueError(f"{mixture.name!r} has no task {task_name!r}; nearest: {near}")
    task = mixture.tasks[task_name]
    if split not in task.splits:
        raise ValueError(f"{task_name!r} has no split {split!r}; it has {sorted(task.splits)}")
    lengths = features.sequence_length(config.input_length, config.target_length)
    options = {"split": split, "shuffle": False, "try_in_mem_cache": False}
    rows = without_autograph(lambda: task.get_dataset(lengths, **options))
    with reading(f"task {task_name!r}, split {split!r}"):
        for index, row in enumerate(rows.take(-1 if limit is None else limit).as_numpy_iterator()):
            texts = [_text(row, name, mixture) for name in (features.INPUTS, features.TARGETS)]
            tokens = row[features.INPUTS].astype(np.int32)
            yield Example(
                example_id=f"{task_name}/{split}/{index}",
                task=task_name,
                inputs_text=texts[0],
                target_text=texts[1],
                target=task.postprocess_fn(texts[1], example=row, is_target=True),
                inputs=np.pad(tokens, (0, config.input_length - len(tokens))),
                features=row,
            )


def _text(row: Mapping[str, Any], name: str, mixture: OpenMixture) -> str:
    """The text of a feature: seqio's copy, else what its ids spell."""
    text = row.get(name + features.PRETOKENIZED)
    if text is None:
        return mixture.vocabulary.decode(row[name].tolist())
    return text.decode("utf-8")


def answer_for_metric(mixture: OpenMixture, example: Example, answer: str) -> Any:
    """A decoded answer as the task's metrics take it (the task's postprocessor)."""
    task = mixture.tasks[example.task]
    return task.postprocess_fn(answer, example=example.features, is_target=False)


def batch_inputs(
    examples: Sequence[Example],
    batch_size: int,
    sharding: jax.sharding.Sharding,
    length: int | None = None,
) -> Iterator[tuple[list[Example], Int[Array, "B S"]]]:
    """Groups examples for decoding; every host passes the same examples.

    Inputs are cut to a length that holds them, or stay as they are.

    Yields:
      Up to `batch_size` examples, and their inputs as a global array of exactly `batch_size` rows:
      the first len(examples) are theirs, the rest repeats the last, so that it ends when that does.
    """
    for start in range(0, len(examples), batch_size):
        group = list(examples[start : start + batch_size])
        filled = group + [group[-1]] * (batch_size - len(group))
        inputs = np.stack([example.inputs[:length] for example in filled])
        shard = host_shard(sharding, *inputs.shape)
        host_rows = batch_size // shard.num_shards
        mine = inputs[shard.index * host_rows :][:host_rows]
        yield group, jax.make_array_from_process_local_data(sharding, mine, inputs.shape)
