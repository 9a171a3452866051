"""One cascade on n examples, and its lines: by means of quality, or by a corpus metric."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int, Real

from cascade_jax.evaluation import curves
from cascade_jax.task_metrics import corpus


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade:
    """One cascade on n examples: the input of a summary.

    With statistics the figures are those of their corpus metric; the qualities of single examples
    then only give how well the score tells errors and where the small model is better.

    Attributes:
      score: deferral score, higher = defer.
      student_quality, teacher_quality: of single examples, in [0, 1].
      student_cost, teacher_cost: one for all examples, or one for each.
      score_cost: what the score spends beside the small model's answer, likewise; paid for every
        example, deferred or not.
      saved_cost: what an example that is deferred does not cost, likewise: of the small model's
        answer, if the score defers the example before.
      statistics: of a corpus metric; None for means over examples.
      confidence: of the small model's answers, in [0, 1]; None where it is not known, and what
        needs it (ECE, overlap) is then undefined.
      inputs: a number for each example, equal where inputs are equal, from 0 on without gaps;
        examples of one input are not independent, so intervals draw inputs. None: all differ.
    """

    score: Real[np.ndarray, " n"]
    student_quality: Real[np.ndarray, " n"]
    teacher_quality: Real[np.ndarray, " n"]
    student_cost: curves.Cost
    teacher_cost: curves.Cost
    statistics: corpus.Statistics | None = None
    confidence: Float[np.ndarray, " n"] | None = None
    inputs: Int[np.ndarray, " n"] | None = None
    score_cost: curves.Cost = 0.0
    saved_cost: curves.Cost = 0.0

    @property
    def num_inputs(self) -> int:
        """How many different inputs the examples have."""
        return len(self.score) if self.inputs is None else int(np.max(self.inputs)) + 1

    @property
    def costs(self) -> tuple[curves.Cost, curves.Cost]:
        """What every example costs, the small model and the score, and what deferring it adds."""
        if not np.any(self.saved_cost):
            return curves.added(self.student_cost, self.score_cost), self.teacher_cost
        deferring = np.subtract(self.teacher_cost, self.saving)
        return curves.added(self.student_cost, self.score_cost), deferring

    @property
    def saving(self) -> curves.Cost:
        """What of `saved_cost` is counted: no more than the large model costs."""
        is_any = np.any(self.saved_cost)
        return np.minimum(self.saved_cost, self.teacher_cost) if is_any else 0.0

    @property
    def mean_costs(self) -> tuple[float, float]:
        """Means of `costs`."""
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
        counts = self.statistics
        sums = np.stack([counts.student.sum(axis=0), counts.teacher.sum(axis=0)])
        student, teacher = counts.metric.scores(sums)
        return float(student), float(teacher)

    def additive(
        self,
    ) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K"], curves.ScoresFn | None]:
        """Numbers of both models' answers that are added up, and corpus figures of their sums.

        Counts of the corpus metric; or the quality alone, K = 1, whose mean needs no function.
        """
        if self.statistics is None:
            pair, scores_fn = (self.student_quality[:, None], self.teacher_quality[:, None]), None
        else:
            counts = self.statistics
            pair, scores_fn = (counts.student, counts.teacher), counts.metric.scores
        return *(values.astype(np.float64) for values in pair), scores_fn

    def take(self, rows: np.ndarray) -> "Cascade":
        """The cascade on some of its examples."""

        def taken(values):
            return values if values is None or np.ndim(values) == 0 else values[rows]

        names = ("score", "student_quality", "teacher_quality", "student_cost", "teacher_cost")
        names += ("score_cost", "saved_cost")
        changes = {name: taken(getattr(self, name)) for name in (*names, "confidence")}
        inputs = self.inputs
        if inputs is not None:
            inputs = np.unique(inputs[rows], return_inverse=True)[1]
        return dataclasses.replace(
            self,
            **changes,
            statistics=self.statistics and self.statistics.take(rows),
            inputs=inputs,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
    """A curve and the lines around it.

    Attributes:
      curve: of the cascade.
      oracle: deferring those examples first where the teacher gains most, the best that any score
        can do at every rate; where costs differ by example, not quite at every cost. Unlike the
        ideal line it keeps, as long as it can, answers that only the student has right. Of a
        corpus metric to first order only.
      random: quality of random deferral at the curve's rates.
      random_area, ideal_area: under the two lines; NaN where there is no ideal line.
    """

    curve: curves.Curve
    oracle: curves.Curve
    random: Float[np.ndarray, " n_plus_1"]
    random_area: float
    ideal_area: float


def gain_of(cascade: Cascade) -> Float[np.ndarray, " n"]:
    """Quality that deferring each example adds; of a corpus metric, to first order."""
    counts = cascade.statistics
    if counts is not None:
        return curves.corpus_gain(counts.student, counts.teacher, counts.metric.scores)
    student = np.asarray(cascade.student_quality, np.float64)
    return np.asarray(cascade.teacher_quality, np.float64) - student


def curve_of(cascade: Cascade, score: Real[np.ndarray, " n"] | None = None) -> curves.Curve:
    """The cascade's curve, by its own score or by another of the same cost."""
    score, counts = cascade.score if score is None else score, cascade.statistics
    if counts is None:
        qualities = cascade.student_quality, cascade.teacher_quality
        return curves.deferral_curve(score, *qualities, *cascade.costs)
    figures = counts.student, counts.teacher, counts.metric.scores
    return curves.corpus_curve(score, *figures, *cascade.costs)


def lines_of(cascade: Cascade) -> Lines:
    """By means of per-example quality, or by the corpus metric where there are statistics."""
    curve, oracle = curve_of(cascade), curve_of(cascade, gain_of(cascade))
    counts = cascade.statistics
    if counts is None:
        ends = curve.student_quality, curve.teacher_quality
        random = curves.random_quality(curve.rate, *ends)
        areas = curves.random_area(*ends), curves.ideal_area(*ends)
    else:
        sums = counts.student.sum(axis=0), counts.teacher.sum(axis=0)
        random = curves.corpus_random(curve.rate, *sums, counts.metric.scores)
        areas = float(np.trapezoid(random, curve.rate)), math.nan
    return Lines(curve, oracle, random, *areas)
