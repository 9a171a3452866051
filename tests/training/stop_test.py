"""SIGTERM saves and ends the run with a status of its own; the next start resumes bitwise."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from cascade_jax.parallel import hosts
from tests.support import processes, saved


def folder(path: Path) -> Path:
    return path / "out" / "teacher"


def steps_done(path: Path) -> int:
    file = folder(path) / "metrics.jsonl"
    return file.read_text().count('"split": "train"') if file.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("earliest, steps", [(1, 90), (60, 150)])
def test_sigterm_at_a_random_step(tmp_path, earliest, steps):
    every = steps // 3
    rng = random.Random(earliest)
    gin = processes.write_gin(tmp_path, "out", steps, every)
    command = processes.Command(gin, tmp_path / "log")
    due = earliest + rng.randrange(20)
    command.when(lambda: steps_done(tmp_path) >= due)
    command.send(0, signal.SIGTERM)
    begin = time.monotonic()
    assert command.wait(60) == [hosts.STOPPED_STATUS], command.texts()[0]
    assert time.monotonic() - begin < 30
    step = max(saved.steps(folder(tmp_path) / "checkpoints"))
    assert due <= step < steps
    assert command.last_lines() == [
        f"cascade-jax train: run 'teacher': asked to stop; saved at step {step} of {steps}. The "
        "same command goes on from there"
    ]
    assert not (folder(tmp_path) / "lock.json").exists()

    again = processes.Command(gin, tmp_path / "log").finish()
    assert f"teacher: resuming from step {step} of {steps}" in again[0]
    whole = processes.write_gin(tmp_path, "whole", steps, every)
    processes.Command(whole, tmp_path / "whole.log").finish()
    runs = [folder(tmp_path), tmp_path / "whole" / "teacher"]
    saved.assert_same_end(*runs, steps)

    # The best checkpoint is chosen among the same steps: the one of the stop was not measured.
    def measured(run):
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [(x["step"], x["loss"]) for x in lines if x["split"] == "validation"]

    assert measured(runs[0]) == measured(runs[1])
    starts = (runs[0] / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in starts] == [0, step]
