"""Arithmetic and algebra of the mathematics dataset: names, and rows of a folder."""

import pytest
import seqio
from tensorflow_datasets.datasets.math_dataset import math_dataset_dataset_builder as builder

from cascade_jax.task_metrics import quality
from tasks import mathematics
from tests.support.rows import examples, texts_of, write

ROWS = [{"question": f"What is {i} + 3?", "answer": str(i + 3)} for i in range(-201, 3)]
ADD = "cascade_mathematics_arithmetic_add_or_sub_v1"


def test_every_module_of_arithmetic_and_algebra_is_a_task():
    configs = {config.name for config in builder.Builder.BUILDER_CONFIGS}
    chosen = {config for config in configs if config.startswith(("arithmetic__", "algebra__"))}
    assert chosen == {
        f"{area}__{module}" for area, modules in mathematics.MODULES.items() for module in modules
    }
    mixture = seqio.MixtureRegistry.get("cascade_mathematics_v1")
    assert len(mixture.tasks) == 17 and {mixture.get_rate(task) for task in mixture.tasks} == {1.0}
    assert len(seqio.MixtureRegistry.get("cascade_mathematics_arithmetic_v1").tasks) == 9


def test_rows_of_a_folder_and_their_splits(tmp_path):
    write(tmp_path, "math_dataset__arithmetic__add_or_sub", ROWS, "train")
    trained, validated = (list(examples(ADD, split)) for split in ("train", "validation"))
    assert (len(trained), len(validated)) == (4, 200)
    assert texts_of(trained[0]) == ("mathematics: What is -201 + 3?", "-198")


@pytest.mark.parametrize(("answer", "is_right"), [("-198", 1.0), (" -198\n", 1.0), ("198", 0.0)])
def test_an_answer_is_right_as_it_is_written(answer, is_right):
    metrics = seqio.TaskRegistry.get(ADD).metric_fns
    assert quality.per_example_quality(metrics, ["-198"], [answer])[1] == [is_right]
