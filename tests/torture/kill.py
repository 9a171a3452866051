"""Kills commands at chosen and random moments, starts them again, and compares what comes out.

    python -m tests.torture.kill --kills 200 --seed 0

A process that has imported everything is forked for each start, which so takes a second and not
ten. Half of the kills come right before or after some change of a file (a rename, a new folder, a
deletion); the others after a random time. Whenever a command gets to its end, what it made must be
that of a run that was never killed, bit for bit; it then begins anew. The exit status is 1 if
anything differed.
"""

import argparse
import dataclasses
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_CHANGES = ("rename", "replace", "mkdir", "unlink", "rmdir")
_LIMIT_SECONDS = 900.0  # of one start; a hang is a failure


class Difference(Exception):
    """Something was lost, or came out in another way."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a start is killed: at a change of files by its number, or after some seconds."""

    change: int | None = None
    is_after: bool = False
    seconds: float | None = None

    def __str__(self):
        if self.change is None:
            return f"after {self.seconds:.2f} s"
        return f"{'after' if self.is_after else 'before'} change {self.change} of files"


def set_environment() -> None:
    """Settings of JAX and TensorFlow, which must be made before they are imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Compiling takes most of the time: cheaply, and once for all starts.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def imports() -> None:
    """Imports what the commands need; starts no thread and no backend."""
    import orbax.checkpoint  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import tensorflow  # noqa: F401

    import cascade_jax.calibration.calibrate
    import cascade_jax.collection.collect
    import cascade_jax.teacher_cache.make
    import cascade_jax.training.train  # noqa: F401
    from tests.torture import scenarios

    scenarios.settings()


def start(work: Callable[[], None], log: Path, changes: Path | None, moment: Moment | None) -> int:
    """Forks a process that does the work; its status, -SIGKILL if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            count = _count_changes(moment)
            work()
            if changes is not None:
                changes.write_text(json.dumps(count[0]))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    limit = moment.seconds if moment is not None and moment.seconds is not None else None
    end = time.monotonic() + (_LIMIT_SECONDS if limit is None else limit)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if limit is None:
        raise Difference(f"no end after {_LIMIT_SECONDS:.0f} s; its log: {log}")
    return status


def _count_changes(moment: Moment | None) -> list[int]:
    """Counts the changes of files that Python makes; the chosen one kills this process."""
    count = [0]

    def counted(real):
        def call(*args, **options):
            count[0] += 1
            is_chosen = moment is not None and moment.change == count[0]
            if is_chosen and not moment.is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **options)
            if is_chosen:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    return count


def asked(question: Callable[[], object], folder: Path) -> object:
    """The answer of a forked process: once this one has used tensorstore, it can't be forked."""
    answer = folder / "answer"
    log = folder / "answer.log"
    if start(lambda: answer.write_bytes(pickle.dumps(question())), log, None, None) != 0:
        raise Difference(f"can't be read; its log: {log}")
    return pickle.loads(answer.read_bytes())


class Victim:
    """One scenario: its folder, the result of the run that was never killed, and its kills."""

    def __init__(self, name: str, folder: Path, rng: random.Random):
        from tests.torture import scenarios

        self.name, self._rng, self._lib = name, rng, scenarios
        self._scenario = scenarios.SCENARIOS[name]
        self._root, self._prepared, self._folder = folder, folder / "prepared", folder / name
        self._log, self._changes = folder / f"{name}.log", folder / f"{name}.changes"
        self.kills = self.ends = 0
        self._newest = 0
        self._folder.mkdir()
        self._begin_anew()
        begin = time.monotonic()
        self._to_the_end()
        self._seconds = time.monotonic() - begin
        self._count = json.loads(self._changes.read_text())
        self._expected = asked(self._result, folder)
        self._begin_anew()
        begin = time.monotonic()  # without compiling
        self._to_the_end()
        self._seconds = time.monotonic() - begin
        self._compare()

    def _result(self) -> dict:
        return self._scenario.result(self._folder)

    def _begin_anew(self) -> None:
        self._lib.begin_anew(self._folder, self._prepared, self._scenario)
        self._newest = 0

    def _start(self, moment: Moment | None) -> int:
        return start(lambda: self._scenario.run(self._folder), self._log, self._changes, moment)

    def _to_the_end(self) -> None:
        if self._start(None) != 0:
            raise Difference(f"{self.name}: does not go on; its log: {self._log}")

    def kill(self) -> str:
        """Starts until one start is killed; says how. Compares whatever came to its end."""
        while True:
            moment = self._moment()
            status = self._start(moment)
            if status == -signal.SIGKILL:
                self.kills += 1
                self._check_nothing_lost()
                return str(moment)
            if status != 0:
                raise Difference(f"{self.name}: ended with status {status}; its log: {self._log}")
            self._compare()
            self._begin_anew()

    def finish(self) -> None:
        """Goes on to the end and compares."""
        self._to_the_end()
        self._compare()

    def _moment(self) -> Moment:
        if self._rng.random() < 0.5:
            change = self._rng.randint(1, self._count)
            return Moment(change, is_after=self._rng.random() < 0.5)
        return Moment(seconds=self._rng.uniform(0.0, self._seconds))

    def _check_nothing_lost(self) -> None:
        """The newest checkpoint is whole, and does not go back."""
        from cascade_jax.runs import completeness

        folder = self._folder / "run" / "checkpoints"
        newest = max(completeness.steps_in(folder), default=0)
        if newest < self._newest:
            raise Difference(f"{self.name}: the checkpoint of step {self._newest} is lost")
        if newest > self._newest:
            lack = asked(lambda: completeness.missing_part(folder / str(newest)), self._root)
            if lack is not None:
                raise Difference(f"{self.name}: {folder / str(newest)} is not whole: {lack}")
        self._newest = newest

    def _compare(self) -> None:
        self.ends += 1
        ours, expected = asked(self._result, self._root), self._expected
        if ours.keys() != expected.keys():
            raise Difference(f"{self.name}: made {sorted(ours)}, not {sorted(expected)}")
        for key, value in expected.items():
            if not _same(ours[key], value):
                raise Difference(f"{self.name}: {key} is {ours[key]!r}, not {value!r}"[:2000])


def _same(ours, expected) -> bool:
    if hasattr(expected, "tobytes"):
        same_kind = ours.dtype == expected.dtype and ours.shape == expected.shape
        return same_kind and ours.tobytes() == expected.tobytes()
    return repr(ours) == repr(expected)  # NaN is itself


def torture(kills: int, seed: int, names: list[str], folder: Path) -> int:
    """Does so many kills in turn over the scenarios; the number of differences."""
    import jax

    from tests.torture import scenarios

    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    (folder / "prepared").mkdir()
    log = folder / "prepare.log"
    if start(lambda: scenarios.prepare(folder / "prepared"), log, folder / "prepare", None) != 0:
        raise Difference(f"could not prepare; its log: {log}")
    rng, differences, victims = random.Random(seed), [], []
    begin = time.monotonic()
    for name in names:
        try:
            victims.append(Victim(name, folder, random.Random(rng.random())))
            print(f"{name}: two runs without a kill are the same", flush=True)
        except Difference as error:
            differences.append(str(error))
            print(f"DIFFERENCE {error}", flush=True)
    begin_of_kills, done = time.monotonic(), 0
    while done < kills and victims:
        victim = victims[done % len(victims)]
        try:
            how = victim.kill()
            done += 1
            minutes = (time.monotonic() - begin_of_kills) / 60
            print(f"[{done}/{kills}, {minutes:.1f} min] {victim.name} killed {how}", flush=True)
        except Difference as error:
            differences.append(str(error))
            victims.remove(victim)
            print(f"DIFFERENCE {error}", flush=True)
    for victim in victims:
        try:
            victim.finish()
            print(f"{victim.name}: {victim.kills} kills, {victim.ends} ends, all the same")
        except Difference as error:
            differences.append(str(error))
            print(f"DIFFERENCE {error}", flush=True)
    minutes = (time.monotonic() - begin) / 60
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (used.ru_utime + used.ru_stime) / 60
    print(
        f"{done} kills in {minutes:.1f} minutes ({cpu:.1f} of CPU), {len(differences)} differences"
    )
    return len(differences)


def main() -> int:
    """Parses the arguments; the exit status."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--kills", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of moments")
    parser.add_argument("--only", nargs="*", help="names of scenarios")
    parser.add_argument("--folder", help="to work in, which stays; else a temporary one")
    arguments = parser.parse_args()
    set_environment()
    imports()
    from tests.torture import scenarios

    names = arguments.only or list(scenarios.SCENARIOS)
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="torture_"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        failures = torture(arguments.kills, arguments.seed, names, folder)
    except Difference as error:
        print(f"DIFFERENCE {error}")
        failures = 1
    if not failures and not arguments.folder:
        shutil.rmtree(folder)
    elif failures:
        print(f"what is left: {folder}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
