"""One cascade on n examples, and its lines: by means of quality, or by a corpus metric."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax.evaluation import bootstrap, corpus, curves


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade:
    """What a summary needs of one cascade, for the n examples that all of them share.

    With statistics the figures are those of their corpus metric; the qualities of single examples
    then only give AUROC and where the small model is better.
    """

    score: Float[np.ndarray, " n"]
    student_quality: Float[np.ndarray, " n"]
    teacher_quality: Float[np.ndarray, " n"]
    student_flops_per_token: float
    teacher_flops_per_token: float
    statistics: corpus.Statistics | None = None

    @property
    def costs(self) -> tuple[float, float]:
        """FLOPs per token of both models."""
        return self.student_flops_per_token, self.teacher_flops_per_token

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
        return dataclasses.replace(
            self,
            score=self.score[rows],
            student_quality=self.student_quality[rows],
            teacher_quality=self.teacher_quality[rows],
            statistics=self.statistics and self.statistics.take(rows),
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


def lines_of(cascade: Cascade) -> Lines:
    """By means of per-example quality, or by the corpus metric where there are statistics."""
    found, costs = cascade.statistics, cascade.costs
    qualities = cascade.student_quality, cascade.teacher_quality
    if found is None:
        curve = curves.deferral_curve(cascade.score, *qualities, *costs)
        ends = curve.student_quality, curve.teacher_quality
        return Lines(
            curve=curve,
            oracle=curves.oracle_curve(*qualities, *costs),
            random=curves.random_quality(curve.rate, *ends),
            random_area=curves.random_area(*ends),
            ideal_area=curves.ideal_area(*ends),
        )
    counts = found.student, found.teacher, found.metric.scores
    curve = curves.corpus_curve(cascade.score, *counts, *costs)
    sums = found.student.sum(axis=0), found.teacher.sum(axis=0)
    random = curves.corpus_random(curve.rate, *sums, found.metric.scores)
    return Lines(
        curve=curve,
        oracle=curves.corpus_curve(curves.corpus_gain(*counts), *counts, *costs),
        random=random,
        random_area=float(np.trapezoid(random, curve.rate)),
        ideal_area=math.nan,
    )


def resample(cascade: Cascade, **settings: Any) -> bootstrap.Resamples:
    """Bootstrap resamples of the cascade's lines; settings as for `bootstrap.resample`."""
    qualities, found = (cascade.student_quality, cascade.teacher_quality), cascade.statistics
    if found is None:
        return bootstrap.resample(cascade.score, *qualities, **settings)
    counts = found.student, found.teacher, found.metric.scores
    return bootstrap.resample_corpus(
        cascade.score, curves.corpus_gain(*counts), *counts, **settings
    )
