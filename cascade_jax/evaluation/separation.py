"""How well a deferral score tells the small model's errors, and its confidence the truth.

A score is higher where there is more reason to defer, so an error is the positive kind.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from cascade_jax.evaluation import curves
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.overlap import overlap
from cascade_jax.evaluation.reliability import Reliability, calibration

_NO_DIFFERENCE = 1e-12


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well one score tells errors from right answers; NaN = undefined.

    Attributes:
      auroc: chance that an error has a higher score than a right answer; NaN, as the next, for
        graded quality or without both kinds.
      auprc: average precision of finding the errors by the score.
      prr: prediction rejection ratio; 1 = as good as rejecting the worst first, 0 = at random.
      prr_half: the same where at most half is rejected.
      pearson, spearman: correlation of score and quality; a good score is near -1.
    """

    auroc: float = math.nan
    auprc: float = math.nan
    prr: float = math.nan
    prr_half: float = math.nan
    pearson: float = math.nan
    spearman: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Separation(Ranking):
    """How well a score tells errors, and a confidence the truth; NaN = undefined.

    Attributes:
      overlap: s_o of the confidences of right and wrong answers; 0 = apart, 1 = alike; NaN for
        graded quality or without both kinds.
      ece, ece_scaled, temperatures, reliability, reliability_scaled: see `ConfidenceCalibration`.
      error_share: share of answers that are wrong, the AUPRC of a random score.
    """

    overlap: float = math.nan
    ece: float = math.nan
    ece_scaled: float = math.nan
    temperatures: tuple[float, float] = (math.nan, math.nan)
    reliability: Reliability | None = None
    reliability_scaled: Reliability | None = None
    error_share: float = math.nan


def separation(cascade: Cascade) -> Separation:
    """All figures of one cascade."""
    quality, confidence = cascade.student_quality, cascade.confidence
    figures = vars(ranking(cascade.score, quality, cascade.is_binary))
    if cascade.is_binary:
        figures = {**figures, "error_share": float(np.mean(quality == 0))}
    if confidence is None:
        return Separation(**figures)
    if cascade.is_binary:
        figures["overlap"] = overlap(confidence, quality == 1)
    return Separation(**figures, **vars(calibration(confidence, quality)))


def ranking(
    score: Real[np.ndarray, " n"], quality: Real[np.ndarray, " n"], is_binary: bool = True
) -> Ranking:
    """How well one score tells errors.

    One sort serves all: a million examples take half of the time of scikit-learn's and SciPy's
    functions, which the tests compare with.
    """
    order, ends = curves.deferral_order(score)
    errors = np.asarray(quality)[order] == 0
    return Ranking(
        auroc=_auroc(errors, ends) if is_binary else math.nan,
        auprc=_auprc(errors, ends) if is_binary else math.nan,
        prr=_prr(quality, order, ends, 1.0),
        prr_half=_prr(quality, order, ends, 0.5),
        pearson=_correlation(np.asarray(score, np.float64), np.asarray(quality, np.float64)),
        spearman=_correlation(_ranks(order, ends), _ranks(*curves.deferral_order(quality))),
    )


def _auroc(errors: Bool[np.ndarray, " n"], ends: Int[np.ndarray, " groups"]) -> float:
    """Chance that an error, in deferral order, scores above a right answer, ties counting half.

    Reference: Gatekeeper, AUROC; computed as the Mann-Whitney statistic.
    """
    errors_at = np.cumsum(errors)[ends - 1]
    total, n = int(errors_at[-1]), len(errors)
    if total in (0, n):
        return math.nan
    in_group = np.diff(errors_at, prepend=0)
    rights_at = ends - errors_at
    rights_in_group = np.diff(rights_at, prepend=0)
    below = (n - total) - rights_at
    won = np.sum(in_group * (below + rights_in_group / 2))
    return float(won / (total * (n - total)))


def _auprc(errors: Bool[np.ndarray, " n"], ends: Int[np.ndarray, " groups"]) -> float:
    """Average precision of finding errors, ``sum_g (R_g - R_{g-1}) * P_g``, in deferral order.

    Tied scores pass a threshold together. A random score has the share of errors.

    Reference: scikit-learn, average_precision_score; lm-polygraph, pr-auc.
    """
    errors_at = np.cumsum(errors)[ends - 1]
    total = int(errors_at[-1])
    if total in (0, len(errors)):
        return math.nan
    return float(np.sum(np.diff(errors_at, prepend=0) * (errors_at / ends)) / total)


def _prr(
    quality: Real[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    ends: Int[np.ndarray, " groups"],
    max_rejection: float,
) -> float:
    """Prediction rejection ratio: what a score wins by rejecting answers, of what can be won.

    Answers are rejected from the highest score down. With k of n left their mean quality is
    ``S(k) / k``, S(k) the sum over the k lowest scores (a mean over the orders of tied ones), and
    ``PRA = mean of S(k) / k`` over the k from n down that leave at most the share `max_rejection`
    rejected, ``n - floor(max_rejection * n) < k <= n``. Then

    ``PRR = (PRA(score) - PRA(random)) / (PRA(oracle) - PRA(random))``

    where the oracle rejects the lowest quality first, and random rejection has at every k the mean
    quality (lm-polygraph takes the mean of 1,000 shuffles).

    Returns:
      NaN where all answers have one quality, or ``max_rejection * n`` is below 2 (k = n alone).

    Reference: Malinin et al. 2017, Incorporating Uncertainty into Deep Learning for Spoken Language
      Assessment; lm-polygraph, PredictionRejectionArea and normalize_metric.
    """
    quality = np.asarray(quality, np.float64)
    n = len(quality)
    num_rejected = int(max_rejection * n)
    if num_rejected < 2:
        return math.nan
    left = np.arange(n - num_rejected + 1, n + 1)

    def area(sums: Float[np.ndarray, " n_plus_1"]) -> float:
        return float(np.sum(sums[left] / left) / num_rejected)

    deferred = curves.summed_along(quality, order, ends)
    kept = deferred[-1] - deferred[::-1]
    best = np.append(0.0, np.cumsum(np.sort(quality)[::-1]))
    random, oracle = float(np.mean(quality)), area(best)
    room = oracle - random
    return (area(kept) - random) / room if room > _NO_DIFFERENCE else math.nan


def _ranks(
    order: Int[np.ndarray, " n"], ends: Int[np.ndarray, " groups"]
) -> Float[np.ndarray, " n"]:
    """Ranks, 1 for the lowest value, the mean for tied ones."""
    sizes = np.diff(ends, prepend=0)
    ranks = np.empty(len(order))
    ranks[order] = np.repeat(len(order) - ends + (sizes + 1) / 2, sizes)
    return ranks


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson's; of ranks, Spearman's. NaN where one is the same for all (SciPy's warns there)."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - np.mean(x), y - np.mean(y)
    both = math.sqrt(float(np.sum(x * x)) * float(np.sum(y * y)))
    return float(np.sum(x * y)) / both if both > 0 else math.nan
