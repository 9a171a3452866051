"""Chat templates: a task's input as the user's message, rendered with the tokenizer's own template.

"model/tokenizer.json?chat_template=default" asks for it. Templates are written in Jinja and come
with a tokenizer, as `transformers` saves them: chat_template.jinja beside it, others by their names
in additional_chat_templates/, or chat_template in its tokenizer_config.json. "chat.NAME=VALUE" sets
a variable of the template, the value in JSON: "&chat.enable_thinking=false".

A template runs in Jinja's sandbox, as in `transformers`, and with its functions but for
`strftime_now`: a date of today would make other ids tomorrow. Templates that ask whether it is
there have a date of their own, or read it from a variable; others are refused.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade_jax import json_file, json_text, text_file
from cascade_jax.names import did_you_mean
from cascade_jax.short_text import cut_short

OPTION = "chat_template"
VARIABLE = "chat."  # before a variable's name
DEFAULT = "default"
FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"
CONFIG = "tokenizer_config.json"
_MARK = "-chat-"  # in a fingerprint, before the template's own
_PROBE = "seventeen"
_TAKEN = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception")


def is_variable(option: str) -> bool:
    """Whether an option behind the path sets a variable of the template."""
    return option.startswith(VARIABLE) and option.removeprefix(VARIABLE).isidentifier()


def marked(fingerprint: str, digest: str) -> str:
    """The fingerprint of a vocabulary that renders inputs, out of that of its ids."""
    return f"{fingerprint}{_MARK}{digest}"


def ids_part(fingerprint: str) -> str:
    """The part of a vocabulary's fingerprint that is the same with and without a template."""
    return fingerprint.partition(_MARK)[0]


def is_marked(fingerprint: str) -> bool:
    """Whether a vocabulary with this fingerprint renders inputs."""
    return _MARK in fingerprint


def find(
    path: Path, options: Mapping[str, str], special_names: Mapping[str, str]
) -> "ChatTemplate | None":
    """The template that the options of a vocabulary name; None if they name none.

    Args:
      path: of the tokenizer.json.
      options: behind the path, by key.
      special_names: special tokens, which templates know as bos_token and so on.

    Raises:
      ValueError: no such template, a variable whose value is not JSON or that the template does
        not read, an error in the template, or no package jinja2; and see `ChatTemplate`.
    """
    variables = {}
    for option, value in options.items():
        if is_variable(option):
            place = f"{option}={value}"
            if OPTION not in options:
                raise ValueError(f"{place} is for a chat template; add {OPTION}={DEFAULT}")
            variables[option.removeprefix(VARIABLE)] = _value(place, value)
    if OPTION not in options:
        return None
    source, text = _text(path, options[OPTION])
    template, known = _compiled(text, source)
    for name in variables:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{VARIABLE}{name}: {source} reads no variable of this name{hint}")
    # Those alone that it reads: others do not make it another template.
    read = {name: special_names[name] for name in special_names if name in known}
    return ChatTemplate(text, template, {**read, **variables}, source)


def _value(place: str, text: str) -> Any:
    name = place.partition("=")[0].removeprefix(VARIABLE)
    if name in _TAKEN:
        raise ValueError(f"{place}: {name} is set already; choose another variable")
    try:
        return json_text.parse(text)
    except ValueError:
        raise ValueError(
            f"{place}: the value must be JSON: true, 7, or a text in double quotes"
        ) from None


def _text(path: Path, name: str) -> tuple[str, str]:
    """Where a template stands, and its text."""
    files = {DEFAULT: path.parent / FILE}
    files |= {file.stem: file for file in sorted((path.parent / FOLDER).glob("*.jinja"))}
    files = {known: file for known, file in files.items() if file.is_file()}
    texts = {} if files else _in_config(path.parent / CONFIG)  # as transformers reads them
    known = {**files, **texts}
    if not known:
        raise ValueError(
            f"{OPTION}={name}: there is no chat template: no {FILE} beside it, and no "
            f"chat_template in {CONFIG}; leave the option out for a model without one"
        )
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(
            f"{OPTION}={name}: no chat template has this name; there are "
            f"{', '.join(sorted(known))}{hint}"
        )
    if texts:
        return f"{path.parent / CONFIG}: chat_template", texts[name]
    return str(files[name]), text_file.decode(files[name].read_bytes(), str(files[name]))


def _in_config(config: Path) -> dict[str, str]:
    """The templates of a tokenizer_config.json by name: of one, or of a list of objects."""
    own = json_file.read_object(config).get("chat_template") if config.is_file() else None
    if own is None:
        return {}
    listed = [{"name": DEFAULT, "template": own}] if isinstance(own, str) else own
    keys = ("name", "template")
    is_right = isinstance(listed, list) and all(
        isinstance(each, dict) and all(isinstance(each.get(key), str) for key in keys)
        for each in listed
    )
    allowed = "a template, a list of objects with texts as name and template, or null"
    json_text.require(is_right, f"{config}: chat_template", own, allowed)
    return {each["name"]: each["template"] for each in listed}


class ChatTemplate:
    """A template with its variables; `find` makes it.

    Attributes:
      source: where it stands.
      ending: what it writes behind the message: its end, and the start of an answer.
      opening: what it writes before.
    """

    def __init__(self, text: str, template: Any, variables: Mapping[str, Any], source: str):
        """Renders a short input, to see whether the template will do.

        Args:
          text: in Jinja.
          template: the text compiled.
          variables: by name; special tokens among them.
          source: for messages.

        Raises:
          ValueError: it raises, or leaves the input out.
        """
        self.source = source
        self._variables = dict(variables)
        self._text = text
        self._template = template
        self.opening, _, self.ending = self.render(_PROBE).rpartition(_PROBE)

    @property
    def digest(self) -> str:
        """A hash of all that decides on what is rendered."""
        whole = json.dumps([self._text, self._variables], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def render(self, content: str) -> str:
        """An input as the one message of a chat, ready for the answer.

        Raises:
          ValueError: the template raises, or leaves the input out.
        """
        messages = [{"role": "user", "content": content}]
        try:
            rendered = self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._variables,
            )
        except Exception as error:  # whatever a template does
            text = " ".join(str(error).split()) or type(error).__name__
            text += "; the date of today would change the ids" * ("strftime_now" in text)
            raise ValueError(f"{self.source} fails on {_shown(content)}: {text}") from None
        if content.strip() not in rendered:
            raise ValueError(
                f"{self.source} leaves the input out: {_shown(content)} becomes {_shown(rendered)}"
            )
        return rendered


def _shown(text: str) -> str:
    return repr(cut_short(text, 60))


def _compiled(text: str, source: str) -> tuple[Any, set[str]]:
    """The template, and the names that it reads and does not set."""
    environment = _environment()
    from jinja2 import TemplateSyntaxError, meta

    try:
        names = meta.find_undeclared_variables(environment.parse(text))
        return environment.from_string(text), names
    except TemplateSyntaxError as error:
        raise ValueError(f"{source}, line {error.lineno}: {error.message}") from None
    except Exception as error:  # nested too deep for Python, say
        raise ValueError(f"{source} is no template that Jinja can compile: {error}") from None


@functools.cache
def _environment() -> Any:
    try:
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ValueError(
            f"{OPTION} needs the package jinja2: pip install 'cascade-jax[chat]'"
        ) from None

    class Generation(jinja2.ext.Extension):
        """{% generation %}, with which transformers marks answers, as a plain block."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    """Jinja's own filter escapes what HTML has a meaning for."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)
