"""Where a run's figures go: metrics.jsonl, TensorBoard and a progress bar."""

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


def merge(found: list[dict[str, metrics.Ratio]]) -> dict[str, float]:
    """Merges the metrics of several steps on the host: one float each, sums divided once.

    A metric that nothing was counted for is left out; perplexity is added.
    """
    found = jax.device_get(found)
    merged = {}
    for one in found:
        for name, ratio in one.items():
            merged[name] = merged[name].merge(ratio) if name in merged else ratio
    values = {
        name: float(ratio.value()) for name, ratio in merged.items() if ratio.denominator != 0
    }
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

    def scalars(self, step: int, found: dict[str, float]) -> None:
        values = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in found.items()]
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been raised by `_add`
            self._file.close()


class Reporter:
    """Writes figures of one run; only process 0 writes.

    A line of metrics.jsonl is `{"step": 200, "split": "train", "loss": ...}`. When a run resumes
    from step s, lines after s are dropped, since those steps run again.

    Args:
      run_folder: the run's folder.
      name: label of the progress bar.
      first_step: the step that the run starts or resumes from.
      last_step: the step at which it ends.
    """

    def __init__(self, run_folder: Path, name: str, first_step: int, last_step: int):
        self._writes = jax.process_index() == 0
        self._time = time.monotonic()
        if not self._writes:
            return
        self._file = run_folder / "metrics.jsonl"
        _drop_lines_after(self._file, first_step)
        self._tensorboard = _TensorBoard(run_folder / "tensorboard", first_step)
        # Redrawing in place is for terminals; a log file gets a line every ten seconds.
        in_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=last_step,
            initial=first_step,
            desc=name,
            unit="step",
            mininterval=0.5 if in_terminal else 10.0,
            dynamic_ncols=in_terminal,
        )

    def advance(self) -> None:
        """One step is done."""
        if self._writes:
            self._bar.update()

    def train(self, step: int, steps: int, found: dict[str, float]) -> None:
        """Reports figures of the last `steps` training steps."""
        now = time.monotonic()
        tokens = found[metrics.TARGET_TOKENS] * steps
        found = found | {metrics.TOKENS_PER_SECOND: tokens / max(now - self._time, 1e-9)}
        self._time = now
        self._write(step, "train", found)
        if self._writes:
            # A figure is missing where no token was counted.
            shown = {"loss": metrics.LOSS, "token accuracy": metrics.STUDENT_ACCURACY}
            texts = [f"{text} {found[key]:.3f}" for text, key in shown.items() if key in found]
            self._bar.set_postfix_str(", ".join(texts), refresh=False)

    def held_out(self, step: int, split: str, found: dict[str, float]) -> None:
        """Reports figures on a held-out split; the time it took is not charged to training."""
        self._time = time.monotonic()
        self._write(step, split, found)

    def _write(self, step: int, split: str, found: dict[str, float]) -> None:
        if not self._writes:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, "split": split} | found) + "\n")
        self._tensorboard.scalars(step, {f"{split}/{name}": v for name, v in found.items()})

    def close(self) -> None:
        if self._writes:
            self._bar.close()
            self._tensorboard.close()


def _drop_lines_after(file: Path, step: int) -> None:
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            pass  # the line that was being written when the run was killed
    files.write_text(file, "".join(kept))
