"""Sampled answers: several to each example, drawn at random; what the scores beside it read."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.deferral.scores import segments

_BLOCK = 1 << 20  # pairs of samples at once


@dataclasses.dataclass(frozen=True, eq=False)
class SampledAnswers:
    """Samples of n examples laid end to end, and their tokens laid end to end.

    Example: 2 samples of the first example, 1 of the second: ``offsets = [0 2 3]``.

    Attributes:
      texts: Python strings, one for each sample.
      offsets: samples of example i are ``[offsets[i], offsets[i + 1])``.
      log_probs: nats, of each token at temperature 1, EOS included; None when not kept.
      token_offsets: tokens of sample j are ``[token_offsets[j], token_offsets[j + 1])``.
      tokens: their ids; None when not kept.
      greedy: text of the answer that each example has beside its samples; None when not kept.
      state_eigenvalues: as many as an example has samples, of the covariance of their hidden states
        (`probes.SampleStates`); None when not kept.
    """

    texts: Sequence[str] | np.ndarray
    offsets: Int[np.ndarray, " examples_plus_1"]
    log_probs: Float[np.ndarray, " tokens"] | None = None
    token_offsets: Int[np.ndarray, " samples_plus_1"] | None = None
    tokens: Int[np.ndarray, " tokens"] | None = None
    greedy: Sequence[str] | np.ndarray | None = None
    state_eigenvalues: Float[np.ndarray, " samples"] | None = None
    # Values that similarities gave, by similarity and pair of texts; several scores ask for them.
    similarities: dict = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        _check_offsets("offsets", self.offsets, len(self.texts))
        if self.log_probs is not None:
            if self.token_offsets is None:
                raise ValueError("log_probs of samples need token_offsets beside them")
            _check_offsets("token_offsets", self.token_offsets, len(self.log_probs))
            if len(self.token_offsets) != len(self.texts) + 1:
                count = len(self.token_offsets) - 1
                raise ValueError(f"token_offsets are of {count} samples, texts {len(self.texts)}")
        if self.tokens is not None and len(self.tokens) != len(
            () if self.log_probs is None else self.log_probs
        ):
            raise ValueError(f"{len(self.tokens)} tokens of samples do not fit their log_probs")
        if self.greedy is not None and len(self.greedy) != self.num_examples:
            raise ValueError(f"{len(self.greedy)} greedy texts for {self.num_examples} examples")
        states = self.state_eigenvalues
        if states is not None and len(states) != len(self.texts):
            raise ValueError(f"{len(states)} state_eigenvalues for {len(self.texts)} samples")

    @classmethod
    def from_lists(
        cls,
        texts: Sequence[Sequence[str]],
        log_probs: Sequence[Sequence[Sequence[float]]] | None = None,
        tokens: Sequence[Sequence[Sequence[int]]] | None = None,
        greedy: Sequence[str] | None = None,
    ) -> "SampledAnswers":
        """From lists of each example's samples: texts, and lists of their tokens' values."""
        token_offsets = None if log_probs is None else _offsets(_flat(log_probs))
        return cls(
            texts=_flat(texts),
            offsets=_offsets(texts),
            log_probs=None if log_probs is None else np.array(_flat(_flat(log_probs)), np.float64),
            token_offsets=token_offsets,
            tokens=None if tokens is None else np.array(_flat(_flat(tokens)), np.int64),
            greedy=greedy,
        )

    @property
    def num_examples(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " samples"]:
        """Tokens per sample, EOS included."""
        return np.diff(self.token_offsets)

    @functools.cached_property
    def log_likelihoods(self) -> Float[np.ndarray, " samples"]:
        """``sum_i l_i`` of each sample, in nats and float64; each needs a token."""
        return segments.sums(self.token_offsets, lambda tokens: self.log_probs[tokens])

    @functools.cached_property
    def numbers(self) -> tuple[list[str], Int[np.ndarray, " samples"], Int[np.ndarray, " greedy"]]:
        """(different texts, number of each sample's, number of each greedy answer's) of them."""
        known: dict[str, int] = {}
        sampled, greedy = (
            np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
            for texts in (self.texts, () if self.greedy is None else self.greedy)
        )
        return list(known), sampled, greedy

    def blocks(self) -> Iterator[tuple[Int[np.ndarray, " m"], Int[np.ndarray, "m n"]]]:
        """(rows of examples that have equally many samples n, places of their samples)."""
        counts = np.diff(self.offsets)
        for n in np.unique(counts).tolist():
            rows, size = np.flatnonzero(counts == n), max(1, _BLOCK // max(1, n * n))
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                yield part, self.offsets[part][:, None] + np.arange(n)

    def example_of(self, sample: int) -> int:
        """The row of the example that a sample is of."""
        return int(np.searchsorted(self.offsets, sample, side="right")) - 1

    def take(self, rows: Int[np.ndarray, " rows"]) -> "SampledAnswers":
        """Samples of these examples, in this order."""
        offsets, samples = _places(self.offsets, np.asarray(rows))
        token_offsets, at = self.token_offsets, None
        if token_offsets is not None:
            token_offsets, at = _places(token_offsets, samples)
        return SampledAnswers(
            texts=np.asarray(self.texts, object)[samples],
            offsets=offsets,
            log_probs=None if self.log_probs is None else self.log_probs[at],
            token_offsets=token_offsets,
            tokens=None if self.tokens is None else self.tokens[at],
            greedy=None if self.greedy is None else np.asarray(self.greedy, object)[rows],
            state_eigenvalues=None if (s := self.state_eigenvalues) is None else s[samples],
        )


def _flat(lists: Sequence[Sequence[Any]]) -> list:
    return [value for values in lists for value in values]


def _offsets(lists: Sequence[Sequence[Any]]) -> Int[np.ndarray, " n_plus_1"]:
    return np.concatenate([[0], np.cumsum([len(values) for values in lists], dtype=np.int64)])


def _places(offsets, rows) -> tuple[Int[np.ndarray, " rows_plus_1"], Int[np.ndarray, " values"]]:
    """Offsets of some rows laid end to end, and where their values stand now."""
    lengths = np.diff(offsets)[rows]
    taken = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return taken, np.arange(taken[-1]) + np.repeat(offsets[:-1][rows] - taken[:-1], lengths)


def _check_offsets(name: str, offsets: Int[np.ndarray, " n_plus_1"], count: int) -> None:
    if len(offsets) < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise ValueError(f"{name} of samples must start at 0 and never fall")
    if offsets[-1] != count:
        raise ValueError(f"{name} of samples end at {offsets[-1]}, there are {count} values")
