"""Programs that a command compiles, kept in a folder for the next start.

JAX keeps them: its key holds the program, the versions of JAX and XLA, XLA's flags, and the kind of
the devices, on CPUs with their instruction sets. So one folder serves all commands, projects and
machines, and what was compiled for one CPU never runs on another. Entries have checksums: JAX warns
of a damaged one and compiles. On many hosts all read and the first one writes.
"""

import contextlib
import dataclasses
import os
import sys
import time
import zlib
from pathlib import Path

from cascade_jax.cli.flags import flag

OFF = "off"
MAX_BYTES = 4 << 30  # the least recently used entries go beyond it
MAX_ENTRIES = 1024  # the same at each start: JAX looks at all entries whenever it writes one
_WAIT_SECONDS = 10.0  # for another process that has the folder's lock
_ENTRY, _TIME = "-cache", "-atime"  # how JAX names an entry, and the file with its last use
_ZSTD = b"\x28\xb5\x2f\xfd"  # an entry begins with it where the package zstandard is installed


@dataclasses.dataclass(frozen=True)
class CacheFlags:
    """Where compiled programs are kept, on a command line."""

    compilation_cache: str | None = flag(
        "FOLDER|off",
        "keeps compiled programs for the next start; else what the gin macro COMPILATION_CACHE or "
        "JAX_COMPILATION_CACHE_DIR says, else a folder of the user's caches",
        None,
    )


@dataclasses.dataclass(frozen=True)
class CompilationCache:
    """Where compiled programs are kept, in a gin file.

    Attributes:
      folder: a path, one of a bucket ("gs://…") included; "off" to keep none; None for what
        JAX_COMPILATION_CACHE_DIR says, else `default_folder()`.
    """

    folder: str | None = None

    def __post_init__(self):
        if self.folder is not None and not (self.folder and isinstance(self.folder, str)):
            raise ValueError(f"COMPILATION_CACHE is {self.folder!r}; give a folder or '{OFF}'")


def default_folder() -> Path:
    """The folder of the user's caches on this platform, with our name.

    Raises:
      RuntimeError: the user has no home.
    """
    if os.environ.get("XDG_CACHE_HOME"):
        caches = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        caches = Path(os.environ["LOCALAPPDATA"])
    else:
        caches = Path.home() / ".cache"
    return caches / "cascade_jax" / "compiled"


def use(folder: str | None) -> str | None:
    """Makes JAX keep compiled programs; call it before anything is compiled.

    Args:
      folder: as in `CompilationCache`.

    Returns:
      Why none are kept although they should be, in one line; None if all is well.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    theirs = jax.config.jax_compilation_cache_dir
    if folder == OFF:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if folder is None and theirs:
        return None  # JAX's own setting, with its own limit
    try:
        folder = str(default_folder()) if folder is None else folder
        is_local = "://" not in folder
        if is_local:
            folder = os.path.abspath(os.path.expanduser(folder))
            _prepare(Path(folder))
    except (OSError, RuntimeError, NotImplementedError) as error:
        return (
            f"compiled programs are not kept: {folder or 'no home folder'}: {_reason(error)}; "
            f"--compilation_cache=FOLDER keeps them elsewhere, --compilation_cache={OFF} not at all"
        )
    if is_local and "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    if folder != theirs:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", folder)
    return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _prepare(folder: Path) -> None:
    """Makes the folder and mends what a process left behind that was killed while it wrote.

    JAX writes an entry and then the time of its use, and can't remove old entries while one has no
    time. An entry without one gets it if it is whole, and goes if not.

    Raises:
      OSError: it can't be written (a `filelock.Timeout` is one), or has no locks.
    """
    import filelock

    # Programs in this folder are run, so only the user may write to it.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lockfile", timeout=_WAIT_SECONDS):
        names = set(os.listdir(folder))
        for name in names:
            if name.endswith(_ENTRY):
                stamp = name.removesuffix(_ENTRY) + _TIME
                if stamp not in names:
                    _mend(folder / name, folder / stamp)
            elif name.endswith(_TIME) and name.removesuffix(_TIME) + _ENTRY not in names:
                (folder / name).unlink()
        _remove_oldest(folder)
        probe = folder / f".{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()


def _remove_oldest(folder: Path) -> None:
    """Leaves the entries that were used last."""
    stamps = list(folder.glob(f"*{_TIME}"))
    if len(stamps) <= MAX_ENTRIES:
        return
    stamps.sort(key=lambda stamp: int.from_bytes(stamp.read_bytes(), "little"))
    for stamp in stamps[:-MAX_ENTRIES]:
        stamp.with_name(stamp.name.removesuffix(_TIME) + _ENTRY).unlink()
        stamp.unlink()


def _mend(entry: Path, stamp: Path) -> None:
    data = entry.read_bytes()
    try:
        if not data.startswith(_ZSTD):  # which JAX reads, or warns of and compiles anew
            zlib.decompress(data)
    except zlib.error:
        with contextlib.suppress(FileNotFoundError):
            entry.unlink()
    else:
        stamp.write_bytes(time.time_ns().to_bytes(8, "little"))
