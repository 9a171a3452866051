"""Answers of two models and targets, read from several files and joined by id."""

import dataclasses
from collections.abc import Collection
from typing import Any

from cascade_jax.records.external.answers import ModelAnswer, checked
from cascade_jax.records.external.formats import METADATA, TABLE, answer_of, recognised
from cascade_jax.records.external.lines import ExchangeError, Line, read_lines, shown

_MODELS = ("student", "teacher")
_LISTED = 5  # ids in a message


@dataclasses.dataclass
class Joined:
    """Answers of both models by id, in one order, and what is said of each example beside them."""

    student: dict[str, ModelAnswer]
    teacher: dict[str, ModelAnswer]
    about: dict[str, dict[str, Any]]
    formats: dict[str, str]
    metadata: dict[str, Any]


def read(student: str, teacher: str | None, targets: str | None, form: str | None) -> Joined:
    """Reads and joins files of answers and targets.

    Args:
      student, teacher, targets, form: see `exchange.ExchangeConfig`.

    Raises:
      FileNotFoundError: a file is not there.
      ExchangeError: a line that can not be used, or ids that do not join (which).
    """
    joined = Joined({}, {}, {}, {}, {})
    _read_answers(student, "student", form, joined)
    if teacher is not None:
        if joined.teacher:
            raise ExchangeError(f"{student} holds the teacher's answers too: leave --teacher out")
        _read_answers(teacher, "teacher", form, joined)
    elif not joined.teacher:
        raise ExchangeError(
            f"{student} holds answers of one model; --teacher names the file of the other's"
        )
    _list_missing(joined.student, joined.teacher, teacher or student)
    _list_missing(joined.teacher, joined.student, student)
    joined.teacher = {example_id: joined.teacher[example_id] for example_id in joined.student}
    if targets is not None:
        _read_targets(targets, joined)
    return joined


def _read_targets(path: str, joined: Joined) -> None:
    """What a file of targets says stands over what lines of answers say."""
    seen = set()
    for line in read_lines(path):
        example_id = line.example_id()
        if example_id in seen:
            raise line.fail(f"id {example_id!r} came before; each must come once")
        seen.add(example_id)
        if example_id in joined.student:
            joined.about[example_id] |= _about(line)
    _list_missing(joined.student, seen, path)


def _read_answers(path: str, model: str, form: str | None, joined: Joined) -> None:
    """Reads a file of one model's answers, or a table of both models'."""
    for line in read_lines(path):
        if METADATA in line.row:
            joined.metadata |= line.get(METADATA, dict, "an object of metadata")
            joined.formats[model] = TABLE
            continue
        form = form or recognised(line)
        joined.formats[model] = form
        if form == TABLE and model == "student" and set(_MODELS) & set(line.row):
            example_id = line.example_id()
            found = {
                name: checked(
                    Line(f"{line.where}, {name}", line.get(name, dict, "an object")),
                    example_id,
                    line.row[name],
                )
                for name in _MODELS
            }
            joined.formats["teacher"] = form
        else:
            found = {model: answer_of(line, form)}
        for name, answer in found.items():
            answers = getattr(joined, name)
            if answer.example_id in answers:
                before = answers[answer.example_id].line.where
                raise line.fail(f"id {answer.example_id!r} came before, in {before}")
            answers[answer.example_id] = answer
            # What the student's file says stands.
            about = joined.about.setdefault(answer.example_id, {})
            joined.about[answer.example_id] = _about(line) | about
    if not getattr(joined, model):
        raise ExchangeError(f"{path}: holds no answer; must have one a line")


def _about(line: Line) -> dict[str, Any]:
    """Task, inputs and target that a line brings."""
    found = {}
    for name in ("task", "inputs", "metric", "mixture", "split"):
        if line.row.get(name) is not None:
            found[name] = line.get(name, str, "a text")
    if "inputs" not in found and isinstance(line.row.get("prompt"), str):
        found["inputs"] = line.row["prompt"]
    if line.row.get("cascade") is not None:
        found["cascade"] = line.get("cascade", dict, "an object, what a live cascade wrote")
    target = line.row.get("target")
    if target is not None:
        texts = target if isinstance(target, list) else [target]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise line.fail(f"target is {shown(target)}; must be a text or a list of texts")
        found["target"] = target
    return found


def _list_missing(wanted: Collection[str], there: Collection[str], file: str) -> None:
    missing = [example_id for example_id in wanted if example_id not in there]
    if not missing:
        return
    shown_ids = ", ".join(map(repr, missing[:_LISTED]))
    more = f" and {len(missing) - _LISTED:,} more" if len(missing) > _LISTED else ""
    hint = ""
    if len(missing) == len(wanted):
        hint = (
            "; no id joins: a service gives each answer an id of its own, so both files need the "
            "same custom_id or example_id"
        )
    raise ExchangeError(f"{file}: lacks {len(missing):,} ids: {shown_ids}{more}{hint}")
