"""The calibration set: per-example cost and quality of the cascade at any thresholds.

Two kinds of pool give the same arrays: `token_pool.py` decodes with both models token by token,
`answer_pool.py` keeps or defers whole answers of a records table. Everything after them sees no
model and no text.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from cascade_jax.deferral.guarantees.certificate import DataIdentity, ModelIdentity
from cascade_jax.deferral.policy import Thresholds, defers

QUALITY_PREFIX = "quality_"


@dataclasses.dataclass(frozen=True, eq=False)
class CascadeAnswers:
    """A cascade's answers to n examples of a pool, each at some thresholds.

    Attributes:
      cost: of each example, in [0, 1]: deferred tokens by the most that an answer may have, or
        whether the answer is deferred.
      quality: by metric, of each example's answer, in [0, 1].
      holds_from, holds_below: for each example and threshold, the range (without its end) in which
        the threshold may move while the answer stays the same, since no uncertainty lies between.
      flops: spent on each example; None if not known.
      is_deferred: which of its tokens are the large model's; None for whole answers.
      lengths: tokens of its answer; None for whole answers.
      score: uncertainty of the small model about the whole answer (higher = defer).
    """

    cost: Float[np.ndarray, " n"]
    quality: Mapping[str, Float[np.ndarray, " n"]]
    holds_from: Float[np.ndarray, "n K"]
    holds_below: Float[np.ndarray, "n K"]
    flops: Float[np.ndarray, " n"] | None = None
    is_deferred: Bool[np.ndarray, "n L"] | None = None
    lengths: Int[np.ndarray, " n"] | None = None
    score: Float[np.ndarray, " n"] | None = None

    def holds_at(self, thresholds: Float[np.ndarray, "... K"]) -> Bool[np.ndarray, "..."]:
        """Whether each example's answer would be the same at other thresholds.

        Thresholds are [n, K] of each example, or [C, 1, K] for all examples at each, [C, n].
        """
        # holds_below is inf where nothing was deferred: any higher threshold gives the same answer.
        is_below = defers(self.holds_below, thresholds) | np.isposinf(self.holds_below)
        return np.all(~defers(self.holds_from, thresholds) & is_below, axis=-1)

    def take(self, rows: Int[np.ndarray, " R"]) -> "CascadeAnswers":
        """The answers to some of the examples."""
        return CascadeAnswers.from_columns({name: v[rows] for name, v in self.columns().items()})

    def columns(self) -> dict[str, np.ndarray]:
        """All arrays by name; qualities as "quality_" and the metric."""
        qualities = {QUALITY_PREFIX + name: values for name, values in self.quality.items()}
        others = {name: v for name, v in vars(self).items() if name != "quality" and v is not None}
        return qualities | others

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> "CascadeAnswers":
        """The inverse of `columns`.

        Raises:
          ValueError, TypeError: unknown columns, or of different lengths.
        """
        names = [name for name in columns if name.startswith(QUALITY_PREFIX)]
        quality = {name.removeprefix(QUALITY_PREFIX): columns[name] for name in names}
        others = {name: values for name, values in columns.items() if name not in names}
        if len({len(values) for values in columns.values()}) != 1:
            raise ValueError("columns of different lengths")
        return cls(quality=quality, **others)


@runtime_checkable
class Pool(Protocol):
    """Examples and how to answer them.

    Attributes:
      name: of the student.
      level: "token" or "answer".
      ids, texts: one per example.
      test_rows: rows of another split that is tested on; None for none.
      metrics: names of the qualities, the objective first.
      thresholds: how many a configuration has.
      max_length: the most tokens of an answer; 1 for whole answers.
      uncertainty: name of the score that is compared with the thresholds.
      models: which checkpoints, by role.
      data: which examples.
    """

    name: str
    level: str
    ids: np.ndarray
    texts: np.ndarray
    test_rows: Int[np.ndarray, " T"] | None
    metrics: Sequence[str]
    thresholds: int
    max_length: int
    uncertainty: str
    models: Mapping[str, ModelIdentity]
    data: DataIdentity

    def evaluate(
        self, thresholds: Thresholds | Float[np.ndarray, "R K"], rows: Int[np.ndarray, " R"]
    ) -> CascadeAnswers:
        """The cascade's answers to some examples; it defers where the uncertainty is above.

        Thresholds are of a configuration, or of each example. The rows are all different.
        """
        ...

    def evaluate_random(self, share: float, rows: Int[np.ndarray, " R"]) -> CascadeAnswers | None:
        """The same with tokens or answers deferred by chance; None where it has a closed form."""
        ...

    def values(self, count: int, rows: Int[np.ndarray, " R"]) -> Float[np.ndarray, " count"]:
        """Thresholds to search among, ascending; they depend on the given rows at most."""
        ...
