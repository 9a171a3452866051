"""One data set of FLAN 2021, and the seqio task made from it.

A row of the source becomes texts with the names that FLAN's own templates use, and the texts fill a
prompt. In the split "train" each row has one of the prompts, by a hash of its text, so that it has
the same one in every epoch and on any number of hosts; every other split has the first prompt.

Reference: Wei et al. 2022, "Finetuned Language Models Are Zero-Shot Learners", section 2.1.
"""

import string
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tensorflow as tf

from cascade_jax.data import catalog, slices, sources
from cascade_jax.names import did_you_mean
from tasks.registration import add_task

SUITE = "flan2021"

Row = Mapping[str, tf.Tensor]
Prompt = str | tuple[str, str]

PROMPTS: Mapping[str, Sequence[Prompt]] = tomllib.loads(
    Path(__file__).with_name("prompts.toml").read_text("utf-8")
)
TRAIN_ROWS = 30_000  # the most that FLAN takes of a data set

_FLAG = "is_training"
_ANSWER = "{answer}"


def listed(options: tf.Tensor) -> tf.Tensor:
    """A list of options as our prompts have it, "Possible answers:\\n* yes\\n* no"."""
    return "Possible answers:" + tf.strings.reduce_join("\n* " + options)


@dataclass(frozen=True)
class FlanTask:
    """One data set of FLAN 2021.

    Attributes:
      name: FLAN's own, "rte".
      cluster: FLAN's, "entailment"; "" for a data set in none.
      tfds_name: builder with config and version, "super_glue/rte:1.0.2".
      fields: of the source, see `sources.FieldType`.
      kind: one of `catalog.KINDS`.
      texts: from a row of the source to texts, named as in FLAN's templates. "options" and
        "references" are lists of texts. Whatever is a list or a number goes on into the example,
        for `postprocess_fn`; other texts only fill prompts.
      metric_fns: the first measures each example by itself too.
      splits: the task's splits as slices of the source's, {"train": "train[:-200]"}.
      train_examples: training rows before filters, by which mixtures draw.
      prompts: templates, the first canonical. A lone one has the target "{answer}", a pair names
        its own. "{options_}" is the list of the options, made by `list_options`. None for those of
        prompts.toml.
      list_options: from the texts of the options to one text.
      postprocess_fn: as in seqio.
      keep: filter of the source's rows, after slicing.
      patterns: name of its templates in FLAN's templates.py, if another.
      folder: in the data folder, if not named as the builder.
      files: in the data folder, of splits of the source if named otherwise, {"train_xl": "train"}.
      manual: for a manual download, what to put where.
      blank_texts: fields of the source whose text may be blank, or whose list may be empty.
      problem_of: what is wrong with a row of a data folder, see `jsonl.read_jsonl`.
    """

    name: str
    cluster: str
    tfds_name: str
    fields: Mapping[str, sources.FieldType]
    kind: str
    texts: Callable[[Row], Row]
    metric_fns: Sequence[Callable]
    splits: Mapping[str, str]
    train_examples: int = TRAIN_ROWS
    prompts: Sequence[Prompt] | None = None
    list_options: Callable[[tf.Tensor], tf.Tensor] = listed
    postprocess_fn: Callable | None = None
    keep: Callable[[Row], tf.Tensor] | None = None
    patterns: str | None = None
    folder: str | None = None
    manual: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    blank_texts: Sequence[str] = ()
    problem_of: sources.ProblemOf | None = None

    def __post_init__(self):
        """Raises ValueError for a task without prompts or of an unknown kind."""
        catalog.TaskCard(SUITE, self.kind)
        if self.prompts is None:
            own = [p if isinstance(p, str) else tuple(p) for p in PROMPTS[self.templates]]
            object.__setattr__(self, "prompts", tuple(own))
        if isinstance(self.prompts, str) or not self.prompts:
            raise ValueError(f"prompts of {self.name} are {self.prompts!r}; must be one or more")
        unknown = sorted(set(self.blank_texts) - set(self.fields))
        if unknown:
            raise ValueError(f"blank_texts of {self.name} has {unknown}; not among its fields")

    @property
    def templates(self) -> str:
        """Name of its templates, in FLAN's templates.py and in prompts.toml."""
        return self.patterns or self.name

    @property
    def prompt_pairs(self) -> tuple[tuple[str, str], ...]:
        """Templates of input and target, the canonical pair first."""
        return tuple((p, _ANSWER) if isinstance(p, str) else tuple(p) for p in self.prompts)


class FlanSource(sources.TfdsOrJsonlSource):
    """Rows of one data set; `train_examples` is what mixtures draw by, on any vocabulary."""

    def __init__(self, task: FlanTask):
        """Args: task: whose rows."""
        super().__init__(
            task.tfds_name,
            task.fields,
            {split: _file_slice(text, task.files) for split, text in task.splits.items()},
            tfds_splits=task.splits,
            name=task.folder,
            blank_texts=task.blank_texts,
            training_flag=True,
            manual=task.manual,
            problem_of=task.problem_of,
        )
        self.train_examples = task.train_examples


def _file_slice(text: str, files: Mapping[str, str]) -> str:
    part = slices.parse_slice(text)
    return str(replace(part, split=files.get(part.split, part.split)))


_registered: dict[str, FlanTask] = {}


def register(task: FlanTask, name: str | None = None) -> str:
    """Registers a task with seqio, and gives back its name, cascade_flan2021_<task>_v1.

    Args:
      task: what to register.
      name: if another, for a copy with other prompts.
    """
    name = name or f"cascade_{SUITE}_{task.name}_v1"
    _registered.setdefault(name, task)
    return add_task(
        name,
        FlanSource(task),
        preprocessors(task),
        task.metric_fns,
        task.postprocess_fn,
        suite=SUITE,
        kind=task.kind,
    )


def registered(name: str) -> FlanTask:
    """The data set that a task of this suite was registered from."""
    return _registered[name]


def registered_names() -> list[str]:
    """Names of all tasks of this suite, copies included."""
    return list(_registered)


def preprocessors(task: FlanTask) -> list[Callable]:
    """seqio preprocessors: rows that are kept, their texts, a filled prompt."""

    def is_kept(rows: tf.data.Dataset) -> tf.data.Dataset:
        return rows.filter(task.keep) if task.keep else rows

    def to_texts(rows: tf.data.Dataset) -> tf.data.Dataset:
        return rows.map(
            lambda row: _texts(task, row) | {_FLAG: row[_FLAG]}, num_parallel_calls=tf.data.AUTOTUNE
        )

    def to_prompt(rows: tf.data.Dataset) -> tf.data.Dataset:
        names = _names_of_texts(rows)
        beside = [name for name in rows.element_spec if name not in names]
        fill = _filling(_parse_all(task, names), beside)
        return rows.map(fill, num_parallel_calls=tf.data.AUTOTUNE)

    return [is_kept, to_texts, to_prompt]


def _texts(task: FlanTask, row: Row) -> dict[str, tf.Tensor]:
    texts = dict(task.texts(row))
    if "options" in texts:
        # ReCoRD's templates have the second name.
        texts["options_"] = texts["options_str"] = task.list_options(texts["options"])
    return texts


# ------------------------------------------------------------------ splits


def held_out(count: int, test: str = "validation") -> dict[str, str]:
    """Splits of a small data set: all rows of "train" but the last are for training."""
    return {"train": f"train[:-{count}]", "validation": f"train[-{count}:]", "test": test}


def capped(test: str = "validation", train: str = "train") -> dict[str, str]:
    """Splits of a data set of more than 30,000 rows, whose validation rows are the last 200."""
    return {"train": f"{train}[:30000]", "validation": f"{train}[-200:]", "test": test}


def own_validation(train: str = "train[:30000]", test: str = "test") -> dict[str, str]:
    """Splits of a data set of which the first 200 rows of "validation" are the validation rows."""
    return {"train": train, "validation": "validation[:200]", "test": test}


# ------------------------------------------------------------------ templates

# A template in pieces: a literal, then the name of a text or None.
Pieces = list[tuple[str, str | None]]


def parse_template(template: str, task: str, allowed: Sequence[str]) -> Pieces:
    """A template in pieces.

    Args:
      template: text with fields in braces, "Is {word} a verb?"; "{{" is a brace.
      task: whose template, for messages.
      allowed: the fields that there are.

    Raises:
      ValueError: a field that there is not, or anything but a name in braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template of {task} is {template!r}: {error}") from None
    pieces = []
    for literal, name, spec, conversion in parsed:
        if name is not None and (name not in allowed or spec or conversion):
            field = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            hint = did_you_mean(name, allowed)
            raise ValueError(
                f"template of {task} has {{{field}}}, must be one of {sorted(allowed)}{hint} in "
                f"{template!r}"
            )
        pieces.append((literal, name))
    return pieces


def _names_of_texts(rows: tf.data.Dataset) -> list[str]:
    text = tf.TensorSpec((), tf.string)
    return [name for name, spec in rows.element_spec.items() if spec == text]


def _parse_all(task: FlanTask, allowed: Sequence[str]) -> list[tuple[Pieces, Pieces]]:
    return [
        tuple(parse_template(template, task.name, allowed) for template in pair)
        for pair in task.prompt_pairs
    ]


def text_names(task: FlanTask) -> list[str]:
    """What the prompts of a task may name, without a look at its data."""
    signature = FlanSource(task).row_spec() | {_FLAG: tf.TensorSpec([], tf.bool)}
    rows = tf.data.Dataset.from_generator(lambda: (), output_signature=signature)
    is_kept, to_texts, _ = preprocessors(task)
    return _names_of_texts(to_texts(is_kept(rows)))


def check_prompts(task: FlanTask) -> None:
    """Raises ValueError if a prompt names what the task has not."""
    _parse_all(task, text_names(task))


def _filled(pieces: Pieces, texts: Row) -> tf.Tensor:
    parts = []
    for literal, name in pieces:
        parts += [literal] if literal else []
        parts += [texts[name]] if name else []
    return tf.strings.join(parts) if parts else tf.constant("")


def _filling(prompts: Sequence[tuple[Pieces, Pieces]], beside: Sequence[str]) -> Callable:
    """From texts to an example; `beside` are the entries that go on as they are."""

    def fill(texts: Row) -> Row:
        inputs, targets = (
            tf.stack([_filled(pair[side], texts) for pair in prompts]) for side in (0, 1)
        )
        chosen = tf.strings.to_hash_bucket_fast(inputs[0], len(prompts))
        chosen = tf.where(texts[_FLAG], chosen, 0)
        example = {name: texts[name] for name in beside if name != _FLAG}
        return example | {"inputs": inputs[chosen], "targets": targets[chosen]}

    return fill
