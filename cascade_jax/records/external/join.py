"""Answers of several models and targets, read from several files and joined by id."""

import collections
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from cascade_jax.records import metadata as records_metadata
from cascade_jax.records import schema
from cascade_jax.records.external.agreement import Agreement
from cascade_jax.records.external.answers import (
    ModelAnswer,
    columns_about,
    numbers_of,
    parsed,
)
from cascade_jax.records.external.formats import (
    METADATA,
    TABLE,
    answer_of,
    recognised,
    table_answer,
)
from cascade_jax.records.external.lines import (
    Line,
    LineError,
    UnusableError,
    read_lines,
    shown,
)

_LISTED = 5  # ids in a message


@dataclasses.dataclass
class Joined:
    """Answers of every model by id, in one order, and what is said of each example beside them.

    Attributes:
      answers: by model, in order of cost, and id.
      about: by id, the columns of the example, its target, and the answer of a live cascade.
      formats: by model.
      metadata: those of a table's first line.
      dropped: ids of examples that are left out, by what is wrong with them.
      said: lines about what differs, to print.
    """

    answers: dict[str, dict[str, ModelAnswer]]
    about: dict[str, dict[str, Any]]
    formats: dict[str, str]
    metadata: dict[str, Any]
    dropped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    said: list[str] = dataclasses.field(default_factory=list)

    def drop(self, ids: Collection[str], reason: str) -> None:
        """Leaves examples out."""
        listed = self.dropped.get(reason, [])
        self.dropped[reason] = list(dict.fromkeys([*listed, *ids]))
        for by_id in (*self.answers.values(), self.about):
            for example_id in ids:
                by_id.pop(example_id, None)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in order of cost."""
        return tuple(self.answers)

    @property
    def ids(self) -> list[str]:
        """Of all examples."""
        return list(self.answers[self.models[0]])


def read(
    student: str,
    teacher: str | None,
    targets: str | None,
    form: str | None,
    drops_unusable: bool = False,
) -> Joined:
    """Reads and joins files of answers and targets.

    Args:
      student, teacher, targets, form: see `from_jsonl.FromJsonlConfig`.
      drops_unusable: whether examples with an answer that can't be used are left out.

    Raises:
      FileNotFoundError: a file is not there.
      UnusableError: an answer that can't be used, unless its example is left out.
      LineError: a line that can not be used, or ids that do not join (which), or join lines that
        say different things of one example.
    """
    joined = Joined({model: {} for model in schema.PAIR}, {}, {}, {})
    agreement = Agreement()
    unusable = _read_answers(student, 0, form, joined, agreement)
    errors = list(unusable.values())
    last = joined.models[-1]
    if teacher is not None:
        if joined.answers[last]:
            raise LineError(f"{student} holds the {last}'s answers too: leave --teacher out")
        of_teacher = _read_answers(teacher, -1, form, joined, agreement)
        errors += of_teacher.values()
        unusable |= of_teacher
    if errors and not drops_unusable:
        agreement.check()  # lines that do not belong together are the greater fault
        raise errors[0]
    if teacher is None and not joined.answers[last]:
        raise LineError(
            f"{student} holds answers of one model; --teacher names the file of the other's"
        )
    _drop(unusable, joined)
    ids = joined.answers[joined.models[0]]
    for model in joined.models[1:]:
        answers = joined.answers[model]
        _list_missing(ids, answers, teacher or student)
        _list_missing(answers, ids, student)
        joined.answers[model] = {example_id: answers[example_id] for example_id in ids}
    if targets is not None:
        _read_targets(targets, joined, agreement)
    joined.said = agreement.check()
    return joined


def _drop(unusable: Mapping[str, UnusableError], joined: Joined) -> None:
    ids_of = collections.defaultdict(list)
    for example_id, error in unusable.items():
        ids_of[error.reason].append(example_id)
    for reason, dropped in ids_of.items():
        joined.drop(dropped, reason)


def _read_targets(path: str, joined: Joined, agreement: Agreement) -> None:
    """What a file of targets says stands over what lines of answers say."""
    seen = set()
    for line in read_lines(path):
        example_id = line.example_id()
        if example_id in seen:
            raise line.fail(f"id {example_id!r} came before; each must come once")
        seen.add(example_id)
        if example_id in joined.about:
            joined.about[example_id] |= _about(line)
            agreement.add(path, line, example_id)
    _list_missing(joined.ids, seen, path)


def _read_answers(
    path: str,
    number: int,
    form: str | None,
    joined: Joined,
    agreement: Agreement,
) -> dict[str, UnusableError]:
    """Reads a file of the answers of one model, by its number; or a table of all models'.

    Returns:
      What is wrong with the answers that can't be used, by id.
    """
    lines_of: dict[str, str] = {}
    unusable: dict[str, UnusableError] = {}
    for line in read_lines(path):
        if METADATA in line.row:
            _take_metadata(line, joined)
            joined.formats[joined.models[number]] = TABLE
            continue
        form = form or recognised(line, joined.models)
        example_id = line.example_id()
        if example_id in lines_of:
            raise line.fail(f"id {example_id!r} came before, in {lines_of[example_id]}")
        lines_of[example_id] = line.where
        try:
            answers = _answers_of(line, number, form, joined)
        except UnusableError as error:
            # Without its frames, which hold the line.
            unusable[example_id], answers = error.with_traceback(None), {}
        for name, answer in answers.items():
            joined.answers[name][example_id] = answer
        # All answers are to one example. What the student's file says of it stands.
        about = joined.about.get(example_id, {})
        joined.about[example_id] = _about(line) | about
        agreement.add(path, line, example_id)
    if not joined.answers[joined.models[number]] and not unusable:
        raise LineError(f"{path}: holds no answer; must have one a line")
    return unusable


def _answers_of(line: Line, number: int, form: str, joined: Joined) -> dict[str, ModelAnswer]:
    """The answers of a line by model: that of one model, or those of all in a table."""
    model = joined.models[number]
    joined.formats[model] = form
    compares = "schema_version" not in joined.metadata  # which to-jsonl writes
    if form != TABLE or number != 0 or not set(joined.models) & set(line.row):
        return {model: answer_of(line, form, compares)}
    joined.formats |= dict.fromkeys(joined.models, form)
    return {
        name: table_answer(
            Line(f"{line.where}, {name}", line.get(name, dict, "an object")),
            line.example_id(),
            compares,
        )
        for name in joined.models
    }


def _take_metadata(line: Line, joined: Joined) -> None:
    """Metadata of a table, which may name its models, before any answer."""
    joined.metadata |= line.get(METADATA, dict, "an object of metadata")
    models = joined.metadata.get(schema.MODELS, list(schema.PAIR))
    records_metadata.check_models(models, line.where)
    if tuple(models) != joined.models:
        if any(joined.answers.values()):
            raise line.fail(f"{schema.MODELS} must be named before the first answer")
        joined.answers = {model: {} for model in models}


def _about(line: Line) -> dict[str, Any]:
    """Task, inputs, target and the live cascade's answer that a line brings."""
    # The id and the target may be of other types than their columns.
    row = {k: v for k, v in line.row.items() if k not in ("example_id", "target")}
    about = parsed(Line(line.where, row), columns_about(schema.EXAMPLE), "")
    if "inputs" not in about and isinstance(line.row.get("prompt"), str):
        about["inputs"] = line.row["prompt"]
    if line.row.get(schema.LIVE) is not None:
        live = line.get(schema.LIVE, dict, "an object, what a live cascade wrote")
        where = f"{line.where}, {schema.LIVE}"
        columns = columns_about(schema.LIVE)
        about[schema.LIVE] = numbers_of(live) | parsed(Line(where, live), columns, "tokens")
    target = line.row.get("target")
    if target is not None:
        texts = target if isinstance(target, list) else [target]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise line.fail(f"target is {shown(target)}; must be a text or a list of texts")
        about["target"] = target
    return about


def _list_missing(needed: Collection[str], present: Collection[str], file: str) -> None:
    missing = [example_id for example_id in needed if example_id not in present]
    if not missing:
        return
    shown_ids = ", ".join(map(repr, missing[:_LISTED]))
    more = f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
    hint = (
        "; no id joins: a service gives each answer an id of its own, so both files need the same "
        "custom_id or example_id"
    )
    raise LineError(
        f"{file}: lacks {len(missing):,} ids: {shown_ids}{more}"
        + hint * (len(missing) == len(needed))
    )
