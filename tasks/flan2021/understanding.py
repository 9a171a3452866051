"""FLAN 2021's other data sets of fixed classes: sentiment, paraphrase, topics, words, grammar.

Answers are FLAN's words for the classes, in the order of the builder's labels.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from cascade_jax.task_metrics import classes
from tasks.flan2021.classes import NO_YES, class_task, same, with_class
from tasks.flan2021.flan_task import FlanTask, Row, capped, held_out, own_validation
from tasks.superglue_preprocessors import with_question

# ------------------------------------------------------------------ sentiment

_SENTIMENT = ("negative", "positive")


def _imdb_texts(row: Row) -> Row:
    text = tf.strings.regex_replace(row["text"], "<br />", "\n")
    return with_class({"text": text}, row["label"], _SENTIMENT)


def _tweet_texts(row: Row) -> Row:
    return with_class({"text": row["text"]}, row["polarity"] > 2, _SENTIMENT)


def _yelp_texts(row: Row) -> Row:
    """What the file writes for quotation marks, and for line ends, is undone as in FLAN.

    Example: the characters `So \\""good\\""!\\nGo.` -> `So "good"! Go.`.
    """
    text = tf.strings.regex_replace(row["text"], r'\\""', '"')
    text = tf.strings.regex_replace(text, r"\\n", " ")
    return with_class({"text": text}, row["label"], _SENTIMENT)


_opinion = functools.partial(class_task, "sentiment")
_OPINIONS = (
    _opinion(
        "imdb_reviews",
        "imdb_reviews/plain_text:1.0.0",
        same("text"),
        _SENTIMENT,
        held_out(200, "test"),
        24800,
        texts=_imdb_texts,
        folder="imdb_reviews",
    ),
    _opinion(
        "sentiment140",
        "sentiment140:1.0.0",
        same("text"),
        _SENTIMENT,
        capped("test"),
        label="polarity",
        label_type=range(5),
        texts=_tweet_texts,
        # 2 is neutral, in "test" only. FLAN 2021 has this filter too, but forgets to use it.
        keep=lambda row: row["polarity"] != 2,
    ),
    _opinion(
        "yelp_polarity_reviews",
        "yelp_polarity_reviews:0.2.0",
        same("text"),
        _SENTIMENT,
        capped("test"),
        texts=_yelp_texts,
    ),
    _opinion("sst2", "glue/sst2:2.0.0", same("sentence"), _SENTIMENT, capped()),
)

# ------------------------------------------------------------------ paraphrase


_SENTENCES = ("sentence1", "sentence2")
_YES_F1 = classes.BinaryF1(positive="yes", negative="no")


def _score_texts(row: Row) -> Row:
    """Scores as whole numbers, as FLAN has them; a half goes to the even one."""
    score = tf.strings.as_string(tf.cast(tf.round(row["label"]), tf.int64))
    options = tf.constant([str(number) for number in range(6)])
    return {name: row[name] for name in _SENTENCES} | {"options": options, "answer_str": score}


def _score_problem(row: Mapping[str, Any]) -> str | None:
    if 0 <= row["label"] <= 5:
        return None
    return f"field 'label' is {row['label']}, must be a score from 0 to 5"


def as_number(output: str, **_unused) -> float:
    """seqio postprocessor: the number that a text is, -1 for any other text.

    Example: "4" is 4.0, "four" is -1.0.
    """
    try:
        number = float(output)
    except ValueError:
        return -1.0
    return number if math.isfinite(number) else -1.0


_PAIR = same(*_SENTENCES)
_QUESTIONS = same("question1", "question2")
_PAWS = "paws_wiki/labeled_final_tokenized:1.1.0"  # what a name without a config means

_paraphrase = functools.partial(class_task, "paraphrase")
_PARAPHRASES = (
    _paraphrase(
        "glue_mrpc", "glue/mrpc:2.0.0", _PAIR, NO_YES, held_out(200), 3468, metrics=[_YES_F1]
    ),
    _paraphrase("glue_qqp", "glue/qqp:2.0.0", _QUESTIONS, NO_YES, capped(), metrics=[_YES_F1]),
    _paraphrase("paws_wiki", _PAWS, _PAIR, NO_YES, own_validation(), folder="paws_wiki"),
    FlanTask(
        "stsb",
        "paraphrase",
        "glue/stsb:2.0.0",
        fields={"sentence1": str, "sentence2": str, "label": float},
        kind="classification",
        texts=_score_texts,
        metric_fns=[classes.pearson_corrcoef, classes.spearman_corrcoef],
        splits=held_out(100),
        train_examples=5649,
        postprocess_fn=as_number,
        problem_of=_score_problem,
    ),
)

# ------------------------------------------------------------------ questions about a passage


def _multirc_texts(row: Row) -> Row:
    """`answer` of the source is a reply to judge, `response` in FLAN; "idx/question" its group."""
    paragraph = tf.strings.regex_replace(row["paragraph"], "<br>", " ")
    paragraph = tf.strings.regex_replace(paragraph, "</?b>", "")
    texts = {"paragraph": paragraph, "question": row["question"], "response": row["answer"]}
    return with_class(texts, row["label"], NO_YES) | {"idx/question": row["idx"]["question"]}


_passage = functools.partial(class_task, "reading_comprehension")
_PASSAGES = (
    _passage(
        "multirc",
        "super_glue/multirc:1.0.2",
        same("paragraph", "question", "answer"),
        NO_YES,
        held_out(200),
        27043,
        metrics=[_YES_F1, classes.group_exact_match],
        fields={"paragraph": str, "question": str, "answer": str, "label": range(2)}
        | {"idx/question": int},
        texts=_multirc_texts,
        postprocess_fn=with_question,
    ),
    _passage(
        "bool_q",
        "bool_q:1.0.0",
        {"title": "title", "text": "passage", "question": "question"},
        NO_YES,
        held_out(200),
        9227,
        label="answer",
        label_type=bool,
    ),
)

# ------------------------------------------------------------------ topics, words, grammar

_NEWS = {"title": "title", "text": "description"}
_TOPICS = ("World", "Sports", "Business", "Science/Tech")
_TREC = ("description", "entity", "abbreviation", "human", "numeric", "location")
_WIC = ("different meanings", "the same meaning")
_WSC = {"context": "text", "text1": "span1_text", "text2": "span2_text"}

_TOPIC_TASKS = (
    # FLAN's cluster of it is this one, though it asks for a topic.
    class_task(
        "summarization", "ag_news_subset", "ag_news_subset:1.0.0", _NEWS, _TOPICS, capped("test")
    ),
    class_task(
        "question_classification",
        "trec",
        "trec:1.0.0",
        same("text"),
        _TREC,
        held_out(200, "test"),
        5252,
        label="label-coarse",
    ),
)

_WORD_TASKS = (
    class_task(
        "word_disambiguation",
        "wic",
        "super_glue/wic:1.0.2",
        same("word", "sentence1", "sentence2"),
        _WIC,
        held_out(200),
        5228,
    ),
    class_task(
        "linguistic_acceptability",
        "cola",
        "glue/cola:2.0.0",
        same("sentence"),
        ("unacceptable", "acceptable"),
        held_out(200),
        8351,
        metrics=[classes.matthews_corrcoef],
    ),
    class_task("coreference", "wsc", "super_glue/wsc:1.0.2", _WSC, NO_YES, held_out(50), 504),
)

TASKS: tuple[FlanTask, ...] = (*_OPINIONS, *_PARAPHRASES, *_PASSAGES, *_TOPIC_TASKS, *_WORD_TASKS)
