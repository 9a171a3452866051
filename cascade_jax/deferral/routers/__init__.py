"""Learned routers: fitted on a calibration split, then a deferral score as any other.

A router sees an answer's features (`features.py`) and predicts one of two things:

| target | learned | the score, higher = defer |
|---|---|---|
| teacher_gain (default) | (1 + t - s) / 2 | expected gain by deferring, t - s, in [-1, 1] |
| student_wrong | 1 - s | chance that the small model is wrong, in [0, 1] |

s and t are the small and the large model's quality of an example, in [0, 1]. To defer by the first
is the best that any rule can do with these features: it knows where the large model is no better.
The second needs no large model to be fitted. Both are learned by cross-entropy; a quality between
0 and 1 is a label in part (`fitting.weighted_labels`).

Example:
  router = routers.LogisticRouter().fit(answers, student_quality, teacher_quality, "validation")
  score = router(other_answers)
"""

from cascade_jax.deferral.routers.base import Router
from cascade_jax.deferral.routers.features import ProbabilityFeatures, QuantileFeatures
from cascade_jax.deferral.routers.fitted import STUDENT_WRONG, TEACHER_GAIN, FittedRouter, load
from cascade_jax.deferral.routers.kinds import (
    BoostedRouter,
    EdgeRouter,
    EntropyRateRouter,
    LogisticRouter,
    MlpRouter,
    QuantileRouter,
    Saved,
    check_not_fitted_on,
)
from cascade_jax.deferral.routers.pre_router import PreRouted, PreRouter
from cascade_jax.deferral.routers.rank_features import RankFeatures
from cascade_jax.deferral.routers.state_features import StateFeatures
from cascade_jax.deferral.routers.states import StateNetworkRouter, StateRouter

__all__ = [
    "BoostedRouter", "EdgeRouter", "EntropyRateRouter", "FittedRouter", "LogisticRouter",
    "MlpRouter", "PreRouted", "PreRouter", "ProbabilityFeatures", "QuantileFeatures",
    "QuantileRouter", "RankFeatures", "Router", "STUDENT_WRONG", "Saved", "StateFeatures",
    "StateNetworkRouter", "StateRouter", "TEACHER_GAIN", "check_not_fitted_on", "load",
]  # fmt: skip
