"""What thresholds are calibrated on: examples, and what a cascade does to each at any thresholds.

Two kinds of pool give the same arrays: `live.py` decodes with both models token by token,
`answer_pool.py` keeps or defers whole answers of a records table. Everything after them sees no
model and no text.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from cascade_jax.deferral.guarantees.certificate import DataIdentity, ModelIdentity

Thresholds = tuple[float, ...]
TOKEN, ANSWER = "token", "answer"
LEVELS = (TOKEN, ANSWER)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a cascade does to n examples of a pool, each at some thresholds.

    Attributes:
      cost: of each example, in [0, 1]: deferred tokens by the most that an answer may have, or
        whether the answer is deferred.
      quality: by metric, of each example's answer, in [0, 1].
      holds_from, holds_below: of each example and threshold: at all thresholds from the one up to,
        not including, the other, its answer is this one, since no uncertainty lies between.
      flops: really spent on each example; None if not known.
      is_deferred: which of its tokens are the large model's; None for whole answers.
      lengths: tokens of its answer; None for whole answers.
      score: how unsure the small model was of the answer as a whole (higher = defer).
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

        Args:
          thresholds: [n, K] of each example, or [C, 1, K] for all examples at each, [C, n].
        """
        given = np.asarray(thresholds, self.holds_from.dtype)
        is_below = (given < self.holds_below) | np.isposinf(self.holds_below)
        return np.all((self.holds_from <= given) & is_below, axis=-1)

    def take(self, rows: Int[np.ndarray, " R"]) -> "Evaluation":
        """Of some examples."""
        return Evaluation.from_columns({name: v[rows] for name, v in self.columns().items()})

    def columns(self) -> dict[str, np.ndarray]:
        """All that is there, by name; qualities as "quality_" and the metric."""
        found = {QUALITY_PREFIX + name: values for name, values in self.quality.items()}
        fields = [field.name for field in dataclasses.fields(self) if field.name != "quality"]
        return found | {
            name: getattr(self, name) for name in fields if getattr(self, name) is not None
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> "Evaluation":
        """The inverse of `columns`.

        Raises:
          ValueError, TypeError: unknown columns, or of different lengths.
        """
        others = {name: v for name, v in columns.items() if not name.startswith(QUALITY_PREFIX)}
        quality = {
            name.removeprefix(QUALITY_PREFIX): values
            for name, values in columns.items()
            if name.startswith(QUALITY_PREFIX)
        }
        if len({len(values) for values in columns.values()}) != 1:
            raise ValueError("columns of different lengths")
        return cls(quality=quality, **others)


QUALITY_PREFIX = "quality_"


@runtime_checkable
class Pool(Protocol):
    """Examples and how to answer them.

    Attributes:
      name: of the student.
      level: TOKEN or ANSWER.
      ids, texts: one per example.
      test_rows: rows of another split that is tested on; None for none.
      metrics: names of the qualities, the objective first.
      thresholds: how many a configuration has.
      max_length: the most tokens of an answer; 1 for whole answers.
      uncertainty: what is compared with the thresholds.
      models: which checkpoints, by role.
      data: which examples.
    """

    name: str
    level: str
    ids: Sequence[str]
    texts: Sequence[str]
    test_rows: Int[np.ndarray, " T"] | None
    metrics: Sequence[str]
    thresholds: int
    max_length: int
    uncertainty: str
    models: Mapping[str, ModelIdentity]
    data: DataIdentity

    def evaluate(
        self, thresholds: Thresholds | Float[np.ndarray, "R K"], rows: Int[np.ndarray, " R"]
    ) -> Evaluation:
        """What the cascade does to some examples: defers where the uncertainty is above.

        Args:
          thresholds: of a configuration, or of each example.
          rows: examples, all different; others cost nothing.
        """
        ...

    def evaluate_random(self, share: float, rows: Int[np.ndarray, " R"]) -> Evaluation | None:
        """The same with a token, or answer, deferred by chance; None where it has a closed form."""
        ...

    def values(self, count: int, rows: Int[np.ndarray, " R"]) -> Float[np.ndarray, " count"]:
        """Thresholds to search among, ascending; they depend on the given rows at most."""
        ...


def calibration_rows(pool: Pool) -> Int[np.ndarray, " R"]:
    """Rows that are not those of another split to test on."""
    rows = np.arange(len(pool.ids))
    return rows if pool.test_rows is None else np.setdiff1d(rows, pool.test_rows)
