"""Corpus metrics as JSON descriptions, from which `evaluate`, which sees no task, rebuilds them.

Collect writes `describe(Bleu("zh"))` into the metadata of records, and each row's statistics beside
it; whoever has answers of another system can write the same:

    {"name": "bleu", "class": "Bleu", "options": {"tokenize": "zh", "lowercase": false}}
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cascade_jax.names import check_choice, did_you_mean
from cascade_jax.task_metrics.translation import Bleu, Chrf, CorpusMetric

CLASSES: dict[str, type] = {"Bleu": Bleu, "Chrf": Chrf}
_KEYS = ("name", "class", "options")


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Additive statistics of n examples, for both models: K counts for each example."""

    metric: CorpusMetric
    student: Int[np.ndarray, "n K"]
    teacher: Int[np.ndarray, "n K"]

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Statistics":
        """The statistics of some of the examples."""
        return dataclasses.replace(self, student=self.student[rows], teacher=self.teacher[rows])


def first_of(metric_fns: Sequence[Any]) -> CorpusMetric | None:
    """The first of a task's metrics that can be described, or None."""
    return next((fn for fn in metric_fns if type(fn) in CLASSES.values()), None)


def describe(metric: CorpusMetric) -> dict[str, Any]:
    """A metric as JSON values, from which `build` makes its equal."""
    name = type(metric).__name__
    return {"name": metric.name, "class": name, "options": dataclasses.asdict(metric)}


def build(description: Any) -> CorpusMetric:
    """The metric of a description; its options may be left out.

    Raises:
      ValueError: not a description, or a class, option or value that is not known.
    """
    if not isinstance(description, Mapping) or not {"name", "class"} <= set(description):
        raise ValueError(f"{description!r}; must be an object with {', '.join(_KEYS)}")
    name, options = description["class"], description.get("options", {})
    check_choice("class", name, CLASSES)
    known = [field.name for field in dataclasses.fields(CLASSES[name])]
    if not isinstance(options, Mapping):
        raise ValueError(f"options {options!r}; must be an object with {', '.join(known)}")
    for option in options:
        if option not in known:
            near = did_you_mean(option, known)
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known)}{near}")
    metric = CLASSES[name](**options)
    if description["name"] != metric.name:
        raise ValueError(f"name {description['name']!r}; that of {metric} is {metric.name!r}")
    return metric
