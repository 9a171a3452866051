"""Language modelling: C4 as span corruption and as prefix-LM, and a small text to try both on.

The paper pretrains T5-base and T5-large on C4 and plots next-token accuracy under teacher forcing,
which `cascade-jax collect` gives with DECODING = "teacher_forced". It names neither the objective
nor the version: span corruption is T5's. `cascade_wikitext2_*` are the same objectives on
WikiText-2, which only a data folder has.

Span corruption needs a vocabulary with sentinel ids: "byte+100", as the tasks are registered, or
"path/to.model+100". There are no texts beside the ids, since a chunk is no text of its own.
"""

from collections.abc import Callable

import seqio

from cascade_jax.data import catalog, features
from cascade_jax.data.sources import TfdsOrJsonlSource
from cascade_jax.data.vocabulary import load
from cascade_jax.task_metrics import quality
from tasks import denoising

OBJECTIVES = {"span_corruption": denoising.span_corruption, "prefix_lm": denoising.prefix_lm}
VOCABULARY = "byte+100"


def _source(tfds_name: str, is_in_tfds: bool = True) -> TfdsOrJsonlSource:
    splits = {"train": "train", "validation": "validation"}
    return TfdsOrJsonlSource(
        tfds_name,
        {"text": str},
        splits,
        is_in_tfds=is_in_tfds,
        blank_texts=False,
        training_flag=True,
    )


def _add(suite: str, source: seqio.DataSource, objective: str, step: Callable) -> str:
    """Registers a task of ids; `registration.add_task` would tokenise what is tokenised already."""
    name = f"cascade_{suite}_{objective}_v1"
    catalog.add_card(name, catalog.TaskCard(suite, "language_modeling"))
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=[step],
            output_features=features.output_features(load.load_vocabulary(VOCABULARY)),
            metric_fns=[quality.accuracy],
        )
    return name


_SOURCES = {
    "c4": _source("c4/en:3.1.0"),
    "wikitext2": _source("wikitext/wikitext-2-raw-v1", is_in_tfds=False),
}

TASKS = tuple(
    _add(suite, source, objective, step)
    for suite, source in _SOURCES.items()
    for objective, step in OBJECTIVES.items()
)
