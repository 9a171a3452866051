"""A trace of some steps, for TensorBoard's profile page or Perfetto."""

from collections.abc import Sequence
from pathlib import Path

import jax
from jaxtyping import PyTree

from cascade_jax.parallel import hosts


class Profiler:
    """Records the steps (first, last), counted from 1, in `<run folder>/profile`, on process 0.

    Use as a context. `steps` is None for no trace; the run starts or resumes from `first_step`.
    """

    def __init__(self, steps: Sequence[int] | None, folder: Path, first_step: int):
        records = steps is not None and steps[1] > first_step and hosts.is_first()
        self._steps = (max(steps[0], first_step + 1), steps[1]) if records else None
        self._folder = folder / "profile"
        self._is_on = False

    def __enter__(self) -> "Profiler":
        return self

    def before(self, step: int) -> None:
        """Step `step` is about to start."""
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def after(self, step: int, report: PyTree) -> None:
        """Step `step` was sent to the devices; `report` is ready when it is done."""
        if self._is_on and step == self._steps[1]:
            jax.block_until_ready(report)
            self.__exit__()

    def __exit__(self, *error) -> None:
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
            print(f"profile of steps {self._steps[0]} to {self._steps[1]}: {self._folder}")
