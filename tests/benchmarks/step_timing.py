"""What the benchmarks of steps share: processor, batch, one matmul, runs in turns, the table."""

import functools
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cascade_jax.batch import Batch
from cascade_jax.cli import freed_memory

Run = Callable[[], None]


def _cpu_facts() -> dict[str, str]:
    """What the kernel says of the first core, or nothing."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    pairs = (line.partition(":")[::2] for line in lines)
    return {key.strip(): value.strip() for key, value in pairs}


def processor() -> str:
    """Name and number of cores of the processor."""
    facts = _cpu_facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    return f"{name}, {os.cpu_count()} cores"


def vectors(*, emulates_avx2: bool) -> str:
    """The widest vectors that the rows use: "AVX-512", "AVX2" or "other"."""
    flags = _cpu_facts().get("flags", "").split()
    if "avx512f" in flags and not emulates_avx2:
        return "AVX-512"
    return "AVX2" if "avx2" in flags else "other"


def make_batch(vocab_size: int, rows: int, input_length: int, target_length: int) -> Batch:
    """Full rows of random tokens."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, vocab_size, (rows, input_length)).astype(np.int32)
    targets = rng.integers(2, vocab_size, (rows, target_length)).astype(np.int32)
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    return Batch(inputs, shifted, targets, np.ones(targets.shape, np.float32))


def matmul(rows: int, width: int, columns: int) -> Run:
    """A run of 16 products [rows, width] x [width, columns] in float32."""
    x, kernel = jnp.ones((rows, width)), jnp.ones((width, columns))
    many = jax.jit(lambda x, kernel: [(x + i) @ kernel for i in range(16)])
    return lambda: jax.block_until_ready(many(x, kernel))


def _serve(pipe: Connection, make: Callable[[], Run], keeps_memory: bool) -> None:
    """Makes a run and does it when asked, for its seconds and those of CPU time."""
    if keeps_memory:
        freed_memory.keep()
    run = make()
    run()  # compiles
    pipe.send(None)
    while pipe.recv():
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        pipe.send((time.perf_counter() - start, time.process_time() - cpu_start))


def medians(
    makers: Mapping[str, Callable[[], Run]], repetitions: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each, and of CPU time, all taking turns, each in a process of its own.

    The processes of "ours" and of the matmul "" keep the memory that they free, as our commands do;
    others have malloc as the system sets it.
    """
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name, make in makers.items():
        pipes[name], theirs = context.Pipe()
        arguments = theirs, make, name in ("ours", "")
        processes.append(context.Process(target=_serve, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()  # so that the end of the process is the end of the pipe
        pipes[name].recv()
    seconds = {name: [] for name in makers}
    for _ in range(1 + repetitions):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    pairs = {name: zip(*times[1:], strict=True) for name, times in seconds.items()}
    both = {name: [statistics.median(x) for x in pair] for name, pair in pairs.items()}
    return tuple({name: pair[i] for name, pair in both.items()} for i in range(2))


def print_table(
    works: Mapping[str, tuple[float, Mapping[str, Callable[[], Run]]]],
    limits: Mapping[str, Mapping[str, float]],
    one: tuple[int, int, int],
    repetitions: int,
) -> bool:
    """Times works one after the other, the rows of each in turns with one matmul.

    Args:
      works: by name, the FLOPs of its matmuls and what makes the run of "ours" and of the others.
      limits: by name, the most that our time may be of another's, and of that of its "matmuls".
      one: rows, width and columns of the one matmul.
      repetitions: of each row.

    Returns:
      Whether all limits hold.
    """
    is_within, notes = True, []

    def share(value: float, limit: float | None) -> str:
        nonlocal is_within
        is_within &= limit is None or value <= limit
        return f"{value:.2f}" + ("" if limit is None else f" (at most {limit})")

    print("| what | who | median | ours / theirs | ours / its matmuls |")
    print("| --- | --- | --- | --- | --- |")
    for what, (flops, makers) in works.items():
        seconds, cpu = medians({**makers, "": functools.partial(matmul, *one)}, repetitions)
        rate = 16.0 * 2 * math.prod(one) / seconds.pop("")
        own_limits = limits.get(what, {})
        for who, time_of_row in seconds.items():
            theirs = share(seconds["ours"] / time_of_row, own_limits.get(who))
            matmuls = ""
            if who == "ours":
                matmuls = share(time_of_row * rate / flops, own_limits.get("matmuls"))
            print(f"| {what} | {who} | {time_of_row:.2f} s | {theirs} | {matmuls} |", flush=True)
        notes.append(
            f"{what}: {flops / 1e12:.2f} TFLOP of matmuls, ours does "
            f"{flops / seconds['ours'] / 1e12:.2f} TFLOP/s, one matmul alone {rate / 1e12:.2f}"
        )
        one_rate = 16.0 * 2 * math.prod(one) / cpu.pop("")
        shares = [f"{cpu['ours'] / s:.2f} of {who}" for who, s in cpu.items() if who != "ours"]
        shares.append(f"{cpu['ours'] * one_rate / flops:.2f} of its matmuls")
        notes.append(f"  of CPU time ours takes {cpu['ours']:.2f} s: {', '.join(shares)}")
    print("\n" + "\n".join(notes))
    return is_within
