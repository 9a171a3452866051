"""Plain flags as fields of a dataclass, parsed by argparse; a mistake is answered in one line."""

import argparse
import dataclasses
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from cascade_jax.checks import LARGEST
from cascade_jax.names import did_you_mean

Config = TypeVar("Config")
_REQUIRED = object()


class UsageError(ValueError):
    """What the user gave can't be used; the message says what, where and what is allowed."""


def flag(metavar: str | None, text: str, default: Any = _REQUIRED, **options) -> Any:
    """A field of a dataclass that is a flag.

    Args:
      metavar: name of its value in the help; None for a flag without a value, False by default.
      text: its help.
      default: its value if it is left out; without a default it is required.
      **options: of `add_argument`; and `name`, where the flag has another name than the field.
    """
    if metavar is None:
        options |= {"action": "store_true"}
        default = False
    else:
        options |= {"metavar": metavar, "default": default, "required": default is _REQUIRED}
        if isinstance(default, str | int):
            text = f"{text} (default: {default})"
    settings = {"default": default} if default is not _REQUIRED else {}
    return dataclasses.field(metadata={"help": text, **options}, **settings)


def choice(text: str, *names: str) -> Any:
    """A field of a dataclass that is a flag with one of some names, the first by default."""
    return flag("|".join(names), text, names[0], type=one_of(*names))


def arguments(metavar: str, text: str) -> Any:
    """A field of a dataclass that takes the arguments which are no flags, as a list."""
    return dataclasses.field(
        metadata={"help": text, "metavar": metavar, "nargs": "*", "name": None}
    )


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Lines of 100 characters, not broken at hyphens: names such as fit-router stay whole."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=100)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Flags(argparse.ArgumentParser):
    """The flags of a command: `add` takes them from a dataclass, `format_help` is its --help."""

    def __init__(self, text: str, heading: str = "flags"):
        """Args: text: what stands above the flags in the help. heading: of the flags."""
        super().__init__(
            usage=argparse.SUPPRESS,
            description=text,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self._arguments = self.add_argument_group("arguments")
        self._flags = self.add_argument_group(heading)

    def add(self, config_class: type) -> "Flags":
        """Adds the fields that are flags or arguments; returns itself."""
        for field in dataclasses.fields(config_class):
            options = dict(field.metadata)
            if not options:
                continue
            name = options.pop("name", field.name)
            if name is None:
                self._arguments.add_argument(field.name, **options)
            else:
                self._flags.add_argument(f"--{name}", dest=field.name, **options)
        return self

    def error(self, message: str) -> NoReturn:
        """Raises instead of ending the process."""
        message = message.removeprefix("argument ")
        message = message.replace("the following arguments are required:", "give")
        raise UsageError(f"{message}; see --help")

    def parse(self, argv: Iterable[str]) -> argparse.Namespace:
        """The values of the flags, which may stand between other arguments.

        Raises:
          UsageError: an unknown flag, a value that is not allowed, a flag that is missing.
        """
        values, unknown = self.parse_known_intermixed_args(list(argv))
        for word in unknown:
            if not word.startswith("-"):
                raise UsageError(f"argument {word!r} is not a flag; see --help")
            name = word.partition("=")[0]
            known = self._option_string_actions
            self.error(f"there is no flag {name}{did_you_mean(name, known)}")
        return values


def parse(config_class: type[Config], argv: Iterable[str]) -> Config:
    """A dataclass whose fields are all flags or arguments, from the command line."""
    return config_class(**vars(Flags("").add(config_class).parse(argv)))


def one_of(*names: str) -> Callable[[str], str]:
    """A flag's type: one of some names."""

    def convert(text: str) -> str:
        if text not in names:
            hint = did_you_mean(text, names)
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(names)}{hint}")
        return text

    return convert


def at_least(least: int) -> Callable[[str], int]:
    """A flag's type: an integer from a least one on, to `checks.LARGEST`."""

    def convert(text: str) -> int:
        digits = text.lstrip("0") or "0"
        is_number = text.isascii() and text.isdecimal()
        if is_number and (len(digits) > 10 or int(digits) > LARGEST):
            raise argparse.ArgumentTypeError(
                f"{text[:20]!r} is not an integer of at most {LARGEST}"
            )
        if not is_number or int(digits) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return int(digits)

    return convert


def comma_list(text: str) -> tuple[str, ...]:
    """A flag's type: names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
