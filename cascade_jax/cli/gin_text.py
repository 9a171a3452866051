"""The text of gin files and bindings: what is wrong with it, where, and how to write it instead.

Gin's own messages have neither: "Unable to parse value. (line 2)". So each text is parsed here
first, for its form alone; names are looked up by gin afterwards.
"""

import contextlib
import io
import os
import re
import shlex
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

from gin import config_parser

from cascade_jax import text_file
from cascade_jax.cli.flags import UsageError
from cascade_jax.short_text import cut_short

_UNREADABLE = "gin can not read this"
_VALUES = "a value is a number, True, False, None, a 'text', a list, %MACRO or @name()"
_WORDS = {"true": "True", "false": "False", "none": "None", "null": "None", "nil": "None"}
# What parsing a text that is not in gin's form may raise.
_MALFORMED = (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError)
_NO_QUOTES = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb`"
_open_files: list[str] = []  # those that include each other just now
_read: list[tuple[str, config_parser.BindingStatement]] = []  # bindings with their places


def forget() -> None:
    """Forgets the places of all bindings that were read."""
    _read.clear()


def place_of(scope: str, selector: str, parameter: str) -> str:
    """Where a binding was read last, for messages: "x.gin:3: ", or "" if that is not known.

    Args:
      scope, parameter: of the binding; "" for a macro.
      selector: the whole name of what is bound, or that of a macro.
    """
    for place, binding in reversed(_read):
        is_same = binding.scope == scope and binding.arg_name == parameter
        if is_same and f".{selector}".endswith(f".{binding.selector}"):
            return f"{place}: "
    return ""


@contextlib.contextmanager
def opened(path: str) -> Iterator[io.StringIO]:
    """A gin file, for gin to read; as `open`, but for a byte order mark and line ends of Windows.

    Raises:
      UsageError: not UTF-8, not in gin's form (line, and what to write), a name that is bound twice
        in it, or it includes itself.
    """
    resolved = os.path.realpath(path)
    if resolved in _open_files:
        raise UsageError(f"{path} includes itself")
    text = _decoded(path, Path(path).read_bytes())
    lines, num_before = text.split("\n"), len(_read)
    if problem := _problem(text, path):
        number, what = problem
        line = lines[number - 1].strip() if number <= len(lines) else ""
        name, _, value = line.partition("=")
        has_value = what == _UNREADABLE and "=" in line
        hint = _hint(value, f"{name.strip()} = {{}}") if has_value else ""
        where = f"{path}:{number}"
        raise UsageError(f"{where}: {what}: {_short(line)}{hint}")
    _check_once(_read[num_before:])
    content = io.StringIO(text)
    content.name = path
    _open_files.append(resolved)
    try:
        yield content
    finally:
        _open_files.remove(resolved)


def _check_once(bindings: Sequence[tuple[str, config_parser.BindingStatement]]) -> None:
    """Refuses two bindings of one name in one file: gin takes the last and says nothing.

    Another file may well bind a name anew; that is how experiments differ from what they include.
    """
    places: dict[tuple, str] = {}
    for place, binding in bindings:
        key = binding.scope, binding.selector, binding.arg_name
        if key in places:
            scope = f"{binding.scope}/" * bool(binding.scope)
            name = f"{scope}{binding.selector}" + f".{binding.arg_name}" * bool(binding.arg_name)
            raise UsageError(
                f"{place}: {name} is bound a second time, first in {places[key]}; keep one of both"
            )
        places[key] = place


def check_binding(binding: str) -> None:
    """Refuses a binding of the command line, NAME=VALUE, that is not in gin's form.

    Raises:
      UsageError: names the flag, and shows how to write it.
    """
    name, _, value = binding.partition("=")
    flag = f"--gin.{name}={_short(value)}"
    if not re.fullmatch(r"[\w./]+", name.strip()) or value.startswith("="):
        raise UsageError(f"{flag}: write --gin.MACRO=VALUE, or --gin.module.Class.field=VALUE")
    number = len(_read)
    if problem := _problem(binding, f"--gin.{name.strip()}"):
        hint = _hint(value, f"--gin.{name}={{}}", is_on_command_line=True)
        raise UsageError(f"{flag}: {problem[1]}{hint if problem[1] == _UNREADABLE else ''}")
    if len(_read) != number + 1:
        lines = len(_read) - number
        raise UsageError(f"{flag}: holds {lines} bindings; give each a --gin. of its own")


def _short(text: str) -> str:
    return cut_short(" ".join(text.split()), 60)


def _decoded(path: str, data: bytes) -> str:
    lines = enumerate(data.split(b"\n"), 1)
    try:
        text = "\n".join(text_file.decode(line, f"{path}:{number}") for number, line in lines)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


# ------------------------------------------------------------------ parsing


class _NoNames(config_parser.ParserDelegate):
    """Takes every name: they are looked up when gin itself reads the text."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return None

    def macro(self, macro_name):
        return None


def _problem(text: str, source: str = "") -> tuple[int, str] | None:
    """The line of the statement that is not in gin's form, from 1, and what is wrong.

    Bindings are kept for `place_of`, if the text is that of a file or flag.
    """
    first = 1
    try:
        parser = config_parser.ConfigParser(text, _NoNames())
        while True:
            parser._skip_whitespace_and_comments()
            first = parser.current_token.start[0]
            statement = parser.parse_statement()
            if statement is None:
                return None
            if source and isinstance(statement, config_parser.BindingStatement):
                line = "" if source.startswith("--gin.") else f":{statement.location.line_num}"
                _read.append((f"{source}{line}", statement))
    except _MALFORMED as error:
        if isinstance(error, RecursionError):
            return first, "too many brackets in each other"
        after = "\n".join(text.split("\n")[first - 1 :])
        if _is_open(after):
            return first, "a bracket or quote is not closed"
        number = error.lineno if isinstance(error, SyntaxError) and error.lineno else first
        if isinstance(error, IndentationError) or "identifier" in str(error):
            return number, "its indentation is not that of the lines around it (spaces and tabs?)"
        return number, _UNREADABLE


def _is_open(text: str) -> bool:
    """Whether a statement opens a bracket or quote that nothing closes.

    A quote ends at its line; brackets count only where a later line begins a statement inside them.
    """
    depth = 0
    for number, line in enumerate(text.split("\n")):
        bare = re.sub(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"", "", line).partition("#")[0]
        if number == 0 and ("'" in bare or '"' in bare):
            return True
        if number > 0 and (depth == 0 or re.match(r"\s*[\w./]+\s*=[^=]", bare)):
            break
        depth += sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}"))
    return depth > 0


# ------------------------------------------------------------------ what to write


def _hint(value: str, form: str, is_on_command_line: bool = False) -> str:
    """How to write a value that gin can not read; `form` has {} in its place."""

    def write(right: str) -> str:
        if is_on_command_line and re.search(r"[\s'\"\\$]", right):
            right = shlex.quote(right) if '"' in right else f'"{right}"'
        return f"; write {form.format(right)}"

    if other := next((letter for letter in value if letter in _NO_QUOTES + "\u00a0"), None):
        return f"; it holds {other!r} (U+{ord(other):04X}), which gin does not know; {_VALUES}"
    value = value.lstrip("=").strip()
    if not value:
        return f"; {_VALUES}; an empty text is ''"
    if len(value) > 200:  # too long to be written again in a message
        return f"; {_VALUES}"
    if _problem(f"x = {value}") is None:
        return write(value)
    if re.fullmatch(r"[-+]?\d{1,3}([, ]\d{3})+(\.\d+)?", value):
        return write(re.sub("[, ]", "", value))
    if re.fullmatch(r"\+[\d.]+", value):
        return write(value[1:])
    if value.lower() in _WORDS:
        return write(_WORDS[value.lower()])
    if match := re.fullmatch(r"\[([^\[\](){}'\"@%]*)\]", value):
        items = [item.strip() for item in match[1].split(",") if item.strip()]
        return write(f"[{', '.join(map(_literal, items))}]")
    if value[0] in "'\"[({@%":
        return f"; {_VALUES}"
    text = write(repr(value))
    if re.fullmatch(r"[\d.eE+\-*/ ]+", value):
        return f"; gin does not calculate: write the number itself, or for a text{text[7:]}"
    return text


def _literal(item: str) -> str:
    return item if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|True|False|None", item) else repr(item)
