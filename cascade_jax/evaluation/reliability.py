"""Calibration of confidence: reliability, ECE and temperature scaling.

The confidence of an answer is the geometric mean of its tokens' probabilities, whatever score
defers: ``c = exp(mean_i log p_i)``, in (0, 1].
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int, Real

from cascade_jax.deferral.scores import AnswerTokens

BINS = 10
# Confidences are kept this far from 0 and 1 before the logit is taken.
_EDGE = 1e-6
# The smallest and largest 1 / T that are tried.
_LEAST, _MOST = 1e-3, 1e3
_SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """How often answers of one confidence are right, in bins of equal width over [0, 1].

    Attributes:
      confidence, quality: means of the examples in each bin; NaN where there is none.
      count: examples in each bin.
    """

    confidence: Float[np.ndarray, " bins"]
    quality: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def ece(self) -> float:
        """Expected calibration error, ``sum_b n_b / n * |quality_b - confidence_b|``.

        Reference: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.
        """
        gaps = np.abs(self.quality - self.confidence)
        return float(np.nansum(gaps * self.count) / np.sum(self.count))


@dataclasses.dataclass(frozen=True, eq=False)
class ConfidenceCalibration:
    """Reliability of a confidence as it is, and after temperature scaling.

    Attributes:
      ece, ece_scaled: expected calibration errors before and after; NaN where all answers have one
        quality: no temperature fits them.
      temperatures: fitted on one half, used on the other; above 1 = the confidence was too extreme.
      reliability, reliability_scaled: what the two errors are read off; None where undefined.
    """

    ece: float = math.nan
    ece_scaled: float = math.nan
    temperatures: tuple[float, float] = (math.nan, math.nan)
    reliability: Reliability | None = None
    reliability_scaled: Reliability | None = None


def confidence_of(answers: AnswerTokens) -> Float[np.ndarray, " n"]:
    """Confidence of each answer, ``exp(mean_i log p_i)``, end of sequence included.

    An answer without tokens, as another system may have written one, has the confidence of an
    empty product, 1.
    """
    lengths = answers.lengths
    sums = np.zeros(len(lengths))
    has_tokens = lengths > 0
    if has_tokens.any():
        starts = np.asarray(answers.offsets)[:-1][has_tokens]
        sums[has_tokens] = np.add.reduceat(answers.log_probs, starts, dtype=np.float64)
    return np.minimum(np.exp(sums / np.maximum(lengths, 1)), 1.0)


def reliability(
    confidence: Real[np.ndarray, " n"], quality: Real[np.ndarray, " n"], bins: int = BINS
) -> Reliability:
    """Mean confidence and mean quality of every bin; a bin has its lower edge, the last both.

    Reference: Guo et al. 2017, On Calibration of Modern Neural Networks, section 2.
    """
    at = np.minimum((np.asarray(confidence) * bins).astype(np.int64), bins - 1)
    count = np.bincount(at, minlength=bins)
    means = []
    for values in (confidence, quality):
        sums = np.bincount(at, weights=values, minlength=bins)
        means.append(np.divide(sums, count, out=np.full(bins, np.nan), where=count > 0))
    return Reliability(*means, count=count)


def calibration(
    confidence: Real[np.ndarray, " n"], quality: Real[np.ndarray, " n"]
) -> ConfidenceCalibration:
    """Reliability before and after temperature scaling, cross-fitted on two halves.

    ``c' = sigmoid(logit(c) / T)``, where T is fitted to one half of the examples, drawn by a fixed
    seed, and used on the other, and the other way about. Quality may be graded; it then takes the
    place of 0 and 1.

    Reference: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
    """
    confidence = np.asarray(confidence, np.float64)
    quality = np.asarray(quality, np.float64)
    before = reliability(confidence, quality)
    if len(quality) == 0 or np.all(quality == quality[0]):
        return ConfidenceCalibration(reliability=before)
    is_first = np.zeros(len(quality), bool)
    is_first[: len(quality) // 2] = True
    is_first = np.random.default_rng(_SEED).permutation(is_first)
    scaled, fitted = np.empty(len(quality)), []
    for half in (is_first, ~is_first):
        fitted.append(temperature(confidence[half], quality[half]))
        scaled[~half] = scale(confidence[~half], fitted[-1])
    if any(map(math.isnan, fitted)):
        return ConfidenceCalibration(before.ece, reliability=before)
    after = reliability(scaled, quality)
    return ConfidenceCalibration(before.ece, after.ece, tuple(fitted), before, after)


def temperature(confidence: Real[np.ndarray, " n"], quality: Real[np.ndarray, " n"]) -> float:
    """The temperature T that makes ``sigmoid(logit(c) / T)`` the likeliest.

    Minimises ``-mean(q log c' + (1 - q) log(1 - c'))``, convex in 1 / T, by Newton's method inside
    a shrinking bracket. Where the best 1 / T is 0 or below (confidence says nothing, or the
    opposite), T is the largest one tried, 1,000; likewise 0.001 at the other end.

    Returns:
      NaN where all qualities are one, or there is none.
    """
    if len(quality) == 0 or np.all(quality == quality[0]):
        return math.nan
    z, q = _logit(confidence), np.asarray(quality, np.float64)

    def slopes(inverse: float) -> tuple[float, float]:
        p = _sigmoid(inverse * z)
        return float(np.mean(z * (p - q))), float(np.mean(z * z * p * (1 - p)))

    low, high = _LEAST, _MOST
    if slopes(low)[0] >= 0:
        return 1 / low
    if slopes(high)[0] <= 0:
        return 1 / high
    # By hand: SciPy's brentq takes 20 passes over a million logits where Newton's method takes 6.
    inverse = 1.0
    for _ in range(200):
        slope, curvature = slopes(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-12 * inverse or high - low <= 1e-12 * low:
            break
        inverse = following
    return 1 / inverse


def scale(confidence: Real[np.ndarray, " n"], temperature: float) -> Float[np.ndarray, " n"]:
    """``sigmoid(logit(c) / T)``; confidences within 1e-6 of 0 or 1 count as that far from it."""
    return _sigmoid(_logit(confidence) / temperature)


def _logit(confidence: Real[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    c = np.clip(np.asarray(confidence, np.float64), _EDGE, 1 - _EDGE)
    return np.log(c) - np.log1p(-c)


def _sigmoid(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    small = np.exp(-np.abs(z))  # SciPy's expit differs in the last digit
    return np.where(z >= 0, 1.0, small) / (1 + small)
