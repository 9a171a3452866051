"""What one model answers to the examples of a split, written or ranked."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float, Int

from cascade_jax.collection.questions import (
    Questions,
    calls,
    grouped,
    grouped_batches,
    input_length,
    options_of,
    progress_bar,
    to_global,
    with_rules,
)
from cascade_jax.inference import embed, engine, rank, rank_packing
from cascade_jax.models import flops
from cascade_jax.parallel import hosts, rules
from cascade_jax.records.schema import RANK
from cascade_jax.runs.saved_model import LoadedModel


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
    counts: engine.ComputedTokens | None = None,
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
    counts = engine.ComputedTokens() if counts is None else counts
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
    counts: engine.ComputedTokens,
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
        names = "tokens", *_per_token(top_k)
        # Copies: what is cut out of an array keeps all of it, here the answers of all slots.
        values = {name: getattr(made, name)[:length].copy() for name in names}
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
    counts: engine.ComputedTokens,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The likeliest option of some of the examples, in the form of `_written`."""
    examples = [questions.examples[row] for row in rows]
    by_text = [options_of(example, questions.mixture, questions.data) for example in examples]
    options = [list(texts.values()) for texts in by_text]
    inputs = [example.inputs[: input_length(example)] for example in examples]
    starts = model.module.start_places
    sizes = [len(ids) + starts for ids in inputs], [sum(map(len, each)) for each in options]
    counts.prefill_useful += sum(sizes[0])
    counts.options_useful += sum(sizes[1])
    shards = rules.batch_shards(questions.mesh, model.rules)
    passes = rank_packing.plan(*sizes, questions.data.batch_size, shards)
    fn = with_rules(rank.make_rank_fn(model.module, top_k=top_k), model.rules)

    def arguments(each: rank_packing.Pass) -> tuple[Any, ...]:
        packed = rank.pack(inputs, options, each, starts)
        return model.params, *to_global(packed, questions)

    for each, made, seconds in calls(fn, arguments, questions, passes):
        counts.prefill_computed += each.size * each.inputs
        counts.options_computed += each.size * each.options
        for index, place, firsts in rank.option_places(options, each):
            best = int(np.argmax(made.scores[place, firsts]))
            text, ids = list(by_text[index].items())[best]
            values = {"tokens": np.array(ids, np.int32), "texts": text}
            values["seconds"] = seconds / sum(map(len, each.rows))
            lengths = list(map(len, options[index]))
            size = len(inputs[index])
            values["flops"] = flops.ranking_flops(model.module.config, size, lengths)
            for name in _per_token(top_k):
                values[name] = getattr(made, name)[place, firsts[best] :][: len(ids)].copy()
            yield rows[index], values
            bar.update(1)


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
