"""Fits a router on the records of a calibration split and cross-validates it."""

import dataclasses
import os
from collections.abc import Mapping

from cascade_jax import checks, records
from cascade_jax.deferral import scores
from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.routers import FittedRouter, LogisticRouter, Router
from cascade_jax.deferral.routers.base import refuse_test_split
from cascade_jax.evaluation import curves
from cascade_jax.evaluation.cascades import Cascade, curve_of
from cascade_jax.evaluation.separation import ranking


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
            path = getattr(self, name)
            checks.require(bool(path), name, path, "the path of a file")
        is_router = isinstance(self.router, Router)
        checks.require(is_router, "router", self.router, "one such as LogisticRouter()")
        checks.whole_number("folds", self.folds, 2)
        checks.whole_number("seed", self.seed, 0)


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
      FileNotFoundError, RecordsError: no records file, or one that can not be used.
      ValueError: a test split, or nothing to learn from.
    """
    table = records.read(config.records_file)
    answers, split = table.student, str(table.metadata["split"])
    for name in dict.fromkeys([split, *map(str, table.split)]):
        refuse_test_split(name)
    qualities = table.student_quality, table.teacher_quality
    inputs = splits.text_numbers(table.inputs)
    held_out = config.router.cross_validated(answers, *qualities, config.folds, config.seed, inputs)
    router = config.router.fit(answers, *qualities, split)
    router.save(config.router_file)
    predictions = {router.name: held_out}
    predictions |= {score.name: score(answers) for score in scores.available(answers)}
    areas, aurocs = {}, {}
    for name, score in predictions.items():
        cascade = Cascade(score, *qualities, 1.0, 1.0)  # costs do not matter
        areas[name] = curves.area(curve_of(cascade))
        aurocs[name] = ranking(score, table.student_quality, cascade.is_binary).auroc
    return RouterRun(router, table, areas, aurocs, config.folds)
