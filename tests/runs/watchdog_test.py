"""A run that hangs is ended with a message and a status."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from cascade_jax.runs import watchdog as watchdog_lib
from cascade_jax.runs.watchdog import Watchdog

pytestmark = pytest.mark.medium

CODE = """
import sys, time
from pathlib import Path
from cascade_jax.runs.watchdog import Watchdog

def waiting_for_a_host():
    time.sleep(600)

kept = "the checkpoint of step 40 stays"
with Watchdog("train", "run 'xent': ", 2.0, Path(sys.argv[1]), lambda: kept) as watchdog:
    for step in range(3):
        watchdog.progress(f"step {step + 41}")
    waiting_for_a_host()
"""


def test_a_run_that_hangs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=600
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
        [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL, timeout=600
    )
    assert done.returncode == 76


class Clock:
    """A clock that stands until it is moved, and a watch that looks whenever it is."""

    def __init__(self, monkeypatch):
        self.now, self.ends = 0.0, []
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(watchdog_lib, "time", clock)
        threads = SimpleNamespace(Event=threading.Event, Thread=lambda **_: self)
        monkeypatch.setattr(watchdog_lib, "threading", threads)
        monkeypatch.setattr(watchdog_lib.hosts, "end_now", self.ends.append)
        monkeypatch.setattr(Watchdog, "_end", lambda self, doing, waited: None)

    def start(self):
        """In place of the thread's."""

    def pass_seconds(self, watchdog, seconds):
        """Looks once, so many seconds later."""
        self.now += seconds
        looks = iter([False, True])
        watchdog._done.wait = lambda timeout: next(looks)
        watchdog._watch()


def test_progress_in_time_ends_nothing_and_compiling_may_take_ten_times_as_long(
    tmp_path, monkeypatch
):
    clock = Clock(monkeypatch)
    with Watchdog("train", "", 2.0, tmp_path, lambda: "nothing") as watchdog:
        clock.pass_seconds(watchdog, 19.0)  # the first step compiles
        for _ in range(6):
            watchdog.progress("a step")
            clock.pass_seconds(watchdog, 1.9)
        watchdog.progress("another program", may_compile=True)
        clock.pass_seconds(watchdog, 19.0)
        assert not clock.ends
        clock.pass_seconds(watchdog, 2.0)
        assert clock.ends == [76]
    assert not list(tmp_path.iterdir())


def test_without_seconds_nothing_watches(tmp_path):
    before = threading.active_count()
    with Watchdog("train", "", None, tmp_path, lambda: "nothing") as watchdog:
        watchdog.progress("a step")
        assert threading.active_count() == before
