"""Whether the lines of several files that are joined by id are about the same example.

Running numbers such as vLLM's request_id join anything with anything. What the lines say of their
example beside the id shows it: the question, the right answer, the task, another id.
"""

import collections
import dataclasses
import itertools
import os
from collections.abc import Mapping
from typing import Any

from cascade_jax.records.external.lines import Line, LineError, shown

_TEXTS = ("inputs", "question", "input", "prompt", "messages")  # the barest first
_LOOSE = {"question", "input"}  # beside inputs in one line they may be something else
_PROMPTS = {"prompt", "messages"}  # few-shot examples in them may be drawn anew for each model


@dataclasses.dataclass(frozen=True, slots=True)
class _Saying:
    """What one line says: a field of a file with its value, and file and line."""

    key: tuple[str, str]
    value: Any
    where: str
    is_named: bool = False  # whether the line is joined by example_id, which a user gives

    def __str__(self) -> str:
        field = self.key[0]
        if field == _TOKENS:
            return f"{self.where} has other {_TOKENS}"
        return f"{self.where} has {field} {shown(self.value)}"


_TOKENS, _CUSTOM = "prompt_token_ids", "custom_id"


class Agreement:
    """Compares what each line says of its example with what other lines said before."""

    def __init__(self):
        self._said: dict[str, dict[str, _Saying]] = collections.defaultdict(dict)
        self._templates: dict[tuple[str, str], _Template] = collections.defaultdict(_Template)
        self._questions: dict[str, tuple[_Saying, _Saying]] = {}  # that differ, by id
        self._facts: dict[str, tuple[_Saying, _Saying]] = {}
        self._marks: dict[str, dict[str, dict[str, _Saying]]] = {
            name: collections.defaultdict(dict) for name in (_CUSTOM, _TOKENS)
        }
        self._joined_by_custom_id: set[str] = set()  # files

    def add(self, file: str, line: Line, example_id: str) -> None:
        """What a line of a file says of its example."""
        is_named = line.row.get("example_id") is not None
        texts = {field: _text(line.row.get(field)) for field in _TEXTS}
        for field, text in texts.items():
            if text:
                self._templates[field, file].add(text)
                self._compare(
                    "text", _Saying((field, file), text, line.where, is_named), example_id
                )
        for field in ("target", "task"):
            if (value := line.row.get(field)) not in (None, "", []):
                self._compare(field, _Saying((field, file), value, line.where), example_id)
        value = line.row.get(_CUSTOM)
        if type(value) in (str, int):
            self._marks[_CUSTOM][file][example_id] = _Saying((_CUSTOM, file), value, line.where)
            if not is_named:
                self._joined_by_custom_id.add(file)
        tokens = line.row.get(_TOKENS)
        if isinstance(tokens, list) and not any(texts.values()):
            value = hash(tuple(map(str, tokens)))
            self._marks[_TOKENS][file][example_id] = _Saying((_TOKENS, file), value, line.where)

    def _compare(self, kind: str, saying: _Saying, example_id: str) -> None:
        before = self._said[kind].setdefault(example_id, saying)
        if before is saying or before.value == saying.value:
            return
        fields, files = zip(before.key, saying.key, strict=True)
        if kind == "text" and files[0] == files[1] and _LOOSE.intersection(fields):
            return
        if kind == "text" and not _holds(before.value, saying.value):
            self._questions.setdefault(example_id, (before, saying))
        elif kind == "task" or (kind == "target" and not _same_target(before.value, saying.value)):
            self._facts.setdefault(example_id, (before, saying))

    def check(self) -> list[str]:
        """Refuses lines that say different things of the same example.

        Returns:
          A line about prompts that differ where example_id says that the example is the same.

        Raises:
          LineError: with two such examples.
        """
        differing = {i: pair for i, pair in self._questions.items() if not self._same_core(*pair)}
        prompts = {i: pair for i, pair in differing.items() if _are_prompts(*pair)}
        differing = {i: pair for i, pair in differing.items() if i not in prompts}
        for mark, by_file in self._marks.items():
            for (file, one), (other_file, other) in itertools.combinations(by_file.items(), 2):
                if mark == _TOKENS or {file, other_file} & self._joined_by_custom_id:
                    differing |= _crossed(one, other)
        differing = differing or self._facts
        if not differing:
            return _note(prompts)
        two = [f"of {i!r}, {one} and {other}" for i, (one, other) in [*differing.items()][:2]]
        raise LineError(
            f"lines that are joined say different things of the same example: {'; '.join(two)} "
            f"({len(differing):,} such). Where their ids are only running numbers, give all files "
            "the same custom_id or example_id; where both are right, leave one of the fields out"
        )

    def _same_core(self, one: _Saying, other: _Saying) -> bool:
        """Whether two questions are the same but for the templates around them."""
        cores = [self._templates[each.key].core_of(each.value) for each in (one, other)]
        return (
            cores[0] == cores[1]
            or bool(cores[0] and cores[0] in other.value)
            or bool(cores[1] and cores[1] in one.value)
        )


class _Template:
    """What all texts of a field begin and end with."""

    def __init__(self):
        self._count, self._shortest = 0, 0
        self._prefix = self._suffix = ""  # that reversed

    def add(self, text: str) -> None:
        if not self._count:
            self._prefix, self._suffix, self._shortest = text, text[::-1], len(text)
        self._count += 1
        self._shortest = min(self._shortest, len(text))
        if not text.startswith(self._prefix):
            self._prefix = os.path.commonprefix([text, self._prefix])
        if not (backwards := text[::-1]).startswith(self._suffix):
            self._suffix = os.path.commonprefix([backwards, self._suffix])

    def core_of(self, text: str) -> str:
        """A text without them; all of it if it is the only one."""
        if self._count == 1:
            return text
        start = len(self._prefix)
        return text[start : len(text) - min(len(self._suffix), self._shortest - start)]


def _are_prompts(one: _Saying, other: _Saying) -> bool:
    """Whether both are prompts, of lines that a user has given the same example_id."""
    return one.is_named and other.is_named and {one.key[0], other.key[0]} <= _PROMPTS


def _note(prompts: Mapping[str, tuple[_Saying, _Saying]]) -> list[str]:
    if not prompts:
        return []
    example_id, (one, other) = next(iter(prompts.items()))
    return [
        f"{len(prompts):,} examples have prompts that differ under the same example_id, which "
        f"stands: of {example_id!r}, {one} and {other}"
    ]


def _text(value: Any) -> str:
    """A text, or the texts of a chat's messages, with single spaces."""
    if isinstance(value, list):
        contents = [message.get("content") for message in value if isinstance(message, dict)]
        value = " ".join(text for text in contents if isinstance(text, str))
    return " ".join(value.split()) if isinstance(value, str) else ""


def _holds(one: str, other: str) -> bool:
    """Whether one is part of the other, as a question is of the prompt that is made of it."""
    return one in other or other in one


def _same_target(one: Any, other: Any) -> bool:
    """Whether two lists of right answers share one; records keep several as one text, "a | b"."""
    return bool(_answers(one) & _answers(other))


def _answers(target: Any) -> set[str]:
    texts = [str(text) for text in (target if isinstance(target, list) else [target])]
    return {_text(part).casefold() for text in texts for part in (text, *text.split(" | "))}


def _crossed(
    one: Mapping[str, _Saying], other: Mapping[str, _Saying]
) -> dict[str, tuple[_Saying, _Saying]]:
    """Examples whose mark in one file is that of another example in the other file, by id."""
    values = {saying.value for saying in other.values()}
    return {
        i: (saying, other[i])
        for i, saying in one.items()
        if i in other and saying.value != other[i].value and saying.value in values
    }
