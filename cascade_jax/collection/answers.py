"""What a model answers to the examples of a split, written or ranked, and how good it is."""

import dataclasses
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Float, Int

from cascade_jax.data import pipeline
from cascade_jax.data.browse import rows as row_view
from cascade_jax.inference import embed, generate, rank
from cascade_jax.models import families, flops
from cascade_jax.parallel import hosts, rules
from cascade_jax.parallel.compiling import compile_together
from cascade_jax.records.schema import GREEDY, RANK, TEACHER_FORCED
from cascade_jax.task_metrics import corpus, quality

DECODINGS = (GREEDY, RANK, TEACHER_FORCED)
OPTIONS = "options"  # the feature with the texts of a row's possible answers


@dataclasses.dataclass(frozen=True)
class Questions:
    """What every model of a collection is asked.

    Attributes:
      examples: of all tasks.
      mixture: where they are from.
      data: their lengths, and how many are answered at once.
      mesh: the device mesh.
      decoding: how each task is answered.
      before_batch: called before each batch, with whether it is a program's first one, which may be
        compiled for it; may end the collection.
    """

    examples: Sequence[pipeline.Example]
    mixture: pipeline.OpenMixture
    data: pipeline.DataConfig
    mesh: Mesh
    decoding: Mapping[str, str]
    before_batch: Callable[[bool], None] = lambda is_first: None

    def rows_of(self, task: str) -> list[int]:
        """Where the examples of a task stand."""
        return [row for row, example in enumerate(self.examples) if example.task == task]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one model answered to n examples; lists hold the end of sequence too.

    What is None was not asked for.
    """

    tokens: list[Int[np.ndarray, " _"]]
    log_probs: list[Float[np.ndarray, " _"]]
    entropies: list[Float[np.ndarray, " _"]]
    texts: list[str]
    pieces: list[list[str]] | None = None  # text of each token
    input_tokens: Int[np.ndarray, " n"] | None = None
    flops: Float[np.ndarray, " n"] | None = None  # of the whole answer
    seconds: Float[np.ndarray, " n"] | None = None  # of decoding its batch, over the batch's rows
    top_log_probs: list[Float[np.ndarray, "_ K"]] | None = None
    top_ids: list[Int[np.ndarray, "_ K"]] | None = None
    embeddings: Float[np.ndarray, "n D"] | None = None


@dataclasses.dataclass(frozen=True)
class _Answer:
    """One of them."""

    tokens: Int[np.ndarray, " L"]
    log_probs: Float[np.ndarray, " L"]
    entropies: Float[np.ndarray, " L"]
    text: str
    flops: int
    seconds: float
    top_log_probs: Float[np.ndarray, "L K"] | None
    top_ids: Int[np.ndarray, "L K"] | None


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
    """How each task of a split is answered: by RANK only where its rows bring options."""
    by_default = wanted if wanted == TEACHER_FORCED else GREEDY
    found = dict.fromkeys(mixture.tasks_with(split), by_default)
    for task in found if wanted == RANK else ():
        first = next(iter(pipeline.decode_examples(data, task, split, limit=1)), None)
        if first is not None and OPTIONS in first.features:
            found[task] = RANK
    return found


# ------------------------------------------------------------------ answering


def answer(
    name: str,
    module: families.Model,
    params: Any,
    questions: Questions,
    top_k: int = 0,
    embeddings: bool = False,
) -> Answers:
    """The answers of one model to all examples.

    Args:
      name: of the model, for the progress bar.
      module: unbound.
      params: its parameters, on the mesh.
      questions: examples and how to answer them.
      top_k: so many of the largest log-probs at each token.
      embeddings: whether each input's mean-pooled hidden state is wanted.

    Raises:
      ValueError: options of a row that can not be told apart, or a row without any (which).
    """
    model, examples = _Model(module, params, top_k), questions.examples
    found: dict[int, _Answer] = {}
    ranked = [task for task, how in questions.decoding.items() if how == RANK]
    written = [row for row, example in enumerate(examples) if example.task not in ranked]
    with progress_bar(name, len(examples)) as bar:
        found |= dict(zip(written, _write(model, questions, written, bar), strict=True))
        for task in ranked:
            rows = questions.rows_of(task)
            found |= dict(zip(rows, _choose(model, questions, rows, bar), strict=True))
    rows = [found[row] for row in range(len(examples))]
    spell = functools.cache(functools.partial(piece_of, questions.mixture.vocabulary))
    return Answers(
        tokens=[row.tokens for row in rows],
        log_probs=[row.log_probs for row in rows],
        entropies=[row.entropies for row in rows],
        texts=[row.text for row in rows],
        pieces=[[spell(token) for token in row.tokens.tolist()] for row in rows],
        input_tokens=np.array([input_length(example) for example in examples], np.int32),
        flops=np.array([row.flops for row in rows], np.float64),
        seconds=np.array([row.seconds for row in rows], np.float64),
        top_log_probs=[row.top_log_probs for row in rows] if top_k else None,
        top_ids=[row.top_ids for row in rows] if top_k else None,
        embeddings=_embed(model, questions) if embeddings else None,
    )


def progress_bar(name: str, count: int) -> tqdm.tqdm:
    """Of the examples that a model answers; on many hosts the first one draws it."""
    is_drawn = hosts.is_first()
    return tqdm.tqdm(total=count, desc=f"{name} answers", unit="example", disable=not is_drawn)


@dataclasses.dataclass(frozen=True)
class _Model:
    """What answers."""

    module: families.Model
    params: Any
    top_k: int


def piece_of(vocabulary: Any, token_id: int) -> str:
    """Text of a token; a model may have more ids than its vocabulary, and choose one of those."""
    is_there = token_id < vocabulary.vocab_size
    return row_view.piece_of(vocabulary, token_id) if is_there else f"<{token_id}>"


def input_length(example: pipeline.Example) -> int:
    """Tokens of its input."""
    return int(np.count_nonzero(example.inputs))


def _write(model: _Model, questions: Questions, rows: list[int], bar) -> Iterable[_Answer]:
    """Greedy answers to some of the examples."""
    mixture, length = questions.mixture, questions.data.target_length
    fn = generate.make_generate_fn(model.module, length, mixture.eos_id, model.top_k)
    made_of = batches(fn, lambda inputs, _: (model.params, inputs), questions, rows)
    for group, made, seconds in made_of:
        for row, (example, length) in enumerate(zip(group, made.lengths.tolist(), strict=False)):
            tokens = made.tokens[row, :length]
            yield _Answer(
                tokens,
                made.log_probs[row, :length],
                made.entropies[row, :length],
                mixture.vocabulary.decode(tokens.tolist()),
                flops.answer_flops(model.module.config, input_length(example), length),
                seconds,
                *_top_of(made, row, length),
            )
        bar.update(len(group))


def _choose(model: _Model, questions: Questions, rows: list[int], bar) -> Iterable[_Answer]:
    """The likeliest option of some of the examples."""
    found = [options_of(questions.examples[row], questions.mixture, questions.data) for row in rows]
    if not found:
        return
    most = _power_of_two(max(map(len, found)))
    longest = max(len(ids) for options in found for ids in options.values())
    longest = min(_power_of_two(longest), questions.data.target_length)
    by_row = dict(zip(rows, found, strict=True))
    sharding = rules.batch_sharding(questions.mesh)

    def arguments(inputs, group_rows):
        filled = group_rows + [group_rows[-1]] * (inputs.shape[0] - len(group_rows))
        ids = [list(by_row[row].values()) for row in filled]
        options = rank.option_batch(ids, longest, most)
        placed = jax.make_array_from_callback(options.shape, sharding, options.__getitem__)
        return model.params, inputs, placed

    done, fn = 0, rank.make_rank_fn(model.module, top_k=model.top_k)
    for group, made, seconds in batches(fn, arguments, questions, rows):
        for row, example in enumerate(group):
            best, options = made.best[row], found[done + row]
            text, ids = list(options.items())[best]
            lengths = [len(ids) for ids in options.values()]
            yield _Answer(
                np.array(ids, np.int32),
                made.log_probs[row, best, : len(ids)],
                made.entropies[row, best, : len(ids)],
                text,
                flops.ranking_flops(model.module.config, input_length(example), lengths),
                seconds,
                *_top_of(made, row, len(ids)),
            )
        done += len(group)
        bar.update(len(group))


def _top_of(made: generate.Generation | rank.Ranking, row: int, length: int) -> tuple:
    if made.top_ids is None:
        return None, None
    return made.top_log_probs[row, :length], made.top_ids[row, :length]


def _embed(model: _Model, questions: Questions) -> Float[np.ndarray, "n D"]:
    fn, rows = embed.make_embed_fn(model.module), list(range(len(questions.examples)))
    made_of = batches(fn, lambda inputs, _: (model.params, inputs), questions, rows)
    found = [made[: len(group)] for group, made, _ in made_of]
    width = model.module.config.embed_dim
    return np.concatenate([np.zeros((0, width), np.float32), *found])


def batches(fn: Callable, arguments: Callable, questions: Questions, rows: list[int]):
    """Batch after batch: its examples, what `fn` makes of them, and seconds for each of its rows.

    Args:
      fn: jitted.
      arguments: `(inputs, rows)` -> the arguments of `fn`, which have the same shapes every time.
    """
    examples = [questions.examples[row] for row in rows]
    sharding = rules.batch_sharding(questions.mesh)
    done, program = 0, None
    for group, inputs in pipeline.batch_inputs(examples, questions.data.batch_size, sharding):
        questions.before_batch(program is None)
        with jax.set_mesh(questions.mesh), nn.logical_axis_rules(rules.RULES):
            given = arguments(inputs, rows[done : done + len(group)])
            program = program or _program(fn, given)
            start = time.perf_counter()
            made = hosts.to_host(program(*given))
            # Rows that only fill the batch up take their part of the time too.
            seconds = (time.perf_counter() - start) / len(inputs)
        done += len(group)
        yield group, made, seconds


# Compiled programs by jitted function, and then by what they take.
_programs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _program(fn: Callable, arguments: tuple) -> Callable:
    """`fn` compiled for such arguments, once: a call that compiles would count as decoding time."""
    leaves, tree = jax.tree.flatten(arguments)
    kind = tree, tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
    of_fn = _programs.setdefault(fn, {})
    if kind not in of_fn:
        of_fn[kind] = compile_together(fn, *arguments)
    return of_fn[kind]


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


def measure(answers: Any, questions: Questions) -> Measured:
    """Per-example quality, statistics and figures of the whole split, by each task's metrics.

    Args:
      answers: `Answers`, or anything else with their `texts`.
      questions: what was answered.

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
