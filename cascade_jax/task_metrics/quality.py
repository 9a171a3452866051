"""Quality of answers in [0, 1]: metric functions for seqio tasks, and the same per example.

A metric function takes lists of targets and predictions and gives {name: mean over the examples}.
A target is a text, or a list of texts of which the best counts. Because each metric here is a mean
of per-example qualities, a cascade's quality is the sum of a kept and a deferred part at every
threshold. A metric of the whole list (`corpus_metric`) is not; it says what measures one example.

| where | metrics |
|---|---|
| here | accuracy, word F1, ROUGE-L of words split at white space, sentence chrF |
| classes.py | F1 of classes, groups, Matthews, correlations |
| short_answers.py | SQuAD, TriviaQA |
| answer_sets.py | F1 of the answers that a text lists, all of which are asked for |
| overlap.py | ROUGE, word edit distance |
| words.py | words of a text by a tokenizer, and texts that a metric of words is blind to |
| translation.py | corpus BLEU and chrF, by statistics that add up |
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax.task_metrics import words

Target = str | Sequence[str]
MetricFn = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]]

_ROUNDING = 1e-6  # a mean of float32 ones may come out above 1 by this much


def check_pairs(targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Refuses lists of unequal length and empty ones with a ValueError."""
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not len(targets):
        raise ValueError("no examples: a mean over none is undefined")


def value_of(answer: Any) -> Any:
    """The answer itself, of a plain one and of ``{"group": ..., "value": ...}`` alike."""
    if not isinstance(answer, Mapping):
        return answer
    if "value" not in answer:
        raise ValueError(f"{dict(answer)!r} has no 'value'; must be {{'group': ..., 'value': ...}}")
    return answer["value"]


def references_of(target: Any) -> list[Any]:
    """The right answers of a target: of a list (or tuple, or set) all, else the target alone.

    Raises:
      ValueError: an empty list.
    """
    several = isinstance(target, list | tuple | set | frozenset | np.ndarray)
    references = list(target) if several else [target]
    if not references:
        raise ValueError("no reference: a target list is empty")
    return references


def text_pairs(targets: Sequence[Any], predictions: Sequence[Any]) -> list[tuple[list[str], str]]:
    """(reference texts, prediction) of every example.

    Raises:
      ValueError: unequal or empty lists, no reference, or something that is not text (where).
    """
    check_pairs(targets, predictions)
    pairs = []
    for i, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        references, prediction = references_of(value_of(target)), value_of(prediction)
        for kind, text in [("prediction", prediction), *(("target", r) for r in references)]:
            if not isinstance(text, str):
                shown = f"{text!r} ({type(text).__name__})"
                raise ValueError(f"{kind} of example {i} is {shown}; must be text")
        pairs.append((references, prediction))
    return pairs


def mean_of_best(
    score_fn: Callable[[str, str], float], targets: Sequence[Any], predictions: Sequence[Any]
) -> float:
    """Mean over examples of the highest score_fn(reference, prediction); ValueError if not text."""
    pairs = text_pairs(targets, predictions)
    best = [
        max(score_fn(reference, text) for reference in references) for references, text in pairs
    ]
    return float(np.mean(best))


def corpus_metric(per_example: MetricFn) -> Callable[[MetricFn], MetricFn]:
    """Decorates a metric that is not a mean over examples with the one that measures an example.

    `per_example_quality` uses the latter. A class does the same by a method `per_example`.

    Example: Matthews correlation of a single answer says nothing; ``@corpus_metric(accuracy)``.
    """

    def mark(metric_fn: MetricFn) -> MetricFn:
        metric_fn.per_example = per_example
        return metric_fn

    return mark


def check_same_kind(target: Any, prediction: Any) -> None:
    """Refuses a text beside a number: never equal, and silently so."""
    if isinstance(target, str) != isinstance(prediction, str):
        raise ValueError(
            f"target {target!r} and prediction {prediction!r}: one is text, the other is not; "
            "the task's postprocessor must treat both alike"
        )


def _is_same(target: Any, prediction: Any) -> bool:
    check_same_kind(target, prediction)
    if isinstance(target, str):
        return target.strip() == prediction.strip()
    return bool(target == prediction)


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Share of predictions equal to (one of) the targets, outer white space of texts aside.

    Answers are texts, or numbers such as class ids; ``{"group": ..., "value": answer}`` counts as
    its value.

    Example: targets ["yes", ["b", "c"]], predictions [" yes", "a"]: accuracy 0.5.
    """
    check_pairs(targets, predictions)
    is_right = [
        any(_is_same(reference, value_of(answer)) for reference in references_of(value_of(target)))
        for target, answer in zip(targets, predictions, strict=True)
    ]
    return {"accuracy": float(np.mean(is_right))}


def bag_f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    """F1 of two bags of words, repeated words counted; two empty bags agree fully.

    2PR / (P + R) = 2 common / (size of target + size of prediction)
    """
    total = len(target) + len(prediction)
    common = (Counter(target) & Counter(prediction)).total()
    return 2.0 * common / total if total else 1.0


@words.by_words
def token_f1(
    targets: Sequence[Target], predictions: Sequence[str], tokenize: str | None = None
) -> dict[str, float]:
    """F1 of the bags of lower-cased words, repeated words counted.

    Words are what white space parts, or what a tokenizer of `words.TOKENIZERS` makes of the text;
    the figure of "zh" is named token_f1_zh.

    Example: target "the red dog", prediction "red red dog": 2 words in common, F1 = 4 / 6.
    """

    def score(target: str, prediction: str) -> float:
        return bag_f1(*(words.split(text.lower(), tokenize) for text in (target, prediction)))

    return {named("token_f1", tokenize): mean_of_best(score, targets, predictions)}


def named(figure: str, tokenize: str | None) -> str:
    """Name of a figure of words, with the tokenizer that makes them, if one does."""
    return f"{figure}_{tokenize}" if tokenize else figure


@dataclasses.dataclass(frozen=True)
class RougeTokenizer:
    """For rouge-score, whose own tokenizer knows the letters a to z only; see `words.split`."""

    name: str | None = None

    def tokenize(self, text: str) -> list[str]:
        """Lower-cased words."""
        return words.split(text.lower(), self.name)


@functools.cache
def _rouge_scorer(tokenize: str | None):
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=RougeTokenizer(tokenize))


@words.by_words
def rouge_l(
    targets: Sequence[Target], predictions: Sequence[str], tokenize: str | None = None
) -> dict[str, float]:
    """ROUGE-L F1 over lower-cased words, no stemming; best reference counts.

    Words are what white space parts, which suits every language that has spaces (punctuation
    belongs to its word), or what a tokenizer of `words.TOKENIZERS` makes of the text; the figure of
    "zh" is named rouge_l_zh. For the figures that
    papers on English print, with rouge-score's own words, see `overlap.Rouge`.

    Example: target "a dog ran off", prediction "a cat ran": "a ran" is common, F1 = 2 * 2 / 7.

    Reference: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1,
    with beta = 1.
    """

    def score(target: str, prediction: str) -> float:
        if not target.strip():
            return float(not prediction.strip())
        return float(_rouge_scorer(tokenize).score(target, prediction)["rougeL"].fmeasure)

    return {named("rouge_l", tokenize): mean_of_best(score, targets, predictions)}


@functools.cache
def sacrebleu_chrf(word_order: int = 0):
    """sacrebleu's chrF, made once for each order of words."""
    import sacrebleu

    return sacrebleu.CHRF(word_order=word_order)


def _chrf(target: str, prediction: str) -> float:
    if not target.strip():
        return float(not prediction.strip())
    return sacrebleu_chrf().sentence_score(prediction, [target]).score / 100.0


def chrf(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean sentence chrF2 (character 6-grams, by sacrebleu) divided by 100; best reference counts.

    Suits translation into languages without spaces. A mean over sentences, not corpus chrF.

    Reference: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    return {"chrf": mean_of_best(_chrf, targets, predictions)}


def percent(metric_fn: MetricFn) -> MetricFn:
    """Declares that a metric, such as t5's, gives 0 to 100: its values are divided by 100.

    Example: ``metric_fns=[quality.percent(t5.evaluation.metrics.accuracy)]``
    """

    @functools.wraps(metric_fn)
    def scaled(targets, predictions):
        values = metric_fn(targets, predictions)
        return {name: float(getattr(v, "value", v)) / 100.0 for name, v in values.items()}

    return scaled


def per_example_quality(
    task_metric_fns: Sequence[MetricFn], targets: Sequence[Any], predictions: Sequence[Any]
) -> tuple[str, Float[np.ndarray, " N"]]:
    """The task's first metric for each example by itself.

    Any metric that is a mean over examples works, and any other that says what measures one
    example (`corpus_metric`). One whose value is in percent must be declared so (`percent`),
    because 0 and 1 mean something on both scales.

    Args:
      task_metric_fns: `task.metric_fns` of a seqio task; of several values the first one's first.
      targets, predictions: one per example, as the task's postprocessor gives them.

    Returns:
      The metric's name, and qualities in [0, 1], never NaN.

    Raises:
      ValueError: no metric, unequal numbers, or a value outside [0, 1] (which example).
    """
    if not task_metric_fns:
        fix = "give it metric_fns, e.g. [quality.accuracy]; the first one measures each example"
        raise ValueError(f"the task has no metric: {fix}")
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    metric_fn = getattr(task_metric_fns[0], "per_example", task_metric_fns[0])
    metric_name = getattr(metric_fn, "__name__", type(metric_fn).__name__)
    qualities = np.empty(len(targets), np.float64)
    for i, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        values = metric_fn([target], [prediction])
        if not values:
            raise ValueError(f"metric {metric_name!r} gave no value for example {i}")
        metric_name, value = next(iter(values.items()))
        value = float(getattr(value, "value", value))
        if not -_ROUNDING <= value <= 1.0 + _ROUNDING:
            raise ValueError(
                f"metric {metric_name!r} is {value} for example {i}; must be from 0 to 1 (declare "
                "one in percent with quality.percent)"
            )
        qualities[i] = min(max(value, 0.0), 1.0)
    return metric_name, qualities


def split_figures(
    task_metric_fns: Sequence[MetricFn], targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    """All metrics of a task over all examples at once, in their own units.

    Two metrics that give one name with different values are numbered by their place:
    ``{"f1": 0.5, "f1_2": 0.4}``. What is no number is left out.
    """
    figures: dict[str, float] = {}
    for place, metric_fn in enumerate(task_metric_fns, start=1):
        for name, value in metric_fn(targets, predictions).items():
            value = getattr(value, "value", value)
            if np.ndim(value) or not isinstance(value, int | float | np.number):
                continue
            is_new = figures.get(name, value) == value
            figures[name if is_new else f"{name}_{place}"] = float(value)
    return figures
