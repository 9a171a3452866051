"""Reports a run's metrics: metrics.jsonl, TensorBoard and a progress bar."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tqdm
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

from cascade_jax import files, metrics
from cascade_jax.parallel import hosts
from cascade_jax.training.clock import Clock


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


class _TensorBoard:
    """An event file that is written at once and by this thread.

    tensorboardX's own writer has a thread that keeps events for up to two minutes: a killed run
    would lose them, and a full disk would show as a traceback of that thread.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        if first_step:  # hides what an interrupted run wrote from this step on
            log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(step=first_step + 1, session_log=log)

    def _add(self, **content) -> None:
        self._file.write_event(event_pb2.Event(wall_time=time.time(), **content))
        self._file.flush()

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        values = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in figures.items()]
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been raised by `_add`
            self._file.close()


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
        self._tensorboard = _TensorBoard(run_folder / "tensorboard", first_step)
        # Redrawing in place is for terminals; a log file gets a line every ten seconds.
        in_terminal = sys.stderr.isatty()
        drawing = {"mininterval": 0.5 if in_terminal else 10.0, "dynamic_ncols": in_terminal}
        self._bar = tqdm.tqdm(
            total=last_step, initial=first_step, desc=name, unit="step", **drawing
        )

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
    if not file.exists():
        return 0.0
    kept, productive = [], 0.0
    for line in file.read_text().splitlines():
        try:
            figures = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was killed
        if figures["step"] <= step:
            kept.append(line + "\n")
            productive = figures.get(metrics.PRODUCTIVE_SECONDS, productive)
    files.write_text(file, "".join(kept))
    return productive


def _write_start(run_folder: Path, step: int) -> float:
    """Adds a line to starts.jsonl; returns the time of the run's first start."""
    file = run_folder / "starts.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    now = {
        "time": time.time(),
        "step": step,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "kind": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    files.write_text(file, "".join(line + "\n" for line in [*lines, json.dumps(now)]))
    return json.loads(lines[0])["time"] if lines else now["time"]
