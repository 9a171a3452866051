"""Commands that many hosts do together: their flags, how they meet, and how they end.

Imports `parallel/hosts.py`, and so JAX, only for such a command.
"""

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

_FLAGS = ("coordinator", "processes", "process")
_HELP = """\
  --coordinator=HOST:PORT  on many hosts, where Cloud TPU, GKE or Slurm does not tell: process 0's
  --processes=4            address, how many processes there are, and which one this is; or
  --process=0              JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
"""
# Of errors that JAX raises when a host that takes part in a collective is gone.
_LOST = ("UNAVAILABLE", "Gloo", "heartbeat", "DEADLINE_EXCEEDED", "ABORTED", "oordination service")


def _are_many(command: ModuleType) -> bool:
    return getattr(command, "MANY_HOSTS", False)


def _hosts() -> ModuleType | None:
    return sys.modules.get("cascade_jax.parallel.hosts")


def flag_help(command: ModuleType) -> str:
    """What --help says of the flags."""
    return _HELP if _are_many(command) else ""


def flags(command: ModuleType, argv: list[str]) -> tuple[list[str], dict[str, str | None]]:
    """Takes the flags that say where the hosts meet out of the arguments."""
    where, rest = dict.fromkeys(_FLAGS), []
    for arg in argv:
        key, equals, value = arg.removeprefix("--").partition("=")
        if _are_many(command) and arg.startswith("--") and equals and key in where:
            where[key] = value
        else:
            rest.append(arg)
    return rest, where


def meet(command: ModuleType, where: dict[str, str | None], name: str) -> None:
    """Connects the hosts, if there are several; `name` begins their lines.

    Raises:
      HostsError: a flag is not as it should be, or the others do not come.
    """
    if _are_many(command):
        from cascade_jax.parallel import hosts

        hosts.initialize(hosts.address(**where), name)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return _hosts() is None or _hosts().is_first()


def status_of(error: Exception) -> int | None:
    """The exit status that an error stands for; None where it says nothing of it."""
    status = getattr(error, "exit_status", None)
    if status is None and isinstance(error, RuntimeError) and _hosts() and _hosts().connected():
        if any(word in str(error) for word in _LOST):
            status = _hosts().LOST_STATUS
    return status


@dataclasses.dataclass
class End:
    """How a command ended: its exit status and what it said on standard error."""

    status: int = 1
    message: str = "an error in the program; see its log"


@contextlib.contextmanager
def ending_together() -> Iterator[End]:
    """Tells the other hosts how this one ended; ends the process if it failed and there are any."""
    end = End()
    try:
        yield end
    except Exception:
        if _hosts() is not None and _hosts().connected():
            traceback.print_exc()
            _hosts().leave(end.status, end.message)
        raise
    if _hosts() is not None:
        _hosts().leave(end.status, end.message)
