"""Quality of text answers in [0, 1]: metric functions for seqio tasks, and the same per example.

A metric function takes lists of targets and predictions and gives {name: mean over the examples}.
A target is a text, or a list of texts of which the best counts. Because each metric is a mean of
per-example qualities, a cascade's quality is the sum of a kept and a deferred part at every
threshold; corpus-level metrics (BLEU) are not.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

Target = str | Sequence[str]
MetricFn = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]]

_ROUNDING = 1e-6  # a mean of float32 ones may come out above 1 by this much


def _mean_of_best(
    score_fn: Callable[[str, str], float], targets: Sequence[Target], predictions: Sequence[str]
) -> float:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not targets:
        raise ValueError("no examples: a mean over none is undefined")
    best = []
    for target, prediction in zip(targets, predictions, strict=True):
        references = [target] if isinstance(target, str) else list(target)
        if not references:
            raise ValueError(f"no reference for the prediction {prediction!r}")
        best.append(max(score_fn(reference, prediction) for reference in references))
    return float(np.mean(best))


def accuracy(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to (one of) the target texts, outer white space aside."""
    return {
        "accuracy": _mean_of_best(lambda t, p: float(t.strip() == p.strip()), targets, predictions)
    }


def _f1(common: int, target_size: int, prediction_size: int) -> float:
    """2PR / (P + R) = 2 common / (target + prediction); two empty texts agree fully."""
    total = target_size + prediction_size
    return 2.0 * common / total if total else 1.0


def _token_f1(target: str, prediction: str) -> float:
    wanted, given = target.lower().split(), prediction.lower().split()
    common = (Counter(wanted) & Counter(given)).total()
    return _f1(common, len(wanted), len(given))


def token_f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """F1 of the bags of lower-cased words, repeated words counted.

    Example: target "the red dog", prediction "red red dog": 2 words in common, F1 = 4 / 6.
    """
    return {"token_f1": _mean_of_best(_token_f1, targets, predictions)}


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence of words that both have in this order, with gaps allowed."""
    previous = [0] * (len(second) + 1)
    for word in first:
        current = [0]
        for column, other in enumerate(second):
            longest = max(previous[column + 1], current[column])
            current.append(previous[column] + 1 if word == other else longest)
        previous = current
    return previous[-1]


def _rouge_l(target: str, prediction: str) -> float:
    wanted, given = target.lower().split(), prediction.lower().split()
    return _f1(_longest_common_subsequence(wanted, given), len(wanted), len(given))


def rouge_l(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-L F1 over lower-cased words split at white space, no stemming; best reference counts.

    Example: target "a dog ran off", prediction "a cat ran": "a ran" is common, F1 = 2 * 2 / 7.

    Reference: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1,
    with beta = 1.
    """
    return {"rouge_l": _mean_of_best(_rouge_l, targets, predictions)}


@functools.cache
def _sacrebleu_chrf():
    import sacrebleu

    return sacrebleu.CHRF()


def _chrf(target: str, prediction: str) -> float:
    if not target.strip():
        return float(not prediction.strip())
    return _sacrebleu_chrf().sentence_score(prediction, [target]).score / 100.0


def chrf(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean sentence chrF2 (character 6-grams, by sacrebleu) divided by 100; best reference counts.

    Suits translation into languages without spaces. A mean over sentences, not corpus chrF.

    Reference: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    return {"chrf": _mean_of_best(_chrf, targets, predictions)}


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

    Any metric that is a mean over examples works; one whose value is in percent must be declared
    so (`percent`), because 0 and 1 mean something on both scales.

    Args:
      task_metric_fns: `task.metric_fns` of a seqio task; the first is used, and if it gives several
        values, the first of those.
      targets, predictions: one per example, as the task's postprocessor gives them.

    Returns:
      The metric's name, and float64 qualities in [0, 1] (NaN never).

    Raises:
      ValueError: no metric, unequal numbers, or a value outside [0, 1] (which example).
    """
    if not task_metric_fns:
        raise ValueError(
            "the task has no metric: give it metric_fns, e.g. [quality.accuracy]; the first one "
            "measures each example"
        )
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    metric_fn = task_metric_fns[0]
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
