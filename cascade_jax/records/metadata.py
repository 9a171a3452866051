"""The metadata of a records file, and every check on them.

The Parquet file's metadata hold, under the key "cascade_jax", a JSON object: schema_version, name
(the first model's label in tables and plots), mixture, split, models (names in order of cost),
top_k where there is a column of top log-probs, policy (the certificate of a live cascade),
state_layers (the layers, from 0, after which the first model's hidden states were taken), and by
custom <model>_parameters and <model>_checkpoint; other keys are kept. Three more keys are objects
by task:

| key | what it holds for a task |
|---|---|
| corpus_metrics | the metric that the statistics are of, see `corpus.build` |
| figures | by metric, its value over the whole split: ``{"student": 0.31, "teacher": 0.40}`` |
| decoding | how answers were made, e.g. ``"greedy"`` (docs/collect.md; a text: all tasks) |
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cascade_jax.checks import shown
from cascade_jax.records.schema import (
    CORPUS_METRICS,
    DECODING,
    EXAMPLE,
    FIGURES,
    LIVE,
    MODELS,
    PAIR,
    POLICY,
    REQUIRED_METADATA,
    SCHEMA_VERSION,
    STATE_LAYERS,
    TOP_K,
    RecordsError,
    fields,
)
from cascade_jax.task_metrics import corpus


def upgraded(metadata: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Metadata of this schema version, checked; of those of version 1, PAIR are the models.

    Raises:
      RecordsError: another version, a required text that is missing, an optional key with a value
        that is not allowed.
    """
    version = metadata.get("schema_version", SCHEMA_VERSION)
    if version not in (1, SCHEMA_VERSION):
        raise RecordsError(
            f"{source}: records schema version {shown(version)}, this program reads versions 1 and "
            f"{SCHEMA_VERSION}; collect the records again"
        )
    models = PAIR if version == 1 else metadata.get(MODELS, PAIR)
    check_models(models, source)
    metadata = {**metadata, "schema_version": SCHEMA_VERSION, MODELS: list(models)}

    def check(key: str, value: Any, is_right: bool, allowed: str) -> None:
        if not is_right:
            text = f"metadata under {key!r} must be {allowed}, got {shown(value)}"
            raise RecordsError(f"{source}: {text}")

    for key in REQUIRED_METADATA:
        value = metadata.get(key)
        check(key, value, isinstance(value, str) and bool(value), "a text")
    corpus_metrics(metadata, source)
    decoding, policy = metadata.get(DECODING, ""), metadata.get(POLICY, {})
    check(DECODING, decoding, isinstance(decoding, str | Mapping), "a text, or texts by task")
    check(POLICY, policy, isinstance(policy, Mapping), "a certificate, an object")
    _check_figures(metadata.get(FIGURES, {}), models, source)
    top_k = metadata.get(TOP_K, 0)
    check(TOP_K, top_k, type(top_k) is int and top_k >= 0, "a whole number, 0 for none")
    layers = metadata.get(STATE_LAYERS, [0])
    is_list = isinstance(layers, list | tuple) and all(type(n) is int and n >= 0 for n in layers)
    rises = is_list and len(layers) > 0 and sorted(set(layers)) == list(layers)
    check(STATE_LAYERS, layers, rises, "a rising list of layers, counted from 0")
    return metadata


def check_models(models: Any, source: str) -> None:
    """Refuses what is no list of names in order of cost, or makes two columns one."""
    names = list(models) if isinstance(models, list | tuple) else []
    is_right = len(names) > 1 and len(set(map(str, names))) == len(names)
    for name in names:
        is_right &= isinstance(name, str) and bool(re.fullmatch("[a-z][a-z0-9_]*", name))
    if not is_right or {EXAMPLE, LIVE} & set(names):
        raise RecordsError(
            f"{source}: {MODELS} is {shown(models)}; must be two or more different names of "
            f"lower-case letters, digits and underscores in order of cost, and none {LIVE!r} or "
            f"{EXAMPLE!r}"
        )
    fields(names)


def corpus_metrics(metadata: Mapping[str, Any], source: str) -> dict[str, corpus.CorpusMetric]:
    """By task, the metric that its statistics are of.

    Raises:
      RecordsError: one that can not be built; the message says what is known.
    """
    described = metadata.get(CORPUS_METRICS, {})
    if not isinstance(described, Mapping):
        text = f"{CORPUS_METRICS} must be metrics by task, got {shown(described)}"
        raise RecordsError(f"{source}: {text}")
    built = {}
    for task, description in described.items():
        try:
            built[task] = corpus.build(description)
        except ValueError as error:
            raise RecordsError(f"{source}: {CORPUS_METRICS} of task {task!r}: {error}") from None
    return built


def _check_figures(figures: Any, models: Iterable[str], source: str) -> None:
    """By task and metric, a number (or None: undefined) for each model."""

    def is_right(by_model: Any) -> bool:
        return (
            isinstance(by_model, Mapping)
            and set(by_model) == set(models)
            and all(value is None or type(value) in (int, float) for value in by_model.values())
        )

    tasks = figures.items() if isinstance(figures, Mapping) else [("", figures)]
    for task, by_metric in tasks:
        values = by_metric.values() if isinstance(by_metric, Mapping) else [None]
        if not all(map(is_right, values)):
            example = {"bleu": dict(zip(models, (0.31, 0.4, 0.5), strict=False))}
            raise RecordsError(
                f"{source}: {FIGURES} of task {task!r} must be numbers of all models by metric, "
                f"such as {example}, got {shown(by_metric)}"
            )
