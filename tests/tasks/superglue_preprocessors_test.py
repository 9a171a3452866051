"""T5's formats of SuperGLUE on rows of our own, against the texts written out."""

import numpy as np
import pytest
import tensorflow as tf

from cascade_jax.task_metrics import quality
from tasks import superglue_preprocessors as preprocessors


def _processed(steps, *rows):
    """Rows, given as plain Python values, after the preprocessors."""
    row = {field: [r[field] for r in rows] for field in rows[0]}
    dataset = tf.data.Dataset.from_tensor_slices(row)
    for step in steps:
        dataset = step(dataset)
    return list(dataset.as_numpy_iterator())


def test_a_labelled_task_joins_its_fields_in_the_order_given():
    steps = preprocessors.labelled("rte", ["hypothesis", "premise"], ["entailment", "not"])
    row = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "is_training": True}
    other = row | {"label": 1}
    first, second = _processed(steps, row, other)
    inputs = b"rte hypothesis: It is wet. premise: It rains."
    for example in (first, second):
        assert example.pop("options").tolist() == [b"entailment", b"not"]
    assert first == {"inputs": inputs, "targets": b"entailment"}
    assert second == {"inputs": inputs, "targets": b"not"}


def test_multirc_takes_tags_out():
    row = {
        "paragraph": "<b>Sent 1: </b>Ann ran.<br><b>Sent 2: </b>Ben sat.",
        "question": "Who ran?",
        "answer": "Ann",
        "label": 1,
    }
    dataset = tf.data.Dataset.from_tensors(row | {"idx": {"question": 7}})
    (example,) = preprocessors.multirc()[0](dataset).as_numpy_iterator()
    assert example.pop("options").tolist() == [b"False", b"True"]
    assert example == {
        "inputs": b"multirc question: Who ran? answer: Ann paragraph: Sent 1: Ann ran. Sent 2: "
        b"Ben sat.",
        "targets": b"True",
        "idx/question": 7,
    }


def test_multirc_answers_belong_to_their_question():
    row = {"idx/question": 7}
    target = preprocessors.with_question("True", example=row, is_target=True)
    assert target == {"group": 7, "value": "True"}
    assert preprocessors.with_question("False", example=row, is_target=False) == "False"


RECORD_ROW = {
    "query": "@placeholder can fly.",
    "passage": "Birds fly\n@highlight\nPigs do not!\n@highlight\nThey run",
    "entities": ["Birds", "Pigs"],
    "answers": ["Birds", "The birds"],
}


@pytest.mark.parametrize(
    ("is_training", "targets"), [(True, [b"Birds", b"The birds"]), (False, [b"Birds"])]
)
def test_record_ends_sentences_at_highlights_and_repeats_for_answers(is_training, targets):
    examples = _processed(preprocessors.record(), RECORD_ROW | {"is_training": is_training})
    assert [example["targets"] for example in examples] == targets
    for example in examples:
        assert example["inputs"] == (
            b"record query: @placeholder can fly. entities: Birds, Pigs passage: Birds fly. Pigs "
            b"do not! They run"
        )
        assert example["references"].tolist() == [b"Birds", b"The birds"]
        assert example["options"].tolist() == [b"Birds", b"Pigs"]


@pytest.mark.parametrize("is_training", [True, False])
def test_record_without_answers_has_t5s_unknown_mark(is_training):
    row = RECORD_ROW | {"is_training": is_training, "answers": tf.constant([], tf.string)}
    (example,) = _processed(preprocessors.record(), row)
    assert example["targets"] == b"<unk>"


def _wsc_row(text, span1, index1, span2, index2, label=1):
    spans = {"span1_text": span1, "span1_index": index1, "span2_text": span2, "span2_index": index2}
    return {"text": text, "label": label, "is_training": True} | spans


WSC_CASES = [
    (  # the example of the docstrings
        _wsc_row("Ann asked Tom if he had eaten.", "Tom", 2, "he", 4),
        "Ann asked Tom if *he* had eaten.",
        "Ann asked * Tom * if # he # had eaten.",
        "Tom",
    ),
    (  # the pronoun first, case and full stop of the other span to be fixed, letters of two bytes
        _wsc_row("She met Zoë, the café owner", "The café owner.", 3, "She", 0),
        "*She* met Zoë, the café owner",
        "# She # met Zoë, * the café owner *",
        "the café owner",
    ),
    (  # the pronoun inside the other span, and at its start
        _wsc_row("We saw their dogs", "their dogs", 2, "their", 2),
        "We saw *their* dogs",
        "We saw * # their # dogs *",
        "their dogs",
    ),
    (  # the pronoun inside another word before its place, and signs that patterns know
        _wsc_row("it's \\d+ (or) items: it (or)", "(or)", 2, "it", 3),
        "it's \\d+ (or) items: *it* (or)",
        "it's \\d+ * (or) * items: # it # (or)",
        "(or)",
    ),
    (  # a name whose parts stand apart keeps its text, and the pronoun alone is marked
        _wsc_row("Kamenev met Zinoviev; they sat.", "Kamenev and Zinoviev", 0, "they", 3),
        "Kamenev met Zinoviev; *they* sat.",
        "Kamenev met Zinoviev; # they # sat.",
        "Kamenev and Zinoviev",
    ),
]


@pytest.mark.parametrize(("row", "referent_form", "spans_form", "referent"), WSC_CASES)
def test_wsc_marks_its_spans(row, referent_form, spans_form, referent):
    (example,) = _processed(preprocessors.wsc_referent(), row)
    assert example["inputs"].decode() == "wsc: " + referent_form
    assert example["targets"].decode() == referent
    (example,) = _processed(preprocessors.wsc_spans(), row)
    assert example["inputs"].decode() == "wsc text: " + spans_form
    assert example["targets"] == b"True"


@pytest.mark.parametrize(
    ("answer", "label", "correct"),
    [
        ("the old dog", 1, 1.0),
        (" Old dog ", 1, 1.0),
        ("a dog", 1, 1.0),
        ("My OLD brown dog", 1, 1.0),
        ("the cat", 1, 0.0),
        ("old cat", 1, 0.0),
        ("the cat", 0, 1.0),
        ("the old dog", 0, 0.0),
        ("the dog's bone", 1, 0.0),  # an apostrophe on one side only
        ("the old dog's bone", 0, 1.0),
        ("the", 1, 0.0),  # no word left: never right
        ("", 0, 0.0),
    ],
)
def test_wsc_compares_the_answer_with_the_referent(answer, label, correct):
    example = {"targets_pretokenized": b"the old dog", "label": np.int64(label)}
    target = preprocessors.is_wsc_referent("the old dog", example=example, is_target=True)
    arguments = preprocessors.is_wsc_referent(answer, example=example, is_target=False)
    assert target == ["False", "True"][label]
    assert quality.accuracy([target], [arguments]) == {"accuracy": correct}
