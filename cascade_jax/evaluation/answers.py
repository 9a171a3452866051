"""What a model answers to the examples of a split, written or ranked, and how good it is."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Float, Int

from cascade_jax.data import pipeline
from cascade_jax.evaluation import corpus, quality
from cascade_jax.evaluation.records_schema import GREEDY, RANK
from cascade_jax.inference import generate, rank
from cascade_jax.models import families
from cascade_jax.parallel import rules

DECODINGS = (GREEDY, RANK)
OPTIONS = "options"  # the feature with the texts of a row's possible answers


@dataclasses.dataclass(frozen=True)
class Questions:
    """What every model of a collection is asked.

    Attributes:
      examples: of all tasks.
      mixture: where they are from.
      data: their lengths, and how many are answered at once.
      mesh: the device mesh.
      decoding: GREEDY or RANK, by task.
    """

    examples: Sequence[pipeline.Example]
    mixture: pipeline.OpenMixture
    data: pipeline.DataConfig
    mesh: Mesh
    decoding: Mapping[str, str]

    def rows_of(self, task: str) -> list[int]:
        """Where the examples of a task stand."""
        return [row for row, example in enumerate(self.examples) if example.task == task]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one model answered to n examples; lists hold the end of sequence too."""

    tokens: list[Int[np.ndarray, " _"]]
    log_probs: list[Float[np.ndarray, " _"]]
    entropies: list[Float[np.ndarray, " _"]]
    texts: list[str]


@dataclasses.dataclass(frozen=True)
class Measured:
    """How good the answers of one model are."""

    metrics: list[str]  # name of the quality of each example
    quality: Float[np.ndarray, " n"]  # in [0, 1]
    statistics: list[Int[np.ndarray, " _"]]  # of the task's corpus metric; empty without
    figures: dict[str, dict[str, float]]  # by task and metric, over all its examples


def decoding_of(
    wanted: str, mixture: pipeline.OpenMixture, data: pipeline.DataConfig, split: str
) -> dict[str, str]:
    """How each task of a split is answered: RANK, if wanted, where its rows bring options."""
    found = dict.fromkeys(mixture.tasks_with(split), GREEDY)
    for task in found if wanted == RANK else ():
        first = next(iter(pipeline.decode_examples(data, task, split, limit=1)), None)
        if first is not None and OPTIONS in first.features:
            found[task] = RANK
    return found


# ------------------------------------------------------------------ answering


def answer(name: str, module: families.Model, params: Any, questions: Questions) -> Answers:
    """The answers of one model to all examples.

    Args:
      name: of the model, for the progress bar.
      module: unbound.
      params: its parameters, on the mesh.
      questions: examples and how to answer them.

    Raises:
      ValueError: options of a row that can not be told apart, or a row without any (which).
    """
    bar = tqdm.tqdm(total=len(questions.examples), desc=f"{name} answers", unit="example")
    found: dict[int, tuple] = {}
    ranked = [task for task, how in questions.decoding.items() if how == RANK]
    written = [row for row, example in enumerate(questions.examples) if example.task not in ranked]
    found |= dict(zip(written, _write(module, params, questions, written, bar), strict=True))
    for task in ranked:
        rows = questions.rows_of(task)
        found |= dict(zip(rows, _choose(module, params, questions, rows, bar), strict=True))
    bar.close()
    count = len(questions.examples)
    return Answers(*([found[row][column] for row in range(count)] for column in range(4)))


def _write(module, params, questions, rows, bar) -> Iterable[tuple]:
    """Greedy answers to some of the examples: (tokens, log-probs, entropies, text) of each."""
    mixture, data = questions.mixture, questions.data
    generate_fn = generate.make_generate_fn(module, data.target_length, mixture.eos_id)
    for group, made in _batches(lambda inputs, _: generate_fn(params, inputs), questions, rows):
        for row, length in enumerate(made.lengths[: len(group)]):
            tokens = made.tokens[row, :length]
            text = mixture.vocabulary.decode(tokens.tolist())
            yield tokens, made.log_probs[row, :length], made.entropies[row, :length], text
        bar.update(len(group))


def _choose(module, params, questions, rows, bar) -> Iterable[tuple]:
    """The likeliest option of some of the examples, as `_write` gives answers."""
    rank_fn = rank.make_rank_fn(module)
    found = [options_of(questions.examples[row], questions.mixture, questions.data) for row in rows]
    if not found:
        return
    most = _power_of_two(max(map(len, found)))
    longest = max(len(ids) for options in found for ids in options.values())
    longest = min(_power_of_two(longest), questions.data.target_length)
    by_row = dict(zip(rows, found, strict=True))
    sharding = rules.batch_sharding(questions.mesh)

    def run(inputs, group_rows):
        filled = group_rows + [group_rows[-1]] * (inputs.shape[0] - len(group_rows))
        ids = [list(by_row[row].values()) for row in filled]
        options = rank.option_batch(ids, longest, most)
        placed = jax.make_array_from_callback(options.shape, sharding, options.__getitem__)
        return rank_fn(params, inputs, placed)

    done = 0
    for group, made in _batches(run, questions, rows):
        for row in range(len(group)):
            best = made.best[row]
            text, ids = list(found[done + row].items())[best]
            log_probs, entropies = made.log_probs[row, best], made.entropies[row, best]
            yield np.array(ids, np.int32), log_probs[: len(ids)], entropies[: len(ids)], text
        done += len(group)
        bar.update(len(group))


def _batches(run: Callable, questions: Questions, rows: list[int]):
    """(examples, what `run` made of their inputs and rows), batch after batch."""
    examples = [questions.examples[row] for row in rows]
    sharding = rules.batch_sharding(questions.mesh)
    done = 0
    for group, inputs in pipeline.batch_inputs(examples, questions.data.batch_size, sharding):
        with jax.set_mesh(questions.mesh), nn.logical_axis_rules(rules.RULES):
            made = jax.device_get(run(inputs, rows[done : done + len(group)]))
        done += len(group)
        yield group, made


def _power_of_two(least: int) -> int:
    """Sizes in steps, so that tasks share compiled programs."""
    return 1 << max(least - 1, 0).bit_length()


def options_of(
    example: pipeline.Example, mixture: pipeline.OpenMixture, data: pipeline.DataConfig
) -> dict[str, tuple[int, ...]]:
    """Ids of an example's options by their text, each as a target: cut to length, EOS at its end.

    A text that comes twice is one option.

    Raises:
      ValueError: no options, or two texts with the same ids.
    """
    found: dict[str, tuple[int, ...]] = {}
    text_of: dict[tuple[int, ...], str] = {}
    for encoded in example.features[OPTIONS]:
        text = encoded.decode("utf-8")
        whole = mixture.vocabulary.encode(text)
        ids = (*whole[: data.target_length - 1], mixture.eos_id)
        other = text_of.setdefault(ids, text)
        if other != text:
            length = data.target_length
            reason = f"when cut to target_length {length}; they need {len(whole) + 1} tokens"
            if len(whole) < length:
                reason = "in this vocabulary"
            raise ValueError(
                f"example {example.example_id!r}: options {other!r} and {text!r} are the same ids "
                f"{reason}"
            )
        found[text] = ids
    if not found:
        raise ValueError(f"example {example.example_id!r} has no options to rank")
    return found


# ------------------------------------------------------------------ measuring


def check_installed(mixture: pipeline.OpenMixture, split: str) -> None:
    """Raises an ImportError, before anything is decoded, if a metric's extra is not installed."""
    for task in mixture.tasks_with(split).values():
        for metric_fn in task.metric_fns:
            getattr(metric_fn, "check_installed", lambda: None)()


def corpus_metrics(mixture: pipeline.OpenMixture, split: str) -> dict[str, corpus.CorpusMetric]:
    """By task, its first corpus metric with additive statistics; tasks without have none."""
    tasks = mixture.tasks_with(split).items()
    found = {name: corpus.first_of(task.metric_fns) for name, task in tasks}
    return {name: metric for name, metric in found.items() if metric is not None}


def measure(answers: Answers, questions: Questions) -> Measured:
    """Per-example quality, statistics and figures of the whole split, by each task's metrics.

    Raises:
      ValueError: a metric that refuses the answers, or is outside [0, 1] for one (which task).
    """
    mixture, examples = questions.mixture, questions.examples
    names, values = [""] * len(examples), np.zeros(len(examples))
    statistics = [np.zeros(0, np.int64)] * len(examples)
    figures = {}
    for task in sorted({example.task for example in examples}):
        rows = questions.rows_of(task)
        metric_fns = mixture.tasks[task].metric_fns
        predictions = [
            pipeline.answer_for_metric(mixture, examples[row], answers.texts[row]) for row in rows
        ]
        targets = [examples[row].target for row in rows]
        try:
            metric, found = quality.per_example_quality(metric_fns, targets, predictions)
            figures[task] = quality.split_figures(metric_fns, targets, predictions)
            additive = corpus.first_of(metric_fns)
            counts = [np.zeros(0, np.int64)] * len(rows)
            if additive is not None:
                counts = list(additive.statistics(targets, predictions))
        except ValueError as error:
            raise ValueError(f"task {task!r}: {error}") from error
        for row, value, of_row in zip(rows, found, counts, strict=True):
            names[row], values[row], statistics[row] = metric, value, of_row
    return Measured(names, values, statistics, figures)
