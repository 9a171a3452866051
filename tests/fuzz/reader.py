"""A reader under test: an input that it takes, how the input is changed, and how it is read."""

import contextlib
import dataclasses
import hashlib
import io
import json
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.json_mutations import Described

Mutate = Callable[[bytes, random.Random], Described]

# What `run_command` answers in one line; every other exception is a traceback there.
REFUSALS = (ValueError, OSError, FloatingPointError)


class Refused(ValueError):
    """A command ended with status 2 and a line."""


class WrongValue(Exception):
    """What a reader accepted can't be right: NaN among the parameters, say."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader and its input.

    Attributes:
      name: on the command line.
      make: writes a valid input, a few files, into an empty folder.
      read: reads the input as the product does; gives what must stay equal where a checksum or a
        digest protects the files, else None.
      mutations: which files may be changed (a glob pattern), and how.
      weight: how many of the mutations it gets, against the others.
      is_protected: whether files that were changed must not be read as other values.
      names_a_file: whether a refusal must name a file of the input.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutations: Mapping[str, Sequence[Mutate]]
    weight: float = 1.0
    is_protected: bool = False
    names_a_file: bool = True

    def change(self, folder: Path, seed: int, index: int) -> tuple[str, str]:
        """Changes one file of an input; gives its name and how. The same for the same numbers."""
        rng = random.Random(f"{seed}/{self.name}/{index}")
        pattern = rng.choice(list(self.mutations))
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        file = rng.choice(files)
        content = file.read_bytes()
        for _ in range(20):
            mutate = rng.choice(self.mutations[pattern])
            changed, words = mutate(content, rng)
            if changed != content:
                break
        if rng.random() < 0.01:
            file.unlink()
            words = "deleted"
        else:
            file.write_bytes(changed)
        return str(file.relative_to(folder)), words


def command(*argv: object) -> None:
    """Runs `cascade-jax` in this process.

    Raises:
      Refused: it ended with another status than 0; with its line.
    """
    from cascade_jax.cli.main import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(argument) for argument in argv])
    text = errors.getvalue()
    if "Traceback (most recent call last)" in text:
        raise RuntimeError(f"a traceback on standard error: {text[-2000:]}")
    if status:
        lines = text.splitlines() or [""]
        if status != 2 or not lines[-1].startswith("cascade-jax "):
            raise RuntimeError(f"status {status} and {lines[-1][-2000:]!r}")
        raise Refused(lines[-1])


@contextlib.contextmanager
def other_folder(folder: Path):
    """An empty folder beside the input, for what a command writes."""
    place = folder.with_name(f"{folder.name}_written")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def digest(value: Any) -> str:
    """A hash of what was read: equal for equal values, dtypes and shapes."""
    hashed = hashlib.sha256()
    _add(value, hashed)
    return hashed.hexdigest()


def _add(value: Any, hashed: Any) -> None:
    numpy = sys.modules.get("numpy")
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            hashed.update(f"{{{key}".encode())
            _add(value[key], hashed)
    elif isinstance(value, list | tuple):
        hashed.update(f"[{len(value)}".encode())
        for item in value:
            _add(item, hashed)
    elif dataclasses.is_dataclass(value):
        _add({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, hashed)
    elif numpy is not None and hasattr(value, "__array__"):
        array = numpy.asarray(value)
        hashed.update(f"{array.dtype.str}{array.shape}".encode())
        if array.dtype == object:
            _add(array.ravel().tolist(), hashed)
        else:
            hashed.update(numpy.ascontiguousarray(array).tobytes())
    else:
        hashed.update(repr(value).encode("utf-8", "backslashreplace"))
