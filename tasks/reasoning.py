"""ARC, MMLU and GSM8K, the tasks of the Gatekeeper paper.

The choices of ARC and MMLU stand in the input with letters, and the target is the letter: the
options of a row are the letters of its choices (three to five in ARC, four in MMLU). GSM8K is there
twice: with the number alone as target, and with the worked solution, of which only the number is
compared (`final_number.final_number`). It has no validation split. Version 1 of both tasks, which
takes the last number behind the last "####", stays for figures that were made with it.

MMLU is not in TFDS; a data folder has mmlu/<split>.jsonl with the fields of cais/mmlu (question,
subject, choices, answer), and auxiliary_train.jsonl to train on. For GSM8K the authors' files do.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from cascade_jax.data.sources import ProblemOf, TfdsOrJsonlSource
from cascade_jax.task_metrics import quality
from tasks.final_number import ANSWER_MARK, final_number, last_number
from tasks.registration import add_task

LETTERS = ("A", "B", "C", "D", "E")

Row = Mapping[str, Any]

_ALL_SPLITS = {split: split for split in ("train", "validation", "test")}

_add = functools.partial(add_task, metric_fns=[quality.accuracy])

# ---- multiple choice


def lettered(choices: str, answer: str, named: Callable[[Row], tf.Tensor]) -> list[Callable]:
    """Preprocessors of a multiple-choice task: choices with letters in the input, one as target.

    Example: {"question": "What melts?", "choices": ["ice", "stone", "air"], "answer": 0} becomes
    "question: What melts? options: (A) ice (B) stone (C) air" and "A", with the options A, B, C.

    Args:
      choices: path of the list of texts, "choices/text".
      answer: field of the right one's number.
      named: row -> text before the question.
    """

    def to_text(row: Row) -> Row:
        texts = row
        for key in choices.split("/"):
            texts = texts[key]
        texts = texts[: len(LETTERS)]  # there are no more in real rows
        letters = tf.constant(LETTERS)[: tf.size(texts)]
        listed = tf.strings.reduce_join("(" + letters + ") " + texts, separator=" ")
        inputs = tf.strings.join([named(row), ": ", row["question"], " options: ", listed])
        targets = tf.gather(tf.constant(LETTERS), row[answer])
        return {"inputs": inputs, "targets": targets, "options": letters}

    return [seqio.map_over_dataset(to_text)]


def _choices_problem(choices: str, answer: str, fewest: int) -> ProblemOf:
    def problem_of(row: Row) -> str | None:
        count = len(row[choices])
        if not fewest <= count <= len(LETTERS):
            return f"field {choices!r} has {count} texts, must be {fewest} to {len(LETTERS)}"
        if row[answer] >= count:
            return f"field {answer!r} is {row[answer]}, must be below the {count} choices"
        return None

    return problem_of


def _add_arc(config: str, name: str) -> str:
    source = TfdsOrJsonlSource(
        f"ai2_arc/{config}:1.0.0",
        {"question": str, "choices/text": list[str], "answerKey": range(len(LETTERS))},
        _ALL_SPLITS,
        blank_texts=False,
        problem_of=_choices_problem("choices/text", "answerKey", 3),
    )
    steps = lettered("choices/text", "answerKey", lambda row: "question")
    return _add(f"cascade_arc_{name}_v1", source, steps, suite="arc", kind="multiple_choice")


def _mmlu_name(row: Row) -> tf.Tensor:
    """ "question about abstract algebra"; auxiliary_train has no subjects."""
    subject = tf.strings.regex_replace(row["subject"], "_", " ")
    return tf.where(subject == "", "question", "question about " + subject)


def _add_mmlu() -> str:
    source = TfdsOrJsonlSource(
        "mmlu",
        {"question": str, "subject": str, "choices": list[str], "answer": range(4)},
        _ALL_SPLITS | {"train": "auxiliary_train", "dev": "dev"},
        is_in_tfds=False,
        blank_texts=("subject", "choices"),  # auxiliary_train has no subjects
        problem_of=_choices_problem("choices", "answer", 4),
    )
    steps = lettered("choices", "answer", _mmlu_name)
    return _add("cascade_mmlu_all_v1", source, steps, suite="mmlu", kind="multiple_choice")


# ---- GSM8K


def last_number_of(output: str, **_unused) -> str:
    """seqio postprocessor of version 1: the last number behind the last "####"."""
    return last_number(output)


def number_of(output: str, **_unused) -> str:
    """seqio postprocessor: the number that an answer or a target comes to."""
    return final_number(output)


def worked(is_short: bool) -> list[Callable]:
    """Preprocessors of GSM8K; calculator annotations go, and so do commas in the short target.

    Example: {"question": "Two bags of 600?", "answer": "It is 2*600=<<2*600=1200>>1200.\\n####
    1,200"} becomes "solve: Two bags of 600?" and "It is 2*600=1200.\\n#### 1,200", or, if short,
    "answer with a number: Two bags of 600?" and "1200".
    """

    def to_text(row: Row) -> Row:
        solution = tf.strings.regex_replace(row["answer"], r"<<[^>]*>>", "")
        if not is_short:
            return {"inputs": "solve: " + row["question"], "targets": solution}
        number = tf.strings.regex_replace(solution, rf"(?s)^.*{ANSWER_MARK}", "")
        number = tf.strings.strip(tf.strings.regex_replace(number, ",", ""))
        return {"inputs": "answer with a number: " + row["question"], "targets": number}

    return [seqio.map_over_dataset(to_text)]


def _solution_problem(row: Row) -> str | None:
    if ANSWER_MARK not in row["answer"] or not final_number(row["answer"]):
        return f"field 'answer' must end in {ANSWER_MARK!r} and a number"
    return None


def _add_gsm8k(name: str, kind: str, version: int, postprocess_fn: Callable) -> str:
    source = TfdsOrJsonlSource(
        "gsm8k:1.0.0",
        {"question": str, "answer": str},
        {"train": "train", "test": "test"},
        blank_texts=False,
        problem_of=_solution_problem,
    )
    steps, options = worked(is_short=name == "main"), {"suite": "gsm8k", "kind": kind}
    name = f"cascade_gsm8k_{name}_v{version}"
    return _add(name, source, steps, postprocess_fn=postprocess_fn, **options)


TASKS = (
    _add_arc("ARC-Challenge", "challenge"),
    _add_arc("ARC-Easy", "easy"),
    _add_mmlu(),
    *(
        _add_gsm8k(name, kind, version, postprocess_fn)
        for version, postprocess_fn in ((1, last_number_of), (2, number_of))
        for name, kind in (("main", "short_answer"), ("reasoning", "generation"))
    ),
)
