"""Metrics that an import computes, by name, and the tokenizer of those that are of words."""

from collections.abc import Callable, Sequence
from typing import Any

from cascade_jax.records.external.lines import LineError
from cascade_jax.task_metrics import answer_sets, quality, short_answers, words
from cascade_jax.task_metrics.translation import Bleu, Chrf

METRICS: dict[str, Callable] = {
    "accuracy": quality.accuracy,
    "token_f1": quality.token_f1,
    "rouge_l": quality.rouge_l,
    "chrf": quality.chrf,
    "squad": short_answers.squad,
    "trivia_qa": short_answers.trivia_qa,
    "set_f1": answer_sets.SetF1(),
    "bleu": Bleu(),
    "corpus_chrf": Chrf(),
}
# The quality of an example is their exact match, which needs no words.
_EXACT_FIRST = ("squad", "trivia_qa")


def check(metric: str | None, tokenizer: str | None) -> None:
    """Refuses a tokenizer with a ValueError: unknown, not installed, or of no use to the metric."""
    if tokenizer is None:
        return
    if metric not in METRICS:
        raise ValueError(
            f"tokenizer is {tokenizer!r} but metric {metric!r}; only a metric that is computed and "
            f"is of words takes one, of {', '.join(METRICS)}"
        )
    choose(metric, tokenizer)
    try:
        words.check_installed(words.tokenizer(tokenizer))
    except ImportError as error:
        raise ValueError(str(error)) from None


def choose(metric: str, tokenizer: str | None) -> Callable:
    """The metric of a name, by a tokenizer if one is given."""
    metric_fn = METRICS[metric]
    return words.with_tokenizer(metric_fn, tokenizer) if tokenizer else metric_fn


def check_words(
    metric: str | None, tokenizer: str | None, tasks: Sequence[str], targets: Sequence[Any]
) -> list[str]:
    """Refuses a metric of words for a task if it can't tell apart the words of most targets.

    Args:
      metric, tokenizer: what measures; a tokenizer that is given is never refused.
      tasks, targets: of each example.

    Returns:
      A note for each task with such targets, if they are not refused.

    Raises:
      LineError: how many targets, why, and what to give.
    """
    if metric not in METRICS:
        return []
    by_task: dict[str, list] = {}
    for task, target in zip(tasks, targets, strict=True):
        by_task.setdefault(task, []).append(target)
    notes = []
    for task, of_task in by_task.items():
        unread = words.unread(choose(metric, tokenizer), of_task)
        if not unread:
            continue
        text = f"task {task!r}: {unread.text}"
        if unread.is_most and not tokenizer and metric not in _EXACT_FIRST:
            raise LineError(
                f"{text}; give --tokenizer {unread.tokenizer}, another of "
                f"{', '.join(words.TOKENIZERS)} or a language, or --metric chrf"
            )
        notes.append(text)
    return notes
