"""XSum: one-sentence summaries of news articles, from TFDS or from a data folder.

`cascade_xsum_short_v1` has only the rows whose summary takes at most SHORT_SUMMARY tokens of the
vocabulary in use: the budget paper calibrates on 400 of them and tests on 100, and its models were
tuned on all summaries, so there is no split to train on.
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from cascade_jax.data.features import TARGETS
from cascade_jax.data.sources import TfdsOrJsonlSource
from cascade_jax.task_metrics import overlap
from tasks.registration import MANUAL_FOLDER, add_task

SHORT_SUMMARY = 20  # tokens, EOS aside; as in "Budget-Constrained Learning to Defer"

_MANUAL = (
    "run the download and extraction scripts of github.com/EdinburghNLP/XSum (XSum-Dataset/"
    "README.md), pack the folder xsum-extracts-from-downloads as "
    f"xsum-extracts-from-downloads.tar.gz, and put that into {MANUAL_FOLDER}"
)


def _to_text(row: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    return {"inputs": "summarize: " + row["document"], "targets": row["summary"]}


def short_targets(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """seqio preprocessor: keeps the rows whose target takes at most SHORT_SUMMARY tokens.

    Under the byte vocabulary, where next to no sentence is that short, words are counted.

    Example: in bytes, "A man has died." has 4 words and stays.
    """
    vocabulary = output_features[TARGETS].vocabulary
    is_byte = isinstance(vocabulary, seqio.ByteVocabulary)
    tokens_of = tf.strings.split if is_byte else vocabulary.encode_tf
    return dataset.filter(lambda row: tf.size(tokens_of(row["targets"])) <= SHORT_SUMMARY)


def _add(name: str, splits: Sequence[str], *more_steps) -> str:
    source = TfdsOrJsonlSource(
        "xsum:1.1.0",
        {"document": str, "summary": str},
        {split: split for split in splits},
        blank_texts=False,
        manual=_MANUAL,
    )
    return add_task(
        f"cascade_xsum_{name}_v1",
        source,
        [seqio.map_over_dataset(_to_text), *more_steps],
        [overlap.Rouge()],
        suite="xsum",
        kind="summarization",
    )


XSUM = _add("xsum", ["train", "validation", "test"])
SHORT = _add("short", ["validation", "test"], short_targets)
