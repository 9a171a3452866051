"""Time and memory of evaluating a million records of 32 tokens, with all scores, from a file.

    python tests/benchmarks/evaluation.py
    python tests/benchmarks/evaluation.py --records 21000 --tokens 8 --tasks 70 --cascades 4
    python tests/benchmarks/evaluation.py --records 10000000 --tokens 8 --top_k 0 \\
        --most_seconds 900 --most_gib 16

Records are made up (their making is not timed): 60 tasks, log-probs, entropies and the 10 largest
log-probs of every token. They are written and read as a Parquet file; every score that they hold
enough for is computed; the pooled curve of each with 200 bootstrap draws, the 60 tasks likewise by
one score, and the files of the report follow. Then the score, curve and metrics of one score
alone, without draws. The exit status is 1 over the limits: 60 s and 4 GiB for all, 2 s a million
records for it, and 5 MB for report.html.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from cascade_jax import records  # noqa: E402
from cascade_jax.deferral.scores import Average  # noqa: E402
from cascade_jax.evaluation import (  # noqa: E402
    panels,
    summaries,  # noqa: E402
)
from cascade_jax.evaluation.cascades import Cascade  # noqa: E402
from cascade_jax.evaluation.costs import Parameters  # noqa: E402
from cascade_jax.evaluation.reliability import confidence_of  # noqa: E402
from cascade_jax.report.write import write as write_report  # noqa: E402
from tests.benchmarks.loss_head import table  # noqa: E402

MOST_ALONE = 2.0  # seconds a million records
MOST_PAGE = 5e6  # bytes


####################################### The records #######################################


def repeated(text: str, n: int) -> pa.Array:
    """One text in all rows."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [text]).cast(pa.string())


def lists(values: np.ndarray, length: int) -> pa.Array:
    """Lists of one length, from their values end to end."""
    offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def top_log_probs(rng: np.random.Generator, count: int, top_k: int) -> np.ndarray:
    """Falling log-probs at `count` positions, end to end."""
    result = np.empty((count, top_k), np.float32)
    for start in range(0, count, 1 << 20):
        part = result[start : start + (1 << 20)]
        part[:] = rng.random(part.shape, np.float32)
        np.cumsum(part, axis=1, out=part)
        part *= -1
        part -= np.float32(np.log(top_k) + 1e-5)  # the probabilities add up to less than 1
    return result.ravel()


def made_up(n: int, tokens: int, top_k: int, tasks: int, student: int) -> dict[str, pa.Array]:
    """Columns of n records whose log-probs know something of the errors."""
    shared = np.random.default_rng(0)
    task, teacher_right = shared.integers(tasks, size=n), (shared.random(n) < 0.9) * 1.0
    rng = np.random.default_rng([1, student])
    right = (rng.random(n) < 0.4 + 0.4 * task / tasks) * 1.0
    spread = rng.gamma(2.0, 0.3, n) + 0.5 * (1 - right)
    log_probs = rng.random(n * tokens, np.float32)
    log_probs *= -np.repeat(spread.astype(np.float32), tokens)
    names = [f"task_{number}" for number in range(tasks)]
    columns = {
        "task": pa.DictionaryArray.from_arrays(task.astype(np.int32), names).cast(pa.string()),
        "example_id": pa.array([f"example/test/{row}" for row in range(n)]),
        "student_tokens": lists(rng.integers(32_000, size=n * tokens, dtype=np.int32), tokens),
        "student_log_probs": lists(log_probs, tokens),
        "student_entropies": lists(np.abs(log_probs), tokens),
        "student_quality": pa.array(right),
        "teacher_quality": pa.array(teacher_right),
        "student_flops_per_token": pa.array(np.full(n, 2e6)),
        "teacher_flops_per_token": pa.array(np.full(n, 1e7)),
    }
    for name in ("tokens", "log_probs", "entropies"):
        kind = np.int32 if name == "tokens" else np.float32
        nothing = pa.array(np.zeros(0, kind))
        columns[f"teacher_{name}"] = pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), nothing)
    columns["inputs"] = pa.array([f"the text of input {row}" for row in range(n)])
    for name in ("mixture", "split", "metric", "target"):
        columns[name] = repeated(name, n)
    for name in ("student_answer", "teacher_answer"):
        columns[name] = repeated("an answer", n)
    if top_k:
        columns["student_top_log_probs"] = lists(
            top_log_probs(rng, n * tokens, top_k), tokens * top_k
        )
    return columns


######################################### Timing ##########################################


def forget_peak() -> bool:
    """Lets the kernel count the peak of memory anew; False where it can not."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """Largest memory in bytes, since it was last forgotten or since the start."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def stage(rows: list[dict], name: str) -> Iterator[None]:
    """Adds a row with the time and peak memory of what is done inside."""
    forget_peak()
    start = time.perf_counter()
    yield
    rows.append({"name": name, "seconds": time.perf_counter() - start, "peak": peak()})


def in_child(work: Callable[[], object]) -> None:
    """Does the work in a process of its own, whose memory is gone afterwards."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a stage failed; its error stands above")


def write(paths: dict[str, Path], args: argparse.Namespace, result: Path) -> None:
    """Makes the records and writes them, timing the second; for a process of its own."""
    rows: list[dict] = []
    for number, (name, path) in enumerate(paths.items()):
        columns = made_up(args.records, args.tokens, args.top_k, args.tasks, number)
        metadata = {"name": name, "mixture": "mixture", "split": "split"}
        with stage(rows, f"write {name}"):
            records.write(path, columns, metadata | ({"top_k": args.top_k} if args.top_k else {}))
        del columns
    result.write_text(json.dumps(rows))


def measure(paths: dict[str, Path], draws: int, report: Path) -> tuple[list[dict], dict]:
    """All stages after writing, and the one score alone."""
    rows: list[dict] = []
    with stage(rows, "read"):
        tables = {name: records.read(path) for name, path in paths.items()}
    settings = panels.Settings(scores=panels.AVAILABLE, bootstrap_samples=draws)
    with stage(rows, "scores"):
        cascades, by_score, spent = panels.score_all(tables, settings)
    rows[-1]["name"] += f" ({len(next(iter(by_score.values())))})"
    with stage(rows, "curves, metrics, tasks"):
        evaluation = panels.evaluate_tables(tables, cascades, by_score, spent, settings)
    with stage(rows, "pictures, page, metrics.json"):
        write_report(evaluation, report)
    del evaluation, by_score, cascades
    alone: list[dict] = []
    with stage(alone, "one score alone, without draws"):
        table_ = next(iter(tables.values()))
        answers = table_.student
        cascade = Cascade(
            Average()(answers),
            table_.student_quality,
            table_.teacher_quality,
            *Parameters()(table_),
            confidence=confidence_of(answers),
        )
        summaries.compare("pool", "metric", {"student": cascade}, bootstrap_samples=0)
    return rows, alone[0]


COLUMNS: dict[str, Callable[[dict], str]] = {
    "stage": lambda row: row["name"],
    "time": lambda row: f"{row['seconds']:.1f} s",
    "peak memory": lambda row: f"{row['peak'] / 2**30:.2f} GiB",
}


def main(argv: list[str] | None = None) -> int:
    """Prints the table; the status is 1 over a limit."""
    flags = argparse.ArgumentParser(description="Times evaluation of a million records.")
    flags.add_argument("--records", type=int, default=1_000_000)
    flags.add_argument("--tokens", type=int, default=32)
    flags.add_argument("--top_k", type=int, default=10, help="largest log-probs of each token")
    flags.add_argument("--draws", type=int, default=200, help="bootstrap resamples")
    flags.add_argument("--tasks", type=int, default=60)
    flags.add_argument("--cascades", type=int, default=1, help="students of one teacher")
    flags.add_argument("--most_seconds", type=float, default=60.0, help="the limit of time")
    flags.add_argument("--most_gib", type=float, default=4.0, help="the limit of memory")
    flags.add_argument("--folder", help="for the file; left out: a temporary one")
    args = flags.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        names = [f"student_{number}" for number in range(args.cascades)]
        paths = {student: folder / f"{student}.parquet" for student in names}
        in_child(lambda: write(paths, args, folder / "write.json"))
        rows = json.loads((folder / "write.json").read_text())
        size = sum(path.stat().st_size for path in paths.values())
        rest, alone = measure(paths, args.draws, folder / "report")
        page = (folder / "report" / "report.html").stat().st_size
    rows += rest
    total = {
        "name": "all",
        "seconds": sum(row["seconds"] for row in rows),
        "peak": max(row["peak"] for row in rows),
    }
    print(
        f"{args.records:,} records of {args.tokens} tokens and {args.tasks} tasks, "
        f"{args.cascades} cascades, top {args.top_k}, {args.draws} draws; "
        f"files of {size / 2**30:.2f} GiB; report.html of {page / 1e6:.2f} MB\n"
    )
    print(table([*rows, total, alone], COLUMNS))
    most_alone = MOST_ALONE * max(args.records / 1e6, 1)
    print(
        f"\nat most {args.most_seconds:.0f} s and {args.most_gib:g} GiB for all, "
        f"{most_alone:.0f} s for the one score, {MOST_PAGE / 1e6:.0f} MB for report.html"
    )
    is_over = total["seconds"] > args.most_seconds or total["peak"] > args.most_gib * 2**30
    return int(is_over or alone["seconds"] > most_alone or page > MOST_PAGE)


if __name__ == "__main__":
    sys.exit(main())
