"""The keys of a config.json, read so that everything unsupported is reported at once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cascade_jax import checks, json_text
from cascade_jax.interop import hf_other_keys
from cascade_jax.short_text import cut_short

MOST_LAYERS = 10_000
_NONE = object()
_LISTED = 12  # problems in a message


class UnsupportedError(ValueError):
    """A model, or an option of it, that is not supported; the message says what is."""


class Keys:
    """The contents of a config.json, with what transformers takes for a key that is not there.

    A value that is not supported is noted, and something that is returned instead; `build` raises.
    It also raises for keys that were never read, unless they change nothing.
    """

    def __init__(self, contents: Mapping[str, Any], defaults: Mapping[str, Any]):
        self._contents = contents
        self._defaults = defaults
        self._problems: dict[str, str] = {}  # by key: the first about it
        self._read = set()

    def __contains__(self, key: str) -> bool:
        return key in self._contents or key in self._defaults

    def stated(self, key: str) -> Any:
        """The value of a key in the file itself; None where it has none."""
        return self._contents.get(key)

    def __call__(self, key: str, default: Any = _NONE) -> Any:
        """The value of a key; an UnsupportedError if there is none and no default."""
        self._read.add(key)
        if key in self._contents:
            return self._contents[key]
        value = self._defaults.get(key, default)
        if value is _NONE:
            raise UnsupportedError(f"config.json has no {key!r}, which this family needs")
        return value

    def size(
        self, key: str, default: Any = _NONE, *, least: int = 1, most: int = checks.LARGEST
    ) -> Any:
        """A whole number, or None if the default is None."""
        return self._checked(
            key,
            default,
            lambda value: type(value) is int and least <= value <= most,
            f"an integer from {least} to {most} is",
            least,
        )

    def layers(self, key: str, default: Any = _NONE) -> Any:
        """A number of layers, or None if the default is None."""
        return self.size(key, default, most=MOST_LAYERS)

    def number(self, key: str, default: Any = _NONE) -> Any:
        """A finite number above 0, or None if the default is None."""
        return self._checked(
            key,
            default,
            lambda value: checks.is_number(value) and value > 0,
            "a number above 0 is",
            1.0,
        )

    def flag(self, key: str, default: Any = _NONE) -> bool:
        """True or False; null is False where that is the default, too."""
        if self._defaults.get(key, default) is False and self(key, default) is None:
            return False
        return self._checked(
            key, default, lambda value: isinstance(value, bool), "true or false are", False
        )

    def one_of(self, key: str, allowed: Iterable[str]) -> str:
        """One of some names."""
        names = list(allowed)
        supported = f"{', '.join(names)} are"
        return self._checked(
            key, _NONE, lambda value: isinstance(value, str) and value in names, supported, names[0]
        )

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object; an empty one for null and where there is none."""
        return (
            self._checked(key, None, lambda value: isinstance(value, dict), "an object is", {})
            or {}
        )

    def only(self, key: str, *allowed: Any, hint: str | None = None) -> None:
        """Notes a problem if the value (the first allowed one if there is none) is another."""
        value = self(key, allowed[0])
        is_allowed = any(value == each and _is_bool(value) == _is_bool(each) for each in allowed)
        if not is_allowed and not (allowed[0] is False and value is None):
            self.refuse(key, value, hint or f"{' or '.join(map(json_text.shown, allowed))} is")

    def refuse(self, key: str, value: Any, supported: str) -> None:
        """Notes a value that is not supported, unless the key was refused before; `build` raises.

        What comes second may be about the value that was taken instead of the refused one.
        """
        text = f"{cut_short(key, 100)} = {json_text.shown(value)} is not supported: {supported}"
        self._problems.setdefault(key, text)

    def is_refused(self, key: str) -> bool:
        """Whether its value is not supported, so that another one was taken instead."""
        return key in self._problems

    def refuse_unread(self) -> None:
        """Notes all keys that were not read, unless they change nothing."""
        for key, value in self._contents.items():
            supported = None if key in self._read else hf_other_keys.refusal(key, value)
            if supported is not None:
                self.refuse(key, value, supported)

    def raise_problems(self) -> None:
        """Raises an UnsupportedError that names the problems noted, if there are any."""
        problems = list(self._problems.values())
        if problems:
            more = f"; and {len(problems) - _LISTED} more" * (len(problems) > _LISTED)
            raise UnsupportedError(f"config.json: {'; '.join(problems[:_LISTED])}{more}")

    def build(self, config: type, **fields: Any) -> Any:
        """The config of these fields; an UnsupportedError names all the problems noted."""
        self.refuse_unread()
        self.raise_problems()
        try:
            return config(**fields)
        except (ValueError, TypeError) as error:
            message = f"config.json asks for a model that can't be: {error}"
            raise UnsupportedError(message) from error

    def _checked(
        self,
        key: str,
        default: Any,
        is_right: Callable[[Any], bool],
        supported: str,
        instead: Any,
    ) -> Any:
        value = self(key, default)
        if is_right(value) or (value is None and default is None):
            return value
        self.refuse(key, value, supported)
        return instead


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)
