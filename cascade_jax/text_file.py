"""Local text: files of UTF-8 as lines, with messages that name file and line."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

_BOM = "\ufeff"
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text file, or of a .gz, without white space around them.

    Only a line feed ends a line. A byte order mark is no text.

    Raises:
      FileNotFoundError: no such file.
      ValueError: "<file>:<line>: ..." for a line that is not UTF-8, and a damaged .gz.
    """
    path, number = Path(path), 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                yield decode(line, f"{path}:{number}").strip()
        except _DAMAGED as error:
            reason = f"the file is damaged or cut off ({error})"
            raise ValueError(f"{path}:{number + 1}: {reason}; get it anew") from None


def decode(data: bytes, where: str) -> str:
    """A text of UTF-8 without its byte order mark; a ValueError that begins with `where` else."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise ValueError(
            f"{where}: not UTF-8 (UTF-16, or no text at all, by its zero bytes); save it as UTF-8"
        )
    try:
        return data.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        place = f"0x{data[error.start]:02x} at byte {error.start + 1}"
        raise ValueError(f"{where}: not UTF-8 ({place}); save it as UTF-8") from None
