"""Scores of whole next-token distributions of which `collect` keeps a number per token."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import Score

_ADDED = "PROBES = [@probes.SelfCertainty()]"
_SURFACE = "TOP_K = 10 and PROBES = [@probes.SurfaceForms()]"


@dataclasses.dataclass(frozen=True)
class SelfCertainty(Score):
    """Minus the mean divergence of the tokens' distributions from the uniform one.

    ``r(x) = (1/N) * sum_i (log V + (1/V) * sum_v log p(v | x, y_<i))``, nats, at most 0: minus the
    mean of KL(U || p_i).

    Example: V = 2 and one token with ``[0.9 0.1]``: 0.6931 + (-0.1054 - 2.3026) / 2 = -0.5108.

    Reference: Kang et al. 2025, Scalable Best-of-N Selection for Large Language Models via
    Self-Certainty, whose confidence it is with the sign turned.
    """

    name: ClassVar[str] = "self-certainty"
    measured: ClassVar[Mapping[str, str]] = {"mean_log_probs": _ADDED, "vocab_size": _ADDED}

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        means = answers.per_token["mean_log_probs"]
        sums = segments.sums(answers.offsets, lambda tokens: means[tokens])
        return sums / answers.lengths + np.log(answers.per_example["vocab_size"])


@dataclasses.dataclass(frozen=True)
class SurfaceFormCcp(Score):
    """Minus the probability of the answer among others whose tokens are spelled differently.

    ``r(x) = -prod_i (S_i / K_i)``, from -1 (sure) to 0: K_i is the probability of the likeliest
    tokens at place i and the answer's own, and S_i that of those among them with its surface form:
    the same letters and digits, whatever their case and the spaces and punctuation around them.

    This is claim-conditioned probability with a rule of spelling in place of a model of natural
    language inference: a token of the same surface form counts as entailed, any other as a
    contradiction. So it measures whether the model is sure of the words, not of what they say.

    Example: one place with " Paris" 0.5, "paris" 0.2 and "Rome" 0.1: -0.7 / 0.8 = -0.875.

    Reference: Fadeeva et al. 2024, Fact-Checking the Output of Large Language Models via
    Token-Level Uncertainty Quantification (CCP).
    """

    name: ClassVar[str] = "surface-form CCP"
    spends: ClassVar[tuple[str, ...]] = ()  # it reads the likeliest tokens of the answer itself
    measured: ClassVar[Mapping[str, str]] = {"surface_log_probs": _SURFACE}

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        shares = answers.per_token["surface_log_probs"]
        return -np.exp(segments.sums(answers.offsets, lambda tokens: shares[tokens]))
