"""FLAN 2021's rows with a blank text, which prompts do without, and rows that are refused."""

import dataclasses
import json

import pytest

from cascade_jax.data import sources
from tasks.flan2021 import DATA_SETS, flan_task


def _write(folder, name, *rows):
    """Files of all splits with these rows, after a blank line."""
    source = flan_task.FlanSource(DATA_SETS[name])
    place = folder / source.name.replace("/", "__")
    place.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        text = "\n" + "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{split}.jsonl").write_text(text, "utf-8")
    sources.set_data_dir(folder)
    return source


def _inputs(folder, name, row):
    """The row's input under each of the prompts."""
    _write(folder, name, row)
    inputs = []
    for prompt in DATA_SETS[name].prompts:
        task = dataclasses.replace(DATA_SETS[name], prompts=[prompt])
        rows = flan_task.FlanSource(task).get_dataset("test", shuffle=False)
        for step in flan_task.preprocessors(task):
            rows = step(rows)
        inputs += [example["inputs"].decode() for example in rows.as_numpy_iterator()]
    return inputs


def test_a_blank_fact_of_openbookqa_leaves_no_line(tmp_path):
    question = {"stem": "Owls hunt at", "choice_A": "3", "choice_B": "2", "choice_C": "6"}
    row = {"question": question | {"choice_D": "7"}, "answerKey": 1}
    listed = "Possible answers:\n* 3\n* 2\n* 6\n* 7"
    assert _inputs(tmp_path, "openbookqa", row | {"fact1": "So."}) == [
        f"Keep in mind: So.\n\nOwls hunt at\n\n{listed}",
        f"What we know: So.\nWhat is asked: Owls hunt at\n{listed}",
        f"Owls hunt at\n\nA hint from the book: So.\n\n{listed}",
    ]
    assert _inputs(tmp_path, "openbookqa", row | {"fact1": " "}) == [
        f"Owls hunt at\n\n{listed}",
        f"What is asked: Owls hunt at\n{listed}",
        f"Owls hunt at\n\n{listed}",
    ]


RECORD = {"passage": "Birds fly.", "entities": ["Birds", "Pigs"], "answers": ["Birds"]}


@pytest.mark.parametrize(
    ("query", "begun"),
    [("@placeholder can fly.", ""), ("So @placeholder can fly.", ' that begins "So"')],
)
def test_a_query_of_record_may_start_with_the_placeholder(tmp_path, query, begun):
    listed = "Possible answers:\n* Birds can fly.\n* Pigs can fly."
    assert _inputs(tmp_path, "record", RECORD | {"query": query}) == [
        f"Birds fly.\n\nWhich of these completes a summary line{begun}?\n\n{listed}",
        f"News: Birds fly.\n\nA reader notes down a line{begun}. Pick the words that make it true."
        f"\n{listed}",
        f"Report: Birds fly.\nWhich words make a highlight of it{begun}?\n{listed}",
    ]


# A good row, and what is wrong with it after the change.
HELLASWAG = {"context": "Ann sat.", "endings": ["a", "b", "c", "d"], "label": 0}
STORY = {"context": "Ann ran.", "endings": ["a", "b"], "label": 1}
PRONOUN = {"sentence": "Ann saw Eve as she sat.", "pronoun": "she", "candidates": ["Ann", "Eve"]}
WINOGRANDE = {"sentence": "_ ran.", "option1": "Ann", "option2": "Eve", "label": 1}
STSB = {"sentence1": "a", "sentence2": "b", "label": 5.0}
ODD = [
    ("hellaswag", HELLASWAG, {"endings": ["a", "b", "c"]}, "'endings' has 3 texts, must be 4"),
    ("story_cloze", STORY, {"endings": ["a"]}, "'endings' has 1 texts, must be 2"),
    (
        "definite_pronoun_resolution",
        PRONOUN | {"label": 0},
        {"candidates": ["Ann"]},
        "'candidates' has 1 texts, must be 2",
    ),
    ("winogrande", WINOGRANDE, {"sentence": "Ann."}, "'sentence' lacks '_', where options go"),
    (
        "record",
        RECORD | {"query": "@placeholder fly."},
        {"query": "Pigs fly."},
        "'query' lacks '@placeholder', where options go",
    ),
    ("stsb", STSB, {"label": 5.2}, "'label' is 5.2, must be a score from 0 to 5"),
    ("stsb", STSB, {"label": -1.0}, "'label' is -1.0, must be a score from 0 to 5"),
    ("stsb", STSB, {"label": 5.1}, "'label' is 5.1, must be a score from 0 to 5"),
]


@pytest.mark.parametrize(("name", "good", "change", "message"), ODD)
def test_a_row_that_does_not_agree_in_itself_is_named_with_its_line(
    tmp_path, name, good, change, message
):
    assert len(_write(tmp_path, name, good, good).rows("test")) == 2
    source = _write(tmp_path, name, good, good | change)
    with pytest.raises(ValueError) as caught:
        source.get_dataset("test")
    folder = source.name.replace("/", "__")
    file = DATA_SETS[name].splits["test"]
    assert str(caught.value) == f"{tmp_path / folder / file}.jsonl:3: field {message}"
