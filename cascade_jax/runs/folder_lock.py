"""A lock file with a heartbeat, so that one run at a time writes to a folder."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from cascade_jax import files, json_text
from cascade_jax.runs import checkpoints

BEAT_SECONDS = 5.0
WAIT_SECONDS = 20.0
_NAME = "lock.json"
_TRIES = 5  # to read it


class FolderInUseError(checkpoints.CheckpointError):
    """Another run writes to the folder."""


class FolderLock:
    """The right to write to a run's folder.

    `<folder>/lock.json` holds host, process and a counter that its owner raises every BEAT_SECONDS.
    A lock of this host whose process has ended is taken over at once; one of another host when its
    counter has not changed for WAIT_SECONDS (clocks of hosts are not compared), and a damaged one
    if nobody has written it again by then, as a run does that lives.

    Use as a context; makes the folder. Unless `is_mine` it does nothing: of many hosts the first
    one holds the lock.

    Raises:
      FolderInUseError: on entry, naming the host and process.
    """

    def __init__(self, folder: Path, is_mine: bool = True):
        self._file = folder / _NAME
        self._is_mine = is_mine
        self._owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
            "token": secrets.token_hex(8),
        }
        self._beats = 0
        self._written = time.monotonic()
        self._done = threading.Event()
        self._thread = None

    def __enter__(self) -> "FolderLock":
        if not self._is_mine:
            return self
        owner = self._read()
        if owner is None and self._file.exists():
            owner = self._repaired()
        if owner is not None and not self._is_stale(owner):
            raise FolderInUseError(
                f"run folder {self._file.parent} is being written to by process "
                f"{owner['process']} on {owner['host']}; wait for it or end it, or choose another "
                f"output folder or run name (its lock is {self._file.name})"
            )
        self._write()
        time.sleep(0.05)  # of two that saw the same stale lock, the last to write has it
        self.check()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        with contextlib.suppress(checkpoints.CheckpointError):  # can't be read: others wait for it
            if self._is_ours(self._read()):
                self._file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises FolderInUseError, naming the other, if another run has taken the folder.

        A lock that was deleted or is damaged is written again; not one that is gone after this
        process stood still for WAIT_SECONDS, in which another run may have come and ended.
        """
        if not self._is_mine:
            return
        owner = self._read()
        if owner is None:
            if self._stood_still():
                raise FolderInUseError(
                    f"run folder {self._file.parent} may have been taken over while this run stood "
                    f"still: its {_NAME} is gone; this run ends without writing to it"
                )
            self._write()
        if owner is None or self._is_ours(owner):
            return
        raise FolderInUseError(
            f"run folder {self._file.parent} was taken over by process {owner['process']} on "
            f"{owner['host']}; this run ends without writing to it"
        )

    def _is_ours(self, owner: dict | None) -> bool:
        return owner is not None and owner["token"] == self._owner["token"]

    def _stood_still(self) -> bool:
        """Whether the lock is gone and this process has not written it for WAIT_SECONDS."""
        return time.monotonic() > self._written + WAIT_SECONDS and not self._file.exists()

    def _read(self) -> dict | None:
        """Who holds the lock; None for no lock, and for one whose content is damaged.

        Raises:
          CheckpointError: the lock can't be read, so that nobody knows whose it is.
        """
        try:
            content = json_text.parse(self._bytes())
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise checkpoints.CheckpointError(
                f"{self._file}, which says who writes to the folder, can't be read: "
                f"{error.strerror or error}; remove the cause and start the same command again"
            ) from error
        if not isinstance(content, dict):
            return None
        is_lock = all(type(content.get(key)) is type(mine) for key, mine in self._owner.items())
        return content if is_lock else None

    def _bytes(self) -> bytes:
        for _ in range(_TRIES - 1):
            try:
                return self._file.read_bytes()
            except FileNotFoundError:
                raise
            except OSError:  # on NFS a file that was replaced may be stale for a moment
                time.sleep(0.1)
        return self._file.read_bytes()

    def _write(self) -> None:
        files.write_text(self._file, json.dumps(self._owner | {"beats": self._beats}) + "\n")
        self._written = time.monotonic()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            self._beats += 1
            try:
                owner = self._read()
                if owner is not None and not self._is_ours(owner):
                    return
                if owner is None and self._stood_still():
                    return  # the next check says so
                self._write()
            except (OSError, checkpoints.CheckpointError):  # full disk: the run itself will say so
                continue

    def _repaired(self) -> dict | None:
        """Who holds a damaged lock: its owner, if one lives, writes it again at its next beat."""
        print(
            f"{self._file} is damaged: waiting up to {WAIT_SECONDS:.0f} seconds to see whether a "
            "run still writes it",
            flush=True,
        )
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end and self._file.exists():
            time.sleep(0.05)
            if (owner := self._read()) is not None:
                return owner
        return None

    def _is_stale(self, owner: dict) -> bool:
        if owner["host"] == self._owner["host"]:
            return _started(owner["process"]) != owner["started"]
        print(
            f"{self._file} is held by process {owner['process']} on {owner['host']}: waiting up to "
            f"{WAIT_SECONDS:.0f} seconds to see whether it is alive",
            flush=True,
        )
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            time.sleep(0.2)
            now = self._read()
            if now is None and not self._file.exists():
                return True
            if now not in (None, owner):
                return False
        return True


def _started(process: int) -> str | None:
    """When a process of this host started, in ticks since boot; None if it is not there."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            pass
        return "unknown"
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
