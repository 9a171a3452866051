"""From an open mixture to an endless tf.data stream of training batches, under seqio's names."""

import seqio
import tensorflow as tf

from cascade_jax.data import features, lengths
from cascade_jax.data.mixtures import ALL_ROWS, DataConfig, OpenMixture
from cascade_jax.data.reading import reading
from cascade_jax.data.token_cache import CachedTokens, cached_tokens

WHOLE = seqio.ShardInfo(0, 1)


def cached_tasks(
    mixture: OpenMixture, config: DataConfig, split: str
) -> dict[str, CachedTokens | None]:
    """By task that has the split, its token ids, or None where they are not kept.

    Raises:
      ValueError: see `lengths.check_task` and `lengths.check_options`.
      FileNotFoundError: see `OpenMixture.check_files`.
    """
    mixture.check_files(split)
    tokens = {}
    for name, task in mixture.tasks_with(split).items():
        with reading(f"task {name!r}, split {split!r}"):
            tokens[name] = cached_tokens(task, name, split, config.cache_rows, config.cache_dir)
            lengths.check_task(task, name, split, config, tokens[name])
            lengths.check_options(task, name, split, config)
    return tokens


def training_batches(
    mixture: OpenMixture,
    config: DataConfig,
    split: str,
    shard: seqio.ShardInfo,
    cached: dict[str, CachedTokens | None],
) -> tf.data.Dataset:
    """Endless, shuffled batches of model features.

    Args:
      mixture: from `open_mixture(config)`.
      config: lengths, seed, batch size, packing.
      split: e.g. "train".
      shard: of the host. Where every host reads all rows it does not matter, and batches are
        whole: the host keeps its rows of each. Otherwise they are the host's alone.
      cached: from `cached_tasks`.

    Raises:
      ValueError: no task has the split, or a rate of the mixture is not above 0.
    """
    if config.hosts_read == ALL_ROWS:
        shard = WHOLE
    rates = mixture.rates(split)
    tasks = mixture.tasks_with(split)
    datasets = [_examples(tasks[name], config, split, shard, cached[name]) for name in rates]
    if isinstance(mixture.provider, seqio.Mixture):
        # How the mixture draws, which seqio keeps in a private field.
        dataset = mixture.provider._sample_fn(datasets, list(rates.values()), config.seed)
    else:
        (dataset,) = datasets
    trim = features.sequence_length(config.input_length, config.target_length)
    dataset = features.converter(config.pack, config.architecture)(dataset, trim)
    dataset = dataset.batch(config.batch_size // shard.num_shards, drop_remainder=True)
    options = tf.data.Options()
    options.deterministic = True  # maps run in parallel and yet give their results in order
    return dataset.with_options(options).prefetch(2)


def _examples(
    task: seqio.Task,
    config: DataConfig,
    split: str,
    shard: seqio.ShardInfo,
    kept: CachedTokens | None,
) -> tf.data.Dataset:
    """One task's endless, shuffled examples: token ids of inputs and targets."""
    trim = features.sequence_length(config.input_length, config.target_length)
    if kept is not None:
        return kept.dataset(task, trim, config.seed, shard)
    examples = task.get_dataset(
        sequence_length=trim,
        split=split,
        shuffle=True,
        seed=config.seed,
        shard_info=shard,
        num_epochs=None,
        # A memory cache would be written whole into every saved state.
        try_in_mem_cache=False,
    )
    names = (features.INPUTS, features.TARGETS)
    return examples.map(
        lambda example: {name: example[name] for name in names}, num_parallel_calls=tf.data.AUTOTUNE
    )
