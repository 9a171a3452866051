"""Rows of a task as a model gets them: texts, token ids, pieces, and the part that is cut off."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import seqio

from cascade_jax.data import features, options, sources
from cascade_jax.data.browse import tasks as browse
from cascade_jax.data.mixtures import DataConfig, open_mixture
from cascade_jax.data.reading import reading
from cascade_jax.data.vocabulary.pieces import piece_of, text_of
from cascade_jax.data.vocabulary.tokenizer import ChatInputs

_SPLIT_ORDER = ("validation", "test", "train")
_ANY_LENGTH = 1 << 20  # "do not cut", where a length is required
_LENGTH = 512  # for a task that needs both lengths, where only one is set


@dataclass(frozen=True)
class SeenText:
    """Inputs or targets of one row."""

    text: str
    kept_text: str  # the part in `ids`
    cut_text: str  # the part that the length cuts off
    ids: tuple[int, ...]  # as the model gets them, EOS included, without padding
    pieces: tuple[str, ...]  # the text of each id
    length: int  # number of ids before cutting
    unknown: int  # number of ids for text that the vocabulary cannot spell


@dataclass(frozen=True)
class SeenExample:
    """One row: its place in the split, both texts, and the options if the task has them."""

    index: int
    inputs: SeenText
    targets: SeenText
    options: tuple[str, ...] | None


@dataclass(frozen=True)
class OpenTask:
    """One registered task on one vocabulary, cut to lengths in positions, EOS included.

    None for a length cuts nothing off.
    """

    name: str
    task: seqio.Task
    vocabulary: seqio.Vocabulary
    split: str
    input_length: int | None
    target_length: int | None

    @property
    def fits_itself(self) -> bool:
        """Whether the task itself makes rows of the lengths, as span corruption does."""
        own = [step for step in self.task.preprocessors if not features.cuts_at_the_end(step)]
        return "sequence_length" in features.parameters_of(own)

    def rows(self, *, cut: bool) -> Iterator[dict[str, Any]]:
        """Examples in file order, cut to the lengths or whole."""
        lengths = features.sequence_length(self.input_length, self.target_length)
        if self.fits_itself:
            known = {name: length for name, length in lengths.items() if length is not None}
            lengths = dict.fromkeys(lengths, _LENGTH) | known if known else None
        elif not cut:
            lengths = None
        # A seed, so that two readings of a task that draws at random give the same rows.
        dataset = self.task.get_dataset(
            lengths, split=self.split, shuffle=False, seed=0, try_in_mem_cache=False
        )
        with reading(f"task {self.name!r}, split {self.split!r}"):
            yield from dataset.as_numpy_iterator()

    def checked_rows(self) -> Iterator[Mapping[str, Any]]:
        """Whole examples in file order; a ValueError for one whose options are alike as targets."""
        place = f"{self.name}/{self.split}"
        return options.checked(self.rows(cut=False), self.vocabulary, self.target_length, place)


def open_tasks(
    name: str,
    split: str | None = None,
    vocabulary: str | None = None,
    input_length: int | None = None,
    target_length: int | None = None,
) -> list[OpenTask]:
    """The task of a name, or those of a mixture that have the split; reads no row yet.

    Args:
      name: a registered task or mixture.
      split: None for validation, else test, else train, whichever can be read.
      vocabulary: as in `DataConfig`.
      input_length, target_length: positions, EOS included; None cuts nothing off.

    Raises:
      ValueError: unknown name (nearest ones), no such split, lengths below 2.
      FileNotFoundError: missing vocabulary.
    """
    lengths = (input_length, target_length)
    whole = [_ANY_LENGTH if length is None else length for length in lengths]
    mixture = open_mixture(DataConfig(name, *whole, batch_size=1, vocabulary=vocabulary))
    tasks = mixture.tasks if split is None else mixture.tasks_with(split)
    return [
        OpenTask(own_name, task, mixture.vocabulary, split or _first_split(task), *lengths)
        for own_name, task in tasks.items()
    ]


def _first_split(task: seqio.Task) -> str:
    ordered = [*(s for s in _SPLIT_ORDER if s in task.splits), *task.splits]
    return next((split for split in ordered if browse.can_read(task, split)), ordered[0])


def check_is_available(opened: OpenTask) -> None:
    """Refuses a split that would have to be downloaded first.

    Raises:
      ValueError: says what to do.
      FileNotFoundError: a data folder is set and lacks the file (which).
    """
    task, facts = opened.task, browse.facts_of(opened.task, opened.name)
    if browse.can_read(task, opened.split):
        return
    if sources.get_data_dir() is not None:
        task.source.get_dataset(opened.split, shuffle=False)  # raises, with the missing path
    if facts.data == browse.NEEDS_FOLDER:
        folder = task.source.name.replace("/", "__")
        raise ValueError(
            f"{facts.name} is not in TFDS; give a data folder that holds {folder}/<split>.jsonl"
        )
    first = f"first {facts.manual}; then " if facts.manual else ""
    raise ValueError(
        f"the data of {facts.name} is not on this machine: {first}prepare it with "
        f"`tfds build {facts.source}`, or give a data folder"
    )


def seen_examples(opened: OpenTask, count: int) -> Iterator[SeenExample]:
    """At most `count` rows, the first of a task's split, as the model gets them."""
    pairs = zip(opened.rows(cut=False), opened.rows(cut=True), strict=True)
    for index, (whole, cut) in zip(range(count), pairs, strict=False):
        names = (features.INPUTS, features.TARGETS)
        texts = (_seen(opened, name, whole, cut) for name in names)
        encoded = whole.get(options.OPTIONS)
        decoded = None if encoded is None else tuple(o.decode("utf-8") for o in encoded)
        yield SeenExample(index, *texts, decoded)


def _seen(opened: OpenTask, name: str, whole: Mapping, cut: Mapping) -> SeenText:
    vocabulary = opened.vocabulary
    if name not in whole:  # a decoder-only task has no inputs
        return SeenText("", "", "", (), (), 0, 0)
    all_ids, ids = whole[name].tolist(), cut[name].tolist()
    spelt = whole.get(name + features.PRETOKENIZED)
    text = text_of(vocabulary, all_ids) if spelt is None else spelt.decode("utf-8")
    own = opened.task.output_features[name].vocabulary
    is_chat = isinstance(own, ChatInputs)
    text = own.rendered(text) if is_chat else text
    kept_text, cut_text = text, ""
    if len(ids) < len(all_ids) and is_chat:  # the template's end stays
        kept_text = own.spelt(ids)
        start, stop = (len(some) - own.ending_length for some in (ids, all_ids))
        cut_text = own.spelt(all_ids[start:stop])
    elif len(ids) < len(all_ids):
        kept_text = vocabulary.decode(ids)
        kept_ids = len(ids) - (ids[-1] == vocabulary.eos_id)
        # Text that the vocabulary can't spell is not in what its ids say.
        exact = text.startswith(kept_text)
        cut_text = text[len(kept_text) :] if exact else vocabulary.decode(all_ids[kept_ids:])
    pieces = tuple(piece_of(vocabulary, i) for i in ids)
    # Without an id for unknown text, unk_id is None, which no id is.
    unknown = ids.count(vocabulary.unk_id)
    return SeenText(text, kept_text, cut_text, tuple(ids), pieces, len(all_ids), unknown)
