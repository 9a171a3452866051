"""Metrics of classes, groups and numbers: SuperGLUE and GLUE.

Every metric takes lists of targets and predictions, as a task's postprocessor gives them, and gives
{name: value}. They are figures of the whole list only; their per-example quality is 0-1 correctness
(`quality.accuracy`), which is what the paper plots for every SuperGLUE task.

Reference: Wang et al. 2019, "SuperGLUE", table 1; Wang et al. 2018, "GLUE", table 1.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax.names import did_you_mean
from cascade_jax.task_metrics import quality


def _label(answer: Any) -> Hashable:
    label = quality.value_of(answer)
    if isinstance(label, str):
        return label.strip()
    if not isinstance(label, Hashable):
        raise ValueError(f"label {label!r} is a {type(label).__name__}; must be text or a number")
    return label


def _labels(
    targets: Sequence[Any], predictions: Sequence[Any]
) -> tuple[list[Hashable], list[Hashable]]:
    quality.check_pairs(targets, predictions)
    pair = [_label(answer) for answer in targets], [_label(answer) for answer in predictions]
    for target, prediction in zip(*pair, strict=True):
        quality.check_same_kind(target, prediction)
    return pair


def _check_classes(labels: Sequence[Hashable], classes: Sequence[Hashable]) -> None:
    for i, label in enumerate(labels):
        if label not in classes:
            hint = did_you_mean(label, map(str, classes))
            raise ValueError(f"target {i} is {label!r}; must be one of {list(classes)}{hint}")


def _class_f1(targets: Sequence, predictions: Sequence, name: Hashable) -> float:
    """2 hits / (targets + predictions of the class); 0 where the class does not occur.

    scikit-learn's takes a second to import and labels of one type only.
    """
    hits = sum(t == p == name for t, p in zip(targets, predictions, strict=True))
    total = targets.count(name) + predictions.count(name)
    return 2.0 * hits / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class MeanClassF1:
    """F1 of every class against the rest, averaged without weights; CB's metric.

    A prediction that is no class is wrong. A class that occurs nowhere has F1 0.
    A corpus metric; each example by itself has accuracy.

    Example: classes a, b, c; targets a, a, b; predictions a, b, b. F1 of a and b is 2 / 3, of c 0:
    {"mean_3class_f1": 0.444...}.

    Attributes:
      classes: all classes, as the targets name them.

    Reference: Wang et al. 2019, "SuperGLUE", section 3.2 (unweighted average of F1 per class).
    """

    classes: Sequence[Hashable]

    def __post_init__(self):
        if isinstance(self.classes, str) or len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(f"classes are {self.classes!r}; must be two or more different ones")

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        targets, predictions = _labels(targets, predictions)
        _check_classes(targets, self.classes)
        scores = [_class_f1(targets, predictions, name) for name in self.classes]
        return {f"mean_{len(self.classes)}class_f1": float(np.mean(scores))}

    per_example = staticmethod(quality.accuracy)


@dataclasses.dataclass(frozen=True)
class BinaryF1:
    """F1 of the positive class over all answers; MultiRC's F1a, and MRPC's and QQP's F1.

    A prediction that is neither class is counted as the wrong one: at a negative target it is one
    more false positive. Grouped answers (`group_exact_match`) count each by itself.
    A corpus metric; each example by itself has accuracy.

    Example: targets True, False, False; predictions True, True, "?". One hit, two false positives:
    F1 = 2 / (1 + 3) = 0.5.

    Attributes:
      positive: the class that F1 is of, as the targets name it.
      negative: the other.

    Reference: Khashabi et al. 2018, "Looking Beyond the Surface" (MultiRC), F1a.
    """

    positive: Hashable = "True"
    negative: Hashable = "False"

    def __post_init__(self):
        if self.positive == self.negative:
            raise ValueError(f"positive and negative are both {self.positive!r}; must differ")

    def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        targets, predictions = _labels(targets, predictions)
        other = {self.positive: self.negative, self.negative: self.positive}
        _check_classes(targets, tuple(other))
        predictions = [
            p if p in other else other[t] for t, p in zip(targets, predictions, strict=True)
        ]
        return {"f1": _class_f1(targets, predictions, self.positive)}

    per_example = staticmethod(quality.accuracy)


@quality.corpus_metric(quality.accuracy)
def matthews_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Matthews correlation of labels, in [-1, 1]; CoLA's metric.

    With s examples, c right ones, and t_k targets and p_k predictions of class k:
    (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2)); 0 where all targets or
    all predictions are alike. A prediction that is no class is a class of its own.
    A corpus metric; each example by itself has accuracy. (scikit-learn's warns where one class is
    left, and takes labels of one type only.)

    Example: targets 1, 1, 0, 0; predictions 1, 0, 0, 0: (3 * 4 - 8) / sqrt(6 * 8) = 0.577...

    Reference: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
    coefficient", equation 8; for two classes Matthews 1975.
    """
    targets, predictions = _labels(targets, predictions)
    size, hits = len(targets), sum(t == p for t, p in zip(targets, predictions, strict=True))
    t, p = Counter(targets), Counter(predictions)
    spread_t, spread_p = (size**2 - sum(n**2 for n in counts.values()) for counts in (t, p))
    if not spread_t or not spread_p:
        return {"matthews_corrcoef": 0.0}
    covariance = hits * size - sum(count * p[label] for label, count in t.items())
    return {"matthews_corrcoef": covariance / math.sqrt(spread_t * spread_p)}


# ------------------------------------------------------------------ groups


def _group(target: Any) -> Hashable:
    if not isinstance(target, Mapping) or "group" not in target:
        raise ValueError(f"target {target!r} has no group; must be {{'group': ..., 'value': ...}}")
    return target["group"]


@quality.corpus_metric(quality.accuracy)
def group_exact_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Share of groups in which every answer is right; MultiRC's EM, a group being a question.

    Only whole groups give the official figure: a slice that cuts a question changes it.
    A mean over groups, so a corpus metric; each example by itself has accuracy.

    Example: targets {"group": 1, "value": "True"}, {"group": 1, "value": "False"} and
    {"group": 2, "value": "True"}, predictions "True", "True", "True": question 1 is wrong, 0.5.

    Args:
      targets: mappings with "group" and "value".
      predictions: answers, or mappings with "value".

    Reference: Khashabi et al. 2018, "Looking Beyond the Surface" (MultiRC); Wang et al. 2019.
    """
    is_right: dict[Hashable, bool] = {}
    for target, t, p in zip(targets, *_labels(targets, predictions), strict=True):
        group = _group(target)
        is_right[group] = is_right.get(group, True) and t == p
    return {"exact_match": float(np.mean(list(is_right.values())))}


# ------------------------------------------------------------------ numbers


def _numbers(targets: Sequence[Any], predictions: Sequence[Any]) -> list[Float[np.ndarray, " N"]]:
    quality.check_pairs(targets, predictions)
    for kind, answers in (("target", targets), ("prediction", predictions)):
        for i, value in enumerate(answers):
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not is_number or not np.isfinite(value):
                raise ValueError(
                    f"{kind} {i} is {value!r}; must be a finite number (the task's postprocessor "
                    "makes numbers of texts)"
                )
    return [np.asarray(answers, np.float64) for answers in (targets, predictions)]


def _pearson(first: Float[np.ndarray, " N"], second: Float[np.ndarray, " N"]) -> float:
    if (first == first[0]).all() or (second == second[0]).all():
        return 0.0
    # Scaled first, so that squares neither overflow nor vanish: SciPy's is wrong by 1e-4 at 1e-198.
    first, second = ((x - x.mean()) / np.abs(x - x.mean()).max() for x in (first, second))
    product = first @ second / math.sqrt((first @ first) * (second @ second))
    return float(np.clip(product, -1.0, 1.0))


@quality.corpus_metric(quality.accuracy)
def pearson_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Pearson correlation of numbers, in [-1, 1]; STS-B's metric.

    0 where all targets or all predictions are alike, for which it is undefined.
    A corpus metric; each example by itself has accuracy (the very number).

    Example: targets 0.0, 1.0, 2.0, predictions 0.0, 2.0, 1.0: 0.5.
    """
    return {"pearson_corrcoef": _pearson(*_numbers(targets, predictions))}


@quality.corpus_metric(quality.accuracy)
def spearman_corrcoef(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Spearman correlation: Pearson's of the ranks, ties sharing their mean rank; STS-B's metric.

    A corpus metric; each example by itself has accuracy (the very number).

    Example: targets 1.0, 2.0, 3.0, predictions 1.0, 10.0, 100.0: 1.0.
    """
    from scipy import stats

    return {"spearman_corrcoef": _pearson(*map(stats.rankdata, _numbers(targets, predictions)))}
