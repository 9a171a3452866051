"""The short tasks: rows as a model reads them, splits that share no row, pieces of running text."""

import dataclasses

import pytest
import seqio
import tensorflow as tf

import tasks.short_multitask as short
from cascade_jax.data import pipeline, sources
from cascade_jax.task_metrics import quality

SPLITS = ("train", "validation", "calibration", "test")
FIRST_TRAIN_ROWS = {
    "sst2": ("Positive or negative? hide new secretions from the parental units", "negative"),
    "ag_news": ("Section of the news: Fears for T N pension after talks", "business"),
    "snli": (
        "Two women are embracing while holding to go packages. Does it follow that The sisters are "
        "hugging goodbye while holding to go packages after just eating lunch.",
        "maybe",
    ),
    "qnli": (
        "As of that day, the new constitution heralding the Second Republic came into force. Does "
        "this answer: What came into force after the new constitution was herald?",
        "yes",
    ),
    "word_order": ("Put in order: worried should tom be", "Should Tom be worried?"),
    "common_gen": (
        "A sentence with: chicken, cheese, pizza, broccoli",
        "A grilled pizza with chicken, broccoli and cheese.",
    ),
}


@pytest.fixture
def config(data_folder):
    before = sources.get_data_dir()
    yield pipeline.DataConfig(short.MIXTURE, 256, 128, 8, data_dir=str(data_folder))
    sources.set_data_dir(before)


def row(**fields):
    return {name: tf.constant(value) for name, value in fields.items()}


def texts(made) -> dict:
    return {name: made[name].numpy().decode() for name in ("inputs", "targets")}


def test_the_last_word_of_the_end_of_a_passage_is_asked_for():
    words = [f"w{i}" for i in range(40)]
    made = texts(short.last_word(row(passage=" ".join(words[:20]) + "\n\n" + " ".join(words[20:]))))
    shown = " ".join(words[39 - short.CONTEXT_WORDS - 1 : 39])
    assert made == {"inputs": f"Next word: {shown}", "targets": "w39"}
    assert texts(short.last_word(row(passage="so it is"))) == {
        "inputs": "Next word: so it",
        "targets": "is",
    }


@pytest.mark.parametrize(
    "context, answer, sentence",
    [
        ("It rains. Ann sings. Bob hears.", "Ann", "Ann sings."),
        ("Ann sings. Bob hears.", "Ann", "Ann sings."),
        ("It rains. “Älva” sings loud.", "Älva", "“Älva” sings loud."),
        ("At 3.5 it rains", "3.5", "At 3.5 it rains"),
    ],
)
def test_the_sentence_around_an_answer_stands_for_the_passage(context, answer, sentence):
    answers = row(text=[answer, "x"], answer_start=[context.index(answer), 0])
    made = short.answer_in_sentence(row(context=context, question="Who?") | {"answers": answers})
    assert texts(made) == {"inputs": f"{sentence} Who?", "targets": answer}


def test_words_in_order_have_the_words_of_the_sentence():
    made = texts(short.words_in_order(row(en="Tom sleeps now, doesn't he?")))
    assert made["targets"] == "Tom sleeps now, doesn't he?"
    words = made["inputs"].removeprefix("Put in order: ").split()
    assert sorted(words) == ["doesn't", "he", "now", "sleeps", "tom"]
    assert words != ["tom", "sleeps", "now", "doesn't", "he"]


@pytest.mark.medium
def test_rows_read_as_written_and_splits_share_none(config):
    mixture = pipeline.open_mixture(config)
    assert len(mixture.tasks) == 12
    learned = seqio.MixtureRegistry.get(short.LEARNED_MIXTURE).tasks
    assert {*mixture.tasks} - {task.name for task in learned} == {*short.NOT_LEARNED}
    for name, expected in FIRST_TRAIN_ROWS.items():
        first = next(pipeline.decode_examples(config, f"short_{name}_v1", "train", limit=1))
        assert (first.inputs_text, first.target_text) == expected
    for name in ("short_ag_news_v1", "short_squad_v1"):
        seen = [
            {(e.inputs_text, e.target_text) for e in pipeline.decode_examples(config, name, split)}
            for split in SPLITS
        ]
        assert all(seen) and len(set.union(*seen)) == sum(map(len, seen))
    examples = list(pipeline.decode_examples(config, "short_common_gen_v1", "test", limit=3))
    targets, answers = [e.target for e in examples], [e.target_text for e in examples]
    task = mixture.tasks["short_common_gen_v1"]
    assert quality.per_example_quality(task.metric_fns, targets, answers)[1].tolist() == [1.0] * 3


@pytest.mark.medium
def test_running_text_comes_in_pieces_of_a_few_words_and_their_continuation(config):
    config = dataclasses.replace(config, mixture=short.TEXT_MIXTURE, target_length=512)
    assert len(pipeline.open_mixture(config).tasks) == 15
    name = "short_text_shakespeare_v1"
    pieces = list(pipeline.decode_examples(config, name, "train", limit=3))
    source = seqio.TaskRegistry.get(name).source.rows("train")[0]["text"].split()
    for number, piece in enumerate(pieces):
        words = source[number * short.TEXT_WORDS : (number + 1) * short.TEXT_WORDS]
        assert piece.inputs_text.split() == words[: 1 + short.TEXT_WORDS // 8]
        assert piece.inputs_text.split() + piece.target_text.split() == words
