"""Reads thousands of damaged inputs with every reader of the project: `make fuzz`.

No reader may end in a traceback, hang, take memory out of proportion or, where a checksum protects
its files, read other values. Valid inputs are made by the project itself at every start, and the
same seed makes the same changes of them (checkpoints have a few files with names at random).
"""

import argparse
import collections
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tests.fuzz import worker

_START_SECONDS = 240.0  # for imports, and for a reader's first input
_SAVED = 2  # inputs of one kind of finding that are kept
ROOT = worker.ROOT


def _flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--number", type=int, default=5000, help="mutations of all readers together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="these only; 'records' means records.*")
    parser.add_argument("--seconds", type=float, default=600.0, help="the most time")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--findings", type=Path, default=ROOT / "runs" / "fuzz", help="for inputs")
    parser.add_argument("--case", metavar="READER:INDEX", help="one case, in this process")
    parser.add_argument("--json", type=Path, help="writes all findings there, a line each")
    parser.add_argument("--list", action="store_true", help="lists the readers")
    return parser.parse_args(argv)


def shares(readers: Sequence[Any], number: int) -> dict[str, int]:
    """How many mutations each reader gets, by weight; at least one."""
    whole = sum(reader.weight for reader in readers)
    return {reader.name: max(1, round(number * reader.weight / whole)) for reader in readers}


def jobs(counts: dict[str, int], seed: int) -> Iterator[tuple[str, int, int]]:
    """All cases, readers spread evenly, so that an early end leaves none out."""
    places = [
        ((index + 0.5) / count, name, seed, index)
        for name, count in counts.items()
        for index in range(count)
    ]
    return (tuple(job) for _, *job in sorted(places))


class _Worker:
    """One process and the case that it is at."""

    def __init__(self, cache: Path, place: Path):
        self._cache, self.place = cache, place
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self._cache, self.place)
        self.process = context.Process(target=worker.serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self._readers: set[str] = set()  # whose valid input it has read
        self._take_on(None)

    def _take_on(self, job: tuple[str, int, int] | None) -> None:
        self.job, self._cpu, self._asleep = job, worker.cpu_seconds(self.process.pid), 0.0
        self._seen, self._memory = time.monotonic(), worker.memory(self.process.pid)

    def give(self, job: tuple[str, int, int] | None) -> None:
        """The next case; None to end."""
        if self.job is not None:
            self._readers.add(self.job[0])
        self._take_on(job)
        try:
            self.connection.send(job)
        except OSError:  # it has ended, as the next `recv` says
            pass

    def verdict(self) -> dict[str, Any] | None:
        """A finding if the case takes too much time or memory.

        Time is that of the processor, and that in which no thread could have computed: on a machine
        that others use, a process that waits for the processor does not hang. Since a busy disk
        can look like it, what seems to hang is read again by a new process.
        """
        now, process = time.monotonic(), self.process.pid
        if not worker.is_running(process):
            self._asleep += min(now - self._seen, 1.0)
        self._seen = now
        computing = worker.cpu_seconds(process) - self._cpu
        most = worker.MOST_SECONDS
        if self.job is None or self.job[0] not in self._readers:
            most += _START_SECONDS
        elif worker.memory(process) - self._memory > 3 * worker.MOST_MEMORY:
            return {"kind": worker.MEMORY, "where": self.job[0], "error": "more than 1.5 GB"}
        if computing + self._asleep > most:
            text = f"{computing:.1f} s of computing, {self._asleep:.1f} s of waiting"
            return {"kind": worker.HANG, "where": self.job and self.job[0], "error": text}
        return None

    def crashed(self) -> dict[str, Any]:
        """The finding of a process that ended by itself."""
        self.process.join(10)
        text = f"the process ended with status {self.process.exitcode}"
        return {"kind": worker.CRASH, "where": self.job and self.job[0], "error": text}

    def restart(self) -> None:
        """Ends the process and starts another."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self._start()


class _Findings:
    """All findings: each kind is printed once, with the input saved, and counted."""

    def __init__(self, folder: Path, lines: Path | None):
        self._folder, self._lines, self.counts = folder, lines, collections.Counter()
        if lines is not None:
            lines.write_text("")

    def add(self, job: tuple[str, int, int], finding: dict[str, Any], place: Path) -> None:
        """One finding of a case whose input is in `place`."""
        reader, seed, index = job
        if "file" not in finding and (place / "case.json").exists():
            name, number, *about = json.loads((place / "case.json").read_text())
            if (name, number) == (reader, index):
                finding = {**finding, **dict(zip(("file", "mutation"), about, strict=True))}
        key = (reader, finding["kind"], finding["where"])
        self.counts[key] += 1
        saved = None
        if self.counts[key] <= _SAVED and (place / reader).is_dir():
            saved = self._folder / f"{reader}-{seed}-{index}"
            shutil.rmtree(saved, ignore_errors=True)
            shutil.copytree(place / reader, saved)
        if self._lines is not None:
            row = {"reader": reader, "seed": seed, "index": index, **finding}
            with self._lines.open("a") as out:
                out.write(json.dumps(row) + "\n")
        if self.counts[key] == 1:
            changed = f"{finding.get('file')}: {finding.get('mutation')}"
            print(
                f"{reader}:{index} seed {seed}: {finding['kind']}: {finding['where']}: "
                f"{finding['error']}\n    {changed}; saved in {saved}",
                flush=True,
            )

    def summary(self) -> str:
        """Counts by reader and kind."""
        lines = [
            f"{count:6} {reader}: {kind}: {where}"
            for (reader, kind, where), count in sorted(self.counts.items())
        ]
        return "\n".join(lines)


class _Queue:
    """The cases of all processes: each begins with readers of its own, which saves imports."""

    def __init__(self, readers: Sequence[Any], values: argparse.Namespace):
        counts = shares(readers, values.number)
        self.size, names = sum(counts.values()), list(counts)
        self._end = time.monotonic() + values.seconds
        self._again: set[tuple[str, int, int]] = set()
        self._parts = []
        for first in range(values.processes):
            own = {name: counts[name] for name in names[first :: values.processes]}
            self._parts.append(collections.deque(jobs(own, values.seed)))

    def again(self, number: int, job: tuple[str, int, int]) -> bool:
        """Puts a case back that seemed to wait for something, once; whether that was done."""
        is_first = job not in self._again
        if is_first:
            self._again.add(job)
            self._parts[number].appendleft(job)
        return is_first

    def next(self, number: int) -> tuple[str, int, int] | None:
        """The next case of a process; None if there is none, or no time is left."""
        parts = [self._parts[number], *sorted(self._parts, key=len, reverse=True)]
        part = next((part for part in parts if part), None)
        return part.popleft() if part and time.monotonic() < self._end else None


def fuzz(values: argparse.Namespace, readers: Sequence[Any]) -> int:
    """Runs all cases; the number of findings."""
    queue, done, begin = _Queue(readers, values), 0, time.monotonic()
    findings = _Findings(values.findings, values.json)
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(i) for i in range(values.processes)]
        workers = [_Worker(Path(folder) / "valid", place) for place in places]
        active = dict(enumerate(workers))
        while active:
            ready = wait([one.connection for one in active.values()], timeout=0.2)
            for number, one in list(active.items()):
                job, is_over = one.job, True
                if one.connection in ready:
                    try:
                        finding = one.connection.recv()
                        is_over = False
                    except (EOFError, OSError):
                        finding = one.crashed()
                elif (finding := one.verdict()) is None:
                    continue
                if job is None and finding is not None:
                    raise RuntimeError(f"a process did not start: {finding['error']}")
                is_hang = finding is not None and finding["kind"] == worker.HANG
                if is_hang and queue.again(number, job):
                    one.restart()
                    continue
                if finding is not None:
                    findings.add(job, finding, one.place)
                done += job is not None
                if is_over:
                    one.restart()  # it says when it is ready
                    continue
                following = queue.next(number)
                one.give(following)
                if following is None:
                    del active[number]
        for one in workers:
            one.process.join(20)
            one.process.kill()
    count, seconds = sum(findings.counts.values()), time.monotonic() - begin
    print(findings.summary())
    print(
        f"{done:,} mutations of {len(readers)} readers in {seconds:.0f} s, seed {values.seed}: "
        f"{count:,} findings of {len(findings.counts)} kinds"
    )
    if done < queue.size:
        print(f"{queue.size - done:,} were left out: --seconds {values.seconds:g} were over")
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 1 if anything was found."""
    values = _flags(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # messages may hold half of a character
    worker.set_up()
    readers = list(worker.all_readers().values())
    if values.reader:
        readers = [
            reader
            for reader in readers
            if any(f"{reader.name}.".startswith(f"{name}.") for name in values.reader)
        ]
        if not readers:
            print(f"no reader {values.reader}; --list lists them", file=sys.stderr)
            return 2
    if values.list:
        print("\n".join(f"{reader.name}: {', '.join(reader.mutations)}" for reader in readers))
        return 0
    if values.case:
        name, _, index = values.case.rpartition(":")
        worker.replay(name, values.seed, int(index), print)
        return 0
    return 1 if fuzz(values, readers) else 0


if __name__ == "__main__":
    sys.exit(main())
