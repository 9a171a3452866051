"""Ends a run that makes no progress, since a host may hang and the others would wait for ever."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cascade_jax.parallel import hosts

COMPILE_FACTOR = 10
_TELL_SECONDS = 5.0


def check_hang_seconds(value: float | None, where: str = "") -> None:
    """Refuses what can't be a Watchdog's seconds; `where` begins the message.

    Raises:
      ValueError: neither None nor above 0.
    """
    if value is not None and not (isinstance(value, int | float) and value > 0):
        raise ValueError(f"{where}hang_seconds is {value!r}; must be above 0, or None")


class Watchdog:
    """A thread that ends the process when `progress` is not called for too long.

    Use as a context.

    Args:
      command: `train`, say, for the message.
      what: hangs, with a colon and a space at its end; may be empty.
      seconds: the longest time between two calls; None for no watch. What may compile, as the
        first thing does, may take COMPILE_FACTOR times as long.
      folder: the stacks of all Python threads go to `hang_<process>.txt` in it.
      kept: says what is saved so far.
    """

    def __init__(
        self,
        command: str,
        what: str,
        seconds: float | None,
        folder: Path,
        kept: Callable[[], str],
    ):
        self._command = command
        self._what = what
        self._seconds = seconds
        self._folder = folder
        self._kept = kept
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.progress("the first step", may_compile=True)
        if self._seconds is not None:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._done.set()

    def progress(self, next_thing: str, may_compile: bool = False) -> None:
        """Something was done; `next_thing` comes next, and may take longer if it may compile."""
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
        """Says so, here and to the other hosts."""
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
        teller.join(_TELL_SECONDS)
