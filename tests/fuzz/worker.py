"""A process that reads changed inputs, one after the other, as it is told to."""

import json
import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz import container_mutations
from tests.fuzz.reader import REFUSALS, Reader, Refused, WrongValue, digest

ROOT = Path(__file__).parents[2]
_PRODUCT = (str(ROOT / "cascade_jax"), str(ROOT / "tasks"))
MOST_SECONDS = 10.0
MOST_MEMORY = 500_000_000  # besides twice the input

TRACEBACK, HANG, MEMORY, CRASH = "traceback", "hang", "memory", "crash"
UNNAMED, ACCEPTED, WRONG = "no file named", "changed content accepted", "wrong value accepted"
REFUSED_VALID, LONG = "valid input refused", "message too long"
_MOST_MESSAGE = 2000  # characters: a value is shown cut short


def set_up() -> None:
    """Settings of every process of the fuzzer: no accelerator, one thread, cheap compiling."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", flags)


def all_readers() -> dict[str, Reader]:
    """By name."""
    from tests.fuzz import data_readers, model_readers, records_readers, run_readers

    modules = (records_readers, model_readers, data_readers, run_readers)
    return {reader.name: reader for module in modules for reader in module.readers()}


def valid_input(reader: Reader, cache: Path) -> Path:
    """The folder of a reader's valid input, made once for all processes."""
    folder = cache / reader.name
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=cache)) / "made"
        temporary.mkdir()
        reader.make(temporary)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            pass
        shutil.rmtree(temporary.parent, ignore_errors=True)
    return folder


class Cases:
    """Reads changed inputs of every reader in this process.

    Args:
      cache: folder of valid inputs.
      place: folder where an input is changed and read; the last one stays there.
    """

    def __init__(self, cache: Path, place: Path):
        self._cache, self._place = cache, place
        self._readers = all_readers()
        self._values: dict[str, str] = {}
        self._refused: dict[str, dict[str, Any] | None] = {}

    def run(self, name: str, seed: int, index: int) -> dict[str, Any] | None:
        """Reads one changed input; what was wrong, if anything.

        The first call of a reader reads its valid input twice: what is loaded then is not counted
        as memory of a case.
        """
        reader = self._readers[name]
        if name not in self._refused:
            self._refused[name] = self._warm_up(reader)
        if self._refused[name]:
            return self._refused[name]
        folder = self._copied(reader)
        file, words = reader.change(folder, seed, index)
        (self._place / "case.json").write_text(json.dumps([name, index, file, words]))
        finding = self._read(reader, folder, words)
        return finding and {**finding, "file": file, "mutation": words}

    def _copied(self, reader: Reader) -> Path:
        folder = self._place / reader.name
        for old in self._place.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        return Path(shutil.copytree(valid_input(reader, self._cache), folder))

    def _warm_up(self, reader: Reader) -> dict[str, Any] | None:
        for _ in range(2):
            try:
                self._values[reader.name] = digest(reader.read(self._copied(reader)))
            except BaseException as error:
                return _finding(REFUSED_VALID, error)
        return None

    def _read(self, reader: Reader, folder: Path, words: str) -> dict[str, Any] | None:
        before, size = _reset_peak(), _size(folder)
        try:
            value = reader.read(folder)
        except REFUSALS as error:
            is_unnamed = reader.names_a_file and not _names(folder, str(error))
            is_long = len(str(error)) > _MOST_MESSAGE
            kind = LONG if is_long else UNNAMED
            result = _finding(kind, error) if is_long or is_unnamed else None
        except WrongValue as error:
            result = _finding(WRONG, error)
        except BaseException as error:  # also what a library derives from it, a panic of Rust say
            result = _finding(TRACEBACK, error)
        else:
            result = None
            is_repacked = words.startswith(container_mutations.REPACKED)
            is_same = value is None or digest(value) == self._values[reader.name]
            if reader.is_protected and not is_repacked and not is_same:
                result = {"kind": ACCEPTED, "where": reader.name, "error": "read as other values"}
        used = _peak() - before
        if used > 2 * size + MOST_MEMORY and result is None:
            text = f"{used / 1e6:,.0f} MB for an input of {size:,} bytes"
            result = {"kind": MEMORY, "where": reader.name, "error": text}
        return result


def _names(folder: Path, message: str) -> bool:
    """Whether a message says where to look: a file of the input, or a flag."""
    names = {path.name for path in folder.rglob("*")} | {folder.name}
    return " --" in message or any(name in message for name in names)


def _finding(kind: str, error: BaseException) -> dict[str, Any]:
    """A finding, and the last line of the product that the error came through."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, Refused):  # all come from one place; the message says which one it was
        return {"kind": kind, "where": re.sub(r"[\d'\"/].*", "...", text)[:60], "error": text}
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_PRODUCT)]
    last = ours[-1] if ours else frames[-1]
    place = os.path.relpath(last.filename, ROOT) if ours else Path(last.filename).name
    where = f"{type(error).__name__} at {place} {last.name}"
    return {"kind": kind, "where": where, "line": last.lineno, "error": text}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory(process: int | str = "self") -> int:
    """Bytes of memory of a process; 0 where Linux's /proc is missing or the process has ended."""
    try:
        text = Path(f"/proc/{process}/statm").read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * resource.getpagesize()


def cpu_seconds(process: int) -> float:
    """What a process has computed; 0 where Linux's /proc is missing or the process has ended."""
    fields = _stat(Path(f"/proc/{process}"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def is_running(process: int) -> bool:
    """Whether a thread computes, waits for a processor or for a disk."""
    threads = Path(f"/proc/{process}/task").glob("*")
    return any(fields[0] in "RD" for fields in map(_stat, threads) if fields)


def _stat(place: Path) -> list[str]:
    try:
        return (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _reset_peak() -> int:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return memory()


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def serve(connection: Connection, cache: Path, place: Path) -> None:
    """Answers jobs (reader, seed, index) with findings until None comes."""
    set_up()
    _end_with_parent()
    place.mkdir(parents=True, exist_ok=True)
    output = os.open(place.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    cases = Cases(cache, place)
    connection.send(None)
    while (job := connection.recv()) is not None:
        try:
            connection.send(cases.run(*job))
        except Exception:
            text = traceback.format_exc()
            connection.send({"kind": "fault of the fuzzer", "where": job[0], "error": text})


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def replay(reader: str, seed: int, index: int, show: Callable[[str], None]) -> None:
    """Reads one case in this process; an error shows its traceback. The input stays."""
    target = all_readers()[reader]
    folder = Path(tempfile.mkdtemp()) / reader
    folder.mkdir()
    target.make(folder)
    file, words = target.change(folder, seed, index)
    show(f"{folder}: {file}: {words}")
    sys.stdout.flush()
    try:
        show(f"accepted: {target.read(folder)!r:.300}")
    except REFUSALS as error:
        show(f"refused: {type(error).__name__}: {error}")
