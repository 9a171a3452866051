"""How many tokens the rows of a task have, and what a length cuts off."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cascade_jax.data import features
from cascade_jax.data.browse.rows import OpenTask

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class TokenCounts:
    """Numbers of tokens of inputs or targets, row by row, under a limit."""

    tokens: Int[np.ndarray, " rows"]  # before cutting, EOS included
    limit: int | None = None  # positions, EOS included; None cuts nothing off

    def percentile(self, percent: float) -> int:
        """The least length into which at least that part of the rows fits whole."""
        return int(np.percentile(self.tokens, percent, method="inverted_cdf"))

    @property
    def kept(self) -> Int[np.ndarray, " rows"]:
        """Tokens of each row after cutting."""
        return self.tokens if self.limit is None else np.minimum(self.tokens, self.limit)

    @property
    def rows_cut(self) -> int:
        """Number of rows that are longer than the limit."""
        return int((self.kept < self.tokens).sum())

    @property
    def tokens_lost(self) -> float:
        """Share of all tokens that is cut off."""
        return float((self.tokens - self.kept).sum() / max(self.tokens.sum(), 1))

    @property
    def only_eos(self) -> int:
        """Number of rows of which at most EOS is left."""
        return int((self.kept <= 1).sum())


def count_tokens(
    opened: OpenTask, limit: int | None = None, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[TokenCounts, TokenCounts]:
    """Counts of inputs and of targets over at most `limit` rows of a task's split.

    `progress` wraps the iterator of rows, as `tqdm.tqdm` does.

    Raises:
      ValueError: the split has no row, or options of one are alike (`options.option_ids`).
    """
    inputs, targets = [], []
    for row in progress(itertools.islice(opened.checked_rows(), limit)):
        inputs.append(len(row.get(features.INPUTS, ())))
        targets.append(len(row[features.TARGETS]))
    if not targets:
        raise ValueError(f"{opened.name} has no row in split {opened.split!r}")
    return (
        TokenCounts(np.array(inputs), opened.input_length),
        TokenCounts(np.array(targets), opened.target_length),
    )


def check_targets_fit(targets: Mapping[str, TokenCounts], seen: str = "every target") -> None:
    """Refuses a target length into which no target of some task fits whole.

    Args:
      targets: by task, the counts of its targets.
      seen: what was counted.

    Raises:
      ValueError: names the first such task, and the length that its targets need.
    """
    wrong = {name: c for name, c in targets.items() if c.rows_cut == len(c.tokens)}
    if wrong:
        name, counts = next(iter(wrong.items()))
        others = f" (and of {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(
            f"target_length {counts.limit} cuts off {seen} of {name}{others}: no answer "
            f"stays whole; the shortest has {counts.percentile(0)} tokens, EOS included, and "
            f"{counts.percentile(99)} hold 99 % of them"
        )
