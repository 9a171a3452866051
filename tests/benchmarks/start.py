"""Time from start to the first training step of the demo's teacher, and of short commands.

    python tests/benchmarks/start.py

The teacher is trained twice to its first step, in a process and an output folder of its own: first
with an empty compilation cache, then with what the first one left there. CPU time is that of all
threads. The exit status is 1 over a limit, or if the second start compiles a program. Limits are of
wall time on two idle cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.loss_head import table  # noqa: E402

LIMITS = {  # seconds
    "first step, empty cache": 30.0,
    "first step, full cache": 12.0,
    "tasks": 3.0,
    "--help": 0.1,
}
RESULT = "START_BENCHMARK "
TRAINING = f"""
import collections, json, os, sys, time
import jax
from cascade_jax.cli.main import main
from cascade_jax.training import clock

events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rpartition("/")[2]]))

def first_step_done(self, *args, **kwargs):
    compiled = events["compile_requests_use_cache"] - events["cache_hits"]
    figures = {{"compiled": compiled, "loaded": events["cache_hits"], "cpu": time.process_time()}}
    print({RESULT!r} + json.dumps(figures), flush=True)
    os._exit(0)

clock.Clock.step_done = first_step_done
sys.exit(main(sys.argv[1:]))
"""


def environment(caches: Path) -> dict[str, str]:
    """That of a user who sets nothing, with caches in a folder of our own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | {
        "XDG_CACHE_HOME": str(caches),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }


def train(name: str, caches: Path, output: Path) -> dict:
    """A start of training, to its first step."""
    argv = ["train", "--gin_file=gin/experiments/demo.gin", "--gin.ONLY='teacher'"]
    argv.append(f"--gin.OUTPUT_DIR={str(output)!r}")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, *argv],
        cwd=ROOT,
        env=environment(caches),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if not lines:
        raise RuntimeError(f"no first step:\n{done.stdout}\n{done.stderr}")
    return {"name": name, "seconds": seconds} | json.loads(lines[0].removeprefix(RESULT))


def short(name: str, caches: Path, repeats: int) -> dict:
    """A command that answers at once; the fastest of some."""
    times = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "cascade_jax", name],
            cwd=ROOT,
            env=environment(caches),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((seconds, cpu))
    return {"name": name, "seconds": min(times)[0], "cpu": min(times)[1]}


COLUMNS = {
    "what": lambda row: row["name"],
    "wall time": lambda row: f"{row['seconds']:.2f} s",
    "at most": lambda row: f"{LIMITS[row['name']]:g} s",
    "CPU time": lambda row: f"{row['cpu']:.2f} s",
    "programs compiled": lambda row: str(row.get("compiled", "")),
    "loaded": lambda row: str(row.get("loaded", "")),
}


def main(argv: list[str] | None = None) -> int:
    """Prints the table; the status is 1 over a limit."""
    flags = argparse.ArgumentParser(description="Times starts.")
    flags.add_argument("--repeats", type=int, default=5, help="of the short commands")
    args = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        caches = Path(name) / "caches"
        rows = [
            train(f"first step, {state} cache", caches, Path(name) / state)
            for state in ("empty", "full")
        ]
        rows += [short(command, caches, args.repeats) for command in ("tasks", "--help")]
        kept = [path.stat().st_size for path in caches.rglob("*-cache")]
    print(table(rows, COLUMNS))
    print(f"\nthe cache has {len(kept)} programs in {sum(kept) / 1e6:.1f} MB")
    is_over = any(row["seconds"] > LIMITS[row["name"]] for row in rows)
    return int(is_over or rows[1]["compiled"] > 0)


if __name__ == "__main__":
    sys.exit(main())
