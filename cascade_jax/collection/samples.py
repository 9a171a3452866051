"""Answers that a model draws at random, several to each example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import checks
from cascade_jax.collection.questions import Questions, input_length, progress_bar
from cascade_jax.inference import engine, sample
from cascade_jax.inference.sample import Distribution
from cascade_jax.models import flops
from cascade_jax.names import check_choice
from cascade_jax.parallel import hosts
from cascade_jax.records import schema
from cascade_jax.runs.saved_model import LoadedModel


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How many answers are drawn, from what, and by which models.

    Attributes:
      count: answers to each example; 0 for none.
      temperature, top_p, top_k: what tokens are drawn from, see `sample.Distribution`.
      seed: of the random numbers.
      models: which of schema.PAIR.
    """

    count: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    models: Sequence[str] = schema.PAIR[:1]

    def __post_init__(self):
        checks.whole_number("count", self.count, 0)
        checks.whole_number("seed", self.seed, 0)
        _ = self.distribution  # which makes its own checks
        is_list = isinstance(self.models, list | tuple) and bool(self.models)
        checks.require(is_list, "models", self.models, f"one or more of {', '.join(schema.PAIR)}")
        for name in self.models:
            check_choice("models", name, schema.PAIR)

    @property
    def distribution(self) -> Distribution:
        """What tokens are drawn from."""
        return Distribution(self.temperature, self.top_p, self.top_k)

    def are_drawn_by(self, role: str) -> bool:
        """Whether a model of schema.PAIR is asked for samples."""
        return self.count > 0 and role in self.models

    @property
    def metadata(self) -> dict[str, Any]:
        """What a table says of samples, by model: all that its columns of them depend on."""
        settings = {"count": self.count, **dataclasses.asdict(self.distribution), "seed": self.seed}
        return {f"{role}_samples": settings for role in schema.PAIR if self.are_drawn_by(role)}

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuses more likeliest tokens than there are tokens."""
        allowed = f"from 0 (all) to {vocab_size}, the vocabulary"
        checks.require(self.top_k <= vocab_size, "top_k of samples", self.top_k, allowed)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Columns of the records table: answers drawn to n examples, ends of sequence included."""

    sample_answers: list[list[str]]
    sample_tokens: list[list[Int[np.ndarray, " _"]]]
    sample_log_probs: list[list[Float[np.ndarray, " _"]]]
    sample_drawn_log_probs: list[list[Float[np.ndarray, " _"]]]
    sample_flops: Float[np.ndarray, " n"]


def draw(model: LoadedModel, questions: Questions, config: SampleConfig) -> Samples:
    """Answers of one model to all examples, token by token however a task is answered else.

    An answer is cut at the target length, as a greedy one is; how many are is printed. One that is
    an end of sequence alone is the empty text, and counts.

    Args:
      model, questions: what answers, and the examples.
      config: the settings; at least one sample.
    """
    most, eos_id = questions.data.target_length, questions.mixture.eos_id
    examples, counts = questions.examples, engine.ComputedTokens()
    inputs = [example.inputs[: input_length(example)] for example in examples]
    keys = sample.answer_keys(
        config.seed, [example.example_id for example in examples], config.count
    )
    settings = engine.Settings(
        model.module, most, eos_id, 0, questions.mesh, model.rules, config.distribution
    )
    made = {
        name: [[None] * config.count for _ in examples] for name in ("answers", *_COLUMNS.values())
    }
    cut, total = 0, len(examples) * config.count
    with progress_bar(f"{model.name} samples", total, unit="sample") as bar:
        for row, number, answer, _ in engine.samples(
            settings,
            model.params,
            inputs,
            keys,
            questions.data.batch_size,
            counts,
            questions.before_batch,
        ):
            length = int(answer.lengths)
            for name in _COLUMNS.values():  # copies: a part of an array keeps all of it
                made[name][row][number] = getattr(answer, name)[:length].copy()
            tokens = made["tokens"][row][number].tolist()
            made["answers"][row][number] = questions.mixture.vocabulary.decode(tokens)
            cut += tokens[-1] != eos_id
            bar.update(1)
    if examples:
        of_length = f"{cut:,} of {total:,} are cut at {most} tokens"
        hosts.print_once(f"{model.name} samples: {counts.text}; {of_length}")
    return Samples(
        made["answers"],
        **{column: made[name] for column, name in _COLUMNS.items()},
        sample_flops=_flops(model, inputs, made["tokens"]),
    )


# Columns, and fields of `Generation`.
_COLUMNS: Mapping[str, str] = {
    "sample_tokens": "tokens",
    "sample_log_probs": "log_probs",
    "sample_drawn_log_probs": "drawn_log_probs",
}


def _flops(
    model: LoadedModel,
    inputs: Sequence[Int[np.ndarray, " _"]],
    tokens: Sequence[Sequence[Int[np.ndarray, " _"]]],
) -> Float[np.ndarray, " n"]:
    """FLOPs of the samples of each example."""
    config = model.module.config
    return np.array(
        [
            flops.samples_flops(config, len(ids), list(map(len, of_example)))
            for ids, of_example in zip(inputs, tokens, strict=True)
        ],
        np.float64,
    )
