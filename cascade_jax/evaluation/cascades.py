"""One cascade on n examples, and its lines: by means of quality, or by a corpus metric."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Real

from cascade_jax.evaluation import bootstrap, curves
from cascade_jax.task_metrics import corpus


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade:
    """What a summary needs of one cascade, for the n examples that all of them share.

    With statistics the figures are those of their corpus metric; the qualities of single examples
    then only give how well the score tells errors and where the small model is better.

    Attributes:
      score: deferral score, higher = defer.
      student_quality, teacher_quality: of single examples, in [0, 1].
      student_cost, teacher_cost: one for all examples, or one for each.
      statistics: of a corpus metric; None for means over examples.
      confidence: of the small model's answers, in [0, 1]; None where it is not known, and what
        needs it (ECE, overlap) is then undefined.
    """

    score: Real[np.ndarray, " n"]
    student_quality: Real[np.ndarray, " n"]
    teacher_quality: Real[np.ndarray, " n"]
    student_cost: curves.Cost
    teacher_cost: curves.Cost
    statistics: corpus.Statistics | None = None
    confidence: Float[np.ndarray, " n"] | None = None

    @property
    def costs(self) -> tuple[curves.Cost, curves.Cost]:
        """Costs of both models."""
        return self.student_cost, self.teacher_cost

    @property
    def mean_costs(self) -> tuple[float, float]:
        """Mean costs of both models."""
        return tuple(curves.mean_cost(cost) for cost in self.costs)

    @property
    def is_binary(self) -> bool:
        """Whether every answer of the small model is just right or wrong."""
        quality = self.student_quality
        return bool(np.all((quality == 0.0) | (quality == 1.0)))

    def ends(self) -> tuple[float, float]:
        """Quality of the student alone and of the teacher: means, or the corpus metric's."""
        if self.statistics is None:
            return float(np.mean(self.student_quality)), float(np.mean(self.teacher_quality))
        found = self.statistics
        sums = np.stack([found.student.sum(axis=0), found.teacher.sum(axis=0)])
        student, teacher = found.metric.scores(sums)
        return float(student), float(teacher)

    def take(self, rows: np.ndarray) -> "Cascade":
        """The cascade on some of its examples."""

        def of_rows(values):
            return values if values is None or np.ndim(values) == 0 else values[rows]

        names = ("score", "student_quality", "teacher_quality", "student_cost", "teacher_cost")
        changes = {name: of_rows(getattr(self, name)) for name in (*names, "confidence")}
        return dataclasses.replace(
            self, **changes, statistics=self.statistics and self.statistics.take(rows)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
    """A curve and the lines around it.

    Attributes:
      curve: of the cascade.
      oracle: deferring those first that gain most; of a corpus metric, to first order.
      random: quality of random deferral at the curve's rates.
      random_area, ideal_area: under the two lines; NaN where there is no ideal line.
    """

    curve: curves.Curve
    oracle: curves.Curve
    random: Float[np.ndarray, " n_plus_1"]
    random_area: float
    ideal_area: float


def gain_of(cascade: Cascade) -> Float[np.ndarray, " n"]:
    """What deferring each example adds: the oracle's order. Of a corpus metric, to first order."""
    found = cascade.statistics
    if found is not None:
        return curves.corpus_gain(found.student, found.teacher, found.metric.scores)
    student = np.asarray(cascade.student_quality, np.float64)
    return np.asarray(cascade.teacher_quality, np.float64) - student


def curve_of(cascade: Cascade, score: Real[np.ndarray, " n"] | None = None) -> curves.Curve:
    """The cascade's curve, or what it would be with another score."""
    score, found = cascade.score if score is None else score, cascade.statistics
    if found is None:
        qualities = cascade.student_quality, cascade.teacher_quality
        return curves.deferral_curve(score, *qualities, *cascade.costs)
    counts = found.student, found.teacher, found.metric.scores
    return curves.corpus_curve(score, *counts, *cascade.costs)


def lines_of(cascade: Cascade) -> Lines:
    """By means of per-example quality, or by the corpus metric where there are statistics."""
    curve, oracle = curve_of(cascade), curve_of(cascade, gain_of(cascade))
    found = cascade.statistics
    if found is None:
        ends = curve.student_quality, curve.teacher_quality
        return Lines(
            curve=curve,
            oracle=oracle,
            random=curves.random_quality(curve.rate, *ends),
            random_area=curves.random_area(*ends),
            ideal_area=curves.ideal_area(*ends),
        )
    sums = found.student.sum(axis=0), found.teacher.sum(axis=0)
    random = curves.corpus_random(curve.rate, *sums, found.metric.scores)
    return Lines(
        curve=curve,
        oracle=oracle,
        random=random,
        random_area=float(np.trapezoid(random, curve.rate)),
        ideal_area=math.nan,
    )


def to_resample(cascade: Cascade, *more_scores: Real[np.ndarray, " n"]) -> bootstrap.Sample:
    """What the bootstrap needs of the cascade, with its own score first and then the others."""
    found, scores_fn = cascade.statistics, None
    student = np.asarray(cascade.student_quality, np.float64)[:, None]
    teacher = np.asarray(cascade.teacher_quality, np.float64)[:, None]
    if found is not None:
        student, teacher = found.student.astype(np.float64), found.teacher.astype(np.float64)
        scores_fn: Callable = found.metric.scores
    return bootstrap.Sample(
        student=student,
        difference=teacher - student,
        scores_fn=scores_fn,
        gain=gain_of(cascade),
        scores=(cascade.score, *more_scores),
        costs=cascade.costs,
    )


def resample(cascade: Cascade, **settings) -> bootstrap.Resamples:
    """Bootstrap resamples of the cascade's lines; settings as for `bootstrap.resample_all`."""
    ((found,),) = bootstrap.resample_all([to_resample(cascade)], **settings)
    return found
