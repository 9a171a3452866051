"""FLAN 2021's ten summarization data sets.

An e-mail's subject, the highlights or the headline of an article, the summary of a dialogue, what
many opinions have in common, the steps of a guide. ROUGE-1 is the quality of an example; sentences
of rougeLsum are lines, as in every `overlap_metrics.Rouge`.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from cascade_jax.data.sources import FieldType
from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.overlap import Rouge
from tasks.flan2021.flan_task import FlanTask, Row, own_validation
from tasks.registration import MANUAL_FOLDER

ROUGE = Rouge(("rouge1", "rouge2", "rougeLsum"))

# The builder has one split; FLAN carves the others off its end.
_OPINION_SPLITS = {
    "train": "train[:-600]",
    "validation": "train[-600:-500]",
    "test": "train[-500:]",
}
_MOST_OPINIONS = 10


def renamed(**names: str) -> Callable[[Row], Row]:
    """Texts that are fields of the row under another name: ``renamed(text="document")``."""
    return lambda row: {name: row[field] for name, field in names.items()}


def numbered(items: tf.Tensor) -> tf.Tensor:
    """A list of texts as lines with their numbers: ["yes", "no"] -> "1. yes\\n2. no"."""
    numbers = tf.strings.as_string(tf.range(1, tf.size(items) + 1))
    return tf.strings.reduce_join(tf.strings.join([numbers, items], ". "), separator="\n")


# ------------------------------------------------------------------ rows


def _email(row: Row) -> Row:
    """Line ends become spaces in the body, and vanish in the subject, as FLAN has it.

    Example: {"email_body": "Hi,\\nbye", "subject_line": "To us\\n"} -> "Hi, bye" and "To us".
    """
    return {
        "body": tf.strings.regex_replace(row["email_body"], "\n", " "),
        "subject": tf.strings.regex_replace(row["subject_line"], "\n", ""),
    }


def _has_email(row: Row) -> tf.Tensor:
    return tf.strings.length(row["email_body"] + row["subject_line"]) > 0


def _article(row: Row) -> Row:
    """An article after the last mark that ends a dateline, as the FLAN Collection has it.

    The marks are ") -- " and a year from 2012 to 2014 before " . ". FLAN 2021 keeps what stands
    before the first one, which of an article that opens with its dateline is the dateline alone.

    Example: "PARIS (Reuters) -- It rained." -> "It rained."
    """
    text = tf.strings.regex_replace(row["article"], r"(?s)^.*(201[2-4] \. |\) -- )", "")
    return {"text": text, "highlights": row["highlights"]}


def _has_all_words(row: Row) -> tf.Tensor:
    """Whether no word of the row was replaced: by UNK, or a number's digits by #."""
    both = tf.stack([row["document"], row["summary"]])
    return ~tf.reduce_any(tf.strings.regex_full_match(both, "(?s).*(UNK|#).*"))


def _dialogue(row: Row) -> Row:
    """A dialogue with plain line ends, and a space for what angle brackets enclose.

    From the first "<" of a line to its last ">", as FLAN has it.

    Example: "Al: look <file_photo> <file_gif>\\r\\nBo: 1 < 2" -> "Al: look  \\nBo: 1 < 2".
    """
    dialogue = tf.strings.regex_replace(row["dialogue"], "\r\n", "\n")
    return {"dialogue": tf.strings.regex_replace(dialogue, "<.*>", " "), "summary": row["summary"]}


def _reviews(row: Row) -> Row:
    """At most ten reviews, numbered; underscores of the film's name are spaces.

    Example: {"_movie_name": "up_again", "_critic_consensus": "Fine.", "_critics": {"value":
    ["Good.", "Bad."]}} -> movie "up again", critic_consensus "Fine.", first_review "Good.",
    numbered_reviews "1. Good.\\n2. Bad.".
    """
    reviews = row["_critics"]["value"]
    return {
        "movie": tf.strings.regex_replace(row["_movie_name"], "_", " "),
        "critic_consensus": row["_critic_consensus"],
        "first_review": reviews[0],
        "numbered_reviews": numbered(reviews[:_MOST_OPINIONS]),
    }


def _has_review(row: Row) -> tf.Tensor:
    return tf.size(row["_critics"]["value"]) > 0


def _arguments(row: Row) -> Row:
    """At most ten arguments, numbered: argument_sentences "1. It costs much.\\n2. It is old."."""
    arguments = row["_argument_sentences"]["value"]
    return {
        "debate_name": row["_debate_name"],
        "claim": row["_claim"],
        "argument_sentences": numbered(arguments[:_MOST_OPINIONS]),
    }


# ------------------------------------------------------------------ the table


def _task(
    name: str,
    tfds_name: str,
    fields: Mapping[str, FieldType],
    texts: Callable[[Row], Row],
    splits: Mapping[str, str] | None = None,
    **others,
) -> FlanTask:
    return FlanTask(
        name=name,
        cluster="summarization",
        tfds_name=tfds_name,
        fields=fields,
        kind="summarization",
        texts=texts,
        splits=splits or own_validation(),
        **{"metric_fns": [ROUGE]} | others,
    )


_ARTICLE = {"document": str, "summary": str}
_article_and_summary = renamed(text="document", summary="summary")

TASKS: tuple[FlanTask, ...] = (
    _task(
        "aeslc",
        "aeslc:1.0.0",
        {"email_body": str, "subject_line": str},
        _email,
        {"train": "train", "validation": "validation[-200:]", "test": "test"},
        train_examples=14436,
        keep=_has_email,
        blank_texts=("email_body", "subject_line"),
    ),
    _task("cnn_dailymail", "cnn_dailymail:3.4.0", {"article": str, "highlights": str}, _article),
    _task("gigaword", "gigaword:1.2.0", _ARTICLE, _article_and_summary, keep=_has_all_words),
    # Between two articles stands "|||||", which FLAN leaves.
    _task(
        "multi_news", "multi_news:2.1.0", _ARTICLE, _article_and_summary, blank_texts=("document",)
    ),
    _task(
        "newsroom",
        "newsroom:1.0.0",
        {"text": str, "summary": str, "title": str},
        renamed(text="text", summary="summary", title="title"),
        blank_texts=("title",),
        manual="register at https://summari.es/download/, download the data set, and put "
        f"train.jsonl, dev.jsonl and test.jsonl into {MANUAL_FOLDER}",
    ),
    _task(
        "samsum",
        "samsum:1.0.0",
        {"dialogue": str, "summary": str},
        _dialogue,
        own_validation("train"),
        train_examples=14732,
        metric_fns=[ROUGE, quality.accuracy],  # the paper lists it among its accuracy tasks
        blank_texts=("dialogue",),
        manual="download https://arxiv.org/src/1911.12237v2/anc/corpus.7z, unpack it, and put "
        f"train.json, val.json and test.json into {MANUAL_FOLDER}",
    ),
    _task(
        "xsum",
        "xsum:1.1.0",
        _ARTICLE,
        _article_and_summary,
        manual="make xsum-extracts-from-downloads.tar.gz with the script of "
        "https://github.com/EdinburghNLP/XSum (XSum-Dataset/README.md), and put it into "
        f"{MANUAL_FOLDER}",
    ),
    _task(
        "opinion_abstracts_rotten_tomatoes",
        "opinion_abstracts/rotten_tomatoes:1.0.0",
        {"_movie_name": str, "_critic_consensus": str, "_critics/value": list[str]},
        _reviews,
        _OPINION_SPLITS,
        train_examples=3131,
        keep=_has_review,
        blank_texts=("_critics/value",),
    ),
    _task(
        "opinion_abstracts_idebate",
        "opinion_abstracts/idebate:1.0.0",
        {"_debate_name": str, "_claim": str, "_argument_sentences/value": list[str]},
        _arguments,
        _OPINION_SPLITS,
        train_examples=1659,
    ),
    _task(
        "wiki_lingua_english_en",
        "gem/wiki_lingua_english_en:1.1.0",
        {"source": str, "target": str},
        renamed(source="source", target="target"),
    ),
)
