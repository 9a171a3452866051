"""FLAN 2021's data sets of questions that are answered in one's own words.

With a passage (SQuAD, DROP), in a conversation (QuAC, CoQA) or out of memory (TriviaQA, Natural
Questions). Exact match after normalisation, the best of the right answers, is the quality of an
example; word F1 is measured beside it.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from cascade_jax.data.sources import FieldType
from cascade_jax.task_metrics import short_answers
from tasks.flan2021.flan_task import FlanTask, Row, capped, held_out
from tasks.flan2021.summarization import numbered
from tasks.registration import references_as_target

NO_ANSWER = "unanswerable"  # FLAN's answer to a question that SQuAD 2.0's passage leaves open

# ------------------------------------------------------------------ rows


def _first_of(answers: tf.Tensor) -> Row:
    """The first answer is the target; all are right."""
    return {"answer": answers[0], "references": answers}


def _passage_and_question(row: Row) -> Row:
    title = tf.strings.regex_replace(row["title"], "_", " ")
    return {"title": title, "context": row["context"], "question": row["question"]}


def _squad_v1(row: Row) -> Row:
    """Underscores of the title are spaces; the first answer is the target.

    Example: {"title": "Super_Bowl_50", "context": "Denver won.", "question": "Who won?", "answers":
    {"text": ["Denver", "Denver Broncos"]}} -> title "Super Bowl 50", answer "Denver", references
    ["Denver", "Denver Broncos"], and context and question as they are.
    """
    return _passage_and_question(row) | _first_of(row["answers"]["text"])


def _squad_v2(row: Row) -> Row:
    """As `_squad_v1`; where `is_impossible` says so, the one answer is "unanswerable"."""
    answers = tf.cond(
        row["is_impossible"], lambda: tf.constant([NO_ANSWER]), lambda: row["answers"]["text"]
    )
    return _passage_and_question(row) | _first_of(answers)


def _drop(row: Row) -> Row:
    """The passage is the context; answers of further annotators do not count."""
    return {"context": row["passage"], "question": row["question"], "answer": row["answer"]}


def _trivia_qa(row: Row) -> Row:
    """Answers in lower case and without marks, as the builder normalises them; no documents.

    Example: {"question": "Which film has a shark?", "answer": {"normalized_value": "jaws",
    "normalized_aliases": ["jaws", "jaws film"]}} -> answer "jaws", references ["jaws", "jaws
    film"].
    """
    answer = row["answer"]
    return {
        "question": row["question"],
        "answer": answer["normalized_value"],
        "references": answer["normalized_aliases"],
    }


def _natural_question(row: Row) -> Row:
    """A question mark is added, "who ran" -> "who ran?"; the first answer is the target."""
    return {"question": row["question"] + "?"} | _first_of(row["answer"])


def _quac(row: Row) -> Row:
    """One question of a conversation by itself; the target is the original answer."""
    texts = {name: row[name] for name in ("title", "background", "context", "question")}
    return texts | {"answer": row["orig_answer"]["text"]}


def _coqa(row: Row) -> Row:
    """One example a story: all its questions, and all their answers, as numbered lines.

    Example: {"story": "Ann ran.", "questions": ["Who?", "What did she do?"], "answers":
    {"input_text": ["Ann", "ran"]}} -> text "Ann ran.", numbered_questions "1. Who?\\n2. What did
    she do?", numbered_answers "1. Ann\\n2. ran".
    """
    return {
        "text": row["story"],
        "numbered_questions": numbered(row["questions"]),
        "numbered_answers": numbered(row["answers"]["input_text"]),
    }


# ------------------------------------------------------------------ the table


def _task(
    name: str,
    cluster: str,
    tfds_name: str,
    fields: Mapping[str, FieldType],
    texts: Callable[[Row], Row],
    metric_fn: Callable = short_answers.squad,
    *,
    test: str = "validation",
    has_references: bool = True,
    **others,
) -> FlanTask:
    """A task; `test` is the builder's split that FLAN tests on, for want of labels elsewhere."""
    return FlanTask(
        name=name,
        cluster=cluster,
        tfds_name=tfds_name,
        fields=fields,
        texts=texts,
        metric_fns=[metric_fn],
        postprocess_fn=references_as_target if has_references else None,
        **{"splits": capped(test), "kind": "short_answer"} | others,
    )


_PASSAGE = {"title": str, "context": str, "question": str, "answers/text": list[str]}
_QUAC = dict.fromkeys(["title", "background", "context", "question", "orig_answer/text"], str)

TASKS: tuple[FlanTask, ...] = (
    _task("squad_v1", "reading_comprehension", "squad/v1.1:3.0.0", _PASSAGE, _squad_v1),
    _task(
        "squad_v2",
        "reading_comprehension",
        "squad/v2.0:3.0.0",
        {**_PASSAGE, "is_impossible": bool},
        _squad_v2,
        blank_texts=("answers/text",),
    ),
    _task(
        "drop",
        "reading_comprehension",
        "drop:2.0.0",
        {"passage": str, "question": str, "answer": str},
        _drop,
        test="dev",
        has_references=False,
    ),
    _task(
        "trivia_qa",
        "open_domain_qa",
        "trivia_qa/rc:1.1.0",
        {"question": str, "answer/normalized_value": str}
        | {"answer/normalized_aliases": list[str]},
        _trivia_qa,
        short_answers.trivia_qa,
        blank_texts=("answer/normalized_aliases",),
    ),
    _task(
        "natural_questions",
        "open_domain_qa",
        "natural_questions_open:1.0.0",
        {"question": str, "answer": list[str]},
        _natural_question,
        short_answers.trivia_qa,
    ),
    _task(
        "quac",
        "conversational_qa",
        "quac:1.0.0",
        _QUAC,
        _quac,
        short_answers.trivia_qa,
        has_references=False,
        blank_texts=("title", "background"),
    ),
    _task(
        "coqa",
        "conversational_qa",
        "coqa:1.0.0",
        {"story": str, "questions": list[str], "answers/input_text": list[str]},
        _coqa,
        splits=held_out(100, "test"),
        train_examples=7099,
        kind="generation",
        has_references=False,
    ),
)
