"""The rule that defers: a score above a threshold. Every part of the project compares here.

Curves, the report, calibration, certificates, live decoding and records all call `defers`, so that
the same score and the same threshold give the same decision everywhere.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Real

from cascade_jax.names import check_choice

ANSWER, TOKEN = "answer", "token"
LEVELS = (ANSWER, TOKEN)
PAIR = ("student", "teacher")  # the models of a cascade that does not name them
Thresholds = tuple[float, ...]  # of a stage: one, or one for each block of answer positions
_SMALLEST = np.finfo(np.float32).tiny  # the smallest normal number


def comparable(values: Any) -> Any:
    """Scores or thresholds as the rule compares them: float32, subnormal numbers as 0.

    Accelerators compute in float32 and treat subnormal numbers as 0, so a comparison in float64 of
    the same numbers may come out differently.

    Args:
      values: a number, or a NumPy or JAX array of any shape.

    Returns:
      An array of the same kind and shape. Numbers beyond float32 become infinite, NaN stays NaN.
    """
    if not hasattr(values, "__array_namespace__"):
        values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore"):
        values = values.astype(np.float32)
    return values.__array_namespace__().where(abs(values) < _SMALLEST, np.float32(0), values)


def defers(score: Any, threshold: Any) -> Any:
    """Where a score defers to the next model: ``score > threshold``, or the score is NaN.

    Example: scores [0.1 0.3 NaN] and the threshold 0.3 give [False False True]: a threshold that
    is a score keeps exactly the answers up to that score.

    Args:
      score: higher = more reason to defer; a NumPy or JAX array, or a number.
      threshold: of a shape that broadcasts with it. inf never defers, -inf always does.

    Returns:
      Booleans of the broadcast shape.

    Reference: Cascade-Aware Training of Language Models, equation 9, with > in place of >= so that
    a threshold can be a score that is kept.
    """
    return ~(comparable(score) <= comparable(threshold))


def as_thresholds(value: float | Iterable[float]) -> Thresholds:
    """A tuple of floats, of one number or several; none may be NaN."""
    thresholds = tuple(np.atleast_1d(np.asarray(value, np.float64)).tolist())
    if not thresholds or np.any(np.isnan(thresholds)):
        raise ValueError(f"thresholds must be one number or more, and not NaN, got {value}")
    return thresholds


def by_position(thresholds: Any, length: int) -> Any:
    """The threshold of each answer position: those of N blocks [..., N] as [..., length].

    Position j is of block ``j * N // length``: equal blocks, or some of one position more.

    Example: thresholds [1 2] and a length of 5 give [1 1 1 2 2].
    """
    return thresholds[..., np.arange(length) * thresholds.shape[-1] // length]


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which model of a cascade answers, or writes each token.

    Attributes:
      level: "answer" or "token": what is deferred.
      score: name of the deferral score, or of the uncertainty of a token; higher = defer.
      stages: thresholds of each stage; stage k defers from model k to model k + 1. A stage of level
        "token" may have one threshold for each of some equal blocks of answer positions.
      models: names in order of cost, one more than there are stages.
    """

    level: str
    score: str
    stages: tuple[Thresholds, ...]
    models: tuple[str, ...] = PAIR

    def __post_init__(self):
        check_choice("level", self.level, LEVELS)
        if len(self.stages) != len(self.models) - 1:
            raise ValueError(
                f"a cascade has one stage less than models, here {len(self.models) - 1}; got "
                f"thresholds of {len(self.stages)}"
            )
        for thresholds in self.stages:
            as_thresholds(thresholds)
            if self.level == ANSWER and len(thresholds) > 1:
                raise ValueError(
                    f"a policy for answers has one threshold a stage, got {list(thresholds)}"
                )

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of the only stage.

        Raises:
          ValueError: there are several stages.
        """
        (thresholds,) = self.stages
        return thresholds

    def defers(self, score: Real[np.ndarray, "..."], stage: int = 0) -> Any:
        """What a stage defers.

        Args:
          score: of answers [...]; at level "token" of the positions of answers, [..., L].
          stage: 0 for the first model.

        Returns:
          Booleans of the shape of `score`.
        """
        thresholds = np.asarray(self.stages[stage])
        if self.level == ANSWER:
            return defers(score, thresholds[0])
        return defers(score, by_position(thresholds, score.shape[-1]))
