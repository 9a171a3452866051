"""A run that is killed at any moment ends with the parameters of the run that was not.

In the slow test the run is a student under CATDist: dropout, a teacher read from another run's
checkpoint, and two microbatches are part of what has to come out the same.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascade_jax.cli.main import main
from tests.support import pair, saved, tiny_demo

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
GIN = tiny_demo.gin_text(
    """\
ONLY = ["teacher", "cat_dist"]
MIXTURE = "demo_last_v1"  # tf.data is built task by task, anew for each evaluation
MICROBATCHES = 2
WARMUP_STEPS = 1
TEACHER_STEPS = {every}
BATCH_SIZE = 16
STUDENT_STEPS = {steps}
CHECKPOINT_EVERY = {every}
EVAL_BATCHES = 1
LOG_EVERY = 1
OUTPUT_DIR = "{output}"
""",
    small=dict(embed_dim=16, mlp_dim=16, dropout_rate=0.1, num_heads=2, head_dim=8),
    large=tiny_demo.LARGE | dict(embed_dim=24, mlp_dim=16, num_heads=2),
)


def write_gin(folder: Path, steps: int, every: int) -> str:
    """The flag for a gin file whose runs go to `<folder>/run`."""
    file = folder / "run.gin"
    file.write_text(GIN.format(steps=steps, every=every, output=folder / "run"))
    return f"--gin_file={file}"


def trained_steps(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["split"] == "train"]


# Kills itself when the checkpoint of a step is written and not yet named as complete.
KILLED_WHILE_SAVING = """
import os, signal, sys
last, *argv = sys.argv[1:]
for name in ("rename", "replace"):
    def moved(source, target, *args, _real=getattr(os, name), **settings):
        if str(target).endswith(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return _real(source, target, *args, **settings)
    setattr(os, name, moved)
from cascade_jax.cli.main import main
main(argv)
"""


def test_killed_while_saving_and_resumed_is_bitwise_the_same(
    trained_pair, tmp_path, in_the_clone, capfd
):
    shutil.copytree(trained_pair, tmp_path / "pair")
    run = tmp_path / "pair" / "xent"
    shutil.rmtree(run / "checkpoints" / "6")
    argv = ["train", pair.write_gin(tmp_path / "pair.gin"), pair.output(tmp_path / "pair")]
    child = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, "xent/checkpoints/6", *argv],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert saved.steps(run / "checkpoints")[-1] == 4 and saved.half_written(run / "checkpoints")
    capfd.readouterr()
    assert main(argv) == 0
    assert "xent: resuming from step 4 of 6" in capfd.readouterr().out
    assert not saved.half_written(run / "checkpoints")
    saved.assert_same_end(run, trained_pair / "xent", 6)
    assert len(saved.arrays(run / "checkpoints" / "6")) > 40
    # The metrics read as if nothing had happened: every line once, in order.
    assert trained_steps(run) == trained_steps(trained_pair / "xent")


class Run:
    """`cascade-jax train` in a process of its own, its output in a file."""

    def __init__(self, folder: Path, steps: int, every: int):
        argv = ["train", write_gin(folder, steps, every)]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cascade_jax", *argv],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def finish(self) -> str:
        assert self.process.wait(timeout=300) == 0, self.log.read_text()
        return self.log.read_text()

    def kill_when(self, is_due) -> None:
        deadline = time.monotonic() + 240
        while not is_due():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the run made no progress"
            time.sleep(0.0005)
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_three_times_once_during_a_save_and_resumed_is_bitwise_the_same(tmp_path, seed):
    steps, every = 120, 10
    (tmp_path / "whole").mkdir()
    Run(tmp_path / "whole", steps, every).finish()
    rng = random.Random(seed)
    run = tmp_path / "run" / "cat_dist"
    folder = run / "checkpoints"

    def last():
        return max(saved.steps(folder), default=0)

    # 1. Some steps after a random checkpoint.
    first = rng.randrange(1, 4) * every
    Run(tmp_path, steps, every).kill_when(lambda: last() >= first)

    # 2. While a checkpoint is being written: its temporary folder is there, and stays there.
    before = last()
    for _ in range(8):
        Run(tmp_path, steps, every).kill_when(
            lambda: last() > before and saved.half_written(folder)  # noqa: B023
        )
        if saved.half_written(folder):
            break
        before = last()
    assert saved.half_written(folder), "never caught a save"
    interrupted_at = last()

    # 3. At a random moment after another checkpoint.
    due = []

    def is_due():
        if last() > interrupted_at and not due:
            due.append(time.monotonic() + rng.uniform(0.0, 0.3))
        return due and time.monotonic() >= due[0]

    Run(tmp_path, steps, every).kill_when(is_due)

    output = Run(tmp_path, steps, every).finish()
    assert re.search(rf"^cat_dist: resuming from step \d+ of {steps}$", output, re.MULTILINE)
    saved.assert_same_end(run, tmp_path / "whole" / "run" / "cat_dist", steps)
    assert not saved.half_written(folder)
    assert trained_steps(run) == list(range(1, steps + 1))

    # Once more: nothing is left to do.
    output = Run(tmp_path, steps, every).finish()
    assert f"cat_dist: already trained to step {steps}, nothing to do" in output
