"""DataConfig, and mixtures by name, opened on one vocabulary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade_jax import checks
from cascade_jax.data import features
from cascade_jax.names import check_choice, nearest_names

if TYPE_CHECKING:  # imported at its first use: it takes seconds, and not every command reads text
    import seqio

ALL_ROWS = "all_rows"
OWN_ROWS = "own_rows"
HOSTS_READ = (ALL_ROWS, OWN_ROWS)


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to cut it.

    Attributes:
      mixture: a registered seqio mixture or task.
      input_length, target_length: positions in a row; longer texts are cut, EOS stays.
      batch_size: rows in a global batch, over all hosts.
      vocabulary: "byte", a SentencePiece .model or a tokenizer.json (see
        `vocabulary/load.py`); None for the tasks' own.
      data_dir: folder of JSONL files, made the process-wide one when the mixture is opened; None
        leaves what `sources.set_data_dir` has set (TFDS if nothing).
      seed: of the order of the training rows.
      shuffle_buffer: rows, per task; None for the tasks' own. Local rows are shuffled as a whole
        once and then, each time around, within this buffer.
      pack: put several short training examples into one row.
      architecture: "encoder_decoder", or "prefix_lm" for decoder-only models, whose rows have
        input_length + target_length positions.
      hosts_read: "all_rows": every host prepares the whole stream of batches and keeps its part of
        each, so that the batches do not depend on the number of hosts. "own_rows": every host
        prepares only its share of the rows, which is less work for many hosts on large data; the
        order then depends on their number.
      cache_rows: a task with at most this many training rows is tokenised once, when training
        starts, and kept in memory (see `token_cache`); 0 for none. Batches are the same either way.
      cache_dir: folder where these token ids are kept for the next start; None for memory only.
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
    architecture: str = features.ENCODER_DECODER
    hosts_read: str = ALL_ROWS
    cache_rows: int = 50_000
    cache_dir: str | None = None

    def __post_init__(self):
        """Raises ValueError for lengths, sizes, names or a seed that cannot work."""
        is_name = isinstance(self.mixture, str) and bool(self.mixture)
        checks.require(is_name, "mixture", self.mixture, "the name of a mixture or task")
        sizes = {"input_length": 2, "target_length": 2, "batch_size": 1, "cache_rows": 0}
        for name, least in sizes.items():
            most = checks.LARGEST if name == "cache_rows" else 2**20
            checks.whole_number(name, getattr(self, name), least, most=most)
        checks.whole_number("shuffle_buffer", self.shuffle_buffer, 1, optional=True)
        checks.whole_number("seed", self.seed, 0)
        checks.true_or_false("pack", self.pack)
        check_choice("architecture", self.architecture, features.ARCHITECTURES)
        check_choice("hosts_read", self.hosts_read, HOSTS_READ)
        folder = self.cache_dir
        is_folder = folder is None or (isinstance(folder, str) and bool(folder))
        checks.require(is_folder, "cache_dir", folder, "None or the path of a folder")

    @property
    def renders_chats(self) -> bool:
        """Whether the vocabulary's chat template renders inputs, by the vocabulary's name."""
        if self.vocabulary is None:
            return False
        from cascade_jax.data.vocabulary import tokenizer_json

        return tokenizer_json.renders_chats(self.vocabulary)

    @property
    def row_length(self) -> int:
        """Positions of a row of tokens: of the input, or of input and target together."""
        both = self.input_length + self.target_length
        return both if self.architecture == features.PREFIX_LM else self.input_length


@dataclass(frozen=True)
class OpenMixture:
    """A mixture on one vocabulary."""

    name: str
    provider: seqio.Mixture | seqio.Task  # on `vocabulary`
    tasks: Mapping[str, seqio.Task]  # by registered name, on `vocabulary`, in a fixed order
    vocabulary: seqio.Vocabulary  # of targets; inputs have its ids too, rendered by it or not
    fingerprint: str  # equal exactly if two vocabularies give the same ids

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.vocabulary.vocab_size

    @property
    def eos_id(self) -> int:
        """Id that ends every target, and every input that no chat template ends."""
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

    def check_files(self, split: str) -> None:
        """Refuses a data folder that lacks files of the split, with those of all tasks at once.

        Raises:
          FileNotFoundError: which task lacks what, and the nearest names.
        """
        tasks = self.tasks_with(split)
        missing = {}
        for name, task in tasks.items():
            try:
                getattr(task.source, "check_file", lambda split: None)(split)
            except FileNotFoundError as error:
                missing[name] = str(error)
        reasons = list(dict.fromkeys(missing.values()))
        if len(reasons) > 1:
            listed = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise FileNotFoundError(
                f"split {split!r} of {self.name!r}: {len(missing)} of {len(tasks)} tasks have no "
                f"file: {listed}"
            )
        if reasons:
            raise FileNotFoundError(reasons[0])

    def rates(self, split: str) -> dict[str, float]:
        """By task that has the split, its share of the mixture, not normalised.

        Raises:
          ValueError: no task has the split, or a rate is not a finite number above 0 (which task).
        """
        import seqio

        rates = dict.fromkeys(self.tasks_with(split), 0.0)
        for task in seqio.get_subtasks(self.provider):
            name = _registered_name(task, self.tasks, self.name)
            # A task that stands in two mixtures of a mixture has a copy, and a rate, in each.
            if name in rates:
                lone = isinstance(self.provider, seqio.Task)
                rate = 1.0 if lone else self.provider.get_rate(task)
                _check_rate(rate, name, self.name)
                rates[name] += rate
        return rates

    def data_fingerprints(self, split: str) -> dict[str, str]:
        """By task, a text that changes with the rows of a split.

        Of a source without a `fingerprint(split)`, the name of its class.
        """
        fingerprints = {}
        for name, task in self.tasks_with(split).items():
            fingerprint = getattr(task.source, "fingerprint", None)
            by_class = type(task.source).__name__
            fingerprints[name] = fingerprint(split) if fingerprint else by_class
        return fingerprints


def _copy(provider, vocab: seqio.Vocabulary | None, shuffle_buffer: int | None):
    """An unregistered copy on another vocabulary, with another shuffle buffer."""
    import seqio

    copied = dict(provider.output_features)
    for name in copied if vocab else ():
        copied[name] = dataclasses.replace(copied[name], vocabulary=vocab)
    chats = vocab.for_inputs() if hasattr(vocab, "for_inputs") else None
    if chats is not None:
        copied[features.INPUTS] = _rendered_inputs(provider, chats)
    copy = seqio.helpers.mixture_or_task_with_new_vocab(
        provider,
        f"{provider.name}__copy",
        new_output_features=copied,
        add_to_seqio_registry=False,
    )
    for task in seqio.get_subtasks(copy) if shuffle_buffer else ():
        # A mixture hands no buffer size down to its tasks; these tasks are ours alone.
        task._shuffle_buffer_size = shuffle_buffer
    return copy


def _rendered_inputs(provider, chats: seqio.Vocabulary) -> seqio.Feature:
    """The feature of inputs that a chat template renders.

    Raises:
      ValueError: a task has no texts as inputs.
    """
    import seqio

    for task in seqio.get_subtasks(provider):
        ends = list(task.preprocessors[-2:]) == features.tokenizing()
        if not ends or features.INPUTS not in task.output_features:
            raise ValueError(
                f"task {task.name!r} makes its own token ids, and a chat template renders texts: "
                "let its preprocessors end in features.tokenizing(), or leave chat_template out of "
                "the vocabulary"
            )
    inputs = provider.output_features[features.INPUTS]
    return dataclasses.replace(inputs, vocabulary=chats, add_eos=False)


def _check_room(inputs: seqio.Feature, length: int) -> None:
    """Refuses a length that a chat template fills by itself."""
    least = getattr(inputs.vocabulary, "template_length", 0) + 1
    if length < least:
        raise ValueError(
            f"input_length {length} leaves no room for an input: the chat template itself takes "
            f"{least - 1} tokens; take {least} or more"
        )


def _registered_name(task: seqio.Task, names: Iterable[str], default: str = "") -> str:
    """Which of the registered names a task has that may be a copy."""
    # seqio names a copied task "<mixture's new name>.<task>"; a copied lone task anything.
    ends = [old for old in names if task.name == old or task.name.endswith(f".{old}")]
    return max(ends, key=len, default=default)


def _check_rate(rate: float, task: str, mixture: str) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(
            f"mixture {mixture!r} has task {task!r} at rate {rate!r}; a rate must be a finite "
            "number above 0: leave the task out, or change its rate"
        )


def _check_written_rates(provider: seqio.Mixture | seqio.Task) -> None:
    """Refuses numbers that are no rates; rates by functions may need data and are checked later."""
    import seqio

    if isinstance(provider, seqio.Mixture):
        for task, rate in provider.rate_per_task_name.items():
            if not callable(rate):
                _check_rate(rate, task, provider.name)


def look_up(name: str) -> seqio.Mixture | seqio.Task:
    """The registered mixture or task of a name.

    Raises:
      ValueError: unknown name; the nearest registered ones are listed.
    """
    import seqio

    names = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    if name in names:
        return seqio.get_mixture_or_task(name)
    near = f"{len(names)} are registered, the nearest are {', '.join(nearest_names(name, names))}"
    none = "none are registered; import the module that registers it, e.g. tasks.demo"
    raise ValueError(f"unknown mixture or task {name!r}; {near if names else none}")


def open_mixture(config: DataConfig) -> OpenMixture:
    """Looks a mixture up and puts it on the config's vocabulary; reads no data yet.

    Raises:
      ValueError: unknown name (the nearest are listed), inputs and targets of two vocabularies, a
        rate that is a number and not above 0, a chat template that a task or the input_length has
        no place for.
      FileNotFoundError: missing vocabulary.
    """
    import seqio

    from cascade_jax.data import sources
    from cascade_jax.data.vocabulary import load as vocabulary

    if config.data_dir is not None:
        sources.set_data_dir(config.data_dir)
    original = provider = look_up(config.mixture)
    if config.vocabulary or config.shuffle_buffer:
        vocab = vocabulary.load_vocabulary(config.vocabulary) if config.vocabulary else None
        provider = _copy(original, vocab, config.shuffle_buffer)
    _check_written_rates(original)
    old_names = [task.name for task in seqio.get_subtasks(original)]
    tasks = {
        _registered_name(task, old_names, config.mixture): task
        for task in seqio.get_subtasks(provider)
    }
    vocabularies = [
        provider.output_features[name].vocabulary for name in (features.INPUTS, features.TARGETS)
    ]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(f"inputs and targets of {config.mixture!r} differ in vocabulary; must not")
    _check_room(provider.output_features[features.INPUTS], config.input_length)
    fingerprint = vocabulary.fingerprint(vocabularies[1])
    return OpenMixture(
        config.mixture, provider, dict(sorted(tasks.items())), vocabularies[1], fingerprint
    )
