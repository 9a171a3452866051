"""The launch scripts against programs that stand for gcloud, xpk, kubectl and Slurm."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.launch_programs import Programs

pytestmark = pytest.mark.medium

TPU = ("--name=pod", "--zone=us-west4-a")
GKE = ("--cluster=mine", "--name=job", "--type=v5litepod-32", "--image=registry/image")
SCRIPTS = {
    "tpu_vm": TPU,
    "queued_tpu": (*TPU, "--type=v5litepod-32", "--spot", "--poll_seconds=0"),
    "gke": GKE,
    "slurm": (),
}
TRAIN = ["train", "--gin_file=my.gin", "--gin.OUTPUT_DIR='/mnt/a b'"]


@pytest.fixture
def programs(tmp_path, repository):
    return Programs(tmp_path / "bin", repository)


@pytest.fixture
def launch(programs, tmp_path, repository):
    """Starts a script; gives its exit status and what it printed."""

    def launch(script: str, *argv: str, **environment: str):
        command = [sys.executable, str(repository / "launch" / f"{script}.py"), *argv]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=programs.environment(**environment),
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return launch


def started(words: list[str]) -> list[str]:
    """The words of `cascade-jax …` as a recorded command has them."""
    text = next((w.split("=", 1)[1] for w in words if w.startswith("--command=")), None)
    if text is None:
        return words[words.index("cascade-jax") :]
    inner = shlex.split(text)
    inner = inner[inner.index("cascade-jax") :]
    return [word.removesuffix(";") for word in inner[: 1 + len(TRAIN)]]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_the_commands_and_starts_nothing(launch, programs, tmp_path, script):
    status, text = launch(script, *SCRIPTS[script], "--dry_run", "--", *TRAIN)
    assert status == 0, text
    printed = [shlex.split(line) for line in text.splitlines() if line.split()[0] in ALL]
    starts = [words for words in printed if "cascade-jax" in " ".join(words)]
    assert len(starts) == 1
    assert started(starts[0]) == ["cascade-jax", *TRAIN]
    assert not programs.calls() and not (tmp_path / "logs").exists()


ALL = ("gcloud", "xpk", "kubectl", "srun", "scontrol")


@pytest.mark.parametrize("script", SCRIPTS)
def test_secrets_on_the_command_line_and_a_missing_command_are_refused(launch, programs, script):
    status, text = launch(script, *SCRIPTS[script], "--", *TRAIN, "--gin.API_KEY='x'")
    assert status == 2 and "gin.API_KEY … looks like a secret" in text and "'x'" not in text
    assert "looks like" not in launch(script, *SCRIPTS[script], "--dry_run", "--", *TRAIN,
                                      "--gin.CHUNK_TOKENS=256")[1]  # fmt: skip
    for words in (["--token", "abc"], ["--gin.URL='https://me:pw@host'"]):
        status, text = launch(script, *SCRIPTS[script], "--dry_run", "--", *TRAIN, *words)
        assert status == 2 and "looks like a secret" in text
        assert "abc" not in text and "me:pw" not in text
    status, text = launch(script, *SCRIPTS[script])
    assert status == 2 and "after -- comes the command" in text
    status, text = launch(script, *SCRIPTS[script], "--dry_run", "--", "trian")
    assert status == 2 and "not 'trian'; did you mean 'train'?" in text
    status, text = launch(script, *SCRIPTS[script], "--dry_run", "--", "cascade-jax", *TRAIN)
    assert status == 2 and "without cascade-jax" in text
    assert not programs.calls()


def test_a_queued_slice_that_is_taken_away_is_asked_for_again(launch, programs, tmp_path):
    # Nothing there; queued; ours; taken while it trains. Then once more, to the end.
    first = ["", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "SUSPENDED"]
    programs.plan("state", *first, "", "ACTIVE", "ACTIVE")
    programs.plan("ssh", 75, 0)
    status, text = launch("queued_tpu", *SCRIPTS["queued_tpu"], "--", *TRAIN)
    assert status == 0, text
    calls = [call for call in programs.calls() if "describe" not in call]
    verbs = [next(v for v in ("create", "ssh", "delete") if v in call) for call in calls]
    assert verbs == ["create", "ssh", "delete", "create", "ssh", "delete"]
    assert "--spot" in calls[0] and "--accelerator-type=v5litepod-32" in calls[0]
    assert {"--worker=all", "--zone=us-west4-a", "--output-directory=logs/pod"} <= {*calls[1]}
    assert started(calls[1]) == ["cascade-jax", *TRAIN] == started(calls[4])
    assert "--force" in calls[2] and "starting again (1 of 100)" in text


@pytest.mark.parametrize("after", [(), ("",), ("SUSPENDED",)])
def test_a_command_that_fails_by_itself_is_not_started_again(launch, programs, after):
    programs.plan("state", "", "ACTIVE", *after)
    programs.plan("ssh", 2)
    status, text = launch("queued_tpu", *SCRIPTS["queued_tpu"], "--", *TRAIN)
    assert status == 2 and "starting again" not in text
    assert [call for call in programs.calls() if "delete" in call]


def test_slurm_puts_an_interrupted_job_back(launch, programs, tmp_path):
    programs.plan("srun", 75)
    status, _ = launch("slurm", "--", "--help", SLURM_JOB_ID="77")
    assert status == 75
    srun, requeue = programs.calls()
    assert srun[0] == "srun" and "--output=logs/slurm-77/%t.log" in srun
    assert requeue == ["scontrol", "requeue", "77"]
    status, text = launch("slurm", "--", *TRAIN)
    assert status == 2 and "there is no Slurm job here" in text


def test_slurm_leaves_a_job_ended_of_which_one_host_was_refused(launch, programs, tmp_path):
    programs.plan("srun", 76)  # the others lost it, and srun gives the highest status
    status, text = launch("slurm", "--", *TRAIN, SLURM_JOB_ID="78")
    assert status == 2, text
    assert [call[0] for call in programs.calls()] == ["srun"]
    log = (tmp_path / "logs" / "slurm-78" / "0.log").read_text()
    assert "cascade-jax train: " in log and log.endswith("cascade-jax ended with status 2\n")


def test_a_task_of_slurm_outlives_sigterm_until_it_has_saved(launch):
    _, text = launch("slurm", "--dry_run", "--", *TRAIN)
    words = shlex.split(text.splitlines()[0])
    wrapper = words[words.index("bash") : words.index("cascade-jax")]
    code = "trap 'sleep 0.5; exit 75' TERM; echo on; while true; do sleep 0.1; done"
    task = subprocess.Popen(
        [*wrapper, "bash", "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert task.stdout.readline() == "on\n"
    os.killpg(task.pid, signal.SIGTERM)  # as Slurm does to all processes of a step
    assert task.communicate(timeout=30)[0] == "cascade-jax ended with status 75\n"
    assert task.returncode == 75


def trained(folder: Path, devices: int, count: int) -> None:
    """Two steps were done, by so many processes."""
    run = folder / "out" / "teacher"
    assert (run / "checkpoints" / "2").is_dir()
    start = json.loads((run / "starts.jsonl").read_text())
    assert (start["processes"], start["devices"]) == (count, devices)


@pytest.mark.slow
def test_the_started_command_trains_on_a_tpu_vm(launch, tmp_path):
    gin = processes.write_gin(tmp_path, "out", 2, 2)
    argv = [*TPU, "--create=v5litepod-32", f"--folder={tmp_path}", "--", "train"]
    status, text = launch("tpu_vm", *argv, f"--gin_file={gin}")
    assert status == 0, text + (tmp_path / "logs" / "pod" / "0.log").read_text()
    trained(tmp_path, 4, 1)
    assert "2/2" in (tmp_path / "logs" / "pod" / "0.log").read_text()


@pytest.mark.slow
def test_the_started_command_trains_on_gke(launch, tmp_path):
    gin = processes.write_gin(tmp_path, "out", 2, 2)
    status, text = launch("gke", *GKE, "--", "train", f"--gin_file={gin}")
    assert status == 0, text
    trained(tmp_path, 4, 1)
    assert "2/2" in (tmp_path / "logs" / "job.log").read_text()


@pytest.mark.slow
def test_the_started_command_trains_on_two_tasks_of_slurm(launch, tmp_path):
    gin = processes.write_gin(tmp_path, "out", 2, 2)
    job = str(40000 + tmp_path.stat().st_ino % 4000)  # the tasks' port follows from it
    status, text = launch("slurm", "--", "train", f"--gin_file={gin}", SLURM_JOB_ID=job)
    logs = [tmp_path / "logs" / f"slurm-{job}" / f"{i}.log" for i in range(2)]
    assert status == 0, text + "".join(log.read_text() for log in logs)
    trained(tmp_path, 8, 2)
    assert "2/2" in logs[0].read_text()
