"""Skips batches whose gradient is not finite and records them, instead of ending the run."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from cascade_jax import files, metrics
from cascade_jax.training import step_lines

_NAME = "skipped.jsonl"


def skip_non_finite(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wraps an optimizer: a gradient that is not finite changes no parameter and no statistic.

    The run is then where it would be had it gone back before that batch and left it out; only the
    step counts, so that data order and dropout stay those of the step. The optimizer's own count,
    which its learning rate follows, does not go on.
    """
    # Not optax.apply_if_finite: its state adds counters, so older checkpoints would not fit, and it
    # applies non-finite updates after a number of them in a row.

    def update(grads, state, params=None):
        is_good = jnp.isfinite(optax.tree.norm(grads))
        updates, new_state = optimizer.update(grads, state, params)
        updates = jax.tree.map(lambda leaf: jnp.where(is_good, leaf, jnp.zeros_like(leaf)), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(is_good, new, old), new_state, state)
        return updates, kept

    return optax.GradientTransformation(optimizer.init, update)


def is_finite(report: dict[str, metrics.Ratio]) -> bool:
    """Whether a step's loss and gradient (on the host) are finite; without a loss they are."""
    ratios = [report[key] for key in (metrics.LOSS, metrics.GRADIENT_NORM) if key in report]
    return all(math.isfinite(float(ratio.numerator)) for ratio in ratios)


class SkippedSteps:
    """The list of skipped steps, `<run folder>/skipped.jsonl`.

    Those after `first_step` are dropped, since these steps run again; only one process `writes`.
    """

    def __init__(self, folder: Path, first_step: int, writes: bool):
        self._file = folder / _NAME
        self._writes = writes
        self.steps = []
        if self._file.exists():
            steps = [line["step"] for line in step_lines.read(self._file)]
            self.steps = [step for step in steps if step <= first_step]
            self._write()

    def add(self, steps: list[int]) -> None:
        """Adds steps and rewrites the file."""
        self.steps += steps
        self._write()

    def _write(self) -> None:
        if self._writes:
            text = "".join(json.dumps({"step": step}) + "\n" for step in self.steps)
            files.write_text(self._file, text)
