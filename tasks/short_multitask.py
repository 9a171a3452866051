"""Twelve real tasks with short inputs, from a data folder or from TFDS, for a pre-trained model.

Four have one of a few classes as answer, two one of a row's own choices, two a word or a span
(exact match), four a sentence (ROUGE-L). No input is cut: rows with more than MOST_BYTES are left
out.
Besides "train" and "validation", by which checkpoints are chosen, each task has the splits
"calibration" and "test" of other rows.

`short_learned_v1` leaves out SNLI and PIQA, of which a model of 135 M parameters learns nothing
from so few rows. `short_text_v1` is running text and the inputs of these tasks, for a student that
was cut out of its teacher's layers.
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from cascade_jax.data.sources import TfdsOrJsonlSource
from cascade_jax.task_metrics import quality, short_answers
from tasks.registration import (
    add_mixture,
    add_task,
    proportional,
    references_as_target,
    rows_in_train,
)

MIXTURE = "short_multitask_v1"
LEARNED_MIXTURE = "short_learned_v1"
TEXT_MIXTURE = "short_text_v1"
TRAIN_ROWS = 1500
MOST_BYTES = 240  # of input and options, or of input and target
CONTEXT_WORDS = 30
TEXT_WORDS = 56
TEXT_ROWS = 600  # inputs of each task that are read as running text

Row = Mapping[str, tf.Tensor]
ToText = Callable[[Row], Row]


def _splits(held_out: str) -> dict[str, str]:
    """Rows of one file of held-out rows: the first for choosing, then calibrating, then testing."""
    return {
        "train": f"train[:{TRAIN_ROWS}]",
        "validation": f"{held_out}[:50]",
        "calibration": f"{held_out}[50:150]",
        "test": f"{held_out}[150:350]",
    }


def _is_short(row: Row) -> tf.Tensor:
    answers = row["options"] if "options" in row else row["targets"]
    texts = tf.concat([[row["inputs"]], tf.reshape(answers, [-1])], 0)
    return tf.reduce_sum(tf.strings.length(texts)) <= MOST_BYTES


def _add(
    name: str,
    tfds_name: str,
    fields: Mapping,
    to_text: ToText,
    metric_fn: Callable,
    kind: str,
    held_out: str = "validation",
    *,
    postprocess_fn: Callable | None = None,
    is_in_tfds: bool = True,
) -> str:
    splits = _splits(held_out)
    source = TfdsOrJsonlSource(tfds_name, fields, splits, is_in_tfds=is_in_tfds)
    steps = [seqio.map_over_dataset(to_text), lambda rows: rows.filter(_is_short)]
    if fields.get("label") == range(-1, 3):  # TFDS marks rows without an agreed label (snli)
        steps.insert(0, lambda rows: rows.filter(lambda row: row["label"] >= 0))
    texts = splits | {"train": f"train[:{TEXT_ROWS}]"}
    source_of_text = TfdsOrJsonlSource(tfds_name, fields, texts, is_in_tfds=is_in_tfds)
    _add_text(f"{name}_inputs", source_of_text, [*steps, seqio.map_over_dataset(_divided)])
    return add_task(
        f"short_{name}_v1", source, steps, [metric_fn], postprocess_fn, suite="short", kind=kind
    )


# ---- running text


def _add_text(name: str, source: TfdsOrJsonlSource, steps: Sequence[Callable]) -> str:
    steps = [*steps, lambda rows: rows.filter(lambda row: row["targets"] != "")]
    metrics, kind = [quality.accuracy], "language_modeling"
    return add_task(f"short_text_{name}_v1", source, steps, metrics, suite="short", kind=kind)


def _divided(row: Row) -> Row:
    """The first eighth of an input's words, and the rest as target."""
    words = tf.strings.split(row["inputs"])
    first = 1 + tf.size(words) // 8
    parts = {"inputs": words[:first], "targets": words[first:]}
    return {name: tf.strings.reduce_join(part, separator=" ") for name, part in parts.items()}


def _pieces(row: Row) -> tf.data.Dataset:
    """A text in pieces of TEXT_WORDS words; what is left over at its end is not read."""
    words = tf.strings.split(row["inputs"])
    count = tf.size(words) // TEXT_WORDS
    pieces = tf.reshape(words[: count * TEXT_WORDS], [count, TEXT_WORDS])
    texts = tf.strings.reduce_join(pieces, -1, separator=" ")
    return tf.data.Dataset.from_tensor_slices({"inputs": texts})


def _add_running_text(name: str, tfds_name: str, field: str, rows: int, is_in_tfds: bool) -> str:
    splits = {"train": f"train[:{rows}]", "validation": "validation"}
    source = TfdsOrJsonlSource(tfds_name, {field: str}, splits, is_in_tfds=is_in_tfds)
    steps = [
        seqio.map_over_dataset(lambda row: {"inputs": row[field]}),
        lambda texts: texts.flat_map(_pieces),
        seqio.map_over_dataset(_divided),
    ]
    return _add_text(name, source, steps)


# ---- classes and choices


def _classified(prompt: Callable[[Row], tf.Tensor], classes: Sequence[str]) -> ToText:
    def to_text(row: Row) -> Row:
        options = tf.constant(classes)
        answer = tf.gather(options, row["label"])
        return {"inputs": prompt(row), "targets": answer, "options": options}

    return to_text


def _add_classes(
    name: str,
    tfds_name: str,
    texts: Sequence[str],
    prompt: Callable[[Row], tf.Tensor],
    classes: Sequence[str],
    held_out: str = "validation",
) -> str:
    fields = {text: str for text in texts}
    fields["label"] = range(-1 if len(classes) == 3 else 0, len(classes))
    to_text = _classified(prompt, classes)
    return _add(name, tfds_name, fields, to_text, quality.accuracy, "classification", held_out)


def _follows(row: Row) -> tf.Tensor:
    return row["premise"] + " Does it follow that " + row["hypothesis"]


def _arc(row: Row) -> Row:
    options = row["choices"]["text"]
    target = tf.gather(options, row["answerKey"])
    return {"inputs": row["question"], "targets": target, "options": options}


def _piqa(row: Row) -> Row:
    options = tf.stack([row["sol1"], row["sol2"]])
    target = tf.gather(options, row["label"])
    return {"inputs": "How to: " + row["goal"], "targets": target, "options": options}


# ---- written answers


def last_word(row: Row) -> Row:
    """LAMBADA: the last word of a passage, of which only the end is shown."""
    end = rf"(?s)((?:\S+\s+){{0,{CONTEXT_WORDS}}}\S+)\s*$"
    shown = tf.strings.regex_replace(row["passage"], r"\s+\S+\s*$", "")
    shown = tf.strings.regex_replace(shown, r"\s+", " ")
    shown = tf.strings.regex_replace(shown, r"^.*?" + end, r"\1")
    target = tf.strings.regex_replace(tf.strings.strip(row["passage"]), r"(?s)^.*\s", "")
    return {"inputs": "Next word: " + shown, "targets": target}


def answer_in_sentence(row: Row) -> Row:
    """SQuAD with the sentence around the answer in place of the passage.

    Example: "It rains. Ann sings. Bob hears." with the answer "Ann" keeps "Ann sings."
    """
    answer, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
    size = tf.strings.length(answer, "UTF8_CHAR")
    start = tf.cast(start, tf.int32)
    before = tf.strings.substr(row["context"], 0, start, "UTF8_CHAR")
    after = tf.strings.substr(row["context"], start + size, 100_000, "UTF8_CHAR")
    before = tf.strings.regex_replace(before, r"(?s)^.*\. ", "")
    after = tf.strings.regex_replace(after, r"(?s)\. .*$", ".")
    sentence = tf.strings.join([before, answer, after])
    return {"inputs": sentence + " " + row["question"], "targets": answer}


def words_in_order(row: Row) -> Row:
    """A sentence from its words, in small letters and shuffled by their hashes.

    Example: "Tom sleeps now." is asked for by "Put in order: now tom sleeps".
    """
    text = tf.strings.regex_replace(tf.strings.lower(row["en"]), r"[^a-z0-9' ]", "")
    words = tf.strings.split(text)
    order = tf.argsort(tf.strings.to_hash_bucket_fast(words, 2**31))
    shuffled = tf.strings.reduce_join(tf.gather(words, order), separator=" ")
    return {"inputs": "Put in order: " + shuffled, "targets": row["en"]}


def _listed(prompt: str, field: str, separator: str) -> ToText:
    """A sentence about a list of texts; its reference texts stay beside."""

    def to_text(row: Row) -> Row:
        inputs = prompt + tf.strings.reduce_join(row[field], separator=separator)
        return {"inputs": inputs, "targets": row["target"], "references": row["references"]}

    return to_text


def _add_listed(name: str, builder: str, field: str, prompt: str, separator: str) -> str:
    return _add(
        name,
        f"gem/{builder}:1.1.0",
        {field: list[str], "target": str, "references": list[str]},
        _listed(prompt, field, separator),
        quality.rouge_l,
        "generation",
        postprocess_fn=references_as_target,
    )


TASKS = (
    _add_classes(
        "sst2",
        "glue/sst2:2.0.0",
        ["sentence"],
        lambda row: "Positive or negative? " + tf.strings.strip(row["sentence"]),
        ["negative", "positive"],
    ),
    _add_classes(
        "ag_news",
        "ag_news_subset:1.0.0",
        ["title"],
        lambda row: "Section of the news: " + row["title"],
        ["world", "sports", "business", "technology"],
        "test",
    ),
    _add_classes("snli", "snli:1.1.0", ["premise", "hypothesis"], _follows, ["yes", "maybe", "no"]),
    _add_classes(
        "qnli",
        "glue/qnli:2.0.0",
        ["question", "sentence"],
        lambda row: row["sentence"] + " Does this answer: " + row["question"],
        ["yes", "no"],
    ),
    _add(
        "arc_easy",
        "ai2_arc/ARC-Easy:1.0.0",
        {"question": str, "choices/text": list[str], "answerKey": range(5)},
        _arc,
        quality.accuracy,
        "multiple_choice",
    ),
    _add(
        "piqa",
        "piqa:1.0.0",
        {"goal": str, "sol1": str, "sol2": str, "label": range(2)},
        _piqa,
        quality.accuracy,
        "multiple_choice",
    ),
    _add(
        "lambada",
        "lambada:1.0.0",
        {"passage": str},
        last_word,
        quality.accuracy,
        "short_answer",
        "test",
    ),
    _add(
        "squad",
        "squad/v1.1:3.0.0",
        {
            "context": str,
            "question": str,
            "answers/text": list[str],
            "answers/answer_start": list[int],
        },
        answer_in_sentence,
        short_answers.squad,
        "short_answer",
    ),
    _add(
        "word_order",
        "tatoeba_pairs/zh-en",
        {"en": str},
        words_in_order,
        quality.rouge_l,
        "generation",
        is_in_tfds=False,
    ),
    _add_listed("common_gen", "common_gen", "concepts", "A sentence with: ", ", "),
    _add_listed("web_nlg", "web_nlg_en", "input", "Say: ", "; "),
    _add_listed("dart", "dart", "tripleset", "Tell: ", "; "),
)

NOT_LEARNED = ("short_snli_v1", "short_piqa_v1")

add_mixture(MIXTURE, TASKS, proportional(rows_in_train))
add_mixture(
    LEARNED_MIXTURE,
    [task for task in TASKS if task not in NOT_LEARNED],
    proportional(rows_in_train),
)


# Rates are about the pieces of text that there are.
TEXTS = (
    (_add_running_text("wikitext", "wikitext/wikitext-2-raw-v1", "text", 40, False), 2500),
    (_add_running_text("shakespeare", "tiny_shakespeare:1.0.0", "text", 120, True), 600),
    (_add_running_text("xsum", "xsum:1.1.0", "document", 200, True), 1200),
    *((task.replace("short_", "short_text_").replace("_v1", "_inputs_v1"), 500) for task in TASKS),
)

add_mixture(TEXT_MIXTURE, TEXTS, 1.0)
