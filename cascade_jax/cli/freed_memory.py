"""Memory that a command on a CPU frees: kept for its next step, or given back to the system.

XLA allocates what a step works on when it is called, often gigabytes, and frees it at the end. The
system clears every page of it again for the next step, which took a fifth of the CPU time of one.
Kept memory still serves every other part of the process, so that its peak hardly changes;
it is just not given back before the command ends.
"""

import ctypes
import dataclasses
import sys

from cascade_jax.cli.flags import choice

KEEP, RETURN = "keep", "return"

# Settings of glibc's `mallopt`. Nothing is mapped apart, and the heap never shrinks. All threads
# share one heap, as the others can't hold arrays above 64 MiB, which would be mapped apart.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0, _ARENA_MAX: 1}
_DEFAULT = {_TRIM_THRESHOLD: 128 << 10, _MMAP_MAX: 65_536, _ARENA_MAX: 0}


@dataclasses.dataclass(frozen=True)
class FreedMemoryFlag:
    """What becomes of freed memory, on a command line."""

    freed_memory: str = choice(
        "what becomes of memory that a step on a CPU frees (Linux with glibc): kept for the next "
        "one, which is then faster, or given back to the system",
        KEEP,
        RETURN,
    )


def keep() -> None:
    """Makes this process keep what it frees; call it before JAX starts its threads.

    It does nothing without glibc, whose setting it is.
    """
    _set(_KEEP)


def keep_on_cpu_alone() -> None:
    """Undoes `keep` if JAX computes on other devices: call it once many hosts are connected."""
    import jax

    if jax.default_backend() != "cpu":
        _set(_DEFAULT)


def _set(settings: dict[int, int]) -> None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "gnu_get_libc_version"):
        for setting, value in settings.items():
            libc.mallopt(setting, value)
