"""SuperGLUE: every task on mock rows, real rows as T5 would write them, and bad files."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.text import super_glue

import tasks.superglue as superglue
from cascade_jax.data import pipeline, sources
from cascade_jax.task_metrics import quality
from tasks import superglue_preprocessors as preprocessors
from tests.support.rows import examples, texts_of, write

NAMES = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
SPLITS = ("train", "validation")
ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ALL_TASKS = [*superglue.TASKS, superglue.WSC_SPANS]

SUSAN = (
    "Susan wanted to have a birthday party. She called all of her friends. She has five friends. "
    "Her mom said that Susan can invite them all to the party. Her first friend could not go to "
    "the party because she was sick. Her second friend was going out of town. Her third friend "
    "was not so sure if her parents would let her. The fourth friend said maybe. The fifth friend "
    "could go to the party for sure. Susan was a little sad. On the day of the party, all five "
    "friends showed up. Each friend had a present for Susan. Susan was happy and sent each friend "
    "a thank you card the next week. "
)
DARTS = (
    "By Leon Watson PUBLISHED: 12:24 EST, 15 October 2012 | UPDATED: 01:47 EST, 16 October 2012 A "
    "thug who stabbed his friend 11 times and left him for dead after a row over a game of darts "
    "has been jailed for eight years. Peter Roberts, 46, from Northampton, launched a 'frenzied "
    "and determined' attack on Shane Reeves, 22, after they fell out on July 5 this year. Roberts "
    "plunged a kitchen knife into his friend's chest, abdomen, shoulder and arm before dumping him "
    "on a landing. Peter Roberts, from Northampton, stabbed his friend 11 times and left him for "
    "dead after a row over a game of darts. He has been jailed for eight years. Peter Roberts, "
    "from Northampton, jailed for attack on Shane Reeves. The pair, aged 46 and 22, were friends "
    "but fell out on July 5 this year"
)
PEBBLE = (
    "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic "
    "pebble in an iron {} . Some day they might want to use {} , but really for now, what more "
    "could they wish for?"
)
PONY = (
    "The boy continued to whip the {} , and eventually the pony threw him over. John laughed out "
    'quite loud. "Good for {}'
)
# (task, split, index of the example): its input and target.
REAL_ROWS = {
    ("boolq", "train", 407): (
        "boolq passage: Skunks as pets -- It is currently legal to keep skunks as pets in Britain "
        "without a license. question: can you own a skunk in the uk",
        "True",
    ),
    ("cb", "train", 0): (
        "cb hypothesis: the language was peeled down premise: It was a complex language. Not "
        "written down but handed down. One might say it was peeled down.",
        "entailment",
    ),
    ("multirc", "validation", 187): (
        "multirc question: Did Susan's sick friend recover? answer: No paragraph: " + SUSAN,
        "False",
    ),
    ("record", "train", 18): (
        "record query: After undergoing surgery, Mr @placeholder spent a month recovering from "
        "his injuries. entities: Leon Watson, Northampton, Peter Roberts, Roberts, Shane Reeves "
        "passage: " + DARTS,
        "Shane Reeves",
    ),
    ("rte", "train", 0): (
        "rte hypothesis: Weapons of Mass Destruction Found in Iraq. premise: No Weapons of Mass "
        "Destruction Found in Iraq Yet.",
        "not_entailment",
    ),
    ("wsc", "train", 0): (
        "wsc: The pony behaved well, sir, and showed no vice; but at last he just threw up his "
        "heels and tipped the young gentleman into the thorn hedge. *He* wanted me to help him "
        "out, but I hope you will excuse me, sir, I did not feel inclined to do so.",
        "young gentleman",
    ),
    # Rows whose pronoun does not stand at its index, or not as a word of its own.
    ("wsc", "validation", 42): ("wsc: " + PEBBLE.format("safe", "*it*"), "safe"),
    ("wsc_spans", "validation", 42): (
        "wsc text: " + PEBBLE.format("* safe *", "# it #"),
        "False",
    ),
    ("wsc_spans", "train", 137): (
        "wsc text: " + PONY.format("* pony *", '# him #," he said. '),
        "True",
    ),
    ("wsc_spans", "train", 433): (
        "wsc text: * Emma *'s mother had died long ago, and # her # place had been taken by an "
        "excellent woman as governess.",
        "False",
    ),
}


def _dataset(name, split, skip=0):
    return examples(f"cascade_superglue_{name}_v1", split, skip)


def _raw(name, split):
    return seqio.TaskRegistry.get(f"cascade_superglue_{name}_v1").source.rows(split)


def _write(folder, name, rows, split="train", before=""):
    write(folder, f"super_glue__{name}", rows, split, before)


# ---- every task and mixture on TFDS's fields


def _config(name):
    return pipeline.DataConfig(name, 512, 64, batch_size=2, shuffle_buffer=4)


@pytest.mark.slow  # every_task_test.py makes a batch of each kind of task
def test_every_task_and_mixture_makes_a_training_batch_of_tfds_rows(monkeypatch):
    sources.set_data_dir(None)
    # Mock data has rows but no files.
    monkeypatch.setattr(seqio.TfdsDataSource, "list_shards", lambda self, split: [split])
    with tfds.testing.mock_data(num_examples=4, policy=tfds.testing.MockPolicy.USE_CODE):
        for name in [*ALL_TASKS, "cascade_superglue_v1"]:
            batch = next(pipeline.train_batches(_config(name), ONE_DEVICE))
            inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
            assert inputs.shape == (2, 512) and targets.shape == (2, 64), name
            assert ((inputs == 1).sum(1) == 1).all() and ((targets == 1).sum(1) == 1).all(), name
            assert (np.argmax(targets == 1, 1) > 0).all(), name  # no target is EOS alone
        for name in [*NAMES, "wsc_spans"]:
            examples = [texts_of(e)[0] for e in _dataset(name, "validation")]
            prefix = {"wsc": "wsc: ", "wsc_spans": "wsc text: "}.get(name, f"{name} ")
            assert len(examples) == 4 and all(e.startswith(prefix) for e in examples), name


# ---- real rows


@pytest.mark.parametrize("place", REAL_ROWS, ids=lambda place: "-".join(map(str, place)))
def test_a_real_row_reads_as_t5_writes_it(real_data, place):
    assert texts_of(next(_dataset(*place))) == REAL_ROWS[place]


def test_punctuation_after_the_pronoun_stands_apart_as_in_t5(real_data):
    inputs = [texts_of(example)[0] for example in _dataset("wsc", "train")]
    assert "wsc: " + PONY.format("pony", '*him* ," he said.') in inputs


@pytest.mark.parametrize("name", ["boolq", "cb", "multirc", "record", "rte", "wsc", "wsc_spans"])
def test_the_target_as_answer_is_worth_1(real_data, name):
    task = seqio.TaskRegistry.get(f"cascade_superglue_{name}_v1")
    examples = list(itertools.islice(_dataset(name, "validation"), 8))
    if name == "wsc":  # where the label is False, the text in the target is the wrong answer
        examples = [example for example in examples if example["label"] == 1]
    texts = [texts_of(example)[1] for example in examples]
    pairs = list(zip(texts, examples, strict=True))
    targets = [task.postprocess_fn(t, example=e, is_target=True) for t, e in pairs]
    answers = [task.postprocess_fn(t, example=e, is_target=False) for t, e in pairs]
    metric, values = quality.per_example_quality(task.metric_fns, targets, answers)
    assert metric == "accuracy" and len(values) >= 3 and (values == 1.0).all()


def _figures(name, change):
    """All metrics of a task on its real validation rows, answered by change(target text, row)."""
    task = seqio.TaskRegistry.get(f"cascade_superglue_{name}_v1")
    targets, answers = [], []
    for index, example in enumerate(_dataset(name, "validation")):
        text = texts_of(example)[1]
        answer = change(text, index)
        targets.append(task.postprocess_fn(text, example=example, is_target=True))
        answers.append(task.postprocess_fn(answer, example=example, is_target=False))
    figures = {}
    for metric_fn in task.metric_fns:
        figures |= metric_fn(targets, answers)
    return figures


def test_superglues_own_metrics_stand_beside_accuracy(real_data):
    figures = _figures("multirc", lambda text, index: text if index else "neither")
    rows = _raw("multirc", "validation")
    assert figures["accuracy"] == 1 - 1 / len(rows)
    # The first question is the only one with a wrong answer.
    assert figures["exact_match"] == 1 - 1 / len({row["idx/question"] for row in rows})
    assert 0.99 < figures["f1"] < 1
    assert _figures("record", lambda text, _: f"The {text}!") == {
        "accuracy": 0.0,
        "em": 1.0,
        "f1": 1.0,
    }
    labels = [row["label"] for row in _raw("cb", "validation")]
    figures = _figures("cb", lambda *_: "contradiction")
    share = labels.count(1) / len(labels)
    assert figures == pytest.approx(
        {"accuracy": share, "mean_3class_f1": 2 * share / (1 + share) / 3}, abs=1e-12
    )


def test_record_has_an_example_per_answer_in_training_and_per_query_in_evaluation(real_data):
    rows = {split: _raw("record", split) for split in SPLITS}
    trained = [texts_of(example)[1] for example in _dataset("record", "train")]
    assert trained == [answer for row in rows["train"] for answer in row["answers"]]
    assert len(trained) == 44 and len(rows["train"]) == 32
    evaluated = list(_dataset("record", "validation"))
    answers = [row["answers"] for row in rows["validation"]]
    assert [[t.decode() for t in e["references"]] for e in evaluated] == answers
    assert [texts_of(e)[1] for e in evaluated] == [several[0] for several in answers]
    assert max(map(len, answers)) > 1


def test_record_resumes_in_the_midst_of_a_row_with_several_answers(real_data):
    config = _config("cascade_superglue_record_v1")
    iterator = pipeline.train_batches(config, ONE_DEVICE)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    fresh = pipeline.train_batches(config, ONE_DEVICE)
    fresh.set_state(state)
    for _ in range(25):  # over the end of the 44 examples
        expected, actual = next(iterator), next(fresh)
        np.testing.assert_array_equal(actual.inputs, expected.inputs)
        np.testing.assert_array_equal(actual.targets, expected.targets)


def test_multirc_groups_the_answers_of_a_question_and_has_no_tags(real_data):
    examples = list(_dataset("multirc", "validation"))
    questions = [row["idx/question"] for row in _raw("multirc", "validation")]
    assert [example["idx/question"] for example in examples] == questions
    assert len(Counter(questions)) == 83
    assert not any(tag in texts_of(e)[0] for e in examples for tag in ("<b>", "</b>", "<br>"))


def test_wsc_trains_on_the_true_rows_and_evaluates_on_all(real_data):
    counts = {split: len(list(_dataset("wsc", split))) for split in SPLITS}
    assert counts == {"train": superglue.TRAIN_EXAMPLES["wsc"], "validation": 104}
    assert all(example["label"] == 1 for example in _dataset("wsc", "train"))
    assert len(list(_dataset("wsc_spans", "train"))) == 554


def test_wsc_spans_are_those_of_the_builders_fixed_config(real_data):
    for row in [*_raw("wsc", "train"), *_raw("wsc", "validation")]:
        fixed = super_glue._fix_wst(dict(row))
        for span in ("span1_text", "span2_text"):
            ours = preprocessors.fixed_span(tf.constant(row["text"]), tf.constant(row[span]))
            assert ours.numpy().decode() == fixed[span]


@pytest.mark.parametrize("split", SPLITS)
def test_wsc_marks_are_those_put_in_word_by_word(real_data, split):
    compared = 0
    for row, example in zip(_raw("wsc", split), _dataset("wsc_spans", split), strict=True):
        row = super_glue._fix_wst(dict(row))
        words, spans = row["text"].split(" "), []
        for span, sign in (("span1", "*"), ("span2", "#")):
            first, size = row[f"{span}_index"], len(row[f"{span}_text"].split(" "))
            spans.append((first, first + size, sign))
            if " ".join(words[first : first + size]) != row[f"{span}_text"]:
                break  # not whole words: literal expectations above
        else:
            if spans[0][0] != spans[1][0]:
                for first, end, sign in sorted(spans, reverse=True):
                    words[first:end] = [sign, *words[first:end], sign]
                assert texts_of(example)[0] == "wsc text: " + " ".join(words)
                compared += 1
    assert compared == {"train": 550, "validation": 102}[split]


# ---- rows of our own


def test_copa_and_wic_read_as_t5_writes_them(tmp_path):
    copa = {"premise": "The cup fell.", "choice1": "It broke.", "choice2": "It flew."}
    _write(tmp_path, "copa", [copa | {"question": "effect", "label": 1}])
    wic = {"word": "bank", "sentence1": "A river bank.", "sentence2": "A rich bank.", "label": 0}
    _write(tmp_path, "wic", [wic])
    assert texts_of(next(_dataset("copa", "train"))) == (
        "copa choice1: It broke. choice2: It flew. premise: The cup fell. question: effect",
        "choice2",
    )
    assert texts_of(next(_dataset("wic", "train"))) == (
        "wic sentence1: A river bank. sentence2: A rich bank. word: bank",
        "False",
    )


@pytest.mark.parametrize(
    ("label", "target"), [(0, "entailment"), (1, "contradiction"), (2, "neutral")]
)
def test_cb_names_its_labels_in_the_builders_order(tmp_path, label, target):
    _write(tmp_path, "cb", [{"premise": "p", "hypothesis": "h", "label": label}])
    assert texts_of(next(_dataset("cb", "train"))) == ("cb hypothesis: h premise: p", target)


# ---- mixtures


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("cascade_superglue_v1", [3000, 250, 400, 3000, 3000, 2490, 3000, 259]),
        ("cascade_superglue_cap_30000_v1", [9427, 250, 400, 27243, 30000, 2490, 5428, 259]),
        ("cascade_superglue_proportional_v1", [9427, 250, 400, 27243, 138854, 2490, 5428, 259]),
        ("cascade_superglue_equal_v1", [1] * 8),
    ],
)
def test_mixtures_hold_the_eight_tasks_at_these_rates(name, rates):
    opened = pipeline.open_mixture(_config(name))  # a copy, as every run has it
    actual = {task: opened.provider.get_rate(copy) for task, copy in opened.tasks.items()}
    expected = {f"cascade_superglue_{n}_v1": rate for n, rate in zip(NAMES, rates, strict=True)}
    assert actual == expected


# ---- bad files

GOOD_CB = {"premise": "p", "hypothesis": "h", "label": 0}
GOOD_RECORD = {"query": "q", "passage": "p", "entities": ["a"], "answers": ["a"]}
GOOD_WSC = {"text": "Ann ran until she fell.", "span1_text": "Ann", "span2_text": "she", "label": 1}
GOOD_WSC |= {"span1_index": 0, "span2_index": 3}
GOOD_ROWS = {"cb": GOOD_CB, "record": GOOD_RECORD, "wsc": GOOD_WSC}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("cb", GOOD_CB | {"label": 3}, "'label' is 3, must be an integer from 0 to 2"),
        ("cb", GOOD_CB | {"label": -1}, "'label' is -1, must be an integer from 0 to 2"),
        ("cb", {"premise": "p", "label": 0}, "lacks field 'hypothesis'"),
        ("cb", GOOD_CB | {"premise": 5}, "'premise' is 5, must be a string"),
        ("cb", GOOD_CB | {"premise": " "}, "'premise' is ' ', must have text"),
        ("record", GOOD_RECORD | {"answers": []}, "'answers' is [], must have text"),
        (
            "record",
            GOOD_RECORD | {"entities": ["a", ""]},
            "'entities' is ['a', ''], must have text",
        ),
        ("record", GOOD_RECORD | {"answers": "a"}, "'answers' is \"a\", must be a list of strings"),
        ("wsc", GOOD_WSC | {"span2_index": -1}, "'span2_index' is -1, must be an integer from 0"),
    ],
)
def test_a_bad_row_is_named_with_task_split_and_line(tmp_path, name, row, message):
    _write(tmp_path, name, [GOOD_ROWS[name], row], "validation", before="\n")
    with pytest.raises(ValueError) as caught:
        _dataset(name, "validation")
    assert f"super_glue__{name}/validation.jsonl:3: " in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_folder_names_what_is_missing(tmp_path):
    _write(tmp_path, "cb", [GOOD_CB])
    with pytest.raises(FileNotFoundError, match="no task folder 'super_glue__wsc'"):
        _dataset("wsc", "train")
    with pytest.raises(FileNotFoundError, match="has no split 'validation'"):
        _dataset("cb", "validation")
