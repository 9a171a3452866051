"""Reports a run's metrics: metrics.jsonl, TensorBoard and a progress bar."""

import json
import time
from pathlib import Path

import jax
import numpy as np

from cascade_jax import checks, files, metrics
from cascade_jax.parallel import hosts
from cascade_jax.progress import progress_bar
from cascade_jax.training import step_lines
from cascade_jax.training.clock import Clock
from cascade_jax.training.tensorboard import TensorBoard


def merge(reports: list[dict[str, metrics.Ratio]]) -> dict[str, float]:
    """Merges the metrics of several steps on the host: one float each, sums divided once.

    A metric that nothing was counted for is left out; perplexity is added.
    """
    reports = jax.device_get(reports)
    merged = {}
    for report in reports:
        for name, ratio in report.items():
            merged[name] = merged[name].merge(ratio) if name in merged else ratio
    values = {name: float(ratio.value()) for name, ratio in merged.items() if ratio.denominator}
    if metrics.CROSS_ENTROPY in values:
        with np.errstate(over="ignore"):
            values[metrics.PERPLEXITY] = float(np.exp(values[metrics.CROSS_ENTROPY]))
    return values


class Reporter:
    """Writes the metrics of one run; only process 0 writes.

    A line of metrics.jsonl is `{"step": 200, "split": "train", "loss": ...}`. When a run resumes
    from step s, lines after s are dropped, since those steps run again. `starts.jsonl` has a line
    for each start.

    Args:
      run_folder, name: the run's folder, and the label of the progress bar.
      first_step, last_step: the step that the run starts or resumes from, and its end.
      step_flops: model FLOPs of a step; 0 leaves out the metrics that need them.
      peak_flops: peak FLOPs a second of all devices together; None if unknown.
    """

    def __init__(
        self,
        run_folder: Path,
        name: str,
        first_step: int,
        last_step: int,
        step_flops: int = 0,
        peak_flops: float | None = None,
    ):
        self._writes = hosts.is_first()
        self._time = time.monotonic()
        self._flops = step_flops, peak_flops
        self.clock = Clock(time.time())
        if not self._writes:
            return
        self._file = run_folder / "metrics.jsonl"
        productive = _drop_lines_after(self._file, first_step)
        self.clock = Clock(_write_start(run_folder, first_step), productive)
        self._tensorboard = TensorBoard(run_folder / "tensorboard", first_step)
        self._bar = progress_bar(total=last_step, initial=first_step, desc=name, unit="step")

    def advance(self) -> None:
        """One step is done."""
        if self._writes:
            self._bar.update()

    def train(self, step: int, steps: int, figures: dict[str, float]) -> None:
        """Reports the metrics of the last `steps` training steps."""
        now = time.monotonic()
        tokens = figures[metrics.TARGET_TOKENS] * steps
        figures = figures | {metrics.TOKENS_PER_SECOND: tokens / max(now - self._time, 1e-9)}
        figures |= self._with_flops(self.clock.take())
        self._time = now
        self._write(step, "train", figures)
        if self._writes:
            # A figure is missing where no token was counted.
            shown = {"loss": metrics.LOSS, "token accuracy": metrics.STUDENT_ACCURACY}
            texts = [f"{text} {figures[key]:.3f}" for text, key in shown.items() if key in figures]
            self._bar.set_postfix_str(", ".join(texts), refresh=False)

    def _with_flops(self, times: dict[str, float]) -> dict[str, float]:
        """Adds the model's FLOPs a second, and their share of what the chips can do."""
        flops, peak = self._flops
        if flops and metrics.STEP_SECONDS in times:
            rate = flops / max(times[metrics.STEP_SECONDS], 1e-9)
            times[metrics.MODEL_FLOPS_PER_SECOND] = rate
            if peak:
                times[metrics.MODEL_FLOPS_UTILISATION] = rate / peak
        return times

    def held_out(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Reports metrics on a held-out split; its time does not count as training."""
        self._time = time.monotonic()
        self._write(step, split, figures)

    def _write(self, step: int, split: str, figures: dict[str, float]) -> None:
        if not self._writes:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, "split": split} | figures) + "\n")
        self._tensorboard.scalars(step, {f"{split}/{name}": v for name, v in figures.items()})

    def close(self) -> None:
        if self._writes:
            self._bar.close()
            self._tensorboard.close()


def _drop_lines_after(file: Path, step: int) -> float:
    """Returns the productive seconds of the last line that stays."""
    kept = [line for line in step_lines.read(file) if line["step"] <= step]
    if file.exists():
        files.write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
    seconds = [line.get(metrics.PRODUCTIVE_SECONDS) for line in kept]
    return max((value for value in seconds if checks.is_number(value)), default=0.0)


def _write_start(run_folder: Path, step: int) -> float:
    """Adds a line to starts.jsonl; returns the time of the run's first start."""
    file = run_folder / "starts.jsonl"
    lines = step_lines.read(file)
    now = {
        "time": time.time(),
        "step": step,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "kind": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    files.write_text(file, "".join(json.dumps(line) + "\n" for line in [*lines, now]))
    times = [line.get("time") for line in lines]
    return next((value for value in times if checks.is_number(value)), now["time"])
