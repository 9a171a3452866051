"""From a row to an example: texts, options, prompts, and what goes beside them."""

import dataclasses
import json
from collections import Counter

import pytest
import seqio
import tensorflow as tf

from cascade_jax.data import sources
from tasks.flan2021 import flan_task
from tasks.flan2021.flan_task import FlanTask

PROMPTS = ("A {word}: {options_}", "B {word}", ("C {word} {{}}", "not {answer}"))


def _texts(row):
    options = tf.constant(["no", "yes"])
    answer = options[row["label"]]
    return {"word": row["w"], "options": options, "answer": answer, "number": row["label"]}


TASK = FlanTask(
    "made_up",
    "none",
    "made_up:1.0.0",
    fields={"w": str, "label": range(2)},
    splits={"train": "all[:300]", "validation": "all[-4:]"},
    train_examples=300,
    kind="classification",
    texts=_texts,
    prompts=PROMPTS,
    metric_fns=[],
    files={"all": "rows"},
    folder="made/up",
)


@pytest.fixture(autouse=True)
def _data(tmp_path):
    before = sources.get_data_dir()
    sources.set_data_dir(tmp_path)
    (tmp_path / "made__up").mkdir()
    rows = [{"w": f"w{i}", "label": i % 2} for i in range(310)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "made__up" / "rows.jsonl").write_text(lines)
    yield
    sources.set_data_dir(before)


def _examples(task, split):
    rows = flan_task.FlanSource(task).get_dataset(split, shuffle=False)
    for step in flan_task.preprocessors(task):
        rows = step(rows)
    return list(rows.as_numpy_iterator())


def _pairs(task, split):
    return [(e["inputs"].decode(), e["targets"].decode()) for e in _examples(task, split)]


def test_evaluation_uses_the_first_prompt():
    listed = "Possible answers:\n* no\n* yes"
    expected = [(f"A w{i}: {listed}", ["no", "yes"][i % 2]) for i in range(306, 310)]
    assert _pairs(TASK, "validation") == expected


def test_training_uses_every_prompt_for_rows_of_its_own():
    pairs = _pairs(TASK, "train")
    listed = "Possible answers:\n* no\n* yes"
    for i, (inputs, target) in enumerate(pairs):
        answer = ["no", "yes"][i % 2]
        filled = {f"A w{i}: {listed}": answer, f"B w{i}": answer, f"C w{i} {{}}": f"not {answer}"}
        assert filled[inputs] == target
    counts = Counter(inputs[0] for inputs, _ in pairs)
    # 100 each are expected; 60 is five standard deviations below.
    assert len(pairs) == 300 and set(counts) == {"A", "B", "C"} and min(counts.values()) > 60


def test_the_prompt_of_a_row_depends_on_its_text_alone():
    whole = dict(enumerate(_pairs(TASK, "train")))
    part = dataclasses.replace(TASK, splits={"train": "all[100:120]"})
    assert _pairs(part, "train") == [whole[i] for i in range(100, 120)]


def test_lists_and_numbers_go_on_and_texts_do_not():
    example = _examples(TASK, "train")[5]
    assert set(example) == {"inputs", "targets", "options", "number"}
    assert example["options"].tolist() == [b"no", b"yes"] and example["number"] == 1


def test_a_filter_comes_after_the_slice():
    kept = dataclasses.replace(TASK, keep=lambda row: row["label"] == 1)
    assert [inputs.split(":")[0] for inputs, _ in _pairs(kept, "validation")] == [
        "A w307",
        "A w309",
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{wrod}", "template of made_up has {wrod}, must be one of ['answer', 'options_', "),
        ("{wrod}", "did you mean 'word'?"),
        ("{number}", "has {number}, must be one of"),
        ("{word!r}", "has {word!r}, must be one of"),
        ("{word:>9}", "has {word:>9}, must be one of"),
        ("{}", "has {}, must be one of"),
        ("{word", "template of made_up is '{word': "),
    ],
)
def test_a_template_with_another_field_is_refused(template, message):
    for prompts in ([template], ["{word}", ("{word}", template)]):
        with pytest.raises(ValueError) as caught:
            _examples(dataclasses.replace(TASK, prompts=prompts), "validation")
        assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "prompts of made_up are []; must be one or more"),
        ({"prompts": "{word}"}, "prompts of made_up are '{word}'; must be one or more"),
        ({"kind": "clasification"}, "did you mean 'classification'?"),
        ({"blank_texts": ["v"]}, "blank_texts of made_up has ['v']; not among its fields"),
    ],
)
def test_a_wrong_task_is_refused(change, message):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(TASK, **change)
    assert message in str(caught.value)


def test_a_registered_task_knows_its_data_set():
    name = flan_task.register(TASK, "cascade_flan2021_made_up_for_a_test_v1")
    assert flan_task.registered(name) is TASK and name in flan_task.registered_names()
    task = seqio.TaskRegistry.get(name)
    assert task.source.train_examples == 300 and task.source.name == "made/up"
    rows = task.get_dataset(None, "validation", shuffle=False, try_in_mem_cache=False)
    example = next(rows.as_numpy_iterator())
    assert example["targets_pretokenized"] == b"no" and example["options"].tolist() == [
        b"no",
        b"yes",
    ]
