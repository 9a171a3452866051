"""Times a run's parts (steps, waiting for data, evaluation, checkpoints) and its goodput."""

import contextlib
import time
from collections.abc import Iterator

from cascade_jax import metrics

DATA, STEP, EVALUATION, CHECKPOINT = "data", "step", "evaluation", "checkpoint"


class Clock:
    """Measures the seconds of each part since the last `take`.

    Goodput is the share of the time since the run's very first start (its machines may have been
    away in between) that went into steps which count: neither start-up, compiling, evaluation and
    checkpoints, nor steps that were lost and done again.

    Clocks of machines may differ or be set anew: the time between starts alone is measured by them,
    and is at least that of the steps done before.

    Args:
      started: when the run was started for the first time, in seconds since 1970.
      productive: seconds of the steps before this start.
    """

    def __init__(self, started: float, productive: float = 0.0):
        self._productive = max(productive, 0.0)
        self._zero = time.monotonic() - max(time.time() - started, self._productive)
        self._parts = {}
        self._steps = 0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the block to a part."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.monotonic() - begin

    def step_done(self, is_first: bool = False) -> None:
        """Counts a step; the time of the first one of a start, which compiles, is dropped."""
        self._steps += 1
        if is_first:
            self._parts, self._steps = {}, 0

    def take(self) -> dict[str, float]:
        """Metrics of the steps since the last call.

        Returns:
          Seconds a step for data and step, seconds in all for the other two, and goodput.
        """
        parts, self._parts = self._parts, {}
        steps, self._steps = self._steps, 0
        data, step = parts.get(DATA, 0.0), parts.get(STEP, 0.0)
        self._productive += data + step
        elapsed = time.monotonic() - self._zero
        figures = {
            metrics.EVALUATION_SECONDS: parts.get(EVALUATION, 0.0),
            metrics.CHECKPOINT_SECONDS: parts.get(CHECKPOINT, 0.0),
            metrics.PRODUCTIVE_SECONDS: self._productive,
            metrics.GOODPUT: self._productive / max(elapsed, self._productive, 1e-9),
        }
        if steps:
            figures[metrics.STEP_SECONDS] = (data + step) / steps
            figures[metrics.DATA_WAIT_SECONDS] = data / steps
        return figures
