"""FLAN 2021's data sets whose row brings the options: which ending, which choice, which name?

Where an option stands in the midst of a sentence (Winogrande, WSC273, ReCoRD), the text before it
is the context, and every option goes on to the end of the sentence.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from cascade_jax.data.sources import FieldType, ProblemOf
from cascade_jax.task_metrics import quality, short_answers
from tasks.flan2021.flan_task import TRAIN_ROWS, FlanTask, Row, capped, held_out, own_validation
from tasks.registration import MANUAL_FOLDER, references_as_target


def _choice(options: tf.Tensor | Sequence[tf.Tensor], number: tf.Tensor, **texts) -> Row:
    """Texts with the options and the one of this number."""
    options = tf.stack(options) if isinstance(options, list | tuple) else options
    return {**texts, "options": options, "answer": tf.gather(options, number)}


def _has_options(field: str, count: int) -> ProblemOf:
    def problem_of(row: Mapping[str, Any]) -> str | None:
        number = len(row[field])
        return None if number == count else f"field {field!r} has {number} texts, must be {count}"

    return problem_of


def _has_mark(field: str, mark: str) -> ProblemOf:
    def problem_of(row: Mapping[str, Any]) -> str | None:
        return None if mark in row[field] else f"field {field!r} lacks {mark!r}, where options go"

    return problem_of


def _if_any(before: str, text: tf.Tensor, after: str) -> tf.Tensor:
    """A text between two others, or nothing at all where it is blank."""
    return tf.where(tf.strings.strip(text) == "", "", before + text + after)


def _chooser(options: str | Sequence[str], *names: str) -> Callable[[Row], Row]:
    """Texts of these names, and the option numbered by "label": of a list, or one a field."""

    def texts(row: Row) -> Row:
        choices = row[options] if isinstance(options, str) else [row[field] for field in options]
        return _choice(choices, row["label"], **{name: row[name] for name in names})

    return texts


# ------------------------------------------------------------------ rows


def _arc(row: Row) -> Row:
    return _choice(row["choices"]["text"], row["answerKey"], question=row["question"])


def _has_four_choices(row: Row) -> tf.Tensor:
    return tf.logical_and(tf.size(row["choices"]["text"]) == 4, row["answerKey"] < 4)


_BOOK_CHOICES = [f"choice_{letter}" for letter in "ABCD"]


def _openbookqa(row: Row) -> Row:
    """`fact` is for FLAN's templates; ours have it in a line that a row without one lacks."""
    question, fact = row["question"], row["fact1"]
    texts = {
        "fact": fact,
        "reminder": _if_any("Keep in mind: ", fact, "\n\n"),
        "known": _if_any("What we know: ", fact, "\n"),
        "hint": _if_any("A hint from the book: ", fact, "\n\n"),
    }
    options = [question[choice] for choice in _BOOK_CHOICES]
    return _choice(options, row["answerKey"], question=question["stem"], **texts)


def _hellaswag(row: Row) -> Row:
    """WikiHow's tags, "[header] To boil tea [title] Take water.", part lines."""
    tag = r"\s*\[[a-z]+\]\s*"
    context = tf.strings.strip(tf.strings.regex_replace(row["context"], tag, "\n"))
    options = tf.strings.strip(tf.strings.regex_replace(row["endings"], tag, " "))
    return _choice(options, row["label"], context=context)


def _story_cloze(row: Row) -> Row:
    return _choice(row["endings"], row["label"] - 1, context=row["context"])


def _winogrande(row: Row) -> Row:
    """Of "Ann thanked Eve, for _ had helped." the options are "Ann had helped." and so on."""
    context = tf.strings.strip(tf.strings.regex_replace(row["sentence"], r"(?s)_.*$", ""))
    rest = tf.strings.regex_replace(row["sentence"], r"(?s)^[^_]*_", "")
    options = tf.strings.strip(tf.stack([row["option1"], row["option2"]]) + rest)
    return _choice(options, row["label"], context=context)


def _wsc273(row: Row) -> Row:
    text = row["text"]
    start, end = (tf.cast(row[f"pronoun_{edge}"], tf.int32) for edge in ("start", "end"))
    context = tf.strings.substr(text, 0, start, unit="UTF8_CHAR")
    size = tf.strings.length(text, unit="UTF8_CHAR")
    rest = tf.strings.substr(text, end, size - end, unit="UTF8_CHAR")
    options = tf.stack([row["option1_normalized"], row["option2_normalized"]]) + rest
    return _choice(options, row["label"], context=tf.strings.strip(context))


def _record(row: Row) -> Row:
    """The summary lines at the passage's end are left out, as in FLAN.

    Of "Mr @placeholder is 22." the query is "Mr", and an option "Reeves is 22."; `begun` says
    so in our prompts, and nothing of a query that starts with the placeholder.
    """
    passage = tf.strings.regex_replace(row["passage"], r"(?s)\n@highlight\n.*$", "")
    query = tf.strings.strip(tf.strings.regex_replace(row["query"], r"(?s)@placeholder.*$", ""))
    rest = tf.strings.regex_replace(row["query"], r"(?s)^.*?@placeholder", "")
    references = row["answers"] + rest
    return {
        "passage": passage,
        "query": query,
        "begun": _if_any(' that begins "', query, '"'),
        "options": row["entities"] + rest,
        "answer": references[0],
        "references": references,
    }


# ------------------------------------------------------------------ the table


def _task(
    cluster: str,
    name: str,
    tfds_name: str,
    fields: Mapping[str, FieldType],
    texts: Callable[[Row], Row],
    splits: Mapping[str, str],
    train_examples: int = TRAIN_ROWS,
    *,
    metrics: Sequence[Callable] = (),
    **rest,
) -> FlanTask:
    facts = ("multiple_choice", texts, [quality.accuracy, *metrics], splits, train_examples)
    return FlanTask(name, cluster, tfds_name, fields, *facts, **rest)


_ANSWERS = [f"answer{number}" for number in range(4)]
_arc_task = functools.partial(_task, "open_domain_qa", keep=_has_four_choices, patterns="arc")
_common_sense = functools.partial(_task, "common_sense")
_coreference = functools.partial(_task, "coreference")

_ARC = {"question": str, "choices/text": list[str], "answerKey": range(5)}
_OPENBOOKQA = {f"question/{text}": str for text in ("stem", *_BOOK_CHOICES)}
_OPENBOOKQA |= {"fact1": str, "answerKey": range(4)}
_COSMOS = {"context": str, "question": str, "label": range(4)} | dict.fromkeys(_ANSWERS, str)
_COPA = dict.fromkeys(["premise", "question", "choice1", "choice2"], str) | {"label": range(2)}
_PIQA = {"goal": str, "sol1": str, "sol2": str, "label": range(2)}
_WSC273 = dict.fromkeys(["text", "option1_normalized", "option2_normalized"], str)
_WSC273 |= {"pronoun_start": range(1000), "pronoun_end": range(1000), "label": range(2)}

TASKS: tuple[FlanTask, ...] = (
    _arc_task(
        "arc_challenge", "ai2_arc/ARC-Challenge:1.0.0", _ARC, _arc, held_out(200, "test"), 919
    ),
    _arc_task("arc_easy", "ai2_arc/ARC-Easy:1.0.0", _ARC, _arc, held_out(200, "test"), 2051),
    _task(
        "reading_comprehension",
        "openbookqa",
        "openbookqa:0.1.0",
        _OPENBOOKQA,
        _openbookqa,
        own_validation("train"),
        4957,
        blank_texts=["fact1"],  # sources other than TFDS may lack it
    ),
    _task(
        "read_comp_and_common_sense",
        "cosmos_qa",
        "cosmos_qa:1.0.0",
        _COSMOS,
        _chooser(_ANSWERS, "context", "question"),
        held_out(200),
        25062,
    ),
    _common_sense(
        "copa",
        "super_glue/copa:1.0.2",
        _COPA,
        _chooser(["choice1", "choice2"], "premise", "question"),
        held_out(50),
        350,
    ),
    _common_sense(
        "hellaswag",
        "hellaswag:1.1.0",
        {"context": str, "endings": list[str], "label": range(4)},
        _hellaswag,
        capped(),
        problem_of=_has_options("endings", 4),
    ),
    _common_sense(
        "story_cloze",
        "story_cloze/2016:1.0.0",
        {"context": str, "endings": list[str], "label": range(1, 3)},
        _story_cloze,
        {"train": "validation[:-200]", "validation": "validation[-200:]", "test": "test"},
        1671,
        manual="ask for the Story Cloze Test of 2016 at cs.rochester.edu/nlp/rocstories, name its "
        "files cloze_test_val__spring2016.csv and cloze_test_test__spring2016.csv, and put both "
        f"into {MANUAL_FOLDER}",
        problem_of=_has_options("endings", 2),
    ),
    _common_sense(
        "piqa", "piqa:1.0.0", _PIQA, _chooser(["sol1", "sol2"], "goal"), held_out(100), 16013
    ),
    _coreference(
        "definite_pronoun_resolution",
        "definite_pronoun_resolution:1.1.0",
        {"sentence": str, "pronoun": str, "candidates": list[str], "label": range(2)},
        _chooser("candidates", "sentence", "pronoun"),
        held_out(200, "test"),
        1122,
        problem_of=_has_options("candidates", 2),
    ),
    _coreference(
        "winogrande",
        "winogrande:1.2.0",
        dict.fromkeys(["sentence", "option1", "option2"], str) | {"label": range(2)},
        _winogrande,
        capped(train="train_xl"),
        files={"train_xl": "train"},
        problem_of=_has_mark("sentence", "_"),
    ),
    _task("", "wsc273", "wsc273:1.0.0", _WSC273, _wsc273, {"test": "test"}, 0),
    _task(
        "read_comp_and_common_sense",
        "record",
        "super_glue/record:1.0.2",
        {"passage": str, "query": str, "entities": list[str], "answers": list[str]},
        _record,
        capped(),
        metrics=[short_answers.squad],
        postprocess_fn=references_as_target,
        problem_of=_has_mark("query", "@placeholder"),
    ),
)
