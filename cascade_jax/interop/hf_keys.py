"""The keys of a config.json, read so that everything unsupported is reported at once."""

from collections.abc import Iterable, Mapping
from typing import Any

_NONE = object()


class UnsupportedError(ValueError):
    """A model, or an option of it, that is not supported; the message says what is."""


class Keys:
    """The contents of a config.json, with what transformers takes for a key that is not there."""

    def __init__(self, contents: Mapping[str, Any], defaults: Mapping[str, Any]):
        self._contents = contents
        self._defaults = defaults
        self._problems = []

    def __contains__(self, key: str) -> bool:
        return key in self._contents or key in self._defaults

    def __call__(self, key: str, default: Any = _NONE) -> Any:
        """The value of a key; an UnsupportedError if there is none and no default."""
        if key in self._contents:
            return self._contents[key]
        value = self._defaults.get(key, default)
        if value is _NONE:
            raise UnsupportedError(f"config.json has no {key!r}, which this family needs")
        return value

    def refuse(self, key: str, value: Any, supported: str) -> None:
        """Notes a value that is not supported; `build` raises."""
        self._problems.append(f"{key} = {value!r} is not supported: {supported}")

    def only(self, key: str, *allowed: Any, hint: str | None = None) -> None:
        """Notes a problem if the value (the first allowed one if there is none) is another."""
        value = self(key, allowed[0])
        if value not in allowed and not (allowed[0] is False and not value):
            self.refuse(key, value, hint or f"{' or '.join(map(repr, allowed))} is")

    def one_of(self, key: str, allowed: Iterable[str]) -> Any:
        """The value; notes a problem if it is none of the allowed ones."""
        value = self(key)
        if value not in allowed:
            self.refuse(key, value, f"{', '.join(allowed)} are")
        return value

    def build(self, config: type, **fields: Any) -> Any:
        """The config of these fields; an UnsupportedError names all the problems noted."""
        if self._problems:
            raise UnsupportedError(f"config.json: {'; '.join(self._problems)}")
        try:
            return config(**fields)
        except (ValueError, TypeError) as error:
            message = f"config.json asks for a model that can't be: {error}"
            raise UnsupportedError(message) from error
