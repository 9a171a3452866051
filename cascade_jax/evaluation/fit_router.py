"""Fits a router on the records of a calibration split and cross-validates it."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from cascade_jax import records
from cascade_jax.deferral import scores
from cascade_jax.deferral.routers import FittedRouter, LogisticRouter, Router
from cascade_jax.deferral.routers.base import refuse_test_split
from cascade_jax.evaluation import curves, separation


@dataclasses.dataclass(frozen=True)
class FitRouterConfig:
    """The records, the router to fit on them, and the file to save it in.

    Attributes:
      records_file: of a split that is not evaluated: "test" splits are refused by their name.
      router_file: written, an older one replaced.
      router: what to fit.
      folds: of the cross-validation that is printed.
      seed: of its folds.
    """

    records_file: str | os.PathLike
    router_file: str | os.PathLike
    router: Router = LogisticRouter()
    folds: int = 5
    seed: int = 0

    def __post_init__(self):
        for name in ("records_file", "router_file"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be the path of a file, got ''")
        if not isinstance(self.router, Router):
            raise ValueError(f"router must be one such as LogisticRouter(), got {self.router!r}")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")


@dataclasses.dataclass(frozen=True, eq=False)
class RouterRun:
    """A fitted router, with figures of it and of the scores that need no fitting.

    Attributes:
      router: fitted on all examples.
      table: the records it was fitted on.
      areas: by score's name; the router's, of predictions for examples it had not seen.
      aurocs: likewise, of telling the small model's errors; NaN where quality is graded.
      folds: of the router's.
    """

    router: FittedRouter
    table: records.Records
    areas: Mapping[str, float]
    aurocs: Mapping[str, float]
    folds: int


def fit_router(config: FitRouterConfig) -> RouterRun:
    """Fits a router on a records file and saves it.

    Raises:
      FileNotFoundError: no such records file.
      RecordsError: a records file that can not be used.
      ValueError: a test split, or nothing to learn from.
    """
    table = records.read(config.records_file)
    answers, split = table.student, str(table.metadata["split"])
    for name in dict.fromkeys([split, *map(str, table.split)]):
        refuse_test_split(name)
    qualities = table.student_quality, table.teacher_quality
    held_out = config.router.cross_validated(answers, *qualities, config.folds, config.seed)
    router = config.router.fit(answers, *qualities, split)
    router.save(config.router_file)
    predictions = {router.name: held_out}
    predictions |= {score.name: score(answers) for score in scores.available(answers)}
    return RouterRun(
        router,
        table,
        areas={name: _area(score, table) for name, score in predictions.items()},
        aurocs={name: _auroc(score, table) for name, score in predictions.items()},
        folds=config.folds,
    )


def _area(score: Float[np.ndarray, " n"], table: records.Records) -> float:
    qualities = table.student_quality, table.teacher_quality
    return curves.area(curves.deferral_curve(score, *qualities, 1.0, 1.0))  # costs do not matter


def _auroc(score: Float[np.ndarray, " n"], table: records.Records) -> float:
    quality = table.student_quality
    is_binary = bool(np.all((quality == 0) | (quality == 1)))
    return separation.ranking(score, quality, is_binary).auroc
