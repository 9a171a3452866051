"""FLAN 2021's tasks whose row brings the options: TFDS's fields, real rows, our own, bad ones."""

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from cascade_jax.data import features, pipeline, sources
from cascade_jax.task_metrics import quality
from tasks.flan2021 import flan_task, multiple_choice
from tests.support.rows import texts_of, write_flan

TASKS = {task.name: task for task in multiple_choice.TASKS}
NAMES = {name: flan_task.register(task) for name, task in TASKS.items()}
ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
POLICY = tfds.testing.MockPolicy.USE_CODE

POLICE = (
    "Police took away a mother's panic alarm in a 'huge catalogue' of failings just months before "
    "she was strangled by her ex partner - who had already killed before. Marc Chivers - who had "
    "been convicted of murdering another woman in 1992 - used a dog lead to kill Maria Stubbings "
    "at her home in Great Baddow, Essex in December 2008. A four-week inquest into the  death has "
    "revealed a series of  failures by Essex Police in 'almost every part of its investigation'. "
    "Marc Chivers, right, used a dog lead to kill Maria Stubbings, left, at her home in Great "
    "Baddow, Essex in December 2008"
)
# (task, split, index of the example): its input without the options, these, and its target.
REAL_ROWS = {
    ("arc_challenge", "test", 147): (
        "Science test: How many valence electrons does selenium have?\n\n",
        "3|5|6|8",
        "6",
    ),
    ("arc_easy", "test", 29): (
        "Science test: What causes sound?\n\n",
        "sunlight|vibrations|x-rays|pitch",
        "vibrations",
    ),
    ("openbookqa", "test", 58): (  # these files lack the fact
        "Owls are likely to hunt at\n\n",
        "3pm|2am|6pm|7am",
        "2am",
    ),
    ("cosmos_qa", "test", 51): (
        "they were getting a little too friendly i think . eric yelled at baxter for trying to "
        "lick paco 's peen at one point . i told him that i probably would have ignored it .\n\n"
        "With that in mind, answer this: Who was getting too friendly ?\n\n",
        "None of the above choices .|Eric|Baxter|Paco 's peen",
        "Baxter",
    ),
    ("piqa", "test", 211): (
        "What I want: laser\n\nWhich of two pieces of advice works?\n\n",
        "burns face|burns air",
        "burns face",
    ),
    ("winogrande", "test", 290): (
        "The hiking group had more food than water, so they tried to conserve the\n\n"
        "Which ending makes sense?\n\n",
        "water.|food.",
        "water.",
    ),
    ("record", "test", 13): (
        POLICE + "\n\nWhich of these completes a summary line that begins \"'They assessed Maria "
        'as being at high risk of death or serious harm from"?\n\n',
        "Chivers.|Essex.|Essex Police.|Great Baddow.|Marc Chivers.|Maria Stubbings.|Stubbings.",
        "Chivers.",
    ),
}
# Rows in the fields of the builder, and what they read as.
OWN_ROWS = {
    "copa": (
        {
            "premise": "The cup fell.",
            "choice1": "It broke.",
            "choice2": "It flew.",
            "question": "effect",
            "label": 1,
        },
        (
            "The cup fell.\n\nWhich of these is more likely its effect?\n\n",
            "It broke.|It flew.",
            "It flew.",
        ),
    ),
    "definite_pronoun_resolution": (
        {"sentence": "Ann saw Eve as she sat.", "pronoun": "she", "candidates": ["Ann", "Eve"]}
        | {"label": 1},
        (
            'Ann saw Eve as she sat.\n\nWhom or what does "she" mean here?\n\n',
            "Ann|Eve",
            "Eve",
        ),
    ),
    "hellaswag": (
        {
            "context": "[header] How to make tea [title] Boil water. [step] Take a kettle.",
            "endings": ["Fill it. [step] Wait.", "[step] Go.", "Sing.", "[substeps] Run. "],
            "activity_label": "Food",
            "label": 0,
            "split_type": "indomain",
            "source_id": "wikihow~1",
        },
        (
            "How to make tea\nBoil water.\nTake a kettle.\n\nHow does this go on?\n\n",
            "Fill it. Wait.|Go.|Sing.|Run.",
            "Fill it. Wait.",
        ),
    ),
    "story_cloze": (
        {"context": "Ann ran. She fell.", "endings": ["It hurt.", "It sang."], "label": 1},
        (
            "Ann ran. She fell.\n\nWhich fifth sentence rounds off the story?\n\n",
            "It hurt.|It sang.",
            "It hurt.",
        ),
    ),
    "winogrande": (
        {"sentence": "Ann thanked Eve, for _ had helped.", "option1": "Ann", "option2": "Eve"}
        | {"label": 1},
        (
            "Ann thanked Eve, for\n\nWhich ending makes sense?\n\n",
            "Ann had helped.|Eve had helped.",
            "Eve had helped.",
        ),
    ),
    "wsc273": (
        {
            "text": "Zoë asked Åsa if she slept.",
            "option1": "Zoë",
            "option1_normalized": "Zoë",
            "option2": "Åsa",
            "option2_normalized": "Åsa",
            "pronoun_start": 17,
            "pronoun_end": 20,
            "pronoun_text": "she",
            "label": 0,
            "idx": 1,
        },
        (
            "Zoë asked Åsa if\n\nWhich ending makes sense?\n\n",
            "Zoë slept.|Åsa slept.",
            "Zoë slept.",
        ),
    ),
    "record": (
        {
            "passage": "Birds fly.\n@highlight\nPigs do not\n@highlight\nCats sit",
            "query": "As one says, @placeholder can fly.",
            "entities": ["Birds", "Pigs"],
            "answers": ["Birds", "The birds"],
        },
        (
            'Birds fly.\n\nWhich of these completes a summary line that begins "As one says,"?\n\n',
            "Birds can fly.|Pigs can fly.",
            "Birds can fly.",
        ),
    ),
}


def _dataset(name, split):
    task = seqio.TaskRegistry.get(NAMES[name])
    return task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False)


def _check(example, expected):
    text, options, target = expected
    options = options.split("|")
    assert texts_of(example) == (text + "\n* ".join(["Possible answers:", *options]), target)
    assert [option.decode() for option in example["options"]] == options


def _served(monkeypatch, rows):
    """TFDS with rows of our own, whatever the split."""
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    sources.set_data_dir(None)

    def as_dataset(self, **_unused):
        form = self.info.features
        examples = [form.serialize_example(form.encode_example(row)) for row in rows]
        return tf.data.Dataset.from_tensor_slices(examples).map(form.deserialize_example)

    return tfds.testing.mock_data(as_dataset_fn=as_dataset, policy=POLICY)


# ---- TFDS's fields


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in OWN_ROWS if name != "wsc273"])
def test_a_training_batch_of_rows_as_the_builder_has_them(monkeypatch, name):
    row = OWN_ROWS[name][0]
    numbers = {"record": {"idx": {"passage": 0, "query": 0}}, "copa": {"idx": 0}}
    with _served(monkeypatch, [row | numbers.get(name, {})]):
        config = pipeline.DataConfig(NAMES[name], 512, 64, batch_size=2, shuffle_buffer=2)
        batch = next(pipeline.train_batches(config, ONE_DEVICE))
    vocabulary = features.output_features()["targets"].vocabulary
    options = [*OWN_ROWS[name][1][1].split("|")]
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        targets = np.asarray(targets)
        assert vocabulary.decode(targets[targets > 1].tolist()) == OWN_ROWS[name][1][2]
        text = vocabulary.decode(np.asarray(inputs)[np.asarray(inputs) > 1].tolist())
        assert all(f"* {option}" in text for option in options)


def test_a_row_of_wsc273_as_the_builder_has_it(monkeypatch):
    row, expected = OWN_ROWS["wsc273"]
    with _served(monkeypatch, [row]):
        (example,) = _dataset("wsc273", "test").as_numpy_iterator()
    _check(example, expected)


@pytest.mark.parametrize("name", ["arc_challenge", "arc_easy"])
def test_arc_keeps_questions_with_four_options(monkeypatch, name):
    def row(texts, answer):
        choices = {"text": texts, "label": list(range(len(texts)))}
        return {"id": "i", "question": "Why?", "choices": choices, "answerKey": answer}

    five, four = ["a", "b", "c", "d", "e"], ["a", "b", "c", "d"]
    rows = [row(five, 4), row(four, 2), row(four[:3], 0), row(four, 3)]
    with _served(monkeypatch, rows):
        examples = list(_dataset(name, "test").as_numpy_iterator())
    assert [texts_of(example)[1] for example in examples] == ["c", "d"]
    _check(examples[0], ("Science test: Why?\n\n", "a|b|c|d", "c"))


@pytest.mark.medium
@pytest.mark.parametrize("name", ["cosmos_qa", "openbookqa", "piqa"])
def test_a_training_batch_of_mock_rows(monkeypatch, name):
    sources.set_data_dir(None)
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    with tfds.testing.mock_data(num_examples=3, policy=POLICY):
        config = pipeline.DataConfig(NAMES[name], 512, 64, batch_size=2, shuffle_buffer=3)
        batch = next(pipeline.train_batches(config, ONE_DEVICE))
        examples = list(_dataset(name, "test").as_numpy_iterator())
    assert ((np.asarray(batch.targets) == 1).sum(1) == 1).all()
    assert (np.argmax(np.asarray(batch.targets) == 1, 1) > 0).all()
    for example in examples:
        assert example["targets_pretokenized"] in example["options"].tolist()


# ---- real rows


@pytest.mark.parametrize("place", REAL_ROWS, ids=lambda place: "-".join(map(str, place)))
def test_a_real_row(data_folder, place):
    sources.set_data_dir(data_folder)
    name, split, index = place
    _check(next(_dataset(name, split).skip(index).as_numpy_iterator()), REAL_ROWS[place])


def test_every_task_has_a_row_with_a_literal_expectation():
    assert {name for name, *_ in REAL_ROWS} | set(OWN_ROWS) == set(TASKS)


def test_the_target_as_answer_is_worth_1(data_folder):
    sources.set_data_dir(data_folder)
    for name in sorted({name for name, *_ in REAL_ROWS}):
        task = seqio.TaskRegistry.get(NAMES[name])
        examples = list(_dataset(name, "test").take(15).as_numpy_iterator())
        pairs = [(texts_of(e)[1], e) for e in examples]
        targets = [task.postprocess_fn(t, example=e, is_target=True) for t, e in pairs]
        answers = [task.postprocess_fn(t, example=e, is_target=False) for t, e in pairs]
        metric, values = quality.per_example_quality(task.metric_fns, targets, answers)
        assert metric == "accuracy" and (values == 1.0).all(), name


def test_winogrande_reads_the_folders_train_file_for_train_xl(data_folder):
    sources.set_data_dir(data_folder)
    source = seqio.TaskRegistry.get(NAMES["winogrande"]).source
    counts = {split: source.num_input_examples(split) for split in source.splits}
    assert counts == {"train": 700, "validation": 200, "test": 367}
    assert source.fingerprint("train").endswith("[0:700]")


def test_record_leaves_nothing_to_train_on_in_a_file_smaller_than_what_is_held_out(data_folder):
    sources.set_data_dir(data_folder)
    with pytest.raises(ValueError, match=r"has 32 rows, of which none is in train\[:30000\] wi"):
        _dataset("record", "train")
    assert len(list(_dataset("record", "validation").as_numpy_iterator())) == 32


# ---- rows of our own


@pytest.mark.parametrize("name", OWN_ROWS)
def test_a_row_of_our_own(tmp_path, name):
    row, expected = OWN_ROWS[name]
    write_flan(tmp_path, name, [row])
    (example,) = _dataset(name, "test").as_numpy_iterator()
    _check(example, expected)


def test_every_answer_of_record_is_right(tmp_path):
    write_flan(tmp_path, "record", [OWN_ROWS["record"][0]])
    (example,) = _dataset("record", "test").as_numpy_iterator()
    task = seqio.TaskRegistry.get(NAMES["record"])
    target = task.postprocess_fn("Birds can fly.", example=example, is_target=True)
    assert target == ["Birds can fly.", "The birds can fly."]
    answers = {"The birds can fly.": (1.0, 1.0), "Birds can fly": (0.0, 1.0), "Pigs": (0.0, 0.0)}
    for answer, (accuracy, em) in answers.items():
        actual = {}
        for metric_fn in task.metric_fns:
            actual |= metric_fn([target], [answer])
        assert (actual["accuracy"], actual["em"]) == (accuracy, em)


def test_openbookqa_gives_the_fact_first(tmp_path):
    question = {"stem": "Owls hunt at", "choice_A": "3", "choice_B": "2", "choice_C": "6"}
    row = {"question": question | {"choice_D": "7"}, "fact1": "Owls like the night"}
    write_flan(tmp_path, "openbookqa", [row | {"answerKey": 1}])
    (example,) = _dataset("openbookqa", "test").as_numpy_iterator()
    _check(example, ("Keep in mind: Owls like the night\n\nOwls hunt at\n\n", "3|2|6|7", "2"))


def test_story_cloze_says_what_to_put_where(monkeypatch, tmp_path):
    sources.set_data_dir(None)
    source = seqio.TaskRegistry.get(NAMES["story_cloze"]).source
    monkeypatch.setattr(source._tfds.tfds_dataset, "_data_dir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="by hand: .*cloze_test_val__spring2016.csv.*put"):
        _dataset("story_cloze", "train")


# ---- bad files


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("story_cloze", {"label": 0}, "'label' is 0, must be an integer from 1 to 2"),
        ("hellaswag", {"label": -1}, "'label' is -1, must be an integer from 0 to 3"),
        ("copa", {"premise": ""}, "'premise' is '', must have text"),
        ("record", {"answers": []}, "'answers' is [], must have text"),
        ("definite_pronoun_resolution", {"candidates": "Ann"}, 'is "Ann", must be a list of str'),
        ("wsc273", {"pronoun_start": -1}, "'pronoun_start' is -1, must be an integer from 0"),
    ],
)
def test_a_bad_row_is_named_with_task_split_and_line(tmp_path, name, change, message):
    good = OWN_ROWS[name][0]
    path = write_flan(tmp_path, name, [good, good | change], before="\n")
    with pytest.raises(ValueError) as caught:
        _dataset(name, "test")
    assert f"{path.parent.name}/{path.name}:3: " in str(caught.value)
    assert message in str(caught.value)
