"""What one model answers to the examples of a split, written or ranked."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from jaxtyping import Float, Int

from cascade_jax.collection.questions import (
    Questions,
    filled,
    grouped,
    grouped_batches,
    input_length,
    options_of,
    progress_bar,
    to_global,
    with_rules,
)
from cascade_jax.inference import embed, engine, rank
from cascade_jax.inference.groups import Group
from cascade_jax.models import flops
from cascade_jax.parallel import hosts, rules
from cascade_jax.records.schema import RANK
from cascade_jax.runs.saved_model import LoadedModel

_OPTION_TOKENS = 256  # of a row's options, up to which a batch has its full size


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
    # Of the programs that it had a part in, shared with the other rows; see `engine.answers` for
    # written answers. Compiling is left out.
    seconds: Float[np.ndarray, " n"] | None = None
    top_log_probs: list[Float[np.ndarray, "_ K"]] | None = None
    top_ids: list[Int[np.ndarray, "_ K"]] | None = None
    embeddings: Float[np.ndarray, "n D"] | None = None


def answer(
    model: LoadedModel,
    questions: Questions,
    top_k: int = 0,
    embeddings: bool = False,
    counts: engine.TokenCounts | None = None,
) -> Answers:
    """The answers of one model to all examples.

    Args:
      model: what answers.
      questions: examples and how to answer them.
      top_k: the number of largest log-probs to keep at each token.
      embeddings: whether to add each input's mean-pooled hidden state.
      counts: tokens computed and needed are added to these, which are then printed.

    Raises:
      ValueError: options of a row with the same ids, or a row without options; names the example.
    """
    examples = questions.examples
    names = ["tokens", "log_probs", "entropies", "texts", "flops", "seconds"]
    names += ["top_log_probs", "top_ids"] if top_k else []
    columns: dict[str, list] = {name: [None] * len(examples) for name in names}
    is_ranked = [questions.decoding.get(example.task) == RANK for example in examples]
    ranked, written = np.flatnonzero(is_ranked), np.flatnonzero(np.logical_not(is_ranked))
    counts = engine.TokenCounts() if counts is None else counts
    with progress_bar(f"{model.name} answers", len(examples)) as bar:
        parts = (
            _written(model, questions, written.tolist(), top_k, bar, counts),
            _ranked(model, questions, ranked.tolist(), top_k, bar, counts),
        )
        for row, values in itertools.chain(*parts):
            for name in names:
                columns[name][row] = values[name]
    if examples:
        hosts.print_once(f"{model.name} answers: {counts.text}")
    for name in ("flops", "seconds"):
        columns[name] = np.array(columns[name], np.float64)
    return Answers(
        **columns,
        pieces=[list(map(questions.piece_of, tokens.tolist())) for tokens in columns["tokens"]],
        input_tokens=np.array([input_length(example) for example in examples], np.int32),
        embeddings=_embed(model, questions) if embeddings else None,
    )


def _written(
    model: LoadedModel,
    questions: Questions,
    rows: list[int],
    top_k: int,
    bar: tqdm.tqdm,
    counts: engine.TokenCounts,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Greedy answers to some of the examples: each one's row and values of the columns."""
    mixture, most = questions.mixture, questions.data.target_length
    settings = engine.Settings(
        model.module, most, mixture.eos_id, top_k, questions.mesh, model.rules
    )
    examples = [questions.examples[row] for row in rows]
    inputs = [example.inputs[: input_length(example)] for example in examples]
    for place, made, seconds in engine.answers(
        settings, model.params, inputs, questions.data.batch_size, counts, questions.before_batch
    ):
        length = int(made.lengths)
        values = {name: getattr(made, name)[:length] for name in ("tokens", *_per_token(top_k))}
        values["texts"] = mixture.vocabulary.decode(values["tokens"].tolist())
        values["flops"] = flops.answer_flops(model.module.config, len(inputs[place]), length)
        yield rows[place], values | {"seconds": seconds}
        bar.update(1)


def _per_token(top_k: int) -> list[str]:
    return ["log_probs", "entropies", *(("top_log_probs", "top_ids") if top_k else ())]


def _ranked(
    model: LoadedModel,
    questions: Questions,
    rows: list[int],
    top_k: int,
    bar: tqdm.tqdm,
    counts: engine.TokenCounts,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The likeliest option of some of the examples, in the form of `_written`."""
    options = {
        row: options_of(questions.examples[row], questions.mixture, questions.data) for row in rows
    }
    widths = [sum(map(len, options[row].values())) for row in rows]
    shards = rules.batch_shards(questions.mesh, model.rules)

    def size_of(shape: tuple[int, ...]) -> int:
        """Fewer rows where each has many options, so that all of them take no more memory."""
        parts = -(-shape[1] // _OPTION_TOKENS)
        return max(questions.data.batch_size // shards // parts, 1) * shards

    def arguments(inputs: jax.Array, group: Group) -> tuple[Any, ...]:
        ids = [list(options[row].values()) for row in filled(group)]
        return model.params, inputs, to_global(rank.pack_options(ids, group.shape[1]), questions)

    fn = with_rules(rank.make_rank_fn(model.module, top_k=top_k), model.rules)
    groups, starts = grouped(questions, rows, widths, size_of=size_of), model.module.start_places
    counts.options_useful += sum(widths)
    for group, made, seconds in grouped_batches(fn, arguments, questions, groups, bar):
        counts.prefill_computed += group.size * (group.shape[0] + starts)
        counts.options_computed += group.size * group.shape[1]
        for index, row in enumerate(group.rows):
            best = made.best[index]
            text, ids = list(options[row].items())[best]
            lengths = list(map(len, options[row].values()))
            values = {"tokens": np.array(ids, np.int32), "texts": text, "seconds": seconds}
            size = input_length(questions.examples[row])
            counts.prefill_useful += size + starts
            values["flops"] = flops.ranking_flops(model.module.config, size, lengths)
            first = sum(lengths[:best])
            for name in _per_token(top_k):
                values[name] = getattr(made, name)[index, first : first + len(ids)]
            yield row, values


def _embed(model: LoadedModel, questions: Questions) -> Float[np.ndarray, "n D"]:
    fn = with_rules(embed.make_embed_fn(model.module), model.rules)
    count = len(questions.examples)
    embeddings = np.zeros((count, model.module.config.embed_dim), np.float32)
    groups = grouped(questions, range(count))
    for group, means, _ in grouped_batches(
        fn, lambda inputs, _: (model.params, inputs), questions, groups
    ):
        embeddings[group.rows] = means[: len(group.rows)]
    return embeddings
