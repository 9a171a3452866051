"""`cascade-jax train` in processes of its own, several of which may stand for hosts."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support import tiny_demo

ROOT = Path(__file__).parents[2]
SIZES = tiny_demo.LARGE | dict(embed_dim=8, num_heads=2, dropout_rate=0.1)
GIN = tiny_demo.gin_text(
    """\
MIXTURE = "demo_last_v1"
BATCH_SIZE = 8
TEACHER_STEPS = {steps}
STUDENT_STEPS = {steps}
CHECKPOINT_EVERY = {every}
LOG_EVERY = 1
WARMUP_STEPS = 1
EVAL_BATCHES = 1
ONLY = "teacher"
OUTPUT_DIR = "{output}"
saved_model.CascadeRuns.students = ["xent"]
""",
    "from cascade_jax.runs import saved_model",
    "from cascade_jax.training import experiment",
    small=SIZES,
    large=SIZES,
)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def xla_flags(devices: int) -> str:
    """The tests' XLA_FLAGS with another number of virtual devices."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"


class Command:
    """One command on so many processes, each with its part of 8 virtual devices.

    Args:
      gin: file of the experiment.
      log: text file; process i writes to it with `.i` appended.
      processes: how many; 1 starts a command that knows of no others.
      argv: further arguments, a list for all or one list for each process.
      name: the command.
      roots: where process i has the package and works; by default this clone for all.
    """

    def __init__(
        self,
        gin: Path,
        log: Path,
        processes: int = 1,
        argv=(),
        name: str = "train",
        roots: Sequence[Path] = (ROOT,),
    ):
        port = free_port()
        flags = xla_flags(8 // processes)
        self.logs = [log.with_name(f"{log.name}.{i}") for i in range(processes)]
        self.processes = []
        each = argv if argv and isinstance(argv[0], list) else [list(argv)] * processes
        for i in range(processes):
            command = [sys.executable, "-m", "cascade_jax", name, f"--gin_file={gin}", *each[i]]
            if processes > 1:
                command.append(f"--coordinator=localhost:{port}")
                command += [f"--processes={processes}", f"--process={i}"]
            with self.logs[i].open("w") as output:
                root = roots[i % len(roots)]
                process = subprocess.Popen(
                    command,
                    cwd=root,
                    env=os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": flags},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def wait(self, seconds: float = 300) -> list[int]:
        """Exit statuses; processes that are still there after so many seconds are killed."""
        end = time.monotonic() + seconds
        try:
            return [p.wait(timeout=max(end - time.monotonic(), 0.1)) for p in self.processes]
        finally:
            self.kill()

    def finish(self) -> list[str]:
        """What they print, when all end well."""
        assert self.wait() == [0] * len(self.processes), "\n".join(self.texts())
        return self.texts()

    def texts(self) -> list[str]:
        return [log.read_text() for log in self.logs]

    def last_lines(self) -> list[str]:
        """The last line that each printed."""
        return [text.strip().splitlines()[-1] for text in self.texts()]

    def when(self, is_due: Callable[[], bool], seconds: float = 240) -> None:
        """Waits for a condition while the processes live."""
        end = time.monotonic() + seconds
        while not is_due():
            assert all(p.poll() is None for p in self.processes), "\n".join(self.texts())
            assert time.monotonic() < end, "the run made no progress"
            time.sleep(0.002)

    def send(self, process: int, number: signal.Signals) -> None:
        self.processes[process].send_signal(number)

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def stopped_in_hang(command: Command, victim: int, seconds: float) -> tuple[int, str]:
    """Stops one of two processes as a host hangs; the other's exit status and last line."""
    command.send(victim, signal.SIGSTOP)
    other = 1 - victim
    try:
        status = command.processes[other].wait(timeout=seconds)
    finally:
        command.kill()
    return status, command.last_lines()[other]


def answers_given(command: Command) -> bool:
    """Whether a collection's progress bar has moved."""
    return re.search(r"answers: +[1-9]", command.texts()[0]) is not None


def write_gin(folder: Path, name: str, steps: int, every: int) -> Path:
    """A gin file whose runs go to `<folder>/<name>`, by default only `teacher`; gives the file."""
    file = folder / f"{name}.gin"
    file.write_text(GIN.format(steps=steps, every=every, output=folder / name))
    return file
