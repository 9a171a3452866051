"""The address at which the processes of a run meet: from flags, the environment or the cluster."""

import dataclasses
import os
import time
from collections.abc import Callable

from jax._src import clusters

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOST_STATUS = 76  # another host died, failed, hung or did not come
_FLAGS = ("--coordinator", "--processes", "--process")
# In the errors of jax._src.clusters where no name service knows process 0's host yet.
_NO_NAME = ("Failed to recognize coordinator address", "Retry failed")


class HostsError(ValueError):
    """The hosts can't connect, or differ."""


class LostHostError(RuntimeError):
    """Another host is gone, or does not come."""

    exit_status = LOST_STATUS


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the processes of a run meet."""

    coordinator: str  # HOST:PORT of process 0, reachable from all
    processes: int  # how many there are
    process: int  # which one this is, from 0
    local_device_ids: tuple[int, ...] | None = None  # this process's devices; all if None

    def __post_init__(self):
        host, _, port = self.coordinator.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
            raise HostsError(
                f"coordinator is {self.coordinator!r}; must be HOST:PORT of process 0, such as "
                "10.0.0.2:8476"
            )
        if self.processes < 1:
            raise HostsError(f"processes is {self.processes}; must be at least 1")
        if self.processes > 1 and self.port == 0:
            raise HostsError(
                f"coordinator is {self.coordinator!r}; the port must be from 1 to 65535, as all "
                f"{self.processes} processes meet there"
            )
        if not 0 <= self.process < self.processes:
            raise HostsError(
                f"process is {self.process}; must be from 0 to {self.processes - 1}, as there are "
                f"{self.processes} processes"
            )

    @property
    def host(self) -> str:
        """The name or IP address of process 0's host; IPv6 without brackets."""
        return self.coordinator.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        """The port that process 0 listens at."""
        return int(self.coordinator.rpartition(":")[2])


def address(coordinator: str | None, processes: str | None, process: str | None) -> Address | None:
    """The address out of flags and, for those that are None, the environment (VARIABLES).

    None where none of the three is given: the cluster is asked.

    Raises:
      HostsError: if some are given and others not, or not as they should be.
    """
    parts = [
        value if value is not None else os.environ.get(variable) or None
        for value, variable in zip((coordinator, processes, process), VARIABLES, strict=True)
    ]
    # The coordinator's variable may stand beside what the cluster says.
    if coordinator is None and parts[1:] == [None, None]:
        return None
    missing = [
        f"{flag} (or {variable})"
        for flag, variable, value in zip(_FLAGS, VARIABLES, parts, strict=True)
        if value is None
    ]
    if parts[1] == "1":
        return Address("localhost:0", 1, 0)
    if missing:
        raise HostsError(
            f"{' and '.join(missing)} is missing; give all three of {', '.join(_FLAGS)}, or none"
        )
    for flag, value in zip(_FLAGS[1:], parts[1:], strict=True):
        if not (value.isascii() and value.isdecimal()):
            raise HostsError(f"{flag} is {value!r}; must be a number")
    return Address(parts[0], int(parts[1]), int(parts[2]))


def cluster_address(seconds: float, remind: Callable[[str, float], None]) -> Address | None:
    """The address that Cloud TPU, GKE, Slurm or Open MPI gives; None where none of them runs this.

    Args:
      seconds: how long to wait for a name service to know process 0's host.
      remind: is called with what is waited for and the seconds that are left.

    Raises:
      HostsError: what the cluster says is incomplete or can't be read.
      LostHostError: no name service knows process 0's host within the time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return _ask_cluster()
        except RuntimeError as error:
            if not any(text in str(error) for text in _NO_NAME):
                raise _unreadable(error) from error
            reason, left = str(error), end - time.monotonic()
        except (ValueError, LookupError, OSError) as error:
            raise _unreadable(error) from error
        if left <= 0:
            raise LostHostError(f"process 0 did not come within {seconds:.0f} s: {reason}")
        remind(f"process 0: {reason}", left)
        time.sleep(min(left, 1.0))


def _ask_cluster() -> Address | None:
    coordinator = os.environ.get(VARIABLES[0]) or None
    devices = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    ids = [int(number) for number in devices.split(",")] if devices else None
    coordinator, processes, process, ids = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        coordinator, None, None, ids, None, initialization_timeout=5
    )
    if processes is not None and process is not None:
        return Address(coordinator, processes, process, tuple(ids) if ids else None)
    if coordinator is None:
        return None
    raise HostsError(
        f"{VARIABLES[0]} is {coordinator!r}, but no cluster says how many processes there are; "
        "give --processes and --process too, or unset it"
    )


def _unreadable(error: Exception) -> HostsError:
    if isinstance(error, HostsError):
        return error
    return HostsError(
        f"what the cluster says about its processes can't be read: {error!r}; give "
        f"{', '.join(_FLAGS)}, or --processes=1 to run alone"
    )
