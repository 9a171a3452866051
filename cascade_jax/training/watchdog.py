"""Ends a run that makes no progress, since a host may hang and the others would wait for ever."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cascade_jax.parallel import hosts

FIRST_STEP_FACTOR = 10  # the first step compiles


class Watchdog:
    """A thread that ends the process when `progress` is not called for too long.

    Use as a context.

    Args:
      name: of the run, for the message.
      seconds: the longest time between two calls; None for no watch. The first may take
        FIRST_STEP_FACTOR times as long.
      folder: the stacks of all Python threads go to `hang_<process>.txt` in it.
      last_saved: the newest complete checkpoint's step, None if there is none.
    """

    def __init__(
        self,
        name: str,
        seconds: float | None,
        folder: Path,
        last_saved: Callable[[], int | None],
    ):
        self._name = name
        self._seconds = seconds
        self._folder = folder
        self._last_saved = last_saved
        self._doing = "the first step"
        self._allowed = None if seconds is None else FIRST_STEP_FACTOR * seconds
        self._since = time.monotonic()
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._since = time.monotonic()
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._done.set()

    def progress(self, next_thing: str) -> None:
        """Something was done; `next_thing` comes next."""
        self._allowed, self._doing, self._since = self._seconds, next_thing, time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 4)):
            waited = time.monotonic() - self._since
            if waited > self._allowed:
                self._end(waited)

    def _end(self, waited: float) -> None:
        stacks = self._folder / f"hang_{hosts.process()}.txt"
        try:
            with stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            seen = f" (what it was doing: {stacks})"
        except OSError:
            seen = ""
        good = self._last_saved()
        kept = f"the checkpoint of step {good} stays" if good else "no checkpoint was written"
        message = (
            f"run {self._name!r}: no progress for {waited:.0f} seconds in {self._doing}: this or "
            f"another host hangs{seen}; {kept}. Start the same command on all hosts again"
        )
        print(f"cascade-jax train: {message}", file=sys.stderr, flush=True)
        hosts.tell(message)
        hosts.end_now(hosts.LOST_STATUS)
