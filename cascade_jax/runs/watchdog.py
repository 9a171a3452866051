"""Graceful stop and hang detection for long commands.

A command without progress is ended, since a host may hang and the others would wait for ever.
"""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cascade_jax.parallel import hosts

COMPILE_FACTOR = 10
_REPORT_SECONDS = 5.0


class Watchdog:
    """A thread that ends the process when `progress` is not called for too long.

    Use as a context.

    Args:
      command: `train`, say, for the message.
      what: the start of messages, with a colon and a space at its end; may be empty.
      seconds: the longest time between two calls; None for no limit. Work that may compile, as the
        first does, may take COMPILE_FACTOR times as long.
      folder: the stacks of all Python threads go to `hang_<process>.txt` in it.
      kept: returns a text that says what is saved so far.
    """

    def __init__(
        self, command: str, what: str, seconds: float | None, folder: Path, kept: Callable[[], str]
    ):
        self._command, self._what = command, what
        self._seconds, self._folder, self._kept = seconds, folder, kept
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.progress("the first step", may_compile=True)
        if self._seconds is not None:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._done.set()

    def progress(self, next_thing: str, may_compile: bool = False) -> None:
        """Restarts the time limit for `next_thing`, which may take longer if it may compile."""
        factor = COMPILE_FACTOR if may_compile else 1
        # One assignment: the thread must not see the new limit with the old time.
        self._next = next_thing, factor * (self._seconds or 0.0), time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 4)):
            doing, allowed, since = self._next
            waited = time.monotonic() - since
            if waited > allowed:
                try:
                    self._end(doing, waited)
                finally:  # whatever can't be said or written
                    hosts.end_now(hosts.LOST_STATUS)

    def _end(self, doing: str, waited: float) -> None:
        """Reports the hang here and to the other hosts."""
        stacks = self._folder / f"hang_{hosts.process()}.txt"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            seen = f" (what it was doing: {stacks})"
        except OSError:
            seen = ""
        message = (
            f"{self._what}no progress for {waited:.0f} seconds in {doing}: this or "
            f"another host hangs{seen}; {self._kept()}. Start the same command on all hosts again"
        )
        # On a line of its own: a progress bar may stand there.
        print(f"\ncascade-jax {self._command}: {message}", file=sys.stderr, flush=True)
        # A host that hangs may be the one that would pass the message on.
        teller = threading.Thread(target=hosts.report_failure, args=(message,), daemon=True)
        teller.start()
        teller.join(_REPORT_SECONDS)


class Watch(Watchdog):
    """Ends a command that is asked to stop, or that makes no progress.

    Use as a context, and call `before` equally often on all hosts.

    Args:
      command, hang_seconds, folder, kept: see `Watchdog`.
      going_on: what the same command would continue with, for the message.
    """

    def __init__(
        self,
        command: str,
        hang_seconds: float | None,
        folder: str,
        kept: Callable[[], str],
        going_on: str,
    ):
        super().__init__(command, "", hang_seconds, Path(folder), kept)
        self._going_on, self._stop = going_on, hosts.StopSignal()

    def __enter__(self) -> "Watch":
        self._stop.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._stop.__exit__(*error)

    def before(self, next_thing: str, may_compile: bool = False) -> None:
        """Restarts the time limit; raises hosts.Stopped if the command is asked to stop."""
        self.progress(next_thing, may_compile)
        if self._stop.asked():
            raise hosts.Stopped(
                f"asked to stop; {self._kept()}. The same command goes on with {self._going_on}"
            )

    def before_batch(self, may_compile: bool) -> None:
        """See `collection.questions.Questions`."""
        self.before("a batch", may_compile=may_compile)
