"""Deferral scores: one number per example from the small model's own answer; higher = defer.

A score is any callable from `AnswerTokens` to float64 of shape [n], one value per example. A frozen
dataclass is the usual form, so that its settings can be bound in a config. The unit and the meaning
of zero are the score's own: everything after it uses the order of the values only.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerTokens:
    """What one model said about each token of its own answers, for n examples laid end to end.

    The token that ends the answer (EOS) is one of its tokens, with its own log-prob.

    Example: answers of 2 and 1 tokens: ``log_probs = [-0.1 -0.3 -2.0]``, ``offsets = [0 2 3]``.

    Attributes:
      log_probs: nats, of the token that was chosen.
      entropies: nats, of the whole distribution at that position; None when it was not kept.
      offsets: tokens of example i are ``[offsets[i], offsets[i + 1])``.
      example_ids: names for error messages; None = row numbers only.
    """

    log_probs: Float[np.ndarray, " tokens"]
    entropies: Float[np.ndarray, " tokens"] | None
    offsets: Int[np.ndarray, " examples_plus_1"]
    example_ids: Sequence[str] | np.ndarray | None = None

    def __post_init__(self):
        offsets = self.offsets
        if len(offsets) < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
            raise ValueError("offsets must start at 0 and never fall")
        for name in ("log_probs", "entropies"):
            values = getattr(self, name)
            if values is not None and len(values) != offsets[-1]:
                raise ValueError(f"{name} holds {len(values)} values, offsets end at {offsets[-1]}")
        if self.example_ids is not None and len(self.example_ids) != self.num_examples:
            raise ValueError(
                f"{len(self.example_ids)} example_ids for {self.num_examples} examples of offsets"
            )

    @classmethod
    def from_padded(
        cls,
        log_probs: Float[np.ndarray, "B L"],
        lengths: Int[np.ndarray, " B"],
        entropies: Float[np.ndarray, "B L"] | None = None,
        example_ids: Sequence[str] | None = None,
    ) -> "AnswerTokens":
        """The first ``lengths[i]`` positions of every row, as decoding gives them."""
        log_probs, lengths = np.asarray(log_probs), np.asarray(lengths)
        if np.any(lengths < 0) or np.any(lengths > log_probs.shape[1]):
            raise ValueError(
                f"lengths must lie in [0, {log_probs.shape[1]}], got {lengths.tolist()}"
            )
        is_counted = np.arange(log_probs.shape[1])[None, :] < lengths[:, None]
        return cls(
            log_probs=log_probs[is_counted],
            entropies=None if entropies is None else np.asarray(entropies)[is_counted],
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            example_ids=example_ids,
        )

    @property
    def num_examples(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Tokens per answer, EOS included."""
        return np.diff(self.offsets)

    def describe(self, row: int) -> str:
        """How an error message names one example."""
        if self.example_ids is None:
            return f"row {row}"
        return f"example {self.example_ids[row]!r} (row {row})"


@runtime_checkable
class DeferralScore(Protocol):
    """What every deferral score looks like to its callers."""

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]: ...


@dataclasses.dataclass(frozen=True)
class Average:
    """Length-normalised negative log-likelihood of the small model's own answer, EOS included.

    ``r(x) = -(1/N) * sum_i log p_S(y_S,i | x, y_S,<i)``, in nats per token, at least 0.

    Example: log-probs ``[-0.1 -0.3]`` give 0.2; a surer answer, ``[-0.1 -0.1]``, gives 0.1.

    Reference: Cascade-Aware Training of Language Models, equation 5 (the best in figure 6).
    """

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """Scores every example.

        Args:
          answers: log-probs of the small model's answers.

        Returns:
          float64; higher = more reason to defer.

        Raises:
          ValueError: if an answer has no token, or a log-prob is NaN or infinite.
        """
        lengths = answers.lengths
        _refuse_empty(answers, lengths)
        _refuse_non_finite(answers, answers.log_probs)
        if answers.num_examples == 0:
            return np.zeros(0)
        # reduceat repeats a neighbour's value for an empty segment; those were refused above.
        sums = np.add.reduceat(answers.log_probs, answers.offsets[:-1], dtype=np.float64)
        return -sums / lengths


def _refuse_empty(answers: AnswerTokens, lengths: Int[np.ndarray, " examples"]) -> None:
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise ValueError(
            f"{answers.describe(int(empty[0]))} has an answer without tokens ({len(empty)} such): "
            "a deferral score needs at least one, and an empty text still has its EOS"
        )


def _refuse_non_finite(answers: AnswerTokens, values: Float[np.ndarray, " tokens"]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = int(np.searchsorted(answers.offsets, bad[0], side="right")) - 1
        raise ValueError(
            f"{answers.describe(row)} has the log-prob {values[bad[0]]} at token "
            f"{bad[0] - answers.offsets[row]} ({len(bad)} such): a score is never made of NaN"
        )
