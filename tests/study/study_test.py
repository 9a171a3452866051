"""A study of tiny models: everything is done once, by one machine or by several, killed or not."""

import collections
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gin
import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.cli import gin_config, study
from cascade_jax.cli.main import main
from cascade_jax.collection import answers
from cascade_jax.deferral import scores
from cascade_jax.parallel import hosts
from cascade_jax.records import run_table
from cascade_jax.study import progress
from cascade_jax.study import study as study_lib
from cascade_jax.training import run as run_lib
from cascade_jax.training.step_loop import NonFiniteLossError
from tests.support import processes, tiny_demo

pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("in_the_clone")]

MACROS = """\
MIXTURE = "demo_last_v1"
BATCH_SIZE = 8
STUDENT_STEPS = 6
GATEKEEPER_STEPS = 2
CHECKPOINT_EVERY = 2
WARMUP_STEPS = 1
EVAL_BATCHES = 1
COLLECT_LIMIT = 24
SEEDS = 2
OTHER_SEEDS = 1
ROUTERS = {"logistic": @routers.LogisticRouter()}
"""


def write_gin(folder: Path, teacher: Path) -> str:
    """Writes the gin file of a study whose folder is `folder / "out"`; returns its flag."""
    text = tiny_demo.gin_text(MACROS, "from cascade_jax.deferral import routers")
    text = text.replace("gin/experiments/demo.gin", "gin/experiments/demo_study.gin")
    own = f"TEACHER_RUN = {str(teacher)!r}\nOUTPUT_DIR = {str(folder / 'out')!r}\n"
    (folder / "study.gin").write_text(text + own)
    return f"--gin_file={folder / 'study.gin'}"


ONLY = "--gin.STUDY_ONLY=['*.xent.seed_0', '*.cat_xent.seed_0', '*.gatekeeper_0.5.seed_0']"
NAMES = ["small.xent.seed_0", "small.cat_xent.seed_0", "small.gatekeeper_0.5.seed_0"]


def fitted_average(config):
    """In place of a router, for which the tiny models give nothing to learn."""
    assert Path(config.records_file).parent.name == "validation"
    return SimpleNamespace(router=scores.Average())


def test_a_study_trains_answers_and_keeps_a_table_of_each_run_once(
    trained_pair, tmp_path, monkeypatch, capsys
):
    flag = write_gin(tmp_path, trained_pair / "teacher")
    asked, ask = [], answers.answer

    def counted(model, *arguments, **settings):
        asked.append(model.name)
        return ask(model, *arguments, **settings)

    monkeypatch.setattr(answers, "answer", counted)
    monkeypatch.setattr(study_lib, "fit_router", fitted_average)
    assert main(["study", flag, ONLY]) == 0
    printed = capsys.readouterr().out
    assert "small.xent.seed_0; 0 of 3 runs are finished\n" in printed
    assert "small.cat_xent.seed_0; 1 of 3 runs are finished; the others take one" in printed
    assert printed.rstrip().endswith("3 of 3 runs are finished")
    # The teacher answers each split once.
    assert asked.count("teacher") == 2
    assert [asked.count(name) for name in NAMES] == [2, 2, 2]
    out = tmp_path / "out"
    for name in NAMES:
        table = records.read(out / "tables" / f"{name}.parquet")
        run = run_table.run_of(table)
        assert (run.pair, f"{run.size}.{run.loss}.seed_{run.seed}") == ("demo", name)
        done = json.loads((out / "study" / name / "done.json").read_text())
        assert list(done["seconds"]) == ["train", "validation", "test", "table"]
        assert not (out / "study" / name / "lock.json").exists()
        stored = run_table.stored_score(table, "logistic")
        assert (stored is not None) == (run.loss == "xent")
        if stored is not None:
            np.testing.assert_allclose(stored, scores.Average()(table.student), rtol=1e-3)
    first, other = (records.read(out / "records/test" / f"{name}.parquet") for name in NAMES[:2])
    for column in ("teacher_quality", "teacher_log_probs", "teacher_tokens", "example_id"):
        np.testing.assert_array_equal(getattr(first, column), getattr(other, column))
    gin.clear_config(clear_constants=True)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    assert main(["study", flag, ONLY]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    assert capsys.readouterr().out == "3 of 3 runs are finished\n"
    gin.clear_config(clear_constants=True)
    # What is of another study is refused before anything is trained.
    assert main(["study", flag, "--gin.TEACHER_CACHE='nowhere'"]) == 2
    assert "teacher cache nowhere is not there" in capsys.readouterr().err


@pytest.fixture
def config(tmp_path):
    return gin_config.parse(study.CONFIG, [write_gin(tmp_path, tmp_path / "teacher")])


def test_runs_whose_loss_is_nan_are_named_and_the_others_done(config, monkeypatch):
    trained = []

    def train_one(run, *arguments):
        trained.append(run.name)
        if run.name == "small.xent.seed_0":
            raise NonFiniteLossError("NaN at step 3")

    monkeypatch.setattr(run_lib, "train_one", train_one)
    monkeypatch.setattr(study_lib.collect_lib, "collect", lambda config, read: None)
    monkeypatch.setattr(study_lib, "_write_table", lambda *arguments: None)
    message = "4 runs can not be finished: small.xent.seed_0: NaN at step 3; "
    message += "small.gatekeeper_0.1.seed_0: it starts from small.xent.seed_0; "
    with pytest.raises(study_lib.FailedRunsError, match=message):
        study_lib.run(config)
    others = [run.name for run in config.runs if "gatekeeper" not in run.name]
    assert trained == others
    trained.clear()
    with pytest.raises(study_lib.FailedRunsError):
        study_lib.run(config)
    assert not trained


def test_a_stop_between_two_parts_keeps_what_is_done(config, monkeypatch):
    done = []

    def train_one(run, *arguments):
        done.append(run.name)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_lib, "train_one", train_one)
    with pytest.raises(hosts.Stopped, match="small.xent.seed_0: asked to stop after train"):
        study_lib.run(config)
    assert done == ["small.xent.seed_0"]
    assert not list(Path(config.output_dir).rglob("*.json"))


WORKER = """
import os, sys, time
from pathlib import Path
from cascade_jax.cli import gin_config, study
from cascade_jax.study import progress, study as study_lib

config = gin_config.parse(study.CONFIG, sys.argv[1:])
folder = Path(config.output_dir).parent
log = folder / "log"
(folder / f"{os.getpid()}.ready").touch()
while len(list(folder.glob("*.ready"))) < 2:
    time.sleep(0.02)

def do(config, run, mesh, stop, is_mine, read):
    with log.open("a") as file:
        file.write(f"{os.getpid()} begin {run.name}\\n")
    time.sleep(0.3)
    with log.open("a") as file:
        file.write(f"{os.getpid()} end {run.name}\\n")
    progress.write(config, run, progress.Done({"train": 0.3}, 1, "host"))

study_lib._do = do
study_lib.run(config, poll_seconds=0.05)
"""


def workers_of(log: Path) -> set[str]:
    return {line.split()[0] for line in log.read_text().splitlines()}


@pytest.mark.slow  # locks: tests/runs/folder_lock_test.py; one machine is above
def test_two_machines_share_the_runs_and_one_takes_over_what_a_dead_one_left(config, tmp_path):
    command = [sys.executable, "-c", WORKER, f"--gin_file={tmp_path / 'study.gin'}"]
    environment = os.environ | {"PYTHONPATH": str(processes.ROOT)}
    start = dict(cwd=processes.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "log"
    workers = [subprocess.Popen(command, **start) for _ in range(2)]
    try:
        while not log.exists() or len(workers_of(log)) < 2:
            assert any(worker.poll() is None for worker in workers)
            time.sleep(0.02)
        workers[0].kill()
        workers[0].wait()
        assert workers[1].wait(timeout=240) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    lines = [line.split() for line in log.read_text().splitlines()]
    begun = collections.Counter(run for _, what, run in lines if what == "begin")
    assert set(begun) == {run.name for run in config.runs}
    assert sum(begun.values()) - len(begun) in (0, 1)  # what the dead one had begun, if anything
    assert workers_of(log) == {str(worker.pid) for worker in workers}
    whats = [(what, run) for _, what, run in lines]
    for run in config.runs:
        assert progress.done(config, run) is not None
        if run.first is not None:
            assert whats.index(("end", run.first)) < whats.index(("begin", run.name))


MOST_SECONDS = 1200  # beside much other work


def has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow  # the two tests above have its parts
def test_a_machine_that_is_killed_in_training_leaves_a_run_that_ends_the_same(
    trained_pair, tmp_path
):
    runs = {}
    for name in ("killed", "whole"):
        folder = tmp_path / name
        folder.mkdir()
        write_gin(folder, trained_pair / "teacher")
        gin_file, argv = folder / "study.gin", [ONLY, "--gin.STUDENT_STEPS=30", "--gin.ROUTERS={}"]
        if name == "killed":
            command = processes.Command(gin_file, folder / "log", argv=argv, name="study")
            is_due = functools.partial(has_checkpoint, folder / "out" / NAMES[1])
            command.when(is_due, MOST_SECONDS)
            command.send(0, signal.SIGKILL)
            command.wait()
        command = processes.Command(gin_file, folder / "again", argv=argv, name="study")
        assert command.wait(MOST_SECONDS) == [0], command.texts()
        runs[name] = [
            records.read(folder / "out/records/test" / f"{run}.parquet").student_log_probs
            for run in NAMES
        ]
    for killed, whole in zip(runs["killed"], runs["whole"], strict=True):
        np.testing.assert_array_equal(killed, whole)
