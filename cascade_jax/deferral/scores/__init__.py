"""Deferral scores: one number per example from the small model's own answer; higher = defer.

A gin file finds every score here. Learned scores are in `cascade_jax.deferral.routers`.
"""

from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.attention import AttentionScore, Rauq, RauqEntropy
from cascade_jax.deferral.scores.base import (
    DeferralScore,
    Score,
    UnknownCost,
    name_of,
    own_flops,
    spent,
)
from cascade_jax.deferral.scores.distribution import SelfCertainty, SurfaceFormCcp
from cascade_jax.deferral.scores.relevance import TokenSar
from cascade_jax.deferral.scores.samples.agreement import Disagreement
from cascade_jax.deferral.scores.samples.answers import SampledAnswers
from cascade_jax.deferral.scores.samples.classes import (
    DiscreteSemanticEntropy,
    NumSet,
    SemanticEntropy,
)
from cascade_jax.deferral.scores.samples.graph import (
    Deg,
    Ecc,
    EigV,
    KernelLanguageEntropy,
    LexicalSimilarity,
)
from cascade_jax.deferral.scores.samples.likelihood import SAR, PredictiveEntropy, SentSAR
from cascade_jax.deferral.scores.samples.states import EigenScore
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
    "ALL", "FROM_PROBES", "FROM_SAMPLES", "FROM_TOKENS", "SAR", "STANDARD", "AnswerTokens",
    "ArithmeticMean", "AttentionScore", "Average", "DeferralScore", "Deg", "Disagreement",
    "DiscreteSemanticEntropy", "Ecc", "EigV", "EigenScore", "Entropy", "EntropyProductionRate",
    "GeometricMean", "KernelLanguageEntropy", "Kurtosis", "LexicalSimilarity", "Margin",
    "MaxSoftmax", "Maximum", "Minimum", "NumSet", "Perplexity", "PredictiveEntropy", "Quantile",
    "Rauq", "RauqEntropy", "SampledAnswers", "Score", "SelfCertainty", "SemanticEntropy",
    "SentSAR", "Sum", "SurfaceFormCcp", "TokenSar", "TopKurtosis", "UnknownCost", "available",
    "name_of", "own_flops", "spent",
]  # fmt: skip

# The rules that CAT's figure 6 compares; its ChowQuantile-0 is the minimum.
STANDARD: tuple[Score, ...] = (
    Average(), Minimum(), Maximum(), Sum(), Quantile(0.4), Quantile(0.8),
)  # fmt: skip

# Of the tokens of the answer itself.
FROM_TOKENS: tuple[Score, ...] = (
    *STANDARD, Perplexity(), GeometricMean(), ArithmeticMean(), Kurtosis(), MaxSoftmax(),
    Entropy(), Margin(), EntropyProductionRate(), TopKurtosis(),
)  # fmt: skip

# Of what probes measure of the answer.
FROM_PROBES: tuple[Score, ...] = (
    SelfCertainty(), Rauq(), RauqEntropy(), AttentionScore(), TokenSar(), SurfaceFormCcp(),
)  # fmt: skip

# Of more answers to each example, drawn at random.
FROM_SAMPLES: tuple[Score, ...] = (
    PredictiveEntropy(), PredictiveEntropy(per_token=True), DiscreteSemanticEntropy(),
    SemanticEntropy(), SemanticEntropy(form="normalized"), SentSAR(), SAR(), LexicalSimilarity(),
    Deg(), Ecc(), EigV(), NumSet(), KernelLanguageEntropy(), Disagreement(),
)  # fmt: skip

# Every score with its usual settings.
ALL: tuple[Score, ...] = (*FROM_TOKENS, *FROM_PROBES, *FROM_SAMPLES, EigenScore())


def available(answers: AnswerTokens) -> list[Score]:
    """The scores of `ALL` whose columns the answers have, in that order."""
    return [score for score in ALL if not score.lack(answers)]
