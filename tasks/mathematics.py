"""Arithmetic and algebra of the mathematics dataset: short questions with one exact answer.

Each module of the data set is a task, named after TFDS's config: arithmetic__add_or_sub is
cascade_mathematics_arithmetic_add_or_sub_v1. Training rows are of all three difficulties, test rows
the data set's "interpolate"; the last 200 training rows are for validation, as in FLAN. FLAN 2021
has algebra__linear_1d in prompts of its own (tasks/flan2021/generation.py).

Reference: Saxton et al. 2019, "Analysing Mathematical Reasoning Abilities of Neural Models".
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from cascade_jax.data.sources import TfdsOrJsonlSource
from cascade_jax.task_metrics import quality
from tasks.registration import add_mixture, add_task

MODULES: Mapping[str, tuple[str, ...]] = {
    "arithmetic": (
        "add_or_sub",
        "add_or_sub_in_base",
        "add_sub_multiple",
        "div",
        "mixed",
        "mul",
        "mul_div_multiple",
        "nearest_integer_root",
        "simplify_surd",
    ),
    "algebra": (
        "linear_1d",
        "linear_1d_composed",
        "linear_2d",
        "linear_2d_composed",
        "polynomial_roots",
        "polynomial_roots_composed",
        "sequence_next_term",
        "sequence_nth_term",
    ),
}
_SPLITS = {"train": "train[:-200]", "validation": "train[-200:]", "test": "test"}


def _to_text(row: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    return {"inputs": "mathematics: " + row["question"], "targets": row["answer"]}


def module_task(area: str, module: str) -> str:
    """Registers the task of a module, "arithmetic" and "add_or_sub", and gives back its name.

    Example: {"question": "What is -5 - 110911?", "answer": "-110916"} becomes "mathematics: What is
    -5 - 110911?" and "-110916".
    """
    source = TfdsOrJsonlSource(
        f"math_dataset/{area}__{module}:1.0.0",
        {"question": str, "answer": str},
        _SPLITS,
        blank_texts=False,
    )
    return add_task(
        f"cascade_mathematics_{area}_{module}_v1",
        source,
        [seqio.map_over_dataset(_to_text)],
        [quality.accuracy],
        suite="mathematics",
        kind="short_answer",
    )


TASKS = {
    area: tuple(module_task(area, module) for module in modules)
    for area, modules in MODULES.items()
}

# All modules have two million training rows, so each is drawn alike.
for _area, _tasks in TASKS.items():
    add_mixture(f"cascade_mathematics_{_area}_v1", _tasks, 1.0)
add_mixture("cascade_mathematics_v1", [name for names in TASKS.values() for name in names], 1.0)
