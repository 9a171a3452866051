"""Deferral scores: one number per example from the small model's own answer; higher = defer.

A gin file finds every score here. Learned scores are in `cascade_jax.deferral.routers`.
"""

from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import DeferralScore, Score, name_of
from cascade_jax.deferral.scores.sequence import (
    Average,
    GeometricMean,
    Maximum,
    Minimum,
    Perplexity,
    Quantile,
    Sum,
)
from cascade_jax.deferral.scores.token import (
    ArithmeticMean,
    Entropy,
    EntropyProductionRate,
    Kurtosis,
    Margin,
    MaxSoftmax,
    TopKurtosis,
)

__all__ = [
    "ALL", "STANDARD", "AnswerTokens", "ArithmeticMean", "Average", "DeferralScore", "Entropy",
    "EntropyProductionRate", "GeometricMean", "Kurtosis", "Margin", "MaxSoftmax", "Maximum",
    "Minimum", "Perplexity", "Quantile", "Score", "Sum", "TopKurtosis", "available", "name_of",
]  # fmt: skip

# The rules that CAT's figure 6 compares; its ChowQuantile-0 is the minimum.
STANDARD: tuple[Score, ...] = (
    Average(), Minimum(), Maximum(), Sum(), Quantile(0.4), Quantile(0.8),
)  # fmt: skip

# Every score with its usual settings.
ALL: tuple[Score, ...] = (
    *STANDARD, Perplexity(), GeometricMean(), ArithmeticMean(), Kurtosis(), MaxSoftmax(),
    Entropy(), Margin(), EntropyProductionRate(), TopKurtosis(),
)  # fmt: skip


def available(answers: AnswerTokens) -> list[Score]:
    """The scores of `ALL` whose columns the answers have, in that order."""
    return [score for score in ALL if not score.lack(answers)]
