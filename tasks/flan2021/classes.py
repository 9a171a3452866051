"""A FLAN 2021 data set whose answer is one of fixed classes, in few words."""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from cascade_jax.data.sources import FieldType
from cascade_jax.task_metrics import quality
from tasks.flan2021.flan_task import TRAIN_ROWS, FlanTask, Row

NO_YES = ("no", "yes")
YES_NO = ("yes", "no")


def same(*names: str) -> dict[str, str]:
    """Texts that the source and FLAN call by one name."""
    return {name: name for name in names}


def with_class(texts: Row, label: tf.Tensor, classes: Sequence[str]) -> Row:
    """Texts with the options and the answer of a row whose class has this number."""
    options = tf.constant(classes)
    return {**texts, "options": options, "answer": tf.gather(options, tf.cast(label, tf.int32))}


def class_task(
    cluster: str,
    name: str,
    tfds_name: str,
    names: Mapping[str, str],
    classes: Sequence[str],
    splits: Mapping[str, str],
    train_examples: int = TRAIN_ROWS,
    *,
    metrics: Sequence[Callable] = (),
    label: str = "label",
    label_type: FieldType | None = None,
    **rest,
) -> FlanTask:
    """A data set of which each row has texts and the number of its class.

    Args:
      cluster, name, tfds_name, splits, train_examples: see `FlanTask`.
      names: of texts, as FLAN has them, and the source's field of each.
      classes: FLAN's words for label 0, label 1, ...
      metrics: beside accuracy.
      label, label_type: the source's field of the class; None for the numbers of the classes.
      rest: see `FlanTask`.
    """

    def texts_of(row: Row) -> Row:
        named = {text: row[field] for text, field in names.items()}
        return with_class(named, row[label], classes)

    fields = {f: str for f in names.values()} | {label: label_type or range(len(classes))}
    facts = {"fields": fields, "splits": splits, "train_examples": train_examples}
    facts |= {"kind": "classification", "texts": texts_of}
    facts["metric_fns"] = [quality.accuracy, *metrics]
    return FlanTask(name, cluster, tfds_name, **(facts | rest))
