"""Log-probs and entropies of a model's own answer tokens: the input of deferral scores."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.deferral.scores.hidden_states import HiddenStates
from cascade_jax.deferral.scores.samples.answers import SampledAnswers


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerTokens:
    """A model's log-probs and entropies of its own answer tokens, n examples laid end to end.

    The token that ends the answer (EOS) is one of its tokens, with its own log-prob.

    Example: answers of 2 and 1 tokens: ``log_probs = [-0.1 -0.3 -2.0]``, ``offsets = [0 2 3]``.

    Attributes:
      log_probs: nats, of the token that was chosen.
      entropies: nats, of the whole distribution at that position; None when it was not kept.
      offsets: tokens of example i are ``[offsets[i], offsets[i + 1])``.
      example_ids: names for error messages; None = row numbers only.
      top_log_probs: nats, of the K likeliest tokens at that position, falling; None when not kept.
      embeddings: one vector per example, the mean of the model's hidden states of its input; None
        when not kept.
      per_token, per_example: other columns of records that scores read (`schema.Column`), by name.
      samples_fn: makes `samples` when a score first asks for them; None when there are none.
      states_fn: makes `states` likewise.
    """

    log_probs: Float[np.ndarray, " tokens"]
    entropies: Float[np.ndarray, " tokens"] | None
    offsets: Int[np.ndarray, " examples_plus_1"]
    example_ids: Sequence[str] | np.ndarray | None = None
    top_log_probs: Float[np.ndarray, "tokens K"] | None = None
    embeddings: Float[np.ndarray, "examples D"] | None = None
    per_token: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    per_example: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples_fn: Callable[[], SampledAnswers] | None = None
    states_fn: Callable[[], HiddenStates] | None = None

    def __post_init__(self):
        offsets = self.offsets
        if len(offsets) < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
            raise ValueError("offsets must start at 0 and never fall")
        for name in ("log_probs", "entropies", "top_log_probs"):
            values = getattr(self, name)
            if values is not None and len(values) != offsets[-1]:
                raise ValueError(f"{name} holds {len(values)} values, offsets end at {offsets[-1]}")
        for name in ("example_ids", "embeddings"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_examples:
                count = f"{self.num_examples} examples of offsets"
                raise ValueError(f"{len(values)} {name} for {count}")

    @classmethod
    def from_padded(
        cls,
        log_probs: Float[np.ndarray, "B L"],
        lengths: Int[np.ndarray, " B"],
        entropies: Float[np.ndarray, "B L"] | None = None,
        example_ids: Sequence[str] | None = None,
        top_log_probs: Float[np.ndarray, "B L K"] | None = None,
        embeddings: Float[np.ndarray, "B D"] | None = None,
        samples_fn: Callable[[], SampledAnswers] | None = None,
    ) -> "AnswerTokens":
        """The first ``lengths[i]`` positions of every row, as decoding gives them."""
        log_probs, lengths = np.asarray(log_probs), np.asarray(lengths)
        if np.any(lengths < 0) or np.any(lengths > log_probs.shape[1]):
            allowed = f"[0, {log_probs.shape[1]}]"
            raise ValueError(f"lengths must lie in {allowed}, got {lengths.tolist()}")
        is_counted = np.arange(log_probs.shape[1])[None, :] < lengths[:, None]
        return cls(
            log_probs=log_probs[is_counted],
            entropies=_taken(entropies, is_counted),
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            example_ids=example_ids,
            top_log_probs=_taken(top_log_probs, is_counted),
            embeddings=embeddings,
            samples_fn=samples_fn,
        )

    @property
    def num_examples(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Tokens per answer, EOS included."""
        return np.diff(self.offsets)

    @property
    def top_k(self) -> int:
        """How many log-probs are kept per token besides the chosen one's; 0 when none are."""
        return 0 if self.top_log_probs is None else self.top_log_probs.shape[1]

    @functools.cached_property
    def samples(self) -> SampledAnswers | None:
        """More answers to each example, drawn at random; None when there are none."""
        samples = self.samples_fn and self.samples_fn()
        if samples and samples.num_examples != self.num_examples:
            raise ValueError(f"samples of {samples.num_examples} examples for {self.num_examples}")
        return samples

    @functools.cached_property
    def states(self) -> HiddenStates | None:
        """The model's hidden states of each example; None when there are none."""
        return self.states_fn and self.states_fn()

    def take(self, rows: Int[np.ndarray, " rows"]) -> "AnswerTokens":
        """These rows, in this order."""
        rows = np.asarray(rows)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return self._selected(offsets, tokens, rows)

    def part(self, start: int, stop: int) -> "AnswerTokens":
        """Rows in [start, stop), without copies."""
        tokens = slice(int(self.offsets[start]), int(self.offsets[stop]))
        offsets = self.offsets[start : stop + 1] - tokens.start
        return self._selected(offsets, tokens, slice(start, stop))

    def _selected(self, offsets, tokens: Any, rows: Any) -> "AnswerTokens":
        every_row = np.arange(self.num_examples)
        return AnswerTokens(
            log_probs=self.log_probs[tokens],
            entropies=_taken(self.entropies, tokens),
            offsets=offsets,
            example_ids=_taken(self.example_ids, rows),
            top_log_probs=_taken(self.top_log_probs, tokens),
            embeddings=_taken(self.embeddings, rows),
            per_token={name: _taken(v, tokens) for name, v in self.per_token.items()},
            per_example={name: _taken(v, rows) for name, v in self.per_example.items()},
            samples_fn=self.samples_fn and (lambda: self.samples.take(every_row[rows])),
            states_fn=self.states_fn and (lambda: self.states.take(rows)),
        )

    def describe(self, row: int) -> str:
        """How an error message names one example."""
        if self.example_ids is None:
            return f"row {row}"
        return f"example {self.example_ids[row]!r} (row {row})"


def _taken(values: Any, indices: Any) -> Any:
    """Values at indices; None for a column that was not kept."""
    if values is None or isinstance(indices, slice):
        return None if values is None else values[indices]
    return np.asarray(values)[indices]
