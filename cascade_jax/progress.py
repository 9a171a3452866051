"""Progress bars: redrawn in place in a terminal, plain lines in a log file."""

import io
import sys
from typing import Any

import tqdm

_LINE_SECONDS = 10.0


def progress_bar(*iterable, **options: Any) -> tqdm.tqdm:
    """tqdm's bar; in a log file, a line at the start and the end and every ten seconds.

    With `leave=False`, as inside another bar, a log file has only those after ten seconds.

    Args:
      *iterable: what it counts, if it wraps something.
      **options: of tqdm.
    """
    if sys.stderr.isatty():
        return tqdm.tqdm(*iterable, mininterval=0.5, dynamic_ncols=True, **options)
    delay = 0.0 if options.get("leave", True) else _LINE_SECONDS
    return _Lines(*iterable, ascii=True, ncols=80, delay=delay, **options)


class _Lines(tqdm.tqdm):
    @staticmethod
    def status_printer(file: io.TextIOBase):
        """Writes a line where tqdm redraws one."""

        def write(text: str) -> None:
            file.write(f"{text.rstrip()}\n")
            file.flush()

        return write

    def display(self, *args, **kwargs) -> None:
        """The first progress is shown at once, and then every ten seconds."""
        if self.n > self.initial:
            self.mininterval = _LINE_SECONDS
        self.sp(str(self))

    def close(self) -> None:
        """Shows the end; writes no codes that move the cursor."""
        if self.disable:
            return
        if self.leave and self.n > self.last_print_n:
            self.display()
        self.sp, self.fp = lambda text: None, io.StringIO()
        super().close()
