"""Writes files whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary name to write to, which becomes `path` when the block ends.

    If the block fails (disk full, say) or the process dies, `path` stays as it was. Several
    writers, also on other machines that share the folder, do not meet: the last to end is kept.

    Example: ``with replacing("a.json") as temporary: temporary.write_text(text)``
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file, replacing an older one only when the new one is whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_not_read(output: str | os.PathLike, *read: str | os.PathLike | None) -> None:
    """Raises ValueError if a file that is read is the one to be written."""
    for path in read:
        if path is not None and Path(path).resolve() == Path(output).resolve():
            raise ValueError(f"{output} is what is read; give the output another name")
