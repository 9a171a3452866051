"""Scores that weigh an answer's tokens by how much they matter to it."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import Score


@dataclasses.dataclass(frozen=True)
class TokenSar(Score):
    """Negative log-likelihood with tokens weighed by their relevance.

    ``r(x) = -sum_i w_i l_i``, ``w_i = R_i / sum_j R_j``, in nats, at least 0. Where no token is
    relevant all weigh the same, and the score is the average.

    The paper's R_i is one minus the similarity, by a cross-encoder, of the answer with and without
    the token. Ours needs no second model: see `probes.Relevance`.

    Example: log-probs ``[-0.1 -2.0 -0.3]`` and relevances ``[0.1 0.3 0]`` give 0.1 / 4 + 2 * 3 / 4
    = 1.525.

    Reference: Duan et al. 2023, Shifting Attention to Relevance (tokenSAR).
    """

    name: ClassVar[str] = "TokenSAR"
    measured: ClassVar[Mapping[str, str]] = {"relevances": "PROBES = [@probes.Relevance()]"}

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        relevances, log_probs = answers.per_token["relevances"], answers.log_probs

        def weighted(tokens: slice):
            return relevances[tokens].astype(np.float64) * log_probs[tokens]

        total = segments.sums(answers.offsets, lambda tokens: relevances[tokens])
        plain = segments.sums(answers.offsets, lambda tokens: log_probs[tokens]) / answers.lengths
        sums = segments.sums(answers.offsets, weighted)
        is_any = total > 0
        return -np.where(is_any, sums / np.where(is_any, total, 1.0), plain)
