"""How good answers are: per-example quality, corpus statistics and figures of a split."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.collection.questions import Questions
from cascade_jax.data import pipeline
from cascade_jax.parallel import hosts
from cascade_jax.task_metrics import corpus, overlap, quality, words

CHRF, TASK = "chrf", "task"
METRICS = (*overlap.ROUGE_VARIANTS, CHRF, TASK)


@dataclasses.dataclass(frozen=True)
class AnswerQuality:
    """How good the answers of one model are."""

    metrics: list[str]  # name of the quality of each example
    quality: Float[np.ndarray, " n"]  # in [0, 1]
    statistics: list[Int[np.ndarray, " _"]]  # of the task's corpus metric; empty without
    figures: dict[str, dict[str, float]]  # by task and metric, over all its examples


def check_task_metrics_installed(mixture: pipeline.OpenMixture, split: str) -> None:
    """Raises an ImportError, before anything is decoded, if a task's metric lacks its extra."""
    for task in mixture.tasks_with(split).values():
        for metric_fn in task.metric_fns:
            getattr(metric_fn, "check_installed", lambda: None)()


def check_metrics_installed(metrics: Sequence[str]) -> None:
    """Raises an ImportError, before anything is decoded, if one of METRICS lacks its package."""
    if CHRF in metrics:
        quality.sacrebleu_chrf()
    if set(metrics) & set(overlap.ROUGE_VARIANTS):
        import rouge_score  # noqa: F401


def corpus_metrics(mixture: pipeline.OpenMixture, split: str) -> dict[str, corpus.CorpusMetric]:
    """By task, its first corpus metric with additive statistics; tasks without have none."""
    tasks = mixture.tasks_with(split)
    firsts = {name: corpus.first_of(task.metric_fns) for name, task in tasks.items()}
    return {name: metric for name, metric in firsts.items() if metric is not None}


def print_unread_words(questions: Questions) -> None:
    """Prints, before anything is answered, of which targets a metric can't tell the words apart."""
    for task in _tasks(questions):
        targets = [questions.examples[row].target for row in questions.rows_of(task)]
        for metric_fn in questions.mixture.tasks[task].metric_fns:
            if unread := words.unread(metric_fn, targets):
                hosts.print_once(f"{task}: {unread.advice}")


def measure(texts: Sequence[str], questions: Questions) -> AnswerQuality:
    """Per-example quality, statistics and figures of the whole split, by each task's metrics.

    Raises:
      ValueError: a metric that refuses the answers, or is outside [0, 1] for one; names the task.
    """
    count, predictions = len(questions.examples), _predictions(questions, texts)
    names, values, figures = [""] * count, np.zeros(count), {}
    statistics = [np.zeros(0, np.int64)] * count
    for task in _tasks(questions):
        with _naming(task):
            rows, *arguments = _metric_arguments(task, questions, predictions)
            metric, values[rows] = quality.per_example_quality(*arguments)
            figures[task] = quality.split_figures(*arguments)
            metric_fns, *pairs = arguments
            additive = corpus.first_of(metric_fns)
            counts = None if additive is None else additive.statistics(*pairs)
        for place, row in enumerate(rows):
            names[row] = metric
            if counts is not None:
                statistics[row] = counts[place]
    return AnswerQuality(names, values, statistics, figures)


def qualities(
    metrics: Sequence[str], texts: Sequence[str], questions: Questions
) -> dict[str, Float[np.ndarray, " n"]]:
    """Each metric (of METRICS) of each answer, in [0, 1].

    Raises:
      ValueError: a metric that refuses an answer, or is outside [0, 1] for one; names the task.
    """
    examples, predictions = questions.examples, _predictions(questions, texts)
    columns = {name: np.zeros(len(examples)) for name in metrics}
    variants = tuple(name for name in metrics if name in overlap.ROUGE_VARIANTS)
    rouge = overlap.Rouge(variants) if variants else None
    for row, (example, prediction) in enumerate(zip(examples, predictions, strict=True)):
        values = dict(rouge([example.target], [prediction])) if rouge else {}
        if CHRF in columns:
            values |= quality.chrf([example.target], [prediction])
        for name, value in values.items():
            columns[name][row] = value
    for task in _tasks(questions) if TASK in columns else ():
        with _naming(task):
            rows, *arguments = _metric_arguments(task, questions, predictions)
            _, columns[TASK][rows] = quality.per_example_quality(*arguments)
    if any(not math.isfinite(values.sum()) for values in columns.values()):
        raise ValueError(f"a metric of {list(metrics)} is not a number for an answer")
    return columns


def _tasks(questions: Questions) -> list[str]:
    return sorted({example.task for example in questions.examples})


@contextlib.contextmanager
def _naming(task: str) -> Iterator[None]:
    """Names the task in a ValueError of its metrics."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"task {task!r}: {error}") from error


def _metric_arguments(task: str, questions: Questions, predictions: list) -> tuple:
    """(rows of a task, its metrics, their targets, their predictions)."""
    rows = questions.rows_of(task)
    targets = [questions.examples[row].target for row in rows]
    metric_fns = questions.mixture.tasks[task].metric_fns
    return rows, metric_fns, targets, [predictions[row] for row in rows]


def _predictions(questions: Questions, texts: Sequence[str]) -> list:
    """The answers as the tasks' metrics take them."""
    return [
        pipeline.answer_for_metric(questions.mixture, example, text)
        for example, text in zip(questions.examples, texts, strict=True)
    ]
