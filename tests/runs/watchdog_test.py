"""A run that hangs is ended with a message and a status."""

import subprocess
import sys
import time

import pytest

from cascade_jax.runs.watchdog import Watchdog

CODE = """
import sys, time
from pathlib import Path
from cascade_jax.training.watchdog import Watchdog

def waiting_for_a_host():
    time.sleep(60)

kept = "the checkpoint of step 40 stays"
with Watchdog("train", "run 'xent': ", 0.5, Path(sys.argv[1]), lambda: kept) as watchdog:
    for step in range(3):
        watchdog.progress(f"step {step + 41}")
        time.sleep(0.2)
    waiting_for_a_host()
"""


def test_a_run_that_hangs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 76, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("cascade-jax train: run 'xent': no progress for ")
    assert "in step 43: this or another host hangs" in line
    assert "the checkpoint of step 40 stays" in line
    assert "waiting_for_a_host" in (tmp_path / "hang_0.txt").read_text()


def test_a_run_that_hangs_ends_also_where_nothing_can_be_said(tmp_path):
    code = CODE.replace("lambda: kept", "lambda: 1 / 0")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL, timeout=50
    )
    assert done.returncode == 76


@pytest.mark.parametrize("seconds", [0.2, None])
def test_progress_and_no_watch_at_all(tmp_path, seconds):
    with Watchdog("train", "", seconds, tmp_path, lambda: "nothing") as watchdog:
        time.sleep(0.5)  # the first step compiles
        for _ in range(6):
            time.sleep(0.05)
            watchdog.progress("a step")
        watchdog.progress("another program", may_compile=True)
        time.sleep(0.5)
    time.sleep(0.3)  # it is over: this process would be gone
    assert not list(tmp_path.iterdir())
