"""Scores of the attention with which an answer's tokens were predicted; higher = defer.

The place of a model that predicts token i reads token i - 1. How much it attends to that token, its
own place, is what these scores use; of the first token, which the input precedes, they use nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import Score

_ADDED = "PROBES = [@probes.PreviousAttention()]"


@dataclasses.dataclass(frozen=True)
class _Recurrent(Score):
    """Base of both forms of RAUQ.

    Attributes:
      alpha: weight of a token's own confidence, above 0 and at most 1.
    """

    alpha: float = 0.2

    def __post_init__(self):
        is_weight = checks.is_number(self.alpha) and 0 < self.alpha <= 1
        checks.require(is_weight, "alpha", self.alpha, "a number above 0 and at most 1")

    def _logs(self, answers: AnswerTokens) -> Float[np.ndarray, " tokens"]:
        """log of each token's own confidence."""
        raise NotImplementedError

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        attention, logs = answers.per_token["previous_attention"], self._logs(answers)
        result = np.empty(answers.num_examples)
        for rows in segments.blocks(answers.offsets, (1 << 18) // max(attention.shape[1], 1)):
            offsets = answers.offsets[rows.start : rows.stop + 1]
            tokens = slice(int(offsets[0]), int(offsets[-1]))
            parts = logs[tokens], attention[tokens], offsets - offsets[0]
            result[rows] = _recurrent_mean(*parts, self.alpha)
        return result


@dataclasses.dataclass(frozen=True)
class Rauq(_Recurrent):
    """Minus the mean log-confidence of the tokens, which attention carries from one to the next.

    ``r(x) = max over layers of -(1/N) * sum_i log c_i``, in nats, with ``c_1 = p_1`` and
    ``c_i = alpha * p_i + (1 - alpha) * a_i * c_(i-1)``: a_i is the attention to the token before,
    of the layer's head that attends to it most over the answer.

    It is made of logarithms, so that it is finite where probabilities are too small for a number.

    Example: alpha 0.2, probabilities ``[0.5 0.9]`` and attention 0.6: c_2 = 0.18 + 0.8 * 0.6 * 0.5
    = 0.42, and r = (0.6931 + 0.8675) / 2 = 0.7803. One token: minus its log-prob.

    Attributes:
      alpha: above 0 and at most 1; the paper has 0.2, and 0.5 for instruction-tuned models.

    Reference: Vazhentsev et al. 2025, Efficient Hallucination Detection for LLMs Using
    Uncertainty-Aware Attention Heads. Their code adds 1.
    """

    name: ClassVar[str] = "RAUQ"
    measured: ClassVar[Mapping[str, str]] = {"previous_attention": _ADDED}

    def _logs(self, answers: AnswerTokens) -> Float[np.ndarray, " tokens"]:
        return answers.log_probs.astype(np.float64)


@dataclasses.dataclass(frozen=True)
class RauqEntropy(_Recurrent):
    """`Rauq` with the distance of a token's entropy from the largest in place of its probability.

    ``p_i`` is ``log V - H_i + 1e-10``, in nats, V the number of ids; not below 1e-10.

    Attributes:
      alpha: above 0 and at most 1; the paper has 0.8, and 0.9 for instruction-tuned models.

    Reference: as `Rauq`.
    """

    alpha: float = 0.8
    name: ClassVar[str] = "RAUQ (entropy)"
    column: ClassVar[str] = "entropies"
    measured: ClassVar[Mapping[str, str]] = {"previous_attention": _ADDED, "vocab_size": _ADDED}

    def _logs(self, answers: AnswerTokens) -> Float[np.ndarray, " tokens"]:
        largest = np.repeat(np.log(answers.per_example["vocab_size"]), answers.lengths)
        return np.log(np.maximum(largest - answers.entropies, 0.0) + 1e-10)


def _recurrent_mean(
    logs: Float[np.ndarray, " tokens"],
    attention: Float[np.ndarray, "tokens layers"],
    offsets: np.ndarray,
    alpha: float,
) -> Float[np.ndarray, " n"]:
    """RAUQ of some answers: a step for each place, of all answers that have it."""
    with np.errstate(divide="ignore"):  # attention may be 0, and 1 - alpha
        carried = np.log(1.0 - alpha) + np.log(attention.astype(np.float64))
    own, lengths = np.log(alpha) + logs[:, None], np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")  # the longest first: those left are the first ones
    starts, ordered = offsets[:-1][order], lengths[order]
    places = np.arange(ordered[0])
    counts = np.searchsorted(-ordered, -places, side="left")  # of the answers that have each
    confidence = np.repeat(logs[starts][:, None], attention.shape[1], axis=1)
    total = confidence.copy()
    for place, count in zip(places[1:], counts[1:], strict=True):
        at = starts[:count] + place
        confidence = np.logaddexp(own[at], carried[at] + confidence[:count])
        total[:count] += confidence
    result = np.empty(len(lengths))
    result[order] = np.max(-total / ordered[:, None], axis=1)
    return result


@dataclasses.dataclass(frozen=True)
class AttentionScore(Score):
    """Minus the log of the attention of the answer's tokens to themselves, mean over the heads.

    ``r(x) = -sum_{i > 1} (1/H) * sum_h log(a_i + 1e-12)``, of the layer in the middle, at least 0.

    Every token adds to it, so long answers are deferred first, as by the sum. One token: 0.

    Reference: Sriramanan et al. 2024, LLM-Check (Attention Score), of the answer's tokens alone.
    """

    name: ClassVar[str] = "attention score"
    measured: ClassVar[Mapping[str, str]] = {
        "self_attention_logs": "PROBES = [@probes.SelfAttention()]"
    }

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        logs = answers.per_token["self_attention_logs"]
        first = logs[answers.offsets[:-1]].astype(np.float64)
        return first - segments.sums(answers.offsets, lambda tokens: logs[tokens])
