"""Imports answers that other systems wrote as JSONL into records.

Answers of the models and targets are joined by id; see docs/records.md.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cascade_jax import checks, files
from cascade_jax.names import check_choice, did_you_mean
from cascade_jax.records import schema, table
from cascade_jax.records.external import join, likeliest_columns, named_metrics, notes
from cascade_jax.records.external.formats import FORMATS
from cascade_jax.records.external.join import Joined
from cascade_jax.records.external.lines import LineError, shown
from cascade_jax.records.external.named_metrics import METRICS
from cascade_jax.task_metrics import corpus, quality

EMPTY = UNUSABLE = ("refuse", "drop")
SEVERAL_TARGETS = "has_several_targets"  # in the metadata: the column holds them joined by " | "


@dataclasses.dataclass(frozen=True)
class FromJsonlConfig:
    """What `from_jsonl` reads and writes; see docs/records.md.

    Attributes:
      student: file of the small model's answers, or a plain table of all models'.
      output: the records file.
      teacher: file of the large model's answers; None with a table of all.
      targets: file of ``{id, target, task, inputs}``; None if the answers' lines bring them.
      format: one of FORMATS; None recognises each file's by its first line.
      metric: one of METRICS, computed from answer and target; or a field of numbers in [0, 1] that
        the lines bring; None takes their field `quality`.
      tokenizer: of a metric of words, one of `words.TOKENIZERS` or a language; None for the
        metric's own, which refuses texts that have no spaces between words.
      name, mixture, split: metadata; None for those of the table's first line.
      student_parameters, teacher_parameters: numbers of parameters, for the cost of a token; None
        if the lines bring `flops_per_token`.
      empty: what is done with a student's answer without tokens, which has no score: "refuse", or
        "drop" its example.
      unusable: the same of an answer that is none (null, a failed request) or whose log-probs are
        not its own (a sentinel, tokens in which the answer is not found).
    """

    student: str
    output: str
    teacher: str | None = None
    targets: str | None = None
    format: str | None = None
    metric: str | None = None
    tokenizer: str | None = None
    name: str | None = None
    mixture: str | None = None
    split: str | None = None
    student_parameters: int | float | None = None
    teacher_parameters: int | float | None = None
    empty: str = "refuse"
    unusable: str = "refuse"

    def __post_init__(self):
        if self.format is not None:
            check_choice("format", self.format, FORMATS)
        check_choice("empty", self.empty, EMPTY)
        named_metrics.check(self.metric, self.tokenizer)
        check_choice("unusable", self.unusable, UNUSABLE)
        for name in ("student_parameters", "teacher_parameters"):
            checks.positive(name, getattr(self, name), optional=True)


@dataclasses.dataclass(frozen=True)
class ImportSummary:
    """What was imported.

    Attributes:
      rows: examples in the records.
      formats: by model.
      dropped: ids of examples that were left out, by what is wrong with their answers.
      left_out: optional columns that some lines have and others lack, with how many lack them.
      notes: a line for everything else that was left out, cut or is in doubt.
    """

    rows: int
    formats: Mapping[str, str]
    dropped: Mapping[str, Sequence[str]]
    left_out: Mapping[str, int]
    notes: Sequence[str]

    def lines(self) -> list[str]:
        """For people: whatever is not in the records, with counts."""
        return [
            *(
                f"dropped {len(ids):,} examples with {reason}: {notes.listed(ids)}"
                for reason, ids in self.dropped.items()
            ),
            *(
                f"left out {name}: {count:,} answers lack it or another column that it needs"
                for name, count in self.left_out.items()
            ),
            *self.notes,
        ]


def from_jsonl(config: FromJsonlConfig) -> ImportSummary:
    """Writes records of answers that are given as JSONL.

    Raises:
      FileNotFoundError: a file is not there.
      LineError: a line that can not be used (file, line, value, what is allowed), ids that do
        not join, an answer without tokens, no target or quality.
      RecordsError: what `table.write` refuses.
    """
    files.check_not_read(config.output, config.student, config.teacher, config.targets)
    drops_unusable = config.unusable == "drop"
    read = config.student, config.teacher, config.targets, config.format
    with np.errstate(over="ignore"):  # 1e300 is infinite as float32, which checks refuse
        joined = join.read(*read, drops_unusable)
    _drop_empty(joined, config.empty)
    metadata = joined.metadata
    for key in schema.REQUIRED_METADATA:
        if getattr(config, key) is not None:
            metadata[key] = getattr(config, key)
        if not metadata.get(key):
            raise LineError(f"no {key} is given; --{key} says it")
    if joined.dropped:
        counts = {reason: len(ids) for reason, ids in joined.dropped.items()}
        empty = sum(counts.pop(reason, 0) for reason in (notes.EMPTY, notes.NO_LOG_PROBS))
        metadata |= {"dropped_empty": empty} if empty else {}
        metadata |= {"dropped_unusable": sum(counts.values())} if counts else {}
        metadata.pop(schema.FIGURES, None)  # those of a table are of all its examples
    columns = _columns_about(config, joined, metadata)
    columns |= _qualities(config, joined, columns, metadata)
    parameters = {
        joined.models[0]: config.student_parameters,
        joined.models[-1]: config.teacher_parameters,
    }
    for model in joined.models:
        costs = _costs(model, joined, parameters.get(model), metadata)
        columns[f"{model}_flops_per_token"] = costs
    top, said = likeliest_columns.make_columns(joined.answers, metadata)
    columns |= top
    targets = [joined.about[example_id].get("target") for example_id in joined.ids]
    said += joined.said
    said += named_metrics.check_words(config.metric, config.tokenizer, columns["task"], targets)
    left_out = _add_stated(config, joined, columns, metadata)
    table.write(config.output, columns, metadata)
    for model, answers in joined.answers.items():
        said += notes.lines_of(model, {i: answer.notes for i, answer in answers.items()})
    return ImportSummary(len(joined.ids), joined.formats, joined.dropped, left_out, said)


def _drop_empty(joined: Joined, empty: str) -> None:
    """Refuses or drops examples in which a model that may defer has no tokens."""
    for model in joined.models[:-1]:
        answers = joined.answers[model]
        ids = [key for key, answer in answers.items() if not answer.num_tokens]
        lacking = [
            key for key in ids if answers[key].text or "log_probs" not in answers[key].values
        ]
        if ids and empty == "refuse":
            first = answers[(lacking or ids)[0]]
            what = "an empty answer: its list of log-probs is empty"
            if lacking:
                what = "no log-probs: the service gives them if asked (logprobs)"
            raise first.fail(
                f"has {what} ({len(lacking or ids)} such); without a token there is no deferral "
                "score. --empty drop leaves such examples out"
            )
        if lacking:
            joined.drop(lacking, notes.NO_LOG_PROBS)
        without_log_probs = set(lacking)
        if is_empty := [key for key in ids if key not in without_log_probs]:
            joined.drop(is_empty, notes.EMPTY)
    if not joined.ids:
        raise LineError("no example is left: no answer of the student can be used")


def _columns_about(
    config: FromJsonlConfig, joined: Joined, metadata: dict[str, Any]
) -> dict[str, Any]:
    """The columns of examples that every table has."""
    about = [joined.about[example_id] for example_id in joined.ids]
    defaults = {"task": metadata["mixture"], "inputs": "", "metric": ""}
    columns: dict[str, Any] = {"example_id": joined.ids}
    for name in ("task", "mixture", "split", "inputs", "metric"):
        default = defaults.get(name) or metadata.get(name, "")
        columns[name] = [row.get(name, default) for row in about]
    for name in ("mixture", "split"):  # the config's stand over what lines say
        if getattr(config, name) is not None:
            columns[name] = [getattr(config, name)] * len(about)
    targets = [row.get("target", "") for row in about]
    if not all(isinstance(target, str) for target in targets):
        metadata[SEVERAL_TARGETS] = True
    columns["target"] = [t if isinstance(t, str) else " | ".join(t) for t in targets]
    return columns


def _qualities(
    config: FromJsonlConfig, joined: Joined, columns: Mapping, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Quality of all models' answers, and what else the metric gives."""
    if config.metric in METRICS:
        are_texts = all(isinstance(row.get("target", ""), str) for row in joined.about.values())
        if metadata.get(SEVERAL_TARGETS) and not config.targets and are_texts:
            raise LineError(
                f"--metric {config.metric}: some rows had several targets, of which records keep "
                "one text; give them anew with --targets"
            )
        return _computed(
            named_metrics.choose(config.metric, config.tokenizer), joined, columns, metadata
        )
    field = config.metric or "quality"
    columns_made: dict[str, Any] = {}
    for model, answers in joined.answers.items():
        values = []
        for answer in answers.values():
            value = answer.numbers.get(field)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                hint = did_you_mean(field, METRICS) if config.metric else ""
                raise answer.fail(
                    f"the {model}'s {field} is {shown(value)}; must be a number in [0, 1], or "
                    f"--metric one of {', '.join(METRICS)}{hint}"
                )
            values.append(float(value))
        columns_made[f"{model}_quality"] = values
    if config.metric or not all(columns["metric"]):
        columns_made["metric"] = [field] * len(joined.ids)
    return columns_made


def _computed(
    metric_fn: Callable, joined: Joined, columns: Mapping, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Qualities, and counts and figures of a corpus metric, from answers and targets."""
    for example_id, answer in joined.answers[joined.models[0]].items():
        if "target" not in joined.about[example_id]:
            raise answer.fail(
                "has no target to compare with; must have one, or --targets a file with it"
            )
    count, tasks = len(joined.ids), np.array(columns["task"], object)
    targets = [joined.about[example_id]["target"] for example_id in joined.ids]
    texts = {m: [answer.text for answer in by_id.values()] for m, by_id in joined.answers.items()}
    mixed = [row.get("answer") for row in _live(joined)]
    if None not in mixed:
        texts[schema.LIVE] = mixed
    additive = corpus.first_of([metric_fn])
    made: dict[str, Any] = {"metric": np.empty(count, object)}
    for model in texts:
        made[f"{model}_quality"] = np.zeros(count)
        if additive:
            made[f"{model}_statistics"] = np.zeros((count, additive.num_statistics), np.int64)
    figures: dict[str, dict] = {}
    for task in dict.fromkeys(tasks):
        rows = np.flatnonzero(tasks == task)
        for model, answers in texts.items():
            pair = [targets[row] for row in rows], [answers[row] for row in rows]
            name, made[f"{model}_quality"][rows] = quality.per_example_quality([metric_fn], *pair)
            made["metric"][rows] = name
            if additive:
                made[f"{model}_statistics"][rows] = additive.statistics(*pair)
            if model != schema.LIVE:
                for metric, value in quality.split_figures([metric_fn], *pair).items():
                    figures.setdefault(task, {}).setdefault(metric, {})[model] = value
    metadata[schema.FIGURES] = figures
    metadata.pop(schema.CORPUS_METRICS, None)
    if additive:
        metadata[schema.CORPUS_METRICS] = dict.fromkeys(figures, corpus.describe(additive))
    return made


def _costs(
    model: str, joined: Joined, parameters: float | None, metadata: dict[str, Any]
) -> list[float]:
    """FLOPs per token of a model, by parameters that are given, else the line's, else a table's."""
    key = f"{model}_parameters"
    if parameters is not None:
        metadata[key] = int(parameters) if float(parameters).is_integer() else parameters
    costs = []
    for answer in joined.answers[model].values():
        cost = answer.values.get("flops_per_token") if parameters is None else None
        if cost is None and metadata.get(key) is None:
            ends = dict(zip((joined.models[0], joined.models[-1]), schema.PAIR, strict=True))
            flag = f"give --{ends[model]}_parameters (8B, say), or " if model in ends else "give "
            raise answer.fail(
                f"the {model}'s cost is not known: {flag}flops_per_token in every line"
            )
        if cost is None and not (checks.is_number(metadata[key]) and metadata[key] > 0):
            value = f"{key} of the table's first line is {shown(metadata[key])}"
            raise answer.fail(f"{value}; must be a number above 0")
        costs.append(float(2.0 * metadata[key] if cost is None else cost))
    return costs


def _add_stated(
    config: FromJsonlConfig, joined: Joined, columns: dict[str, Any], metadata: Mapping[str, Any]
) -> dict[str, int]:
    """Adds the columns that every line has; returns how many lines lack one that others have.

    A column that needs another one, such as the other models' of the same kind, goes with it.
    """
    fields, lacking = schema.fields(joined.models), {}
    for name, field in fields.items():
        column = field.column
        if column.shape == schema.TOP_PER_TOKEN:
            continue
        if column.shape == schema.COUNTS and not metadata.get(schema.CORPUS_METRICS):
            continue
        if name not in columns:
            columns[name] = _stated(config, joined, field)
        is_missing = np.array([value is None for value in columns[name]])
        if not column.is_required:
            lacking[name] = is_missing
        elif is_missing.any():
            columns[name] = [[]] * len(is_missing)  # lists that are not known
    left_out = {}
    for name in lacking:
        group = [lacking[other] for other in (name, *fields[name].needs) if other in lacking]
        if count := int(np.sum(np.any(group, axis=0))):
            del columns[name]
            if not np.all(lacking[name]):
                left_out[name] = count
    return left_out


def _stated(config: FromJsonlConfig, joined: Joined, field: schema.Field) -> list[Any]:
    """A column as the lines have it, with None where they do not."""
    name = field.column.name
    if field.owner == schema.EXAMPLE:
        return [joined.about[example_id].get(name) for example_id in joined.ids]
    if field.owner == schema.LIVE:
        if name == "quality" and config.metric and config.metric not in METRICS:
            name = config.metric
        return [row.get(name) for row in _live(joined)]
    answers = joined.answers[field.owner].values()
    values = [answer.values.get(name) for answer in answers]
    if field.column.shape != schema.PER_TOKEN or all(value is None for value in values):
        return values
    lengths = [answer.num_tokens for answer in answers]
    if not any(lengths):
        return [None] * len(values)
    return [value if length else [] for value, length in zip(values, lengths, strict=True)]


def _live(joined: Joined) -> list[Mapping[str, Any]]:
    """What each line says of a live cascade's answer."""
    nothing: dict[str, Any] = {}  # one for all: a dict for each line would keep Python's gc busy
    return [joined.about[example_id].get(schema.LIVE, nothing) for example_id in joined.ids]
