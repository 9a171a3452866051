"""Small tables of runs, whose losses differ by known amounts."""

from pathlib import Path

import numpy as np

from cascade_jax import records
from cascade_jax.records import run_table

TASKS = ("easy", "middle", "hard")


def write(
    folder: Path,
    runs: dict[tuple[str, int], float],
    *,
    pair="p",
    size="small",
    examples=120,
    change=None,
    scores=None,
) -> None:
    """A table for each (loss, seed).

    Args:
      runs: by loss and seed, by how much harder questions the small model answers right.
      change: of the columns of every table, before it is written.
      scores: by name, which every table holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for (loss, seed), skill in runs.items():
        columns = make_columns(skill, seed, examples)
        if change:
            change(columns)
        full = folder / "full.records"
        records.write(full, columns, {"name": loss, "mixture": "m", "split": "test"})
        run = run_table.Run(pair, size, loss, seed)
        run_table.write(full, folder / f"{pair}.{size}.{loss}.{seed}.parquet", run, scores)
        full.unlink()


def make_columns(skill: float, seed: int, examples: int = 120) -> dict:
    """Columns of a table; the examples and the large model are the same for all seeds."""
    hardness = np.random.default_rng(0).normal(size=examples)
    rng = np.random.default_rng([1, seed])
    task = [TASKS[i % 3] for i in range(examples)]
    large_noise = np.random.default_rng(2).normal(size=examples)
    limit = np.array([{"easy": 1.6, "middle": 1.0, "hard": 0.2}[name] for name in task])
    large = (hardness + 0.4 * large_noise < limit).astype(float)
    small = (hardness + 0.4 * rng.normal(size=examples) < limit - 1.0 + skill).astype(float)
    lengths = 1 + np.arange(examples) % 3
    log_probs = [
        -np.exp(h + 0.5 * rng.normal(size=k)).astype(np.float32)
        for h, k in zip(hardness, lengths, strict=True)
    ]
    empty = [[]] * examples
    return {
        "mixture": ["m"] * examples,
        "task": task,
        "split": ["test"] * examples,
        "example_id": [f"{name}/{i}" for i, name in enumerate(task)],
        "inputs": [f"question {i}" for i in range(examples)],
        "target": [str(i) for i in range(examples)],
        "metric": ["rouge_l" if name == "hard" else "accuracy" for name in task],
        "student_answer": [""] * examples,
        "teacher_answer": [""] * examples,
        "student_tokens": empty,
        "student_log_probs": log_probs,
        "student_entropies": empty,
        "teacher_tokens": empty,
        "teacher_log_probs": empty,
        "teacher_entropies": empty,
        "student_quality": small,
        "teacher_quality": large,
        "student_flops_per_token": [1e8] * examples,
        "teacher_flops_per_token": [4e8] * examples,
    }
