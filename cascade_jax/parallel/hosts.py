"""Many hosts: how their processes connect, compare facts, stop together and end together.

Every host runs the same command. On TPUs one process has all chips of its host; on one machine
several processes may stand for hosts. With a single process everything here does nothing.

What ends one process ends all: a process that fails reports why (`shutdown`), JAX's coordination
service notices one that died after HEARTBEAT_SECONDS, and all others then end with the status
LOST_STATUS and a line that says so, instead of waiting in a collective for ever.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed, xla_bridge
from jax.experimental import multihost_utils

LOST_STATUS = 76  # another host died, failed or hung
STOPPED_STATUS = 75  # asked to stop; everything is saved
HEARTBEAT_SECONDS = 30
MEET_SECONDS = 300
WORK_SECONDS = 24 * 3600  # for work that one host does and others don't
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_GRACE_SECONDS = 3.0  # for a process that learns of a failure to fail with its own message
_FAILED = "cascade_jax/failed"


class HostsError(ValueError):
    """The hosts can't connect, or differ."""


class LostHostError(RuntimeError):
    """Another host is gone."""

    exit_status = LOST_STATUS


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, a preemption notice) and has saved what it has done."""

    exit_status = STOPPED_STATUS


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the processes of a run meet."""

    coordinator: str  # HOST:PORT of process 0, reachable from all
    processes: int  # how many there are
    process: int  # which one this is, from 0

    def __post_init__(self):
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise HostsError(
                f"coordinator is {self.coordinator!r}; must be HOST:PORT of process 0, such as "
                "10.0.0.2:8476"
            )
        if self.processes < 1:
            raise HostsError(f"processes is {self.processes}; must be at least 1")
        if not 0 <= self.process < self.processes:
            raise HostsError(
                f"process is {self.process}; must be from 0 to {self.processes - 1}, as there are "
                f"{self.processes} processes"
            )


def address(coordinator: str | None, processes: str | None, process: str | None) -> Address | None:
    """The address out of flags and, for those that are None, the environment (VARIABLES).

    None where none of the three is given: the cluster is asked.

    Raises:
      HostsError: if some are given and others not, or not as they should be.
    """
    flags = ("--coordinator", "--processes", "--process")
    parts = [
        value if value is not None else os.environ.get(variable) or None
        for value, variable in zip((coordinator, processes, process), VARIABLES, strict=True)
    ]
    # JAX itself reads the coordinator's variable beside what the cluster tells.
    if coordinator is None and parts[1:] == [None, None]:
        return None
    missing = [
        f"{flag} (or {variable})"
        for flag, variable, value in zip(flags, VARIABLES, parts, strict=True)
        if value is None
    ]
    if parts[1] == "1":
        return Address("localhost:0", 1, 0)
    if missing:
        raise HostsError(
            f"{' and '.join(missing)} is missing; give all three of {', '.join(flags)}, or none"
        )
    for flag, value in zip(flags[1:], parts[1:], strict=True):
        if not value.isdigit():
            raise HostsError(f"{flag} is {value!r}; must be a number")
    return Address(parts[0], int(parts[1]), int(parts[2]))


def initialize(where: Address | None = None, command: str = "cascade-jax") -> None:
    """Connects the processes of a run; must come before anything that asks JAX for devices.

    Without an address Cloud TPU, GKE, Slurm and Open MPI are recognised by what they set; where
    there is none of them the process is alone. A second call does nothing.

    `command` begins the lines that this process prints when another one is lost.

    Raises:
      HostsError: if the others do not come.
    """
    if connected() or (where is not None and where.processes == 1):
        return
    if where is None and xla_bridge.backends_are_initialized():
        return  # not the first command of this process, which is alone
    options = {
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "initialization_timeout": MEET_SECONDS,
        "shutdown_timeout_seconds": 2 * HEARTBEAT_SECONDS,
    }
    if where is not None:
        # The address is all there is to know: no cluster is asked.
        options |= {
            "coordinator_address": where.coordinator,
            "num_processes": where.processes,
            "process_id": where.process,
            "cluster_detection_method": "deactivate",
        }
        print(
            f"process {where.process} of {where.processes} meets the others at {where.coordinator}",
            flush=True,
        )
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:
        if where is None and "coordinator_address should be defined" in str(error):
            return
        raise HostsError(f"the hosts could not meet: {error}") from error
    except RuntimeError as error:
        place = f" at {where.coordinator}" if where is not None else ""
        raise HostsError(f"the hosts could not meet{place}: {error}") from error
    _say_last_words(command)
    threading.Thread(target=_watch_others, args=(command,), daemon=True).start()


def connected() -> bool:
    """Whether this process is connected to others."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this is process 0, which alone writes logs and configs."""
    return process() == 0


def print_once(text: str) -> None:
    """Prints a line on the first host alone."""
    if is_first():
        print(text, flush=True)


def process() -> int:
    """This process's number; 0 when it is alone."""
    return distributed.global_state.process_id


def label() -> str:
    """This process for messages: `host 1 of 4 (its name)`."""
    state = distributed.global_state
    return f"host {state.process_id} of {state.num_processes} ({socket.gethostname()})"


def _client():
    return distributed.global_state.client


def to_host(tree: Any) -> Any:
    """Global arrays as NumPy arrays, whole on every host; all hosts must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def barrier(what: str, seconds: int = MEET_SECONDS) -> None:
    """Waits until all hosts have come this far, e.g. until process 0 has written a file."""
    assert_equal_across_hosts(what, {}, seconds)


# ------------------------------------------------------------------ comparing

_comparisons = 0


def assert_equal_across_hosts(
    what: str, facts: Mapping[str, Any], seconds: int = MEET_SECONDS
) -> None:
    """Raises when the hosts differ in some fact; all of them must call it.

    Args:
      what: the subject, for the message, such as "configs".
      facts: JSON values; may be nested.
      seconds: how long to wait for the others.

    Raises:
      HostsError: on every host, with the first differences.
    """
    global _comparisons
    count = distributed.global_state.num_processes
    if not connected() or count == 1:
        return
    _comparisons += 1
    client, place = _client(), f"cascade_jax/compare/{_comparisons}"
    client.key_value_set(f"{place}/{process()}", json.dumps([label(), flat(facts)]))
    if is_first():
        _, first = json.loads(_wait_for(f"{place}/0", seconds))
        different = []
        for other in range(1, count):
            name, theirs = json.loads(_wait_for(f"{place}/{other}", seconds))
            different += [f"on {name} {text}" for text in differences(first, theirs)]
        more = f", and {len(different) - 5} more" if len(different) > 5 else ""
        client.key_value_set(f"{place}/verdict", "; ".join(different[:5]) + more)
    verdict = _wait_for(f"{place}/verdict", seconds)
    if verdict:
        raise HostsError(f"the hosts have different {what}: {verdict}")


def _wait_for(key: str, seconds: int) -> str:
    try:
        return _client().blocking_key_value_get(key, seconds * 1000)
    except RuntimeError as error:
        message = f"a host did not answer within {seconds} seconds ({key}): {error}"
        raise LostHostError(message) from error


def flat(facts: Any, name: str = "") -> dict[str, Any]:
    """Nested JSON values as one dictionary: {"a": {"b": [1]}} -> {"a.b.0": 1}."""
    if isinstance(facts, list | tuple):
        facts = dict(enumerate(facts))
    if not isinstance(facts, Mapping):
        return {name: facts}
    leaves = {}
    for key, value in facts.items():
        leaves |= flat(value, f"{name}.{key}" if name else str(key))
    return leaves


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs, as text: `seed is 1, on host 0 it is 0`."""
    nothing = object()
    texts = []
    for key in sorted(first.keys() | other.keys()):
        ours, theirs = first.get(key, nothing), other.get(key, nothing)
        if ours is nothing or theirs is nothing:
            texts.append(f"{key} is {'missing' if theirs is nothing else 'there, on host 0 not'}")
        elif ours != theirs:
            texts.append(f"{key} is {theirs!r}, on host 0 it is {ours!r}")
    return texts


# ------------------------------------------------------------------ stopping


class StopSignal:
    """Whether the run is asked to stop, with the same answer on all hosts.

    A host that gets SIGTERM (Cloud TPU and Kubernetes send it before they take a machine back,
    Slurm before the time is up) tells the others, and all stop after the same step.

    Use as a context; `asked` must be called equally often on all hosts.
    """

    _calls = 0  # of all instances, since JAX's counter goes on from one run to the next

    def __init__(self):
        self._is_asked = False
        self._before = None

    def __enter__(self) -> "StopSignal":
        # JAX takes the signal itself where processes have met.
        if not connected() and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *args) -> None:
        self._is_asked = True

    def asked(self) -> bool:
        """Whether to stop now."""
        if connected() and not self._is_asked:
            StopSignal._calls += 1
            self._is_asked = multihost_utils.reached_preemption_sync_point(StopSignal._calls)
        return self._is_asked


# ------------------------------------------------------------------ ending


def shutdown(status: int, message: str = "") -> None:
    """Ends this process's part; `message` tells the other hosts why.

    With an exit status other than 0 and STOPPED_STATUS it does not return.
    """
    if not connected():
        return
    _is_ending.set()
    if status in (0, STOPPED_STATUS):
        jax.distributed.shutdown()
        return
    report_failure(message)
    if is_first():
        time.sleep(2 * _GRACE_SECONDS)  # it holds the others' connection
    end_now(status)


def report_failure(message: str) -> None:
    """Tells the other hosts that this one ends, and why."""
    if not connected():
        return
    try:
        _client().key_value_set(_FAILED, json.dumps([label(), message]))
    except RuntimeError:
        pass  # another one was the first, or all others are gone


def end_now(status: int) -> None:
    """Ends the process without waiting for other hosts, threads or exit handlers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


_is_ending = threading.Event()


def _watch_others(command: str) -> None:
    """Ends this process when another one has said that it failed."""
    while not _is_ending.wait(1.0):
        try:
            who, message = json.loads(_client().key_value_try_get(_FAILED))
        except (RuntimeError, AttributeError):  # nobody has
            continue
        # Often this one is about to fail for the same reason, and says so better.
        if not _is_ending.wait(_GRACE_SECONDS):
            print(f"\n{command}: {who} ended the run: {message}", file=sys.stderr, flush=True)
            end_now(LOST_STATUS)


def _say_last_words(command: str) -> None:
    """Gives JAX's abort, when another process is gone, a last line and a status.

    JAX's coordination service aborts the process from a thread of its own, with a stack of C++
    functions. No exception reaches Python, but the abort's signal does.
    """
    text = (
        f"{command}: {label()} ends, since another host died or can't be reached any more. What is "
        "saved stays; start the same command on all hosts again\n"
    ).encode()

    def on_abort(number: int) -> None:
        os.write(2, text)
        os._exit(LOST_STATUS)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    _kept.append(handler)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


_kept = []  # C calls it: it must live as long as the process
