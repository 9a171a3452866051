"""The eight tasks of SuperGLUE in T5's formats, from TFDS or from a data folder.

The first metric of every task is accuracy, which the paper plots; CB, MultiRC and ReCoRD have
SuperGLUE's own beside it. Labels of the test split are hidden, so there are "train" and
"validation". `cascade_superglue_v1` draws the tasks in proportion to their training examples, at
most 3,000 each; three more mixtures differ in their rates alone.
"""

from collections.abc import Callable, Mapping, Sequence

from cascade_jax.data import sources
from cascade_jax.task_metrics import classes, quality, short_answers
from tasks import superglue_preprocessors as preprocessors
from tasks.registration import add_mixtures, add_task, references_as_target

# T5's mixing weights: training examples, of ReCoRD one per answer, of WSC those labelled True.
TRAIN_EXAMPLES = {
    "boolq": 9427,
    "cb": 250,
    "copa": 400,
    "multirc": 27243,
    "record": 138854,
    "rte": 2490,
    "wic": 5428,
    "wsc": 259,
}


def _source(
    config: str, fields: Mapping[str, sources.FieldType], folder: str | None = None
) -> sources.TfdsOrJsonlSource:
    """Rows of a config of the TFDS builder, or of a data folder (by another name, if given)."""
    return sources.TfdsOrJsonlSource(
        f"super_glue/{config}:1.0.2",
        fields,
        {split: split for split in ("train", "validation")},
        name=f"super_glue/{folder or config}",
        blank_texts=False,
        training_flag=True,  # ReCoRD and WSC read differently in training
    )


def _add(
    name: str,
    source: sources.TfdsOrJsonlSource,
    steps: Sequence[Callable],
    *more_metrics: Callable,
    postprocess_fn: Callable | None = None,
    kind: str = "classification",
) -> str:
    return add_task(
        f"cascade_superglue_{name}_v1",
        source,
        steps,
        [quality.accuracy, *more_metrics],
        postprocess_fn,
        suite="superglue",
        kind=kind,
    )


def _add_labelled(
    name: str, texts: Sequence[str], classes: Sequence[str], *more_metrics: Callable
) -> str:
    """A task whose input has the texts in this order, and whose target is the class's name."""
    fields = {text: str for text in texts} | {"label": range(len(classes))}
    steps = preprocessors.labelled(name, texts, classes)
    return _add(name, _source(name, fields), steps, *more_metrics)


def _add_multirc() -> str:
    fields = {"paragraph": str, "question": str, "answer": str, "label": range(2)}
    return _add(
        "multirc",
        _source("multirc", fields | {"idx/question": int}),
        preprocessors.multirc(),
        classes.BinaryF1(),
        classes.group_exact_match,
        postprocess_fn=preprocessors.with_question,
    )


def _add_record() -> str:
    fields = {"passage": str, "query": str, "entities": list[str], "answers": list[str]}
    return _add(
        "record",
        _source("record", fields),
        preprocessors.record(),
        short_answers.squad,
        postprocess_fn=references_as_target,
        kind="multiple_choice",
    )


def _add_wsc(
    name: str, kind: str, steps: Sequence[Callable], postprocess_fn: Callable | None = None
) -> str:
    spans = {"span1_text": str, "span2_text": str}
    places = {"span1_index": range(1000), "span2_index": range(1000)}
    fields = {"text": str, "label": range(2)} | spans | places
    # A data folder has the rows as published; spans are fixed by our preprocessors in any case.
    source = _source("wsc.fixed", fields, folder="wsc")
    return _add(name, source, steps, postprocess_fn=postprocess_fn, kind=kind)


_ENTAILMENT = ("entailment", "contradiction", "neutral")

TASKS = (
    _add_labelled("boolq", ["passage", "question"], preprocessors.TRUE_FALSE),
    _add_labelled("cb", ["hypothesis", "premise"], _ENTAILMENT, classes.MeanClassF1(_ENTAILMENT)),
    _add_labelled("copa", ["choice1", "choice2", "premise", "question"], ["choice1", "choice2"]),
    _add_multirc(),
    _add_record(),
    _add_labelled("rte", ["hypothesis", "premise"], ["entailment", "not_entailment"]),
    _add_labelled("wic", ["sentence1", "sentence2", "word"], preprocessors.TRUE_FALSE),
    _add_wsc("wsc", "short_answer", preprocessors.wsc_referent(), preprocessors.is_wsc_referent),
)
# The same rows as in cascade_superglue_wsc_v1 in T5's other form; in none of the mixtures.
WSC_SPANS = _add_wsc("wsc_spans", "classification", preprocessors.wsc_spans())


def _train_rows(source: sources.TfdsOrJsonlSource) -> int:
    return TRAIN_EXAMPLES[source.name.removeprefix("super_glue/")]


add_mixtures("superglue", TASKS, _train_rows)
