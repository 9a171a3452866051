"""Who may write to a run's folder."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cascade_jax.runs import checkpoints, folder_lock
from cascade_jax.runs.folder_lock import FolderInUseError, FolderLock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 1.0)


def test_a_second_run_is_refused_and_the_first_leaves_nothing(tmp_path):
    with FolderLock(tmp_path):
        with pytest.raises(FolderInUseError, match=f"by process {os.getpid()} on "):
            FolderLock(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())
    with FolderLock(tmp_path):
        pass


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, sys; from pathlib import Path;"
        "from cascade_jax.runs.folder_lock import FolderLock;"
        f"FolderLock(Path({str(tmp_path)!r})).__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    left = json.loads((tmp_path / "lock.json").read_text())
    assert left["process"] != os.getpid()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()


def test_another_process_under_the_same_number_does_not_keep_it(tmp_path):
    lock = {"host": FolderLock(tmp_path)._owner["host"], "process": os.getpid()}
    (tmp_path / "lock.json").write_text(json.dumps(lock | {"started": "1", "token": "a"}))
    with FolderLock(tmp_path):
        pass


def test_another_host_keeps_it_as_long_as_it_gives_signs_of_life(tmp_path):
    file = tmp_path / "lock.json"
    lock = {"host": "elsewhere", "process": 5, "started": "7", "token": "a", "beats": 0}
    file.write_text(json.dumps(lock))
    done = threading.Event()

    def live():
        while not done.wait(0.1):
            lock["beats"] += 1
            temporary = tmp_path / "temporary"
            temporary.write_text(json.dumps(lock))
            temporary.replace(file)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(FolderInUseError, match="by process 5 on elsewhere"):
            FolderLock(tmp_path).__enter__()
    finally:
        done.set()
        thread.join()
    begin = time.monotonic()
    with FolderLock(tmp_path):  # it stands still now
        assert time.monotonic() - begin >= 1.0


def test_a_run_whose_lock_was_taken_writes_no_more_and_leaves_it_alone(tmp_path):
    with FolderLock(tmp_path) as lock:
        lock.check()
        other = {"host": "elsewhere", "process": 5, "started": "7", "token": "a"}
        time.sleep(0.1)
        lock._done.set()
        lock._thread.join()
        (tmp_path / "lock.json").write_text(json.dumps(other))
        with pytest.raises(FolderInUseError, match="was taken over by process 5 on elsewhere"):
            lock.check()
    assert json.loads((tmp_path / "lock.json").read_text()) == other


def test_of_many_hosts_only_the_first_holds_it(tmp_path):
    with FolderLock(tmp_path), FolderLock(tmp_path, is_mine=False) as other:
        other.check()
        assert len(list(tmp_path.iterdir())) == 1


LOCK = {"host": "elsewhere", "process": 5, "started": "7", "token": "a"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"\0" * 100, b"[" * 5000, b"NaN",
     *(json.dumps(LOCK | change).encode() for change in (
         {"host": None}, {"process": "5"}, {"process": True}, {"started": 7}, {"token": []}))],
)  # fmt: skip
def test_a_broken_lock_keeps_nobody_out_for_long(tmp_path, monkeypatch, content):
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 0.02)
    (tmp_path / "lock.json").write_bytes(content)
    with FolderLock(tmp_path):
        pass
    assert not (tmp_path / "lock.json").exists()


def test_a_lock_that_breaks_while_its_run_lives_is_not_taken(tmp_path, capsys):
    file = tmp_path / "lock.json"
    with FolderLock(tmp_path):
        file.write_text("{")
        with pytest.raises(FolderInUseError, match=f"by process {os.getpid()} on "):
            FolderLock(tmp_path).__enter__()
    assert f"{file} is damaged: waiting up to 1 seconds" in capsys.readouterr().out
    other = {"host": "elsewhere", "process": 5, "started": "7", "token": "a", "beats": 0}
    file.write_text(json.dumps(other))

    def breaks_and_lives():
        time.sleep(0.1)
        file.write_text("{")
        time.sleep(0.3)
        file.write_text(json.dumps(other | {"beats": 1}))

    thread = threading.Thread(target=breaks_and_lives)
    thread.start()
    with pytest.raises(FolderInUseError, match="by process 5 on elsewhere"):
        FolderLock(tmp_path).__enter__()
    thread.join()


def test_a_lock_that_can_not_be_read_is_not_taken_over(tmp_path, monkeypatch):
    (tmp_path / "lock.json").write_text(json.dumps(LOCK))
    read, errors = Path.read_bytes, [OSError(errno.ESTALE, "Stale file handle")]

    def fails(path):
        if path.name == "lock.json" and errors:
            raise errors[0] if len(errors) > 1 else errors.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with FolderLock(tmp_path) as lock:  # once is tried again: it is waited for, as it stands still
        assert time.monotonic() - lock._written < 1.0
    (tmp_path / "lock.json").write_text(json.dumps(LOCK))
    errors += [PermissionError(errno.EACCES, "Permission denied")] * 2
    with pytest.raises(checkpoints.CheckpointError, match="lock.json.* can't be read: Permission"):
        FolderLock(tmp_path).__enter__()
    assert json.loads((tmp_path / "lock.json").read_text()) == LOCK


def test_a_run_that_stood_still_while_another_came_and_ended_writes_no_more(tmp_path):
    with FolderLock(tmp_path) as lock:
        lock._done.set()
        lock._thread.join()
        lock._written = time.monotonic() - 1.5
        (tmp_path / "lock.json").unlink()
        lock._done.clear()
        lock._beat()  # returns, since it has seen the same
        for _ in range(2):
            with pytest.raises(FolderInUseError, match="may have been taken over.* is gone"):
                lock.check()
        assert not (tmp_path / "lock.json").exists()


def test_a_lock_that_was_deleted_or_broken_is_written_again(tmp_path):
    with FolderLock(tmp_path) as lock:
        lock._done.set()
        lock._thread.join()
        for broken in (None, "{"):
            (tmp_path / "lock.json").unlink()
            if broken is not None:
                (tmp_path / "lock.json").write_text(broken)
            lock.check()
            with pytest.raises(FolderInUseError, match=f"by process {os.getpid()} on "):
                FolderLock(tmp_path).__enter__()
