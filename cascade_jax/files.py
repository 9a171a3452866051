"""Writes files whole or not at all, and says what helps where they can't be written."""

import contextlib
import errno
import os
import re
import secrets
import zlib
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


_SEAL = re.compile(rb"\ncrc32:([0-9a-f]{8})\Z")
_SEAL_BYTES = 15


def sealed(data: bytes) -> bytes:
    """Data with their CRC-32 at the end, which `unsealed` compares."""
    return data + b"\ncrc32:%08x" % zlib.crc32(data)


def is_sealed(data: bytes) -> bool:
    """Whether data end as those of `sealed` do."""
    return _SEAL.search(data[-_SEAL_BYTES:]) is not None


def unsealed(data: bytes, source: str) -> bytes:
    """The data that were sealed; others as they are, since older files have no seal.

    Raises:
      ValueError: they are not those that were sealed; begins with `source`.
    """
    seal = _SEAL.search(data[-_SEAL_BYTES:])
    if seal is None:
        return data
    data = data[:-_SEAL_BYTES]
    if zlib.crc32(data) != int(seal[1], 16):
        raise ValueError(
            f"{source} is damaged: its CRC-32 is not that of its content; get another copy, or "
            "make it anew"
        )
    return data


_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of this user's quota",
    errno.EROFS: "choose a folder that is not on a read-only medium",
    errno.EACCES: "give this user the rights for that",
    errno.EPERM: "give this user the rights for that",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files",
    errno.ENOTDIR: "move the file that lies where a folder should be",
    errno.EISDIR: "move the folder that lies where a file should be",
    errno.EEXIST: "move what lies there",
    errno.EIO: "look for the fault of the disk or of its connection",
    errno.ESTALE: "mount the network file system again",
    errno.ENODEV: "mount the file system again",
    errno.ENXIO: "mount the file system again",
}


def remedy(error: BaseException | None) -> str | None:
    """What helps against an error of writing, by its cause; None for a cause that is not known.

    TensorStore and others tell of a system's error in words alone: its texts are looked for, too.
    """
    while error is not None:
        code = getattr(error, "errno", None)
        if code in _REMEDIES:
            return _REMEDIES[code]
        text = str(error).lower()
        for code, help_text in _REMEDIES.items():
            if os.strerror(code).lower() in text:
                return help_text
        error = error.__cause__ or error.__context__
    return None
