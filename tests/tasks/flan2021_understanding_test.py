"""FLAN 2021's tasks of fixed classes: mock rows of TFDS, real rows, rows of our own, bad rows."""

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from cascade_jax.data import features, jsonl, pipeline, sources
from cascade_jax.task_metrics import quality
from tasks.flan2021 import entailment, flan_task, understanding
from tests.support.rows import texts_of, write_flan

TASKS = {task.name: task for module in (entailment, understanding) for task in module.TASKS}
NAMES = {name: flan_task.register(task) for name, task in TASKS.items()}
ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

# FLAN's words for the classes, in the order of the builder's labels.
CLASSES = {
    "ag_news_subset": "World|Sports|Business|Science/Tech",
    "anli_r1": "Yes|It's impossible to say|No",
    "anli_r2": "Yes|It's impossible to say|No",
    "anli_r3": "Yes|It's impossible to say|No",
    "bool_q": "no|yes",
    "cb": "Yes|No|It's impossible to say",
    "cola": "unacceptable|acceptable",
    "glue_mrpc": "no|yes",
    "glue_qqp": "no|yes",
    "imdb_reviews": "negative|positive",
    "mnli_matched": "yes|it is not possible to tell|no",
    "mnli_mismatched": "yes|it is not possible to tell|no",
    "multirc": "no|yes",
    "paws_wiki": "no|yes",
    "qnli": "yes|no",
    "rte": "yes|no",
    "sentiment140": "negative|positive",
    "snli": "yes|it is not possible to tell|no",
    "sst2": "negative|positive",
    "stsb": "0|1|2|3|4|5",
    "trec": "description|entity|abbreviation|human|numeric|location",
    "wic": "different meanings|the same meaning",
    "wnli": "no|yes",
    "wsc": "no|yes",
    "yelp_polarity_reviews": "negative|positive",
}
NEG = "negative"
JANE = "Jane gave Joan candy because she was hungry."
FOLLOWS = "{}\n\nDoes it follow that: {}"
SUSAN = (
    "Susan wanted to have a birthday party. She called all of her friends. She has five friends. "
    "Her mom said that Susan can invite them all to the party. Her first friend could not go to "
    "the party because she was sick. Her second friend was going out of town. Her third friend "
    "was not so sure if her parents would let her. The fourth friend said maybe. The fifth friend "
    "could go to the party for sure. Susan was a little sad. On the day of the party, all five "
    "friends showed up. Each friend had a present for Susan. Susan was happy and sent each friend "
    "a thank you card the next week. "
)
# (task, split, index of the example): its input without the options, and its target.
REAL_ROWS = {
    ("anli_r1", "validation", 138): (
        FOLLOWS.format(
            "Aspects of Andrew Lloyd Webber is the second studio album by Australian singer "
            "Marina Prior featuring Melbourne Symphony Orchestra. The album was released in "
            "November 1992 and peaked at number 23 on the ARIA Albums Chart. The album was "
            "certified gold.",
            "The album hit number 23 in 1992",
        ),
        "It's impossible to say",
    ),
    ("cb", "test", 14): (
        FOLLOWS.format(
            "A: Your turn. B: Okay. Uh, I don't think they should abolish it.",
            "they should abolish it",
        ),
        "No",
    ),
    ("rte", "test", 208): (
        FOLLOWS.format("The girl was found in Drummondville.", "Drummondville contains the girl."),
        "no",
    ),
    ("mnli_matched", "test", 362): (FOLLOWS.format("Waterloo.", "D-Day."), "no"),
    ("mnli_mismatched", "validation", 114): (FOLLOWS.format("Emeralds?", "Diamonds?"), "no"),
    ("qnli", "test", 578): (
        "Question: When was the first plastome sequenced?\nSentence: It is also known as the "
        "plastome.\nIs the answer to be found in the sentence?",
        "no",
    ),
    ("wnli", "test", 24): (FOLLOWS.format(JANE, "Jane was hungry."), "no"),
    ("snli", "validation", 119): (
        FOLLOWS.format("Toddler walking along path.", "toddler is asleep"),
        "no",
    ),
    ("imdb_reviews", "test", 75): (
        "Film review: This is one fine movie, I can watch it any time. Rauol Julia gave an "
        "outstanding performance, we lost him too soon. Richard Dryfus is a great talent. Only "
        "thing it needed more of was Dana Delany, what a babe!\n\nIs its tone negative or "
        "positive?",
        "positive",
    ),
    ("sst2", "test", 203): ("Remark on a film: bad . \n\nIs its tone negative or positive?", NEG),
    ("stsb", "test", 532): (
        "1. man on steps\n2. A man sits on steps.\n\nHow much do the two have in common, from 0 "
        "(nothing) to 5 (the whole meaning)?",
        "4",
    ),
    ("multirc", "test", 187): (
        SUSAN + "\n\nQuestion: Did Susan's sick friend recover?\nReply: No\nIs the reply right?",
        "no",
    ),
    ("ag_news_subset", "test", 780): (
        "Clubbing Wet Seal\n\nA same-stores sales drop that's less crummy than expected can't fix "
        "this sick pup.\n\nIn which section of a newspaper does this belong?",
        "Business",
    ),
    ("cola", "test", 223): (
        "Sentence: Wash you!\n\nAs English grammar goes, it is:",
        "unacceptable",
    ),
    ("wsc", "test", 10): (JANE + '\n\nDoes "she" stand for "Jane" here?', "no"),
}
# Rows of the data sets that are not in the folder of real data, in the fields of the builder, and
# what they read as.
OWN_ROWS = {
    "anli_r2": (
        {"uid": "u", "context": "It rains.", "hypothesis": "It is wet.", "label": 2},
        (FOLLOWS.format("It rains.", "It is wet."), "No"),
    ),
    "anli_r3": (
        {"uid": "u", "context": "It rains.", "hypothesis": "It is wet.", "label": 0},
        (FOLLOWS.format("It rains.", "It is wet."), "Yes"),
    ),
    "bool_q": (
        {"title": "Fox", "passage": "Foxes bark.", "question": "do foxes bark", "answer": True},
        ("Fox: Foxes bark.\n\nGoing by this, do foxes bark?", "yes"),
    ),
    "glue_mrpc": (
        {"sentence1": "He ran.", "sentence2": "She sat.", "label": 0, "idx": 3},
        ("1. He ran.\n2. She sat.\n\nDo both sentences mean the same?", "no"),
    ),
    "glue_qqp": (
        {"question1": "Why?", "question2": "What for?", "label": 1, "idx": 3},
        ("1. Why?\n2. What for?\n\nDo both questions mean the same?", "yes"),
    ),
    "paws_wiki": (
        {"sentence1": "A beat B .", "sentence2": "B beat A .", "label": 0},
        ("1. A beat B .\n2. B beat A .\n\nDo both sentences mean the same?", "no"),
    ),
    "sentiment140": (
        {"polarity": 4, "date": "d", "query": "q", "user": "u", "text": "Sunny!"},
        ("Tweet: Sunny!\n\nIs its tone negative or positive?", "positive"),
    ),
    "trec": (
        {"label-coarse": 3, "label-fine": 1, "text": "Who is it ?"},
        ("Question: Who is it ?\n\nWhat sort of answer does it call for?", "human"),
    ),
    "wic": (
        {"word": "bank", "sentence1": "A river bank.", "sentence2": "A rich bank.", "label": 0},
        (
            '1. A river bank.\n2. A rich bank.\n\nWhat does "bank" have in 1 and 2?',
            "different meanings",
        ),
    ),
    "yelp_polarity_reviews": (
        {"text": r'The \""soup\"" was cold.\n\nNo more.', "label": 0},
        (
            'Review: The "soup" was cold.  No more.\n\nIs its tone negative or positive?',
            "negative",
        ),
    ),
}


def _dataset(name, split):
    task = seqio.TaskRegistry.get(NAMES[name])
    return task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False)


def _examples(name, split):
    return list(_dataset(name, split).as_numpy_iterator())


def _with_options(name, text):
    return text + "\n\nPossible answers:\n* " + CLASSES[name].replace("|", "\n* ")


# Every other one in every_task_test.py.
@pytest.mark.medium
@pytest.mark.parametrize("name", ["bool_q", "multirc", "sentiment140", "snli", "stsb", "trec"])
def test_a_training_batch_of_tfds_rows(monkeypatch, name):
    sources.set_data_dir(None)
    # Mock data has rows but no files.
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    with tfds.testing.mock_data(num_examples=3, policy=tfds.testing.MockPolicy.USE_CODE):
        config = pipeline.DataConfig(NAMES[name], 512, 64, batch_size=2, shuffle_buffer=3)
        batch = next(pipeline.train_batches(config, ONE_DEVICE))
    inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
    assert inputs.shape == (2, 512) and targets.shape == (2, 64)
    assert ((inputs == 1).sum(1) == 1).all() and ((targets == 1).sum(1) == 1).all()
    decode = features.output_features()["targets"].vocabulary.decode
    answers = {decode(row[row > 1].tolist()) for row in targets}
    assert answers <= set(CLASSES[name].split("|"))


# ---- real rows


@pytest.mark.parametrize("place", REAL_ROWS, ids=lambda place: "-".join(map(str, place)))
def test_a_real_row(data_folder, place):
    sources.set_data_dir(data_folder)
    name, split, index = place
    text, target = REAL_ROWS[place]
    example = next(_dataset(name, split).skip(index).as_numpy_iterator())
    joint = "\n" if name == "qnli" else "\n\n"
    assert texts_of(example) == (
        _with_options(name, text).replace("\n\nPoss", f"{joint}Poss"),
        target,
    )
    assert [option.decode() for option in example["options"]] == CLASSES[name].split("|")


@pytest.mark.parametrize("name", sorted({name for name, *_ in REAL_ROWS}))
def test_real_rows_for_training_are_those_before_the_ones_held_out(data_folder, name):
    sources.set_data_dir(data_folder)
    source = seqio.TaskRegistry.get(NAMES[name]).source
    every = jsonl.read_jsonl(jsonl.jsonl_path(data_folder, source.name, "train"), source.fields)
    held_out = source.rows("validation")
    if not TASKS[name].splits["validation"].startswith("train"):
        assert len(held_out) == 200
        held_out = []
    assert source.rows("train") + held_out == every


def test_training_rows_of_the_real_data_use_all_prompts(data_folder):
    sources.set_data_dir(data_folder)
    inputs = [texts_of(example)[0] for example in _examples("rte", "train")]
    ways = ("Does it follow that: ", "Does the premise prove the claim?", "Someone writes: ")
    counts = [sum(way in text for text in inputs) for way in ways]
    # 763 of 2,290 each are expected, with a standard deviation of 23.
    assert sum(counts) == len(inputs) == 2290 and all(650 < count < 880 for count in counts)


@pytest.mark.medium
def test_the_target_as_answer_is_worth_1_and_the_others_less(data_folder):
    sources.set_data_dir(data_folder)
    for name in sorted({name for name, *_ in REAL_ROWS}):
        task = seqio.TaskRegistry.get(NAMES[name])
        examples = _examples(name, "validation")[:20]
        pairs = [(texts_of(e)[1], e) for e in examples]
        targets = [task.postprocess_fn(t, example=e, is_target=True) for t, e in pairs]
        for answers, expected in ([t for t, _ in pairs], 1.0), (["?"] * len(pairs), 0.0):
            arguments = [
                task.postprocess_fn(a, example=e, is_target=False)
                for a, (_, e) in zip(answers, pairs, strict=True)
            ]
            metric, values = quality.per_example_quality(task.metric_fns, targets, arguments)
            assert metric == "accuracy" and (values == expected).all(), name


def test_figures_of_the_whole_split(data_folder):
    sources.set_data_dir(data_folder)
    actual = {}
    for name in ("cb", "cola", "multirc", "stsb"):
        task = seqio.TaskRegistry.get(NAMES[name])
        pairs = [(texts_of(e)[1], e) for e in _examples(name, "test")]
        targets = [task.postprocess_fn(t, example=e, is_target=True) for t, e in pairs]
        answers = [task.postprocess_fn(t, example=e, is_target=False) for t, e in pairs]
        for metric_fn in task.metric_fns:
            actual |= {f"{name} {k}": v for k, v in metric_fn(targets, answers).items()}
    names = (
        "cb accuracy|cb mean_3class_f1|cola accuracy|cola matthews_corrcoef|multirc accuracy|"
        "multirc f1|multirc exact_match|stsb pearson_corrcoef|stsb spearman_corrcoef"
    )
    assert actual == pytest.approx(dict.fromkeys(names.split("|"), 1.0))


# ---- rows of our own


@pytest.mark.parametrize("name", OWN_ROWS)
def test_a_row_of_our_own(tmp_path, name):
    row, (text, target) = OWN_ROWS[name]
    write_flan(tmp_path, name, [row])
    assert texts_of(_examples(name, "test")[0]) == (_with_options(name, text), target)


def test_every_task_has_a_row_with_a_literal_expectation():
    assert {name for name, *_ in REAL_ROWS} | set(OWN_ROWS) == set(TASKS) == set(CLASSES)


def _targets(tmp_path, name, rows, split="test"):
    write_flan(tmp_path, name, rows, split)
    return [texts_of(example)[1] for example in _examples(name, split)]


@pytest.mark.parametrize("name", ["cb", "mnli_matched", "trec", "bool_q", "ag_news_subset"])
def test_classes_stand_in_the_order_of_labels(tmp_path, name):
    labels = [False, True] if name == "bool_q" else range(len(CLASSES[name].split("|")))
    fields = TASKS[name].fields
    label = next(field for field, kind in fields.items() if kind is not str)
    rows = [{field: "x" for field in fields} | {label: value} for value in labels]
    assert _targets(tmp_path, name, rows) == CLASSES[name].split("|")


def test_snli_drops_rows_without_a_label_after_slicing(tmp_path):
    pair = {"premise": "p", "hypothesis": "h"}
    rows = [pair | {"label": i % 2 - 1} for i in range(300)]
    assert _targets(tmp_path, "snli", rows, "validation") == ["yes"] * 100


def test_neutral_tweets_are_dropped(tmp_path):
    rows = [{"text": "t", "polarity": polarity} for polarity in range(5)]
    expected = ["negative", "negative", "positive", "positive"]
    assert _targets(tmp_path, "sentiment140", rows) == expected


def test_scores_are_rounded(tmp_path):
    pair = {"sentence1": "a", "sentence2": "b"}
    rows = [pair | {"label": score} for score in (0.0, 0.4, 2.6, 3.0, 5, 2.5)]
    assert _targets(tmp_path, "stsb", rows) == ["0", "0", "3", "3", "5", "2"]


@pytest.mark.parametrize(
    ("text", "number"), [("4", 4.0), (" 2.5 ", 2.5), ("four", -1.0), ("", -1.0), ("nan", -1.0)]
)
def test_a_number_is_read_from_an_answer(text, number):
    assert understanding.as_number(text) == number


def test_line_breaks_and_tags_are_text(tmp_path):
    write_flan(tmp_path, "imdb_reviews", [{"text": "Bad.<br /><br />Very.", "label": 0}])
    assert texts_of(_examples("imdb_reviews", "test")[0])[0].startswith(
        "Film review: Bad.\n\nVery.\n\nIs its tone"
    )
    row = {"paragraph": "<b>Sent 1: </b>Ann ran.<br><b>Sent 2: </b>Ben sat.", "question": "Who?"}
    row |= {"answer": "Ann", "label": 1, "idx": {"paragraph": 0, "question": 7, "answer": 2}}
    write_flan(tmp_path, "multirc", [row])
    (example,) = _examples("multirc", "test")
    assert texts_of(example)[0].startswith("Sent 1: Ann ran. Sent 2: Ben sat.\n\nQuestion: Who?")
    task = seqio.TaskRegistry.get(NAMES["multirc"])
    assert example["idx/question"] == 7
    target = task.postprocess_fn("yes", example=example, is_target=True)
    assert target == {"group": 7, "value": "yes"}


# ---- bad files

GOOD = {"premise": "p", "hypothesis": "h", "label": 0}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("cb", GOOD | {"label": 3}, "'label' is 3, must be an integer from 0 to 2"),
        ("rte", GOOD | {"label": -1}, "'label' is -1, must be an integer from 0 to 1"),
        ("snli", GOOD | {"label": -2}, "'label' is -2, must be an integer from -1 to 2"),
        ("rte", GOOD | {"premise": "\n"}, "'premise' is '\\n', must have text"),
        ("mnli_matched", GOOD | {"hypothesis": 7}, "'hypothesis' is 7, must be a string"),
        ("rte", {"premise": "p", "label": 0}, "lacks field 'hypothesis'"),
    ],
)
def test_a_bad_row_is_named_with_task_split_and_line(tmp_path, name, row, message):
    path = write_flan(tmp_path, name, [GOOD, row], before="\n")
    with pytest.raises(ValueError) as caught:
        _dataset(name, "test")
    assert f"{path.parent.name}/{path.name}:3: " in str(caught.value)
    assert message in str(caught.value)


def test_a_label_that_is_no_class_fails_on_rows_of_tfds_too():
    sources.set_data_dir(None)
    with tfds.testing.mock_data(
        num_examples=1,
        as_dataset_fn=lambda self, **_: tf.data.Dataset.from_tensors(
            {"premise": "p", "hypothesis": "h", "label": -1}
        ),
        policy=tfds.testing.MockPolicy.USE_CODE,
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
            _examples("rte", "test")
