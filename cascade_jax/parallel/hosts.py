"""Many hosts: how their processes connect, compare facts, stop together and end together.

Every host runs the same command. On TPUs one process has all chips of its host; on one machine
several processes may stand for hosts. With a single process everything here does nothing.

What ends one process ends all: a process that fails reports why (`shutdown`), JAX's coordination
service notices one that died after HEARTBEAT_SECONDS, and all others then end with the status
LOST_STATUS and a line that says so, instead of waiting in a collective for ever.
"""

import contextlib
import ctypes
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

from cascade_jax.parallel import rendezvous
from cascade_jax.parallel.address import (
    LOST_STATUS,
    Address,
    HostsError,
    LostHostError,
    cluster_address,
)

STOPPED_STATUS = 75  # asked to stop; everything is saved
HEARTBEAT_SECONDS = 30
WAIT_SECONDS = 300  # for the other processes, at the start and where all have to come
WORK_SECONDS = 24 * 3600  # for work that one host does and others don't
_CONNECT_SECONDS = 60  # for JAX to connect processes that are all there
_GRACE_SECONDS = 3.0  # for a process that learns of a failure to fail with its own message
_FAILED = "cascade_jax/failed"


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, a preemption notice) and has saved what it has done."""

    exit_status = STOPPED_STATUS


def initialize(
    where: Address | None = None, command: str = "cascade-jax", seconds: int = WAIT_SECONDS
) -> None:
    """Connects the processes of a run; must come before anything that asks JAX for devices.

    Without an address Cloud TPU, GKE, Slurm and Open MPI are recognised by what they set; where
    there is none of them the process is alone. A second call does nothing.

    Args:
      where: the address, or None to ask the cluster.
      command: begins the lines that this process prints when another one is lost.
      seconds: how long to wait for the others.

    Raises:
      LostHostError: the others do not come.
      HostsError: the address is not as it should be.
    """
    if connected() or (where is not None and where.processes == 1):
        return
    if where is None and xla_bridge.backends_are_initialized():
        return  # not the first command of this process, which is alone
    end, remind = time.monotonic() + seconds, rendezvous.Reminder()
    where = where or cluster_address(seconds, remind)
    if where is None:
        return
    print(
        f"process {where.process} of {where.processes} meets the others at {where.coordinator}",
        flush=True,
    )
    rendezvous.wait_for_all(where, max(end - time.monotonic(), 1.0), remind, seconds)
    _connect(where, command)
    threading.Thread(target=_watch_others, args=(command,), daemon=True).start()


def _connect(where: Address, command: str) -> None:
    """Connects JAX on all hosts, which are there; ends the process if one dies meanwhile."""
    who = f"host {where.process} of {where.processes} ({socket.gethostname()})"
    _say_last_words(command, who)

    def give_up() -> None:
        text = f"{who} ends, since another host died before all were connected"
        print(f"{command}: {text}; start the same command on all hosts again", file=sys.stderr)
        end_now(LOST_STATUS)

    # Sooner than JAX, which aborts.
    timer = threading.Timer(_CONNECT_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator_address=where.coordinator,
            num_processes=where.processes,
            process_id=where.process,
            local_device_ids=where.local_device_ids,
            cluster_detection_method="deactivate",  # it has been asked
            initialization_timeout=2 * _CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=2 * HEARTBEAT_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise LostHostError(f"the hosts could not meet at {where.coordinator}: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise HostsError(f"the hosts could not meet at {where.coordinator}: {error}") from error
    finally:
        timer.cancel()


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


def barrier(what: str, seconds: int = WAIT_SECONDS) -> None:
    """Waits until all hosts have come this far, e.g. until process 0 has written a file."""
    assert_equal_across_hosts(what, {}, seconds)


# ------------------------------------------------------------------ comparing

_comparisons = 0


def assert_equal_across_hosts(
    what: str, facts: Mapping[str, Any], seconds: int = WAIT_SECONDS
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


def _say_last_words(command: str, who: str) -> None:
    """Gives JAX's abort, when another process is gone, a last line and a status.

    JAX's coordination service aborts the process from a thread of its own, with a stack of C++
    functions. No exception reaches Python, but the abort's signal does.
    """
    text = (
        f"{command}: {who} ends, since another host died or can't be reached any more. What is "
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
