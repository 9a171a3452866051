"""Records with a quality that follows the score, as evaluation reads them."""

import numpy as np

from cascade_jax import records
from cascade_jax.evaluation import panels
from cascade_jax.evaluation.costs import Flops
from cascade_jax.evaluation.evaluate import load

N = 60
_WORDS = ("yes", "", "no")


def write(path, name, seed=0, changes=None, metadata=None, n=N):
    """Records of a student (by seed) beside one teacher, on two tasks of unequal size."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(99)
    student = (rng.random(n) < 0.5) * 1.0
    task = np.where(np.arange(n) < n // 3, "short", "long/er task")
    log_probs = [-rng.random(1 + i % 3) - (1 - student[i]) for i in range(n)]
    columns = {
        "mixture": ["demo"] * n,
        "task": task,
        "split": ["test"] * n,
        "example_id": [f"{name}/test/{i}" for i, name in enumerate(task)],
        "inputs": [f"question {i} <b>" for i in range(n)],
        "target": ["yes"] * n,
        "metric": ["exact_match"] * n,
        "student_answer": ["yes" if right else "" for right in student],
        "teacher_answer": ["yes"] * n,
        "student_tokens": [np.ones(len(part), np.int32) for part in log_probs],
        "student_log_probs": log_probs,
        "student_entropies": [np.abs(part) for part in log_probs],
        "teacher_tokens": [[]] * n,
        "teacher_log_probs": [[]] * n,
        "teacher_entropies": [[]] * n,
        "student_quality": student,
        "teacher_quality": (shared.random(n) < 0.9) * 1.0,
        "student_flops_per_token": np.full(n, 2e6),
        "teacher_flops_per_token": np.full(n, 1e7),
        **(changes or {}),
    }
    metadata = {"name": name, "mixture": "demo", "split": "test", **(metadata or {})}
    records.write(path, columns, metadata)
    return str(path)


def write_sampled(path, name="xent", seed=0, without=()):
    """The same with four sampled answers to each example, and costs that differ by example."""
    rng = np.random.default_rng(seed + 5)
    changes = {
        "student_sample_answers": [list(rng.choice(_WORDS, 4)) for _ in range(N)],
        "student_flops": rng.uniform(50.0, 150.0, N),
        "teacher_flops": rng.uniform(500.0, 1500.0, N),
        "student_sample_flops": rng.uniform(50.0, 400.0, N),
        "student_seconds": np.full(N, 0.1),
        "teacher_seconds": np.full(N, 0.5),
        "student_input_tokens": np.full(N, 7),
        "teacher_input_tokens": np.full(N, 7),
    }
    changes = {name: values for name, values in changes.items() if name not in without}
    return write(path, name, seed, changes)


def evaluate(files, cost=None, *, score, several=(), samples=1):
    """The panels of some records with a score; costs are FLOPs unless others are given."""
    settings = panels.Settings(
        score=score, cost=cost or Flops(), scores=several, bootstrap_samples=samples
    )
    read = load(files)
    return panels.evaluate_tables(read, *panels.score_all(read, settings), settings)
