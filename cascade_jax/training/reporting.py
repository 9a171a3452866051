"""Where a run's figures go: metrics.jsonl, TensorBoard and a progress bar."""

import json
import sys
import time
from pathlib import Path

import jax
import tensorboardX
import tqdm

from cascade_jax import metrics


def merge(found: list[dict[str, metrics.Ratio]]) -> dict[str, float]:
    """Merges the metrics of several steps on the host: one float each, sums divided once."""
    found = jax.device_get(found)
    merged = {}
    for one in found:
        for name, ratio in one.items():
            merged[name] = merged[name].merge(ratio) if name in merged else ratio
    return {name: float(ratio.value()) for name, ratio in merged.items()}


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
        self._tensorboard = tensorboardX.SummaryWriter(
            str(run_folder / "tensorboard"), purge_step=first_step + 1 if first_step else None
        )
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
            accuracy = found[metrics.STUDENT_ACCURACY]
            self._bar.set_postfix_str(
                f"loss {found[metrics.LOSS]:.3f}, token accuracy {accuracy:.3f}", refresh=False
            )

    def held_out(self, step: int, split: str, found: dict[str, float]) -> None:
        """Reports figures on a held-out split; the time it took is not charged to training."""
        self._time = time.monotonic()
        self._write(step, split, found)

    def _write(self, step: int, split: str, found: dict[str, float]) -> None:
        if not self._writes:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, "split": split} | found) + "\n")
        for name, value in found.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)

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
    file.write_text("".join(kept))
