"""Commands that run on many hosts: flags, connecting, and ending together.

Imports `parallel/hosts.py`, and so JAX, only for such a command.
"""

import argparse
import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

from cascade_jax.cli.flags import at_least, flag

# Of errors that JAX raises when a host that takes part in a collective is gone.
_LOST = ("UNAVAILABLE", "Gloo", "heartbeat", "DEADLINE_EXCEEDED", "ABORTED", "oordination service")


def _hosts() -> ModuleType | None:
    return sys.modules.get("cascade_jax.parallel.hosts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostFlags:
    """Where the hosts meet."""

    coordinator: str | None = flag(
        "HOST:PORT",
        "address of process 0, on hosts where Cloud TPU, GKE or Slurm does not say it; or "
        "JAX_COORDINATOR_ADDRESS in the environment",
        None,
    )
    processes: str | None = flag("N", "how many processes there are; or JAX_NUM_PROCESSES", None)
    process: str | None = flag("N", "which one this is, from 0; or JAX_PROCESS_ID", None)
    wait_seconds: int = flag(
        "N",
        "how long to wait for the other processes; then the command ends with status 76",
        300,
        type=at_least(1),
    )


def meet(values: argparse.Namespace, name: str) -> None:
    """Connects the hosts, if there are several.

    Args:
      values: of `HostFlags`.
      name: begins the lines that hosts print.

    Raises:
      HostsError: a flag is not as it should be.
      LostHostError: the others do not come.
    """
    from cascade_jax.parallel import hosts
    from cascade_jax.parallel.address import address

    where = address(values.coordinator, values.processes, values.process)
    hosts.initialize(where, name, values.wait_seconds)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return _hosts() is None or _hosts().is_first()


def status_of(error: Exception) -> int | None:
    """The exit status of an error, or None if it has none of its own."""
    status = getattr(error, "exit_status", None)
    if status is None and isinstance(error, RuntimeError) and _hosts() and _hosts().connected():
        if any(word in str(error) for word in _LOST):
            status = _hosts().LOST_STATUS
    return status


@dataclasses.dataclass
class End:
    """How a command ended: its exit status and its message on standard error."""

    status: int = 1
    message: str = "an error in the program; see its log"


@contextlib.contextmanager
def ending_together() -> Iterator[End]:
    """Reports to other hosts how this one ended; a failure among several ends the process."""
    end = End()
    try:
        yield end
    except Exception:
        if _hosts() is not None and _hosts().connected():
            traceback.print_exc()
            _hosts().shutdown(end.status, end.message)
        raise
    if _hosts() is not None:
        _hosts().shutdown(end.status, end.message)
