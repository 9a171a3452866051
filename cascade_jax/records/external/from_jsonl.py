"""Records of answers that other systems wrote as JSONL, and records as a plain table of JSONL.

Answers of the student, of the teacher, and targets are joined by id; see docs/records.md.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cascade_jax import files
from cascade_jax.names import did_you_mean
from cascade_jax.records import schema, table
from cascade_jax.records.external import join
from cascade_jax.records.external.answers import ModelAnswer
from cascade_jax.records.external.formats import FORMATS
from cascade_jax.records.external.join import Joined
from cascade_jax.records.external.lines import ExchangeError, shown
from cascade_jax.task_metrics import answer_metrics, corpus, quality
from cascade_jax.task_metrics.translation import Bleu, Chrf

METRICS: dict[str, Callable] = {
    "accuracy": quality.accuracy,
    "token_f1": quality.token_f1,
    "rouge_l": quality.rouge_l,
    "chrf": quality.chrf,
    "squad": answer_metrics.squad,
    "trivia_qa": answer_metrics.trivia_qa,
    "bleu": Bleu(),
    "corpus_chrf": Chrf(),
}
EMPTY = ("refuse", "drop")
SEVERAL_TARGETS = "has_several_targets"  # in the metadata: the column holds them joined by " | "
_MODELS = ("student", "teacher")


@dataclasses.dataclass(frozen=True)
class ExchangeConfig:
    """What `from_jsonl` reads and writes; see docs/records.md.

    Attributes:
      student: file of the small model's answers, or a plain table of both models'.
      output: the records file.
      teacher: file of the large model's answers; None with a table of both.
      targets: file of ``{id, target, task, inputs}``; None if the answers' lines bring them.
      format: one of FORMATS; None recognises each file's by its first line.
      metric: one of METRICS, computed from answer and target; or a field of numbers in [0, 1] that
        the lines bring; None takes their field `quality`.
      name, mixture, split: metadata; None for those of the table's first line.
      student_parameters, teacher_parameters: numbers of parameters, for the cost of a token; None
        if the lines bring `flops_per_token`.
      empty: what is done with a student's answer without tokens, which has no score: "refuse", or
        "drop" its example.
    """

    student: str
    output: str
    teacher: str | None = None
    targets: str | None = None
    format: str | None = None
    metric: str | None = None
    name: str | None = None
    mixture: str | None = None
    split: str | None = None
    student_parameters: int | float | None = None
    teacher_parameters: int | float | None = None
    empty: str = "refuse"

    def __post_init__(self):
        if self.format is not None and self.format not in FORMATS:
            hint = did_you_mean(self.format, FORMATS)
            raise ValueError(f"format is {self.format!r}; must be one of {FORMATS}{hint}")
        if self.empty not in EMPTY:
            raise ValueError(f"empty is {self.empty!r}; must be one of {EMPTY}")
        for model in _MODELS:
            value = getattr(self, f"{model}_parameters")
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{model}_parameters is {value!r}; must be finite and above 0")


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What was made.

    Attributes:
      rows: examples in the records.
      formats: by model.
      dropped: ids of examples whose answer was empty.
      left_out: optional columns that some lines have and others lack, with how many lack them.
    """

    rows: int
    formats: Mapping[str, str]
    dropped: Sequence[str]
    left_out: Mapping[str, int]


def from_jsonl(config: ExchangeConfig) -> Exchanged:
    """Writes records of answers that are there as JSONL.

    Raises:
      FileNotFoundError: a file is not there.
      ExchangeError: a line that can not be used (file, line, value, what is allowed), ids that do
        not join, an answer without tokens, no target or quality.
      RecordsError: what `table.write` refuses.
    """
    files.check_not_read(config.output, config.student, config.teacher, config.targets)
    joined = join.read(config.student, config.teacher, config.targets, config.format)
    dropped = _without_empty(joined, config.empty)
    metadata = joined.metadata | {
        key: value
        for key in ("name", "mixture", "split")
        if (value := getattr(config, key)) is not None
    }
    for key in ("name", "mixture", "split"):
        if not metadata.get(key):
            raise ExchangeError(f"no {key} is given; --{key} says it")
    if dropped:
        metadata["dropped_empty"] = len(dropped)
        metadata.pop(schema.FIGURES, None)  # those of a table are of all its examples
    columns = _columns_about(config, joined, metadata)
    columns |= _qualities(config, joined, columns, metadata)
    left_out: dict[str, int] = {}
    for model in _MODELS:
        columns |= _columns_of(config, model, list(getattr(joined, model).values()), metadata)
    for names, values in (*_optional(joined, metadata), *_cascade(config, joined, metadata)):
        lacking = sum(any(v is None for v in of_line) for of_line in zip(*values, strict=True))
        if names[0] in columns:  # statistics that were just counted
            continue
        if not lacking:
            columns = dict(zip(names, values, strict=True)) | columns
        elif any(value is not None for of_name in values for value in of_name):
            left_out |= dict.fromkeys(names, lacking)
            columns = {name: of_name for name, of_name in columns.items() if name not in names}
    columns |= _top(list(joined.student.values()), metadata)
    table.write(config.output, columns, metadata)
    return Exchanged(len(joined.student), joined.formats, dropped, left_out)


def _without_empty(joined: Joined, empty: str) -> list[str]:
    """Refuses or drops examples whose student's answer has no tokens; which."""
    found = [key for key, answer in joined.student.items() if not len(answer.log_probs)]
    if found and empty == "refuse":
        first = joined.student[found[0]]
        what = "an empty answer: its list of log-probs is empty"
        if not first.has_log_probs:
            what = "no log-probs: the service gives them if asked (logprobs)"
        raise first.line.fail(
            f"has {what} ({len(found)} such); without a token there is no deferral score. "
            "--empty drop leaves such examples out"
        )
    for example_id in found:
        for of_model in (joined.student, joined.teacher, joined.about):
            del of_model[example_id]
    if not joined.student:
        raise ExchangeError("no example is left: all answers of the student are empty")
    return found


def _columns_about(
    config: ExchangeConfig, joined: Joined, metadata: dict[str, Any]
) -> dict[str, list]:
    about = [joined.about[example_id] for example_id in joined.student]
    defaults = {
        "task": metadata["mixture"],
        "mixture": metadata["mixture"],
        "split": metadata["split"],
        "inputs": "",
        "metric": "",
    }
    columns = {
        name: [row.get(name, default) for row in about] for name, default in defaults.items()
    }
    for name in ("mixture", "split"):  # what was given stands over what lines say
        if getattr(config, name) is not None:
            columns[name] = [getattr(config, name)] * len(about)
    targets = [row.get("target", "") for row in about]
    if any(not isinstance(target, str) for target in targets):
        metadata[SEVERAL_TARGETS] = True
    columns["target"] = [t if isinstance(t, str) else " | ".join(t) for t in targets]
    return columns | {"example_id": list(joined.student)}


def _qualities(
    config: ExchangeConfig, joined: Joined, columns: Mapping, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Quality of both models' answers, and what else the metric gives."""
    if config.metric in METRICS:
        if metadata.get(SEVERAL_TARGETS) and not config.targets and _are_texts(joined):
            raise ExchangeError(
                f"--metric {config.metric}: some rows had several targets, of which records keep "
                "one text; give them anew with --targets"
            )
        return _computed(METRICS[config.metric], joined, columns, metadata)
    field = config.metric or "quality"
    found: dict[str, Any] = {}
    for model in _MODELS:
        values = []
        for answer in getattr(joined, model).values():
            value = answer.numbers.get(field)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                hint = did_you_mean(field, METRICS) if config.metric else ""
                raise answer.line.fail(
                    f"the {model}'s {field} is {shown(value)}; must be a number in [0, 1], or "
                    f"--metric one of {', '.join(METRICS)}{hint}"
                )
            values.append(float(value))
        found[f"{model}_quality"] = values
    if config.metric or not all(columns["metric"]):
        found["metric"] = [field] * len(joined.student)
    return found


def _are_texts(joined: Joined) -> bool:
    return all(isinstance(row.get("target", ""), str) for row in joined.about.values())


def _computed(
    metric_fn: Callable, joined: Joined, columns: Mapping, metadata: dict[str, Any]
) -> dict[str, Any]:
    for example_id, answer in joined.student.items():
        if "target" not in joined.about[example_id]:
            raise answer.line.fail(
                "has no target to compare with; must have one, or --targets a file with it"
            )
    count, tasks = len(joined.student), columns["task"]
    found: dict[str, Any] = {"metric": [""] * count}
    additive = corpus.first_of([metric_fn])
    targets = [joined.about[example_id]["target"] for example_id in joined.student]
    figures: dict[str, dict] = {}
    texts = {m: [answer.text for answer in getattr(joined, m).values()] for m in _MODELS}
    mixed = [row.get("answer") for row in _of_cascade(joined)]
    if all(isinstance(text, str) for text in mixed):
        texts["cascade"] = mixed
    for model, answers in texts.items():
        found[f"{model}_quality"] = [0.0] * count
        statistics: list[Any] = [None] * count
        for task in dict.fromkeys(tasks):
            rows = [row for row, of_row in enumerate(tasks) if of_row == task]
            pair = [targets[row] for row in rows], [answers[row] for row in rows]
            name, values = quality.per_example_quality([metric_fn], *pair)
            of_split = quality.split_figures([metric_fn], *pair) if model in _MODELS else {}
            for metric, value in of_split.items():
                figures.setdefault(task, {}).setdefault(metric, {})[model] = value
            counts = additive.statistics(*pair) if additive else [None] * len(rows)
            for row, value, of_row in zip(rows, values, counts, strict=True):
                found["metric"][row], found[f"{model}_quality"][row] = name, float(value)
                statistics[row] = of_row
        if additive:
            found[f"{model}_statistics"] = statistics
    metadata[schema.FIGURES] = figures
    metadata.pop(schema.CORPUS_METRICS, None)
    if additive:
        metadata[schema.CORPUS_METRICS] = dict.fromkeys(tasks, corpus.describe(additive))
    return found


def _columns_of(
    config: ExchangeConfig, model: str, answers: Sequence[ModelAnswer], metadata: dict[str, Any]
) -> dict[str, list]:
    """Required columns of a model, but its quality."""
    key = f"{model}_parameters"
    given = getattr(config, key)
    if given is not None:
        metadata[key] = int(given) if float(given).is_integer() else given
    costs = []
    for answer in answers:
        cost = answer.numbers.get("flops_per_token") if given is None else 2.0 * given
        if cost is None and metadata.get(key) is None:
            raise answer.line.fail(
                f"the {model}'s cost is not known: give --{key} (8B, say), or flops_per_token in "
                "every line"
            )
        costs.append(float(2.0 * metadata[key] if cost is None else cost))
    known = {
        name: all(getattr(a, name) is not None or not len(a.log_probs) for a in answers)
        for name in ("tokens", "entropies")
    }
    return {
        f"{model}_answer": [answer.text for answer in answers],
        f"{model}_log_probs": [answer.log_probs for answer in answers],
        f"{model}_flops_per_token": costs,
    } | {
        f"{model}_{name}": [
            value if is_known and (value := getattr(a, name)) is not None else [] for a in answers
        ]
        for name, is_known in known.items()
    }


def _optional(joined: Joined, metadata: Mapping[str, Any]) -> Iterable[tuple[tuple, list]]:
    """(names of columns that come together, their values), with None where a line has none."""
    of = {model: list(getattr(joined, model).values()) for model in _MODELS}
    for kind in ("input_tokens", "flops", "seconds"):
        names = tuple(f"{model}_{kind}" for model in _MODELS)
        yield names, [[answer.numbers.get(kind) for answer in of[model]] for model in _MODELS]
    for model in _MODELS:
        if any(len(answer.log_probs) for answer in of[model]):
            pieces = [answer.pieces if len(answer.log_probs) else [] for answer in of[model]]
            yield (f"{model}_pieces",), [pieces]
    yield (schema.EMBEDDING,), [[answer.embedding for answer in of["student"]]]
    if metadata.get(schema.CORPUS_METRICS) and of["student"][0].statistics is not None:
        yield schema.STATISTICS, [[answer.statistics for answer in of[m]] for m in _MODELS]


def _cascade(
    config: ExchangeConfig, joined: Joined, metadata: Mapping[str, Any]
) -> Iterable[tuple[tuple, list]]:
    """As `_optional`, of the answers of a live cascade."""
    rows = _of_cascade(joined)
    keys = {name: name.removeprefix("cascade_") for name in schema.CASCADE}
    if config.metric and config.metric not in METRICS:
        keys["cascade_quality"] = config.metric
    yield schema.CASCADE, [[row.get(key) for row in rows] for key in keys.values()]
    if metadata.get(schema.CORPUS_METRICS) and all(rows):
        yield (schema.CASCADE_STATISTICS,), [[row.get("statistics") for row in rows]]


def _of_cascade(joined: Joined) -> list[Mapping[str, Any]]:
    """What each line says of a live cascade's answer."""
    return [joined.about[example_id].get("cascade", {}) for example_id in joined.student]


def _top(answers: Sequence[ModelAnswer], metadata: dict[str, Any]) -> dict[str, list]:
    """The largest log-probs: as many of each token as the token with the fewest has."""
    sizes = [len(of_token) for answer in answers for of_token in answer.top_log_probs or [()]]
    top_k = min(sizes)
    if schema.TOP_K in metadata or top_k:
        metadata[schema.TOP_K] = top_k
    if not top_k:
        return {}

    def cut(name: str) -> list[np.ndarray]:
        return [np.concatenate([t[:top_k] for t in getattr(a, name)]) for a in answers]

    columns = {schema.TOP_LOG_PROBS: cut("top_log_probs")}
    if all(answer.top_ids is not None for answer in answers):
        columns[schema.TOP_IDS] = cut("top_ids")
    return columns
