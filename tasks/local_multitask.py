"""Eleven small real tasks with TFDS field names, from a data folder or from TFDS.

Six have an answer of one word or number (exact match), five a sentence (ROUGE-L or chrF). The
mixture `local_multitask_v1` draws each in proportion to its training rows, at most RATE_CAP.
"""

from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from cascade_jax.data.sources import TfdsOrJsonlSource
from cascade_jax.task_metrics import quality
from tasks.registration import (
    add_mixture,
    add_task,
    proportional,
    references_as_target,
    rows_in_train,
)

MIXTURE = "local_multitask_v1"
RATE_CAP = 4000

Row = Mapping[str, tf.Tensor]


def _labelled(classes: Sequence[str], prompt: Callable[[Row], tf.Tensor]) -> list[Callable]:
    """Preprocessors of a classification task: the answer is the class's word."""

    def is_labelled(row: Row) -> tf.Tensor:
        return row["label"] >= 0  # TFDS marks rows without an agreed label (snli) with -1

    def to_text(row: Row) -> Row:
        options = tf.constant(classes)
        answer = tf.gather(options, row["label"])
        return {"inputs": prompt(row), "targets": answer, "options": options}

    return [lambda rows: rows.filter(is_labelled), seqio.map_over_dataset(to_text)]


def _written(prompt: Callable[[Row], tf.Tensor], target: str) -> list[Callable]:
    """Preprocessors of a generation task; reference texts, where there are any, stay beside."""

    def to_text(row: Row) -> Row:
        texts = {"inputs": prompt(row), "targets": row[target]}
        return texts | ({"references": row["references"]} if "references" in row else {})

    return [seqio.map_over_dataset(to_text)]


def _add(
    name: str,
    source: TfdsOrJsonlSource,
    preprocessors: Sequence[Callable],
    metric_fn: Callable,
    postprocess_fn: Callable | None = None,
    kind: str = "generation",
) -> str:
    task = f"local_{name}_v1"
    return add_task(
        task, source, preprocessors, [metric_fn], postprocess_fn, suite="local", kind=kind
    )


_TRAIN_VALIDATION = {"train": "train", "validation": "validation"}
_VALIDATION_FROM_TEST = {"train": "train", "validation": "test"}


def _add_classification(
    name: str,
    tfds_name: str,
    texts: Sequence[str],
    classes: Sequence[str],
    prompt: Callable[[Row], tf.Tensor],
    splits: Mapping[str, str] = _TRAIN_VALIDATION,
) -> str:
    fields = {text: str for text in texts} | {"label": range(-1, len(classes))}
    source = TfdsOrJsonlSource(tfds_name, fields, splits)
    steps = _labelled(classes, prompt)
    return _add(name, source, steps, quality.accuracy, kind="classification")


def _add_generation(
    name: str, field: str, prompt: str, separator: str, builder: str | None = None
) -> str:
    """A task whose input is the prompt and a list of texts."""
    fields = {field: list[str], "target": str, "references": list[str]}
    source = TfdsOrJsonlSource(f"gem/{builder or name}:1.1.0", fields, _TRAIN_VALIDATION)

    def inputs(row: Row) -> tf.Tensor:
        return prompt + tf.strings.reduce_join(row[field], separator=separator)

    steps = _written(inputs, "target")
    return _add(name, source, steps, quality.rouge_l, references_as_target)


def _add_translation(language: str, language_name: str) -> str:
    name, fields = f"tatoeba_pairs/{language}-en", {language: str, "en": str}
    source = TfdsOrJsonlSource(name, fields, _TRAIN_VALIDATION, is_in_tfds=False)
    steps = _written(lambda row: f"from {language_name} to English: " + row[language], "en")
    return _add(f"tatoeba_{language}_en", source, steps, quality.chrf, kind="translation")


def _add_equation() -> str:
    name, fields = "math_dataset/algebra__linear_1d:1.0.0", {"question": str, "answer": str}
    source = TfdsOrJsonlSource(name, fields, _VALIDATION_FROM_TEST)
    steps = _written(lambda row: "equation: " + row["question"], "answer")
    return _add("linear_1d", source, steps, quality.accuracy, kind="short_answer")


TASKS = (
    _add_classification(
        "sst2",
        "glue/sst2:2.0.0",
        ["sentence"],
        ["negative", "positive"],
        lambda row: "film opinion: " + tf.strings.strip(row["sentence"]),
    ),
    _add_classification(
        "cola",
        "glue/cola:2.0.0",
        ["sentence"],
        ["wrong", "right"],
        lambda row: "grammar: " + row["sentence"],
    ),
    _add_classification(
        "ag_news",
        "ag_news_subset:1.0.0",
        ["title", "description"],
        ["world", "sports", "business", "technology"],
        lambda row: "news section: " + row["title"] + " | " + row["description"],
        _VALIDATION_FROM_TEST,
    ),
    _add_classification(
        "snli",
        "snli:1.1.0",
        ["premise", "hypothesis"],
        ["yes", "maybe", "no"],
        lambda row: "given: " + row["premise"] + " follows: " + row["hypothesis"],
    ),
    _add_classification(
        "qnli",
        "glue/qnli:2.0.0",
        ["question", "sentence"],
        ["yes", "no"],
        lambda row: "asked: " + row["question"] + " answered by: " + row["sentence"],
    ),
    _add_equation(),
    _add_generation("common_gen", "concepts", "sentence with: ", ", "),
    _add_generation("web_nlg", "input", "tell the facts: ", " ; ", builder="web_nlg_en"),
    _add_generation("dart", "tripleset", "tell the table: ", " ; "),
    _add_translation("zh", "Chinese"),
    _add_translation("ja", "Japanese"),
)


add_mixture(MIXTURE, TASKS, proportional(rows_in_train, RATE_CAP))
