"""Values of a JSON file, read and checked one field at a time; messages name file and field."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

from cascade_jax.names import did_you_mean

_INFINITE = {"inf": math.inf, "-inf": -math.inf}


class FieldError(ValueError):
    """A file that can not be used: which, the field, what is there, and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A value of a file.

    Attributes:
      value: JSON.
      source: the file, for messages.
      where: its place there, "runs[3].test.cost"; "" for the whole.
    """

    value: Any
    source: str
    where: str

    def fail(self, allowed: str) -> FieldError:
        """An error about the value, to raise."""
        shown = json.dumps(self.value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return FieldError(
            f"{self.source}: {self.where or 'the file'} is {shown}; must be {allowed}"
        )

    def at(self, key: str | int) -> "Field":
        """What stands under a key or at an index."""
        if isinstance(key, int):
            return Field(self.value[key], self.source, f"{self.where}[{key}]")
        if key not in self.keys():
            place = f" in {self.where}" if self.where else ""
            hint = did_you_mean(key, self.value)
            raise FieldError(f"{self.source}: field {key!r} is missing{place}{hint}")
        where = f"{self.where}.{key}" if self.where else key
        return Field(self.value[key], self.source, where)

    def keys(self) -> list[str]:
        """Names of an object's fields."""
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return list(self.value)

    def each(self, read_fn: Callable[["Field"], Any], at_least: int = 0) -> list[Any]:
        """A list, each value of it read."""
        if not isinstance(self.value, list) or len(self.value) < at_least:
            raise self.fail("a list" + f" of {at_least} or more" * (at_least > 0))
        return [read_fn(self.at(index)) for index in range(len(self.value))]

    def text(self) -> str:
        """A text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.fail("a text")
        return self.value

    def one_of(self, allowed: tuple[str, ...]) -> str:
        """One of some texts."""
        if self.value not in allowed:
            raise self.fail(f"one of {', '.join(allowed)}")
        return self.value

    def truth(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.fail("true or false")
        return self.value

    def number(self) -> float:
        """Any number; null is NaN, and infinite ones are the texts "inf" and "-inf"."""
        if self.value is None:
            return math.nan
        if isinstance(self.value, str) and self.value in _INFINITE:
            return _INFINITE[self.value]
        if type(self.value) not in (int, float):
            raise self.fail('a number, null if not known, or "inf" or "-inf"')
        return float(self.value)

    def share(self) -> float:
        """A number above 0 and below 1."""
        if not 0 < self.number() < 1:
            raise self.fail("a number between 0 and 1")
        return self.number()

    def whole(self, least: int) -> int:
        """A whole number."""
        if type(self.value) is not int or self.value < least:
            raise self.fail(f"a whole number of {least} or more")
        return self.value

    def pair(self) -> tuple[float, float]:
        """Two numbers."""
        found = self.each(Field.number)
        if len(found) != 2:
            raise self.fail("two numbers, of the first and the second split")
        return found[0], found[1]
