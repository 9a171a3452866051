"""The processes of a run wait for each other, and say for whom; plain sockets, before JAX connects.

JAX's coordination service says nothing while it waits, and after its time limit it aborts the
process. So process 0 first listens at the coordinator's port itself: the others connect, say which
process they are, and are sent who is missing. When all are there, it frees the port for JAX.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator

from cascade_jax.parallel.address import Address, HostsError, LostHostError

_GREETING = "cascade_jax rendezvous 1"  # both sides send it first
_TICK_SECONDS = 0.2
_ANSWER_SECONDS = 10.0  # for the first line of a connection, and for a port to be freed
_MOST_BYTES = 65536  # of a line

Remind = Callable[[str, float], None]


def wait_for_all(
    where: Address, seconds: float, remind: Remind, limit: float | None = None
) -> None:
    """Returns on every process when all have called it.

    Args:
      where: the address; process 0's port must be free.
      seconds: how long to wait.
      remind: is called often, with what is waited for and the seconds that are left.
      limit: the whole time limit, for messages, if some of it has passed; else `seconds`.

    Raises:
      LostHostError: a process did not come.
      HostsError: two processes have one number or different counts, or the port is taken.
    """
    limit = seconds if limit is None else limit
    if where.process == 0:
        _Host(where, seconds, remind, limit).run()
    else:
        _join(where, seconds, remind, limit)


class Reminder:
    """Prints what is waited for: at first after 10 seconds, then every 30."""

    def __init__(self, first: float = 10.0, every: float = 30.0):
        self._due, self._every = time.monotonic() + first, every

    def __call__(self, text: str, left: float) -> None:
        """Prints a line if it is time for one."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            print(f"waiting for {text}; gives up in {left:.0f} s", flush=True)


def _listed(missing: Iterable[int], count: int) -> str:
    """`1 of 2 processes (process 1)`."""
    missing = sorted(missing)
    noun = "process" if len(missing) == 1 else "processes"
    return f"{len(missing)} of {count} processes ({noun} {_shortened(missing)})"


def _shortened(processes: list[int]) -> str:
    more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""
    return ", ".join(map(str, processes[:8])) + more


def _gave_up(missing: str, where: Address, seconds: float, reason: str = "") -> str:
    return (
        f"{missing} did not come to {where.coordinator} within {seconds:.0f} s "
        f"(--wait_seconds){reason}; start the same command on all hosts, or with --processes=1 to "
        "run alone"
    )


def _line(**fields) -> bytes:
    return json.dumps({"is": _GREETING, **fields}).encode() + b"\n"


def _parsed(line: bytes) -> dict | None:
    """The fields of a line, or None if no process of ours wrote it."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and fields.get("is") == _GREETING else None


def _notice_death(connection: socket.socket) -> None:
    """Has a connection end within about 15 seconds after the other host lost power or network."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 3),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 15_000),
    ):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


# ------------------------------------------------------------------ process 0


def _listener(where: Address) -> socket.socket:
    """A socket at the port at which JAX's service will listen; waits a little until it is free."""
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or f"[::]:{where.port}"
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    end = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            if host in ("", "::"):
                if socket.has_dualstack_ipv6():
                    return socket.create_server(
                        ("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True
                    )
                host = ""
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, int(port)), family=family)
        except (OSError, ValueError, OverflowError) as error:
            if time.monotonic() >= end or not isinstance(error, OSError):
                raise HostsError(
                    f"process 0 can't listen at {bind} ({error}); end the program that has the "
                    "port, or give --coordinator another one on all hosts"
                ) from error
        time.sleep(_TICK_SECONDS)


class _Host:
    """Process 0: accepts the others until all have come."""

    def __init__(self, where: Address, seconds: float, remind: Remind, limit: float):
        self._where, self._seconds, self._remind = where, seconds, remind
        self._limit = limit
        self._names = {0: socket.gethostname()}  # of the hosts of the processes that are there
        self._selector = selectors.DefaultSelector()
        self._left = set()  # processes that came and went away again
        self._others = {}  # socket -> [bytes read so far, when it came, its process or None]
        self._tokens = {}  # process -> what its greeting has as token
        self._replaced = set()  # tokens of those of which a restarted one took the place

    @property
    def _missing(self) -> set[int]:
        return set(range(self._where.processes)) - self._names.keys()

    def run(self) -> None:
        """Waits for the others and tells them to go on."""
        end = time.monotonic() + self._seconds
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._selector)
            stack.callback(lambda: [other.close() for other in self._others])
            listener = stack.enter_context(_listener(self._where))
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
            while self._missing:
                left = end - time.monotonic()
                if left <= 0:
                    self._give_up()
                self._remind(f"{self._listed_missing()} at {self._where.coordinator}", left)
                for key, _ in self._selector.select(_TICK_SECONDS):
                    if key.fileobj is listener:
                        self._accept(listener)
                    elif key.fileobj in self._others:  # not dropped just now
                        self._read(key.fileobj)
                self._drop_silent()
            self._selector.unregister(listener)
            listener.close()  # JAX's service needs the port
            self._send_all(_line(go=True))

    def _listed_missing(self) -> str:
        left = sorted(self._left & self._missing)
        were_there = f", of which {_shortened(left)} came and went away," if left else ""
        return f"{_listed(self._missing, self._where.processes)}{were_there}"

    def _give_up(self) -> None:
        text = _gave_up(self._listed_missing(), self._where, self._limit)
        self._send_all(_line(gave_up=text))
        raise LostHostError(text)

    def _refuse(self, text: str) -> None:
        self._send_all(_line(refused=text))
        raise HostsError(text)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            other, _ = listener.accept()
            other.setblocking(False)
            _notice_death(other)
            self._others[other] = [b"", time.monotonic(), None]
            self._selector.register(other, selectors.EVENT_READ)

    def _drop(self, other: socket.socket) -> None:
        process = self._others.pop(other)[2]
        self._selector.unregister(other)
        other.close()
        if process is not None:
            del self._names[process]
            self._left.add(process)
            self._send_missing()

    def _drop_silent(self) -> None:
        """Closes connections that do not say who they are, as of a port scanner."""
        for other, (_, since, process) in list(self._others.items()):
            if process is None and time.monotonic() > since + _ANSWER_SECONDS:
                self._drop(other)

    def _read(self, other: socket.socket) -> None:
        try:
            data = other.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        state = self._others[other]
        state[0] += data
        if not data or len(state[0]) > _MOST_BYTES:
            self._drop(other)
        elif b"\n" in state[0] and state[2] is None:
            self._greet(other, state)

    def _greet(self, other: socket.socket, state: list) -> None:
        fields = _parsed(state[0].partition(b"\n")[0])
        process, processes = (fields or {}).get("process"), (fields or {}).get("processes")
        if not (type(process) is int and type(processes) is int):
            self._drop(other)
            return
        name = str(fields.get("host"))
        state[2] = process
        if processes != self._where.processes:
            self._refuse(
                f"process {process} on {name} is one of {processes} processes, process 0 on "
                f"{self._names[0]} one of {self._where.processes}; give all hosts the same "
                "--processes"
            )
        token = str(fields.get("token"))
        # A restarted process may come before its host's old connection is known to be dead. If the
        # old one lives, it comes again.
        if self._names.get(process) == name and process != 0 and token not in self._replaced:
            self._replaced |= {self._tokens[process]} - {token}
            self._drop(next(o for o, s in self._others.items() if s[2] == process and o != other))
        if process in self._names:
            self._refuse(
                f"process {process} is there twice, on {self._names[process]} and on {name}; give "
                "each its own --process"
            )
        self._names[process], self._tokens[process] = name, token
        self._send_missing()

    def _send_missing(self) -> None:
        self._send_all(_line(missing=self._listed_missing()))

    def _send_all(self, line: bytes) -> None:
        for other, (_, _, process) in self._others.items():
            if process is not None:
                with contextlib.suppress(OSError):  # gone: the next read says so
                    other.sendall(line)


# ------------------------------------------------------------------ the others


class _Stranger(Exception):  # noqa: N818
    """Something else listens at the port."""


def _join(where: Address, seconds: float, remind: Remind, limit: float) -> None:
    """Waits at process 0 until all have come; connects again and again until it is there."""
    end = time.monotonic() + seconds
    missing, reason = "process 0", ""
    greeting = _line(
        process=where.process,
        processes=where.processes,
        host=socket.gethostname(),
        token=secrets.token_hex(8),
    )
    while (left := end - time.monotonic()) > 0:
        remind(f"{missing} at {where.coordinator}{reason}", left)
        try:
            with socket.create_connection((where.host, where.port), min(left, 5.0)) as host:
                host.settimeout(_TICK_SECONDS)
                _notice_death(host)
                host.sendall(greeting)
                for fields in _received(host, end):
                    if fields.get("go"):
                        return
                    _check_end(fields)
                    missing, reason = fields.get("missing", missing), ""
                    remind(f"{missing} at {where.coordinator}", end - time.monotonic())
        except (OSError, _Stranger) as error:
            missing, reason = "process 0", f": {getattr(error, 'strerror', None) or error}"
        time.sleep(_TICK_SECONDS)
    raise LostHostError(_gave_up(missing, where, limit, reason))


def _check_end(fields: dict) -> None:
    if "refused" in fields:
        raise HostsError(str(fields["refused"]))
    if "gave_up" in fields:
        raise LostHostError(f"process 0 gave up: {fields['gave_up']}")


def _received(host: socket.socket, end: float) -> Iterator[dict]:
    """What process 0 sends until the time is up; {} while it sends nothing.

    Raises:
      _Stranger: what comes is not from process 0 of a run, or the connection ends.
    """
    unread, is_known, begin = b"", False, time.monotonic()
    while time.monotonic() < end + 2 * _TICK_SECONDS:  # process 0 may give up at the same moment
        try:
            data = host.recv(4096)
        except TimeoutError:
            data = None
        *lines, unread = (unread + (data or b"")).split(b"\n")
        for line in lines:
            fields = _parsed(line)
            if fields is None:
                raise _Stranger("another program answers there")
            is_known = True
            yield fields
        if data == b"":
            raise _Stranger("it went away" if is_known else "another program answers there")
        silent = not is_known and time.monotonic() > begin + _ANSWER_SECONDS
        if silent or len(unread) > _MOST_BYTES:
            raise _Stranger("another program answers there")
        yield {}
