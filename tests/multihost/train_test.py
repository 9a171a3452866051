"""Two processes of four devices train as one process of eight; what ends one ends both."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gin
import numpy as np
import pytest

from cascade_jax.cli.main import main
from cascade_jax.parallel import hosts
from tests.support import processes, saved

pytestmark = pytest.mark.medium

STEPS, EVERY = 6, 3


def figures(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def final(run: Path, steps: int) -> dict[str, np.ndarray]:
    return saved.arrays(run / "checkpoints" / str(steps))


@pytest.mark.slow  # default: tests/parallel and tests/training/step_test.py on 8 devices
def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
    one, two = (processes.write_gin(tmp_path, name, STEPS, EVERY) for name in ("one", "two"))
    command = processes.Command(two, tmp_path / "two.log", 2)
    monkeypatch.chdir(processes.ROOT)
    try:
        assert main(["train", f"--gin_file={one}"]) == 0  # this process has eight devices
    finally:
        gin.clear_config(clear_constants=True)
    assert "resuming" not in command.finish()[0]

    alone, together = (figures(tmp_path / name / "teacher") for name in ("one", "two"))
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    assert len(together) == STEPS + STEPS // EVERY
    for mine, theirs in zip(together, alone, strict=True):
        assert mine["split"] == theirs["split"]
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-6)
        np.testing.assert_allclose(mine["cross_entropy"], theirs["cross_entropy"], rtol=1e-6)
    start = json.loads((tmp_path / "two" / "teacher" / "starts.jsonl").read_text())
    assert (start["processes"], start["devices"]) == (2, 8)
    # One writer: every file is there once, and process 1 drew no progress bar.
    assert "step/s" not in command.texts()[1]
    for name in ("config.gin", "operative_config.gin", "config.json"):
        assert (tmp_path / "two" / "teacher" / name).exists()


# What needs no model, so that it is there in seconds.
AGREE = """
import sys
from cascade_jax.parallel import hosts
process = int(sys.argv[2])
hosts.initialize(hosts.Address(sys.argv[1], 2, process), "cascade-jax train")
hosts.assert_equal_across_hosts("lengths", {"runs": [{"lengths": [4, 8]}]})
try:
    hosts.assert_equal_across_hosts("configs", {"runs": [{"seed": process, "steps": 5}]})
except hosts.HostsError as error:
    print(error, flush=True)
    hosts.shutdown(2, str(error))
"""


def test_hosts_that_do_not_agree_are_refused_with_the_difference():
    place = f"localhost:{processes.free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", AGREE, place, str(i)],
            cwd=processes.ROOT,
            env=os.environ | {"PYTHONPATH": str(processes.ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    texts = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [2, 2], texts
    said = f"the hosts have different configs: on host 1 of 2 ({socket.gethostname()}) "
    for text in texts:
        assert f"{said}runs.0.seed is 1, on host 0 it is 0\n" in text


@pytest.mark.slow
def test_hosts_with_different_code_are_refused_before_anything_is_written(tmp_path):
    other = tmp_path / "clone"
    for part in ("cascade_jax", "tasks", "gin"):
        shutil.copytree(
            processes.ROOT / part, other / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    with (other / "cascade_jax" / "losses" / "alpha.py").open("a") as file:
        file.write("# Another version.\n")
    file = processes.write_gin(tmp_path, "out", STEPS, EVERY)
    command = processes.Command(file, tmp_path / "log", 2, roots=(processes.ROOT, other))
    assert command.wait() == [2, 2], "\n".join(command.texts())
    for line in command.last_lines():
        assert "the hosts have different versions of the code: on host 1 of 2" in line
        assert "cascade_jax/losses/alpha.py is '" in line and " more" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_hosts_with_different_configs_are_refused_before_anything_is_written(tmp_path):
    file = processes.write_gin(tmp_path, "out", STEPS, EVERY)
    command = processes.Command(
        file, tmp_path / "log", 2, [["--gin.SEED=0"], ["--gin.SEED=1", "--gin.MICROBATCHES=2"]]
    )
    assert command.wait() == [2, 2], "\n".join(command.texts())
    for line in command.last_lines():
        assert line.startswith(
            "cascade-jax train: the hosts have different configs: on host 1 of 2"
        )
        assert "runs.0.microbatches is 2, on host 0 it is 1" in line
        assert "runs.0.seed is 1, on host 0 it is 0" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The final arrays of a run of 120 steps on two processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    file = processes.write_gin(folder, "out", 120, 20)
    processes.Command(file, folder / "log", 2).finish()
    return final(folder / "out" / "teacher", 120)


def last_step(folder: Path) -> int:
    return max(saved.steps(folder / "out" / "teacher" / "checkpoints"), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_process_ends_the_other_and_the_restart_goes_on_bitwise(
    tmp_path, uninterrupted, victim
):
    file = processes.write_gin(tmp_path, "out", 120, 20)
    command = processes.Command(file, tmp_path / "log", 2)
    command.when(lambda: last_step(tmp_path) >= 20)
    time.sleep(random.Random(victim).uniform(0, 0.3))
    command.send(victim, signal.SIGKILL)
    begin = time.monotonic()
    statuses = command.wait(60)
    assert time.monotonic() - begin < 60
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] == hosts.LOST_STATUS, command.texts()[1 - victim]
    line = command.last_lines()[1 - victim]
    assert "another host died or can't be reached any more" in line
    assert "start the same command on all hosts again" in line

    texts = processes.Command(file, tmp_path / "again", 2).finish()
    assert "teacher: resuming from step" in texts[0] and "resuming" not in texts[1]
    saved.assert_same(final(tmp_path / "out" / "teacher", 120), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_host_that_hangs_ends_the_other(tmp_path, uninterrupted, victim):
    file = processes.write_gin(tmp_path, "out", 120, 20)
    command = processes.Command(file, tmp_path / "log", 2, ["--gin.HANG_SECONDS=8.0"])
    command.when(lambda: last_step(tmp_path) >= 20)
    # Sooner than the heartbeat would miss it.
    status, line = processes.stopped_in_hang(command, victim, 25)
    assert status == hosts.LOST_STATUS, command.texts()[1 - victim]
    assert line.startswith("cascade-jax train: run 'teacher': no progress for ")
    assert "this or another host hangs" in line and "the checkpoint of step " in line
    stacks = tmp_path / "out" / "teacher" / f"hang_{1 - victim}.txt"
    assert str(stacks) in line and "step_loop.py" in stacks.read_text()

    processes.Command(file, tmp_path / "again", 2).finish()
    saved.assert_same(final(tmp_path / "out" / "teacher", 120), uninterrupted)


@pytest.mark.slow
def test_sigterm_on_one_host_stops_both_at_one_step(tmp_path, uninterrupted):
    file = processes.write_gin(tmp_path, "out", 120, 20)
    command = processes.Command(file, tmp_path / "log", 2)
    command.when(lambda: last_step(tmp_path) >= 20)
    time.sleep(random.Random(2).uniform(0, 0.3))
    command.send(1, signal.SIGTERM)
    begin = time.monotonic()
    assert command.wait(60) == [hosts.STOPPED_STATUS] * 2, "\n".join(command.texts())
    assert time.monotonic() - begin < 30
    lines = command.last_lines()
    assert f"asked to stop; saved at step {last_step(tmp_path)} of 120" in lines[0]
    assert lines[1] == lines[0]
    processes.Command(file, tmp_path / "again", 2).finish()
    saved.assert_same(final(tmp_path / "out" / "teacher", 120), uninterrupted)


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh_and_on_another_number_of_processes(tmp_path):
    whole = processes.write_gin(tmp_path, "whole", 120, 20)
    processes.Command(whole, tmp_path / "whole.log").finish()
    file = processes.write_gin(tmp_path, "out", 120, 20)
    mesh = [f"--gin.mesh.MeshConfig.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    for argv in ([], mesh):  # 8 ways, 2 * 2 * 2; stopped on the way
        before = last_step(tmp_path)
        command = processes.Command(file, tmp_path / "log", 1, argv)
        command.when(lambda: last_step(tmp_path) > before)  # noqa: B023
        command.send(0, signal.SIGTERM)
        assert command.wait(60) == [hosts.STOPPED_STATUS], command.texts()[0]
    texts = processes.Command(file, tmp_path / "log", 2).finish()
    assert f"resuming from step {saved_before_end(texts[0])} of 120" in texts[0]
    starts = (tmp_path / "out" / "teacher" / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["processes"] for line in starts] == [1, 1, 2]

    def by_step(name):
        lines = [line for line in figures(tmp_path / name / "teacher") if line["split"] == "train"]
        return {line["step"]: line for line in lines}

    alone, moved = by_step("whole"), by_step("out")
    assert moved.keys() == alone.keys()
    for step, line in alone.items():
        assert moved[step]["target_tokens"] == line["target_tokens"]
        np.testing.assert_allclose(moved[step]["loss"], line["loss"], rtol=1e-3)


def saved_before_end(text: str) -> int:
    return int(text.split("resuming from step ")[1].split()[0])
