"""Answers that both models of a cascade wrote together, and how good they are."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import tqdm
from jaxtyping import Bool, Float, Int

from cascade_jax.collection.answers import Questions, input_length
from cascade_jax.data import pipeline
from cascade_jax.inference.cascade import costs
from cascade_jax.inference.cascade import decode as cascade_decode
from cascade_jax.models import families
from cascade_jax.parallel import hosts, rules
from cascade_jax.parallel.compiling import compile_together
from cascade_jax.task_metrics import overlap, quality

CHRF, TASK = "chrf", "task"
METRICS = (*overlap.ROUGE_VARIANTS, CHRF, TASK)


@dataclasses.dataclass(frozen=True, eq=False)
class LiveAnswers:
    """Answers to n examples; after the end of each all columns are 0.

    Attributes:
      tokens: ids, the end of sequence included.
      lengths: number of tokens.
      is_deferred: True where the large model wrote the token.
      uncertainties: of the small model at each token.
      flops: spent on each answer by both models, for what it needed of them.
      texts: the answers.
    """

    tokens: Int[np.ndarray, "n L"]
    lengths: Int[np.ndarray, " n"]
    is_deferred: Bool[np.ndarray, "n L"]
    uncertainties: Float[np.ndarray, "n L"]
    flops: Float[np.ndarray, " n"]
    texts: list[str]


def joined(batches: Iterable[LiveAnswers]) -> LiveAnswers:
    """One after the other."""
    batches = list(batches)
    columns = {field.name: [] for field in dataclasses.fields(LiveAnswers)}
    for name, each in columns.items():
        for batch in batches:
            each.append(getattr(batch, name))
    texts = [text for of_batch in columns.pop("texts") for text in of_batch]
    return LiveAnswers(**{n: np.concatenate(each) for n, each in columns.items()}, texts=texts)


def decode(
    models: tuple[families.ModelConfig, families.ModelConfig],
    params: tuple[Any, Any],
    questions: Questions,
    uncertainty: str,
    thresholds: Sequence[float] | Float[np.ndarray, "n K"],
    label: str = "",
    is_kept: bool = False,
) -> Iterator[LiveAnswers]:
    """Lets a cascade answer all examples, a batch at a time; on many hosts all have the answers.

    Args:
      models: of the student and the teacher.
      params: theirs, on the mesh.
      questions: examples, vocabulary, lengths and mesh.
      uncertainty: see `cascade_decode.make_cascade_decode_fn`.
      thresholds: one, or one for each block of positions; or such a row for each example.
      label: beside the progress bar.
      is_kept: whether the bar stays when it is full.

    Raises:
      ValueError: an uncertainty is NaN or infinite (of which example).
    """
    data = questions.data
    fn = cascade_decode.make_cascade_decode_fn(
        *map(families.build, models),
        data.target_length,
        questions.mixture.eos_id,
        uncertainty=uncertainty,
        is_packed=questions.mesh.size == 1,
    )
    sharding = rules.batch_sharding(questions.mesh)
    count, done = len(questions.examples), 0
    thresholds = np.asarray(thresholds, np.float32)
    own = np.broadcast_to(thresholds, (count, thresholds.shape[-1]))
    drawn = {"desc": label, "leave": is_kept, "disable": not hosts.is_first()}
    with tqdm.tqdm(total=count, unit="example", **drawn) as bar:
        for group, inputs in pipeline.batch_inputs(questions.examples, data.batch_size, sharding):
            questions.before_batch(done == 0)
            # Rows that only fill the batch up never defer.
            limits = np.full((len(inputs), own.shape[1]), np.inf, np.float32)
            limits[: len(group)] = own[done : done + len(group)]
            with jax.set_mesh(questions.mesh), nn.logical_axis_rules(rules.RULES):
                if done == 0:
                    compile_together(fn, *params, inputs, limits)
                made = hosts.to_host(fn(*params, inputs, limits))
            yield _answers(made, group, models, questions)
            done += len(group)
            bar.update(len(group))


def _answers(
    made: cascade_decode.CascadeGeneration,
    group: Sequence[pipeline.Example],
    models: tuple[families.ModelConfig, families.ModelConfig],
    questions: Questions,
) -> LiveAnswers:
    """Of a batch, whose first rows are the examples."""
    mixture, count = questions.mixture, len(group)
    lengths = [input_length(example) for example in group]
    lengths += lengths[-1:] * (len(made.lengths) - count)
    spent = costs.cascade_flops(made, *models, lengths)
    counted = np.arange(made.tokens.shape[1]) < made.lengths[:count, None]
    uncertainties = np.where(counted, made.uncertainties[:count], 0.0)
    _check_numbers(group, uncertainties)
    rows = zip(made.tokens, made.lengths[:count], strict=False)
    return LiveAnswers(
        tokens=made.tokens[:count],
        lengths=made.lengths[:count],
        is_deferred=made.is_deferred[:count].astype(bool) & counted,
        uncertainties=uncertainties,
        flops=(spent.student + spent.teacher)[:count].astype(np.float64),
        texts=[mixture.vocabulary.decode(row[:length].tolist()) for row, length in rows],
    )


def _check_numbers(
    examples: Sequence[pipeline.Example], uncertainties: Float[np.ndarray, "n L"]
) -> None:
    bad = np.flatnonzero(~np.isfinite(uncertainties).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the small model's uncertainty is not a number in the answer to example "
            f"{examples[bad[0]].example_id!r}; are its parameters finite?"
        )


def check_installed(metrics: Sequence[str]) -> None:
    """Raises an ImportError, before anything is decoded, if a metric's package is missing."""
    if CHRF in metrics:
        quality.sacrebleu_chrf()
    if set(metrics) & set(overlap.ROUGE_VARIANTS):
        import rouge_score  # noqa: F401


def qualities(
    metrics: Sequence[str], questions: Questions, texts: Sequence[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Every metric of every answer, in [0, 1].

    Args:
      metrics: of METRICS.
      questions: what was answered.
      texts: the answers.

    Raises:
      ValueError: a metric that refuses an answer, or is outside [0, 1] for one (which task).
    """
    examples, mixture = questions.examples, questions.mixture
    answered = [
        pipeline.answer_for_metric(mixture, example, text)
        for example, text in zip(examples, texts, strict=True)
    ]
    found = {name: np.zeros(len(examples)) for name in metrics}
    variants = tuple(name for name in metrics if name in overlap.ROUGE_VARIANTS)
    rouge = overlap.Rouge(variants) if variants else None
    for row, (example, answer) in enumerate(zip(examples, answered, strict=True)):
        values = dict(rouge([example.target], [answer])) if rouge else {}
        if CHRF in found:
            values |= quality.chrf([example.target], [answer])
        for name, value in values.items():
            found[name][row] = value
    if TASK in found:
        for task in sorted({example.task for example in examples}):
            rows = questions.rows_of(task)
            fns, targets = mixture.tasks[task].metric_fns, [examples[row].target for row in rows]
            try:
                _, values = quality.per_example_quality(fns, targets, [answered[r] for r in rows])
            except ValueError as error:
                raise ValueError(f"task {task!r}: {error}") from error
            found[TASK][rows] = values
    if any(not math.isfinite(values.sum()) for values in found.values()):
        raise ValueError(f"a metric of {list(metrics)} is not a number for an answer")
    return found
