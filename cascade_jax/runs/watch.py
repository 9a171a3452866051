"""Ends a command that is asked to stop between two batches, or that makes no progress."""

from collections.abc import Callable
from pathlib import Path

from cascade_jax.parallel import hosts
from cascade_jax.runs.watchdog import Watchdog


class Watch:
    """Use as a context, and call `before` equally often on all hosts.

    Args:
      command: its name, for messages.
      hang_seconds: see `Watchdog`.
      folder: of what is made.
      kept: says what is complete so far.
      going_on: says what the same command goes on with.
    """

    def __init__(
        self,
        command: str,
        hang_seconds: float | None,
        folder: str,
        kept: Callable[[], str],
        going_on: str,
    ):
        self._kept, self._going_on = kept, going_on
        self._stop = hosts.StopSignal()
        self._watchdog = Watchdog(command, "", hang_seconds, Path(folder), kept)

    def __enter__(self) -> "Watch":
        self._stop.__enter__()
        self._watchdog.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._watchdog.__exit__(*error)
        self._stop.__exit__(*error)

    def progress(self, next_thing: str) -> None:
        """See Watchdog."""
        self._watchdog.progress(next_thing)

    def before(self, next_thing: str, may_compile: bool = False) -> None:
        """Raises hosts.Stopped if the command is asked to stop."""
        self._watchdog.progress(next_thing, may_compile=may_compile)
        if self._stop.asked():
            raise hosts.Stopped(
                f"asked to stop; {self._kept()}. The same command goes on with {self._going_on}"
            )

    def before_batch(self, is_first: bool) -> None:
        """See `answers.Questions`."""
        self.before("a batch", may_compile=is_first)
