"""FLAN 2021's data sets whose row brings the options: which ending, which choice, which name?

Where an option stands in the midst of a sentence (Winogrande, WSC273, ReCoRD), the text before it
is the context, and every option goes on to the end of the sentence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from cascade_jax.data.sources import FieldType, ProblemOf
from cascade_jax.task_metrics import quality, short_answers
from tasks.flan2021.flan_task import FlanTask, Prompt, Row, capped, held_out, own_validation
from tasks.registration import MANUAL_FOLDER, references_as_target


def _task(
    name: str,
    cluster: str,
    tfds_name: str,
    fields: Mapping[str, FieldType],
    splits: Mapping[str, str],
    train_examples: int,
    texts: Callable[[Row], Row],
    prompts: Sequence[Prompt],
    *more_metrics: Callable,
    **rest,
) -> FlanTask:
    return FlanTask(
        name,
        cluster,
        tfds_name,
        fields,
        splits,
        train_examples,
        "multiple_choice",
        texts,
        prompts,
        [quality.accuracy, *more_metrics],
        **rest,
    )


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


# ------------------------------------------------------------------ questions


def _arc(name: str, config: str, train_examples: int) -> FlanTask:
    def has_four(row: Row) -> tf.Tensor:
        return tf.logical_and(tf.size(row["choices"]["text"]) == 4, row["answerKey"] < 4)

    return _task(
        name,
        "open_domain_qa",
        f"ai2_arc/{config}:1.0.0",
        {"question": str, "choices/text": list[str], "answerKey": range(5)},
        held_out(200, "test"),
        train_examples,
        lambda row: _choice(row["choices"]["text"], row["answerKey"], question=row["question"]),
        (
            "Science test: {question}\n\n{options_}",
            "{question}\n\nWhich of these would a good pupil choose?\n{options_}",
            "Pick the choice that is right.\n\n{question}\n\n{options_}",
        ),
        keep=has_four,
        patterns="arc",
    )


def _openbookqa() -> FlanTask:
    choices = [f"choice_{letter}" for letter in "ABCD"]

    def texts(row: Row) -> Row:
        """`fact` is for FLAN's templates; ours have it in a line that a row without one lacks."""
        question, fact = row["question"], row["fact1"]
        texts = {
            "fact": fact,
            "reminder": _if_any("Keep in mind: ", fact, "\n\n"),
            "known": _if_any("What we know: ", fact, "\n"),
            "hint": _if_any("A hint from the book: ", fact, "\n\n"),
        }
        options = [question[choice] for choice in choices]
        return _choice(options, row["answerKey"], question=question["stem"], **texts)

    return _task(
        "openbookqa",
        "reading_comprehension",
        "openbookqa:0.1.0",
        {f"question/{text}": str for text in ("stem", *choices)}
        | {"fact1": str, "answerKey": range(4)},
        own_validation("train"),
        4957,
        texts,
        (
            "{reminder}{question}\n\n{options_}",
            "{known}What is asked: {question}\n{options_}",
            "{question}\n\n{hint}{options_}",
        ),
        blank_texts=["fact1"],  # sources other than TFDS may lack it
    )


def _cosmos_qa() -> FlanTask:
    answers = [f"answer{number}" for number in range(4)]

    def texts(row: Row) -> Row:
        options = [row[answer] for answer in answers]
        return _choice(options, row["label"], context=row["context"], question=row["question"])

    return _task(
        "cosmos_qa",
        "read_comp_and_common_sense",
        "cosmos_qa:1.0.0",
        {"context": str, "question": str, "label": range(4)} | dict.fromkeys(answers, str),
        held_out(200),
        25062,
        texts,
        (
            "{context}\n\nWith that in mind, answer this: {question}\n\n{options_}",
            "Someone tells this: {context}\n\nReading between the lines, {question}\n{options_}",
            "Story: {context}\nQuestion about it: {question}\n{options_}",
        ),
    )


_QUESTIONS = (
    _arc("arc_challenge", "ARC-Challenge", 919),
    _arc("arc_easy", "ARC-Easy", 2051),
    _openbookqa(),
    _cosmos_qa(),
)

# ------------------------------------------------------------------ what comes next


def _copa() -> FlanTask:
    def texts(row: Row) -> Row:
        options = [row["choice1"], row["choice2"]]
        return _choice(options, row["label"], premise=row["premise"], question=row["question"])

    return _task(
        "copa",
        "common_sense",
        "super_glue/copa:1.0.2",
        dict.fromkeys(["premise", "question", "choice1", "choice2"], str) | {"label": range(2)},
        held_out(50),
        350,
        texts,
        (
            "{premise}\n\nWhich of these is more likely its {question}?\n\n{options_}",
            "Looking for the {question} of this: {premise}\n{options_}",
            "What happened: {premise}\nIts {question}:\n{options_}",
        ),
    )


def _hellaswag() -> FlanTask:
    tag = r"\s*\[[a-z]+\]\s*"

    def texts(row: Row) -> Row:
        """WikiHow's tags, "[header] To boil tea [title] Take water.", part lines."""
        context = tf.strings.strip(tf.strings.regex_replace(row["context"], tag, "\n"))
        options = tf.strings.strip(tf.strings.regex_replace(row["endings"], tag, " "))
        return _choice(options, row["label"], context=context)

    return _task(
        "hellaswag",
        "common_sense",
        "hellaswag:1.1.0",
        {"context": str, "endings": list[str], "label": range(4)},
        capped(),
        30000,
        texts,
        (
            "{context}\n\nHow does this go on?\n\n{options_}",
            "Someone describes an everyday activity: {context}\nPick the likeliest continuation.\n"
            "{options_}",
            "Text that breaks off: {context}\nRest of the text:\n{options_}",
        ),
        problem_of=_has_options("endings", 4),
    )


def _story_cloze() -> FlanTask:
    return _task(
        "story_cloze",
        "common_sense",
        "story_cloze/2016:1.0.0",
        {"context": str, "endings": list[str], "label": range(1, 3)},
        {"train": "validation[:-200]", "validation": "validation[-200:]", "test": "test"},
        1671,
        lambda row: _choice(row["endings"], row["label"] - 1, context=row["context"]),
        (
            "{context}\n\nWhich fifth sentence rounds off the story?\n\n{options_}",
            "A story without its end: {context}\nThe end that fits:\n{options_}",
            "{context}\n\nAnd so it ended:\n\n{options_}",
        ),
        manual="ask for the Story Cloze Test of 2016 at cs.rochester.edu/nlp/rocstories, name its "
        "files cloze_test_val__spring2016.csv and cloze_test_test__spring2016.csv, and put both "
        f"into {MANUAL_FOLDER}",
        problem_of=_has_options("endings", 2),
    )


def _piqa() -> FlanTask:
    return _task(
        "piqa",
        "common_sense",
        "piqa:1.0.0",
        {"goal": str, "sol1": str, "sol2": str, "label": range(2)},
        held_out(100),
        16013,
        lambda row: _choice([row["sol1"], row["sol2"]], row["label"], goal=row["goal"]),
        (
            "What I want: {goal}\n\nWhich of two pieces of advice works?\n\n{options_}",
            "{goal}\n\nDo it like this:\n\n{options_}",
            "Think of how things behave in the kitchen or the workshop.\nTask: {goal}\n{options_}",
        ),
    )


_ENDINGS = (_copa(), _hellaswag(), _story_cloze(), _piqa())

# ------------------------------------------------------------------ who or what is meant


def _definite_pronoun_resolution() -> FlanTask:
    def texts(row: Row) -> Row:
        texts = {"sentence": row["sentence"], "pronoun": row["pronoun"]}
        return _choice(row["candidates"], row["label"], **texts)

    return _task(
        "definite_pronoun_resolution",
        "coreference",
        "definite_pronoun_resolution:1.1.0",
        {"sentence": str, "pronoun": str, "candidates": list[str], "label": range(2)},
        held_out(200, "test"),
        1122,
        texts,
        (
            '{sentence}\n\nWhom or what does "{pronoun}" mean here?\n\n{options_}',
            'Replace "{pronoun}" by what it stands for.\n\n{sentence}\n\n{options_}',
            "Sentence: {sentence}\nPronoun: {pronoun}\nIts antecedent:\n{options_}",
        ),
        problem_of=_has_options("candidates", 2),
    )


_ENDING_PROMPTS = (
    "{context}\n\nWhich ending makes sense?\n\n{options_}",
    "Start of a sentence: {context}\nThe rest of it:\n{options_}",
    "Finish this so that the pieces fit together.\n\n{context}\n\n{options_}",
)


def _winogrande() -> FlanTask:
    def texts(row: Row) -> Row:
        """Of "Ann thanked Eve, for _ had helped." the options are "Ann had helped." and so on."""
        context = tf.strings.strip(tf.strings.regex_replace(row["sentence"], r"(?s)_.*$", ""))
        rest = tf.strings.regex_replace(row["sentence"], r"(?s)^[^_]*_", "")
        options = tf.strings.strip(tf.stack([row["option1"], row["option2"]]) + rest)
        return _choice(options, row["label"], context=context)

    return _task(
        "winogrande",
        "coreference",
        "winogrande:1.2.0",
        dict.fromkeys(["sentence", "option1", "option2"], str) | {"label": range(2)},
        capped(train="train_xl"),
        30000,
        texts,
        _ENDING_PROMPTS,
        files={"train_xl": "train"},
        problem_of=_has_mark("sentence", "_"),
    )


def _wsc273() -> FlanTask:
    def texts(row: Row) -> Row:
        text = row["text"]
        start, end = (tf.cast(row[f"pronoun_{edge}"], tf.int32) for edge in ("start", "end"))
        context = tf.strings.substr(text, 0, start, unit="UTF8_CHAR")
        size = tf.strings.length(text, unit="UTF8_CHAR")
        rest = tf.strings.substr(text, end, size - end, unit="UTF8_CHAR")
        options = tf.stack([row["option1_normalized"], row["option2_normalized"]]) + rest
        return _choice(options, row["label"], context=tf.strings.strip(context))

    return _task(
        "wsc273",
        "",
        "wsc273:1.0.0",
        dict.fromkeys(["text", "option1_normalized", "option2_normalized"], str)
        | {"pronoun_start": range(1000), "pronoun_end": range(1000), "label": range(2)},
        {"test": "test"},
        0,
        texts,
        _ENDING_PROMPTS,
    )


def _record() -> FlanTask:
    def texts(row: Row) -> Row:
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

    return _task(
        "record",
        "read_comp_and_common_sense",
        "super_glue/record:1.0.2",
        {"passage": str, "query": str, "entities": list[str], "answers": list[str]},
        capped(),
        30000,
        texts,
        (
            "{passage}\n\nWhich of these completes a summary line{begun}?\n\n{options_}",
            "News: {passage}\n\nA reader notes down a line{begun}. Pick the words that make it "
            "true.\n{options_}",
            "Report: {passage}\nWhich words make a highlight of it{begun}?\n{options_}",
        ),
        short_answers.squad,
        postprocess_fn=references_as_target,
        problem_of=_has_mark("query", "@placeholder"),
    )


_REFERENTS = (_definite_pronoun_resolution(), _winogrande(), _wsc273(), _record())

TASKS: tuple[FlanTask, ...] = (*_QUESTIONS, *_ENDINGS, *_REFERENTS)
