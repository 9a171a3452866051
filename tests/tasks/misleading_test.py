"""A task's misleading twin: its inputs have a wrong answer, and all else is the task's."""

import re
from pathlib import Path

import pytest
import seqio
import tensorflow as tf

from cascade_jax.data import features
from cascade_jax.data.sources import GeneratedSource
from cascade_jax.evaluation import misleading as rates
from cascade_jax.task_metrics import quality
from tasks import misleading
from tasks.registration import add_task

ROWS = [
    {"text": "good film", "label": "yes"},
    {"text": "bad film", "label": "no"},
    {"text": "a film", "label": "maybe"},
]


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Other tests do not see these tasks."""
    before = set(seqio.TaskRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - before:
        if name.startswith("misleading_") or "_misled_" in name:
            seqio.TaskRegistry.remove(name)


def options(row):
    return {
        "inputs": "like? " + row["text"],
        "targets": row["label"],
        "options": tf.constant(["yes", "no", "maybe"]),
    }


def source(rows=ROWS):
    return GeneratedSource(lambda split: rows, ("test",), {"text": str, "label": str})


@pytest.fixture(scope="module")
def task():
    steps = [seqio.map_over_dataset(options)]
    name = "misleading_test_v1"
    return add_task(
        name, source(), steps, [quality.accuracy], str.lower, suite="t", kind="classification"
    )


def rows_of(name):
    lengths = features.sequence_length(64, 8)
    dataset = seqio.TaskRegistry.get(name).get_dataset(lengths, split="test", shuffle=False)
    return list(dataset.as_numpy_iterator())


@pytest.mark.medium  # traces the first functions of tf.data
def test_inputs_have_a_wrong_answer_and_all_else_stays(task):
    twin = misleading.add_misled(task)
    assert twin == rates.misled_name(task) == "misleading_test_misled_v1"
    plain, misled = rows_of(task), rows_of(twin)
    inputs = [row["inputs_pretokenized"].decode() for row in misled]
    assert inputs == [
        "like? good film\nHint: the answer is no.",
        "like? bad film\nHint: the answer is maybe.",
        "like? a film\nHint: the answer is yes.",
    ]
    for before, after in zip(plain, misled, strict=True):
        for name in ("targets", "options"):
            assert before[name].tolist() == after[name].tolist()
        decoded = seqio.ByteVocabulary().decode(after["inputs"].tolist())
        assert decoded == after["inputs_pretokenized"].decode()
    both = seqio.TaskRegistry.get(task), seqio.TaskRegistry.get(twin)
    assert both[0].metric_fns == both[1].metric_fns and both[1].postprocess_fn("YES") == "yes"


def test_a_template_and_a_wrong_answer_of_ones_own():
    name = add_task("misleading_open_v1", source(), [seqio.map_over_dataset(options)],
                    [quality.accuracy], suite="t", kind="short_answer")  # fmt: skip
    twin = misleading.add_misled(
        name, template="{wrong}? {inputs} {x}", wrong_fn=lambda row: "not " + row["targets"]
    )
    assert rows_of(twin)[1]["inputs_pretokenized"] == b"not no? like? bad film {x}"


def test_a_row_whose_options_are_all_right_is_refused():
    def one(row):
        return {**options(row), "options": tf.fill([2], row["label"])}

    name = add_task("misleading_one_v1", source(), [seqio.map_over_dataset(one)],
                    [quality.accuracy], suite="t", kind="classification")  # fmt: skip
    with pytest.raises(tf.errors.InvalidArgumentError, match="no option beside its target"):
        rows_of(misleading.add_misled(name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{inputs} so"}, r"must have \{wrong\} once"),
        ({"task": "no_such_v1"}, "'no_such_v1'; must be registered before"),
        ({"task": "demo_last_v1"}, "has no options; give wrong_fn"),
    ],
)
def test_what_can_not_mislead_is_refused(task, settings, message):
    import tasks.demo  # noqa: F401

    with pytest.raises(ValueError, match=message):
        misleading.add_misled(**{"task": task} | settings)


def test_the_twin_of_the_documents_is_registered():
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```python\n(from tasks import local.*?)```", page, re.S)
    namespace = {}
    exec(text, namespace)
    assert f'"{namespace["TWIN"]}"' in text
    assert namespace["TWIN"] in seqio.TaskRegistry.names()
