"""FLAN 2021's other data sets of fixed classes: sentiment, paraphrase, topics, words, grammar.

Answers are FLAN's words for the classes, in the order of the builder's labels.
"""

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


def _opinion_prompts(what: str, text: str = "text") -> tuple[str, ...]:
    return (
        f"{what}: {{{text}}}\n\nIs its tone negative or positive?\n\n{{options_}}",
        f"Somebody wrote: {{{text}}}\n\nWhich feeling speaks from these words?\n\n{{options_}}",
        f"Label the opinion in this {what.lower()}.\n\n{{{text}}}\n\n{{options_}}",
    )


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


_OPINIONS = (
    class_task(
        "imdb_reviews",
        "sentiment",
        "imdb_reviews/plain_text:1.0.0",
        same("text"),
        _SENTIMENT,
        held_out(200, "test"),
        24800,
        _opinion_prompts("Film review"),
        texts=_imdb_texts,
        folder="imdb_reviews",
    ),
    class_task(
        "sentiment140",
        "sentiment",
        "sentiment140:1.0.0",
        same("text"),
        _SENTIMENT,
        capped("test"),
        30000,
        _opinion_prompts("Tweet"),
        label="polarity",
        label_type=range(5),
        texts=_tweet_texts,
        # 2 is neutral, in "test" only. FLAN 2021 has this filter too, but forgets to use it.
        keep=lambda row: row["polarity"] != 2,
    ),
    class_task(
        "yelp_polarity_reviews",
        "sentiment",
        "yelp_polarity_reviews:0.2.0",
        same("text"),
        _SENTIMENT,
        capped("test"),
        30000,
        _opinion_prompts("Review"),
        texts=_yelp_texts,
    ),
    class_task(
        "sst2",
        "sentiment",
        "glue/sst2:2.0.0",
        same("sentence"),
        _SENTIMENT,
        capped(),
        30000,
        _opinion_prompts("Remark on a film", "sentence"),
    ),
)

# ------------------------------------------------------------------ paraphrase


def _paraphrase_prompts(first: str, second: str, what: str) -> tuple[str, ...]:
    return (
        f"1. {{{first}}}\n2. {{{second}}}\n\nDo both {what} mean the same?\n\n{{options_}}",
        f"{{{first}}}\n\nIs this only another way to put it: {{{second}}}\n\n{{options_}}",
        f"Compare two {what}.\nOne: {{{first}}}\nOther: {{{second}}}\nCould one stand in for the "
        "other?\n{options_}",
    )


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


_PARAPHRASES = (
    class_task(
        "glue_mrpc",
        "paraphrase",
        "glue/mrpc:2.0.0",
        same(*_SENTENCES),
        NO_YES,
        held_out(200),
        3468,
        _paraphrase_prompts(*_SENTENCES, "sentences"),
        _YES_F1,
    ),
    class_task(
        "glue_qqp",
        "paraphrase",
        "glue/qqp:2.0.0",
        same("question1", "question2"),
        NO_YES,
        capped(),
        30000,
        _paraphrase_prompts("question1", "question2", "questions"),
        _YES_F1,
    ),
    class_task(
        "paws_wiki",
        "paraphrase",
        "paws_wiki/labeled_final_tokenized:1.1.0",  # what a name without a config means
        same(*_SENTENCES),
        NO_YES,
        own_validation(),
        30000,
        _paraphrase_prompts(*_SENTENCES, "sentences"),
        folder="paws_wiki",
    ),
    FlanTask(
        "stsb",
        "paraphrase",
        "glue/stsb:2.0.0",
        fields={"sentence1": str, "sentence2": str, "label": float},
        splits=held_out(100),
        train_examples=5649,
        kind="classification",
        texts=_score_texts,
        prompts=[
            (prompt, "{answer_str}")
            for prompt in (
                "1. {sentence1}\n2. {sentence2}\n\nHow much do the two have in common, from 0 "
                "(nothing) to 5 (the whole meaning)?\n\n{options_}",
                "Give 5 points to two sentences that agree in all they say, 0 to two about "
                "different things, and else a number between.\n{sentence1}\n{sentence2}\n"
                "{options_}",
                "One: {sentence1}\nOther: {sentence2}\nCloseness in meaning, 0 to 5:\n{options_}",
            )
        ],
        metric_fns=[classes.pearson_corrcoef, classes.spearman_corrcoef],
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


_PASSAGES = (
    class_task(
        "multirc",
        "reading_comprehension",
        "super_glue/multirc:1.0.2",
        same("paragraph", "question", "answer"),
        NO_YES,
        held_out(200),
        27043,
        (
            "{paragraph}\n\nQuestion: {question}\nReply: {response}\nIs the reply right?\n\n"
            "{options_}",
            'Asked "{question}", a reader of the text below says "{response}". Does the text '
            "bear that out?\n\n{paragraph}\n\n{options_}",
            "Text: {paragraph}\n\nTo the question {question} one may answer: {response}\nTrue to "
            "the text?\n{options_}",
        ),
        _YES_F1,
        classes.group_exact_match,
        fields={"paragraph": str, "question": str, "answer": str, "label": range(2)}
        | {"idx/question": int},
        texts=_multirc_texts,
        postprocess_fn=with_question,
    ),
    class_task(
        "bool_q",
        "reading_comprehension",
        "bool_q:1.0.0",
        {"title": "title", "text": "passage", "question": "question"},
        NO_YES,
        held_out(200),
        9227,
        (
            "{title}: {text}\n\nGoing by this, {question}?\n\n{options_}",
            "Read about {title}.\n\n{text}\n\nYes or no: {question}?\n\n{options_}",
            "Somebody wants to know: {question}?\nThe encyclopedia says: {text}\n{options_}",
        ),
        label="answer",
        label_type=bool,
    ),
)

# ------------------------------------------------------------------ topics, words, grammar

_TOPICS = ("World", "Sports", "Business", "Science/Tech")
_TREC = ("description", "entity", "abbreviation", "human", "numeric", "location")

_TOPIC_TASKS = (
    class_task(
        "ag_news_subset",
        "summarization",  # FLAN's cluster of it, though it asks for a topic
        "ag_news_subset:1.0.0",
        {"title": "title", "text": "description"},
        _TOPICS,
        capped("test"),
        30000,
        (
            "{title}\n\n{text}\n\nIn which section of a newspaper does this belong?\n\n{options_}",
            "News: {title}. {text}\nSubject area:\n{options_}",
            "Sort this report.\nHeadline: {title}\nReport: {text}\n\n{options_}",
        ),
    ),
    class_task(
        "trec",
        "question_classification",
        "trec:1.0.0",
        same("text"),
        _TREC,
        held_out(200, "test"),
        5252,
        (
            "Question: {text}\n\nWhat sort of answer does it call for?\n\n{options_}",
            "{text}\n\nWould one answer with a person, a place, a number or what else?\n\n"
            "{options_}",
            "Sort questions by what they ask for.\nQuestion: {text}\n{options_}",
        ),
        label="label-coarse",
    ),
)

_WORD_TASKS = (
    class_task(
        "wic",
        "word_disambiguation",
        "super_glue/wic:1.0.2",
        same("word", "sentence1", "sentence2"),
        ("different meanings", "the same meaning"),
        held_out(200),
        5228,
        (
            '1. {sentence1}\n2. {sentence2}\n\nWhat does "{word}" have in 1 and 2?\n\n{options_}',
            'Look at the use of "{word}" in both sentences.\n{sentence1}\n{sentence2}\nIt has:\n'
            "{options_}",
            'Which of the two does "{word}" have in these sentences?\n\n{sentence1}\n\n'
            "{sentence2}\n\n{options_}",
        ),
    ),
    class_task(
        "cola",
        "linguistic_acceptability",
        "glue/cola:2.0.0",
        same("sentence"),
        ("unacceptable", "acceptable"),
        held_out(200),
        8351,
        (
            "Sentence: {sentence}\n\nAs English grammar goes, it is:\n\n{options_}",
            "Would a native speaker let this pass? {sentence}\n\n{options_}",
            "Judge how the sentence is built, not what it says.\n{sentence}\n{options_}",
        ),
        classes.matthews_corrcoef,
    ),
    class_task(
        "wsc",
        "coreference",
        "super_glue/wsc:1.0.2",
        {"context": "text", "text1": "span1_text", "text2": "span2_text"},
        NO_YES,
        held_out(50),
        504,
        (
            '{context}\n\nDoes "{text2}" stand for "{text1}" here?\n\n{options_}',
            'In the text below, does "{text2}" refer to "{text1}"?\n\n{context}\n\n{options_}',
            'Text: {context}\nPut "{text1}" in the place of "{text2}". Is the meaning still '
            "the one intended?\n{options_}",
        ),
    ),
)

TASKS: tuple[FlanTask, ...] = (
    *_OPINIONS,
    *_PARAPHRASES,
    *_PASSAGES,
    *_TOPIC_TASKS,
    *_WORD_TASKS,
)
