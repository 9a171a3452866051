"""A run that is killed at any moment ends with the parameters of the run that was not.

The run is a student under CATDist: dropout, a teacher read from another run's checkpoint, and two
microbatches are part of what has to come out the same.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore

from tests.support import tiny_demo

ROOT = Path(__file__).parents[2]
STEPS, CHECKPOINT_EVERY = 120, 10
GIN = tiny_demo.gin_text(
    """\
ONLY = ["teacher", "cat_dist"]
MICROBATCHES = 2
WARMUP_STEPS = 5
TEACHER_STEPS = {every}
BATCH_SIZE = 16
STUDENT_STEPS = {steps}
CHECKPOINT_EVERY = {every}
EVAL_BATCHES = 1
OUTPUT_DIR = "{output}"
""",
    small=dict(embed_dim=16, mlp_dim=16, dropout_rate=0.1, num_heads=2, head_dim=8),
    large=tiny_demo.LARGE | dict(embed_dim=24, mlp_dim=16, num_heads=2),
)


class Run:
    """`cascade-jax train` in a process of its own, its output in a file."""

    def __init__(self, folder: Path, name: str):
        gin = folder / f"{name}.gin"
        gin.write_text(GIN.format(steps=STEPS, every=CHECKPOINT_EVERY, output=folder / name))
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cascade_jax", "train", f"--gin_file={gin}"],
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


def complete(folder: Path) -> list[int]:
    """Steps whose checkpoint has its final name."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def half_written(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, read without our code."""
    base = f"file://{checkpoint}/state/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = [key.decode() for key in store.list().result()]
    names = sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray"))
    found = {}
    for name in names:
        kvstore = {"driver": "ocdbt", "base": base, "path": name + "/"}
        array = tensorstore.open({"driver": "zarr", "kvstore": kvstore}).result()
        found[name] = array.read().result()
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    Run(folder, "run").finish()
    return arrays(folder / "run" / "cat_dist" / "checkpoints" / str(STEPS))


def test_killed_three_times_once_during_a_save_and_resumed_is_bitwise_the_same(
    tmp_path, uninterrupted
):
    seed = random.randrange(2**32)
    print(f"random moments from seed {seed}")
    rng = random.Random(seed)
    folder = tmp_path / "run" / "cat_dist" / "checkpoints"

    # 1. Some steps after a random checkpoint.
    first = rng.randrange(1, 4) * CHECKPOINT_EVERY
    Run(tmp_path, "run").kill_when(lambda: max(complete(folder), default=0) >= first)

    # 2. While a checkpoint is being written: its temporary folder is there, and stays there.
    before = max(complete(folder))
    for _ in range(8):
        Run(tmp_path, "run").kill_when(
            lambda: max(complete(folder)) > before and half_written(folder)  # noqa: B023
        )
        if half_written(folder):
            break
        before = max(complete(folder))
    assert half_written(folder), "never caught a save"
    interrupted_at = max(complete(folder))

    # 3. At a random moment after another checkpoint.
    due = []

    def is_due():
        if max(complete(folder)) > interrupted_at and not due:
            due.append(time.monotonic() + rng.uniform(0.0, 0.3))
        return due and time.monotonic() >= due[0]

    Run(tmp_path, "run").kill_when(is_due)

    output = Run(tmp_path, "run").finish()
    assert re.search(rf"^cat_dist: resuming from step \d+ of {STEPS}$", output, re.MULTILINE)
    resumed = arrays(folder / str(STEPS))
    assert len(resumed) > 40 and resumed.keys() == uninterrupted.keys()
    for name, array in uninterrupted.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    assert not half_written(folder)

    # The metrics read as if nothing had happened: every line once, in order.
    lines = (folder.parent / "metrics.jsonl").read_text().splitlines()
    steps = [int(line.split('"step": ')[1].split(",")[0]) for line in lines if '"train"' in line]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS

    # Once more: nothing is left to do.
    assert (
        f"cat_dist: already trained to step {STEPS}, nothing to do" in Run(tmp_path, "run").finish()
    )
