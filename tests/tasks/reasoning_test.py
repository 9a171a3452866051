"""ARC, MMLU and GSM8K: mock rows, real rows, answers of GSM8K, and bad rows."""

import itertools

import jax
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import tasks.reasoning as reasoning
from cascade_jax.data import catalog, pipeline, sources
from cascade_jax.task_metrics import quality
from tests.support.rows import examples, texts_of, write

ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ARC_C, ARC_E = "cascade_arc_challenge_v1", "cascade_arc_easy_v1"
MMLU = "cascade_mmlu_all_v1"
GSM8K, SOLUTIONS = "cascade_gsm8k_main_v2", "cascade_gsm8k_reasoning_v2"
OLD_GSM8K, OLD_SOLUTIONS = "cascade_gsm8k_main_v1", "cascade_gsm8k_reasoning_v1"
KINDS = dict.fromkeys([ARC_C, ARC_E, MMLU], "multiple_choice")
KINDS |= {GSM8K: "short_answer", SOLUTIONS: "generation"}
KINDS |= {OLD_GSM8K: "short_answer", OLD_SOLUTIONS: "generation"}


def _examples(name, split, count=None):
    return list(itertools.islice(examples(name, split), count))


def _write(folder, task, rows, split="train", before=""):
    write(folder, task, rows, split, before)


def test_the_tasks_have_names_and_cards():
    assert {name: catalog.card_of(name).kind for name in reasoning.TASKS} == KINDS


@pytest.mark.medium
@pytest.mark.parametrize("name", [ARC_C, ARC_E, GSM8K])
def test_a_training_batch_of_tfds_rows(monkeypatch, name):
    sources.set_data_dir(None)
    # Mock data has rows but no files.
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    config = pipeline.DataConfig(name, 256, 64, batch_size=2, shuffle_buffer=4)
    with tfds.testing.mock_data(num_examples=4, policy=tfds.testing.MockPolicy.USE_CODE):
        batch = next(pipeline.train_batches(config, ONE_DEVICE))
        for example in _examples(name, "test"):
            if KINDS[name] == "multiple_choice":
                options = [option.decode() for option in example["options"]]
                assert options == list("ABCDE") and texts_of(example)[1] in options
    assert np.asarray(batch.inputs).shape == (2, 256)
    assert ((np.asarray(batch.targets) == 1).sum(axis=1) == 1).all()


# ---- real rows

REAL_ROWS = {
    (ARC_E, "test", 0): (
        "question: Which statement best explains why photosynthesis is the foundation of most "
        "food webs? options: (A) Sunlight is the source of energy for nearly all ecosystems. (B) "
        "Most ecosystems are found on land instead of in water. (C) Carbon dioxide is more "
        "available than other gases. (D) The producers in all ecosystems are plants.",
        "A",
    ),
    (MMLU, "dev", 0): (
        "question about abstract algebra: Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field. "
        "options: (A) 0 (B) 1 (C) 2 (D) 3",
        "B",
    ),
}


@pytest.mark.parametrize("place", REAL_ROWS, ids=lambda place: place[0])
def test_a_real_row_reads_as_it_should(real_data, place):
    name, split, index = place
    assert texts_of(_examples(name, split, index + 1)[index]) == REAL_ROWS[place]


@pytest.mark.parametrize(
    "name, split, counts",
    # Of choices; the files of ARC's splits say as many.
    [
        (ARC_C, "validation", {3: 3, 4: 295, 5: 1}),
        (ARC_E, "validation", {3: 1, 4: 567, 5: 2}),
        (MMLU, "validation", {4: 190}),
    ],
)
def test_the_options_are_the_letters_of_the_choices(real_data, name, split, counts):
    actual = dict.fromkeys(counts, 0)
    rows = seqio.TaskRegistry.get(name).source.rows(split)
    field = "choices" if name == MMLU else "choices/text"
    for row, example in zip(rows, _examples(name, split), strict=True):
        choices = row[field]
        actual[len(choices)] += 1
        inputs, target = texts_of(example)
        assert [option.decode() for option in example["options"]] == list("ABCDE")[: len(choices)]
        right = row["answer" if name == MMLU else "answerKey"]
        assert f"({target}) {choices[right]}" in inputs
        assert inputs.endswith(
            " ".join(f"({letter}) {c}" for letter, c in zip("ABCDE", choices, strict=False))
        )
    assert actual == counts


@pytest.mark.parametrize("name", [ARC_C, ARC_E, MMLU])
def test_the_target_as_answer_is_worth_1(real_data, name):
    targets = [texts_of(example)[1] for example in _examples(name, "validation", 20)]
    metrics = seqio.TaskRegistry.get(name).metric_fns
    metric, values = quality.per_example_quality(metrics, targets, targets)
    assert metric == "accuracy" and values.tolist() == [1.0] * 20


def test_mmlu_trains_on_its_auxiliary_rows_which_have_no_subject(tmp_path):
    row = {"question": "Q?", "subject": "", "choices": ["a", "b", "c", "d"], "answer": 3}
    _write(tmp_path, "mmlu", [row], "auxiliary_train")
    (example,) = _examples(MMLU, "train")
    assert texts_of(example) == ("question: Q? options: (A) a (B) b (C) c (D) d", "D")
    sources.set_data_dir(None)
    with pytest.raises(ValueError, match="mmlu is not in TFDS: set a data folder"):
        _examples(MMLU, "train")


# ---- GSM8K

CLIPS = {
    "question": "How many?",
    "answer": "Half is 2000/2 = <<2000/2=1000>>1000 clips.\nAll are $<<1000+500=1500>>1,500.\n"
    "#### 1,500",
}


def test_gsm8k_asks_for_the_number_or_for_the_solution(tmp_path):
    _write(tmp_path, "gsm8k", [CLIPS])
    assert texts_of(_examples(GSM8K, "train")[0]) == ("answer with a number: How many?", "1500")
    solution = "Half is 2000/2 = 1000 clips.\nAll are $1,500.\n#### 1,500"
    assert texts_of(_examples(SOLUTIONS, "train")[0]) == ("solve: How many?", solution)


@pytest.mark.parametrize(
    ("name", "answer", "is_right"),
    [
        (GSM8K, "1500", 1.0),
        (GSM8K, "$1,500.00", 1.0),
        (GSM8K, "15", 0.0),
        (GSM8K, "", 0.0),
        (SOLUTIONS, "1000 and 500 are 1500", 1.0),
        (SOLUTIONS, "It is 7.\n#### 1,500", 1.0),
        (SOLUTIONS, "#### 1500 or 3", 1.0),
        (SOLUTIONS, "#### 1\u202f500\n\nQuestion: And then?\n#### 3", 1.0),
        (SOLUTIONS, "no idea", 0.0),
        (OLD_SOLUTIONS, "#### 1500 or 3", 0.0),
        (OLD_SOLUTIONS, "#### 3 or 1,500", 1.0),
    ],
)
def test_answers_are_compared_by_their_number(tmp_path, name, answer, is_right):
    _write(tmp_path, "gsm8k", [CLIPS])
    task, (example,) = seqio.TaskRegistry.get(name), _examples(name, "train")
    target = task.postprocess_fn(texts_of(example)[1], example=example, is_target=True)
    given_number = task.postprocess_fn(answer, example=example, is_target=False)
    assert target == "1500"
    (value,) = quality.per_example_quality(task.metric_fns, [target], [given_number])[1]
    assert value == is_right


# ---- bad files

GOOD_ARC = {"question": "Q?", "choices": {"text": ["a", "b", "c"], "label": [0, 1, 2]}}
GOOD_ARC |= {"answerKey": 2}
GOOD_MMLU = {"question": "Q?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 3}


@pytest.mark.parametrize(
    ("name", "folder", "good", "change", "message"),
    [
        (ARC_E, "ai2_arc__ARC-Easy", GOOD_ARC, {"answerKey": 3}, "must be below the 3 choices"),
        (ARC_E, "ai2_arc__ARC-Easy", GOOD_ARC, {"answerKey": 5}, "must be an integer from 0 to 4"),
        (
            ARC_C,
            "ai2_arc__ARC-Challenge",
            GOOD_ARC,
            {"choices": {"text": ["a", "b"]}},
            "'choices/text' has 2 texts, must be 3 to 5",
        ),
        (
            ARC_C,
            "ai2_arc__ARC-Challenge",
            GOOD_ARC,
            {"choices": {"text": ["a", "b", " "]}},
            "'choices/text' is .*, must have text",
        ),
        (MMLU, "mmlu", GOOD_MMLU, {"question": " "}, "'question' is ' ', must have text"),
        (MMLU, "mmlu", GOOD_MMLU, {"choices": ["a"]}, "'choices' has 1 texts, must be 4 to 5"),
        (GSM8K, "gsm8k", CLIPS, {"answer": "It is 5."}, "must end in '####' and a number"),
        (SOLUTIONS, "gsm8k", CLIPS, {"answer": "#### x"}, "must end in '####' and a number"),
    ],
)
def test_a_bad_row_is_named_with_folder_split_and_line(
    tmp_path, name, folder, good, change, message
):
    _write(tmp_path, folder, [good, good | change], "test", before="\n")  # a blank line first
    with pytest.raises(ValueError, match=f"{folder}/test.jsonl:3: .*{message}"):
        _examples(name, "test")
