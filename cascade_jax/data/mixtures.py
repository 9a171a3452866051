"""What to read: the data config, and a mixture opened on one vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass

import seqio

from cascade_jax.data import features, sources, vocabulary
from cascade_jax.data.registry import look_up


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to cut it.

    Attributes:
      mixture: a registered seqio mixture or task.
      input_length, target_length: positions in a row; longer texts are cut, EOS stays.
      batch_size: rows in a global batch, over all hosts.
      vocabulary: "byte" or a SentencePiece .model; None for the tasks' own.
      data_dir: folder of JSONL files, made the process-wide one when the mixture is opened; None
        leaves what `sources.set_data_dir` has set (TFDS if nothing).
      seed: of the order of the training rows.
      shuffle_buffer: rows, per task; None for the tasks' own. Local rows are shuffled as a whole
        once and then, each time around, within this buffer.
      pack: put several short training examples into one row.
    """

    mixture: str
    input_length: int
    target_length: int
    batch_size: int
    vocabulary: str | None = None
    data_dir: str | None = None
    seed: int = 0
    shuffle_buffer: int | None = None
    pack: bool = False

    def __post_init__(self):
        """Raises ValueError for lengths, sizes or a seed that cannot work."""
        if not self.mixture or not isinstance(self.mixture, str):
            raise ValueError(f"mixture is {self.mixture!r}; must be the name of a mixture or task")
        for name, least in (("input_length", 2), ("target_length", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; must be an integer of at least {least}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed!r}; must be an integer from 0 to 2147483647")
        buffer = self.shuffle_buffer
        if buffer is not None and (not isinstance(buffer, int) or buffer < 1):
            raise ValueError(f"shuffle_buffer is {buffer!r}; must be None or at least 1")


@dataclass(frozen=True)
class OpenMixture:
    """A mixture on one vocabulary.

    Attributes:
      name: as in the config.
      provider: the seqio mixture or task, on `vocabulary`.
      tasks: registered task name -> task on `vocabulary`, in a fixed order.
      vocabulary: of inputs and targets.
      fingerprint: equal exactly if two vocabularies give the same ids.
    """

    name: str
    provider: seqio.Mixture | seqio.Task
    tasks: Mapping[str, seqio.Task]
    vocabulary: seqio.Vocabulary
    fingerprint: str

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.vocabulary.vocab_size

    @property
    def eos_id(self) -> int:
        """Id that ends every input and target."""
        return self.vocabulary.eos_id

    def tasks_with(self, split: str) -> dict[str, seqio.Task]:
        """The tasks that have a split.

        Raises:
          ValueError: if there is none.
        """
        tasks = {name: task for name, task in self.tasks.items() if split in task.splits}
        if not tasks:
            splits = sorted({s for task in self.tasks.values() for s in task.splits})
            raise ValueError(f"no task of {self.name!r} has a split {split!r}; there are {splits}")
        return tasks

    def data_fingerprints(self, split: str) -> dict[str, str]:
        """By task, a text that changes with the rows of a split.

        A source without a `fingerprint(split)` of its own is told by its class alone.
        """
        found = {}
        for name, task in self.tasks_with(split).items():
            by_class = type(task.source).__name__
            fingerprint = getattr(task.source, "fingerprint", lambda split, name=by_class: name)
            found[name] = fingerprint(split)
        return found


def _copy(provider, vocab: seqio.Vocabulary | None, shuffle_buffer: int | None):
    """An unregistered copy on another vocabulary, with another shuffle buffer."""
    new_features = None if vocab else provider.output_features
    copy = seqio.helpers.mixture_or_task_with_new_vocab(
        provider,
        f"{provider.name}__copy",
        new_vocab=vocab,
        new_output_features=new_features,
        add_to_seqio_registry=False,
    )
    for task in seqio.get_subtasks(copy) if shuffle_buffer else ():
        # A mixture hands no buffer size down to its tasks; these tasks are ours alone.
        task._shuffle_buffer_size = shuffle_buffer
    return copy


def open_mixture(config: DataConfig) -> OpenMixture:
    """Looks a mixture up and puts it on the config's vocabulary; reads no data yet.

    Raises:
      ValueError: unknown name (the nearest are listed), or inputs and targets of two vocabularies.
      FileNotFoundError: missing vocabulary.
    """
    if config.data_dir is not None:
        sources.set_data_dir(config.data_dir)
    original = provider = look_up(config.mixture)
    if config.vocabulary or config.shuffle_buffer:
        vocab = vocabulary.load_vocabulary(config.vocabulary) if config.vocabulary else None
        provider = _copy(original, vocab, config.shuffle_buffer)
    tasks = {}
    old_names = sorted((task.name for task in seqio.get_subtasks(original)), key=len)
    for task in seqio.get_subtasks(provider):
        # seqio names a copied task "<mixture's new name>.<task>"; a copied lone task anything.
        ends = [old for old in old_names if task.name == old or task.name.endswith(f".{old}")]
        tasks[ends[-1] if ends else config.mixture] = task
    vocabularies = [
        provider.output_features[name].vocabulary for name in (features.INPUTS, features.TARGETS)
    ]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(f"inputs and targets of {config.mixture!r} differ in vocabulary; must not")
    fingerprint = vocabulary.fingerprint(vocabularies[0])
    return OpenMixture(
        config.mixture, provider, dict(sorted(tasks.items())), vocabularies[0], fingerprint
    )
