"""Features of an answer that are the parts of its entropy, rank by rank."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import refuse_empty, refuse_non_finite


@dataclasses.dataclass(frozen=True)
class RankFeatures:
    """Mean and largest entropy over an answer's tokens that the token of each rank gives.

    ``s_(k),i = -p_(k),i log p_(k),i`` of the k-th likeliest token at position i, in nats: first the
    K means over i, then the K largest. The means add up to `scores.EntropyProductionRate`.

    Example: K = 1 and two tokens with the largest probabilities 0.5 and 0.25 give [0.3466 0.3466].

    Attributes:
      k: how many of the kept log-probs are used; the paper's 10.

    Reference: Moslonka et al. 2025, Learned Hallucination Detection in Black-Box LLMs using
    Token-level Entropy Production Rate, equation 8.
    """

    k: int = 10

    def __post_init__(self):
        checks.whole_number("k", self.k, 1, most=1 << 16)

    def width(self, answers: AnswerTokens) -> int:
        """Numbers per answer."""
        return 2 * self.k

    def misfit(self, width: int) -> str:
        """Why a model with this number of features does not fit; "" if it does."""
        is_right = width == 2 * self.k
        return "" if is_right else f"its arrays read {width} features, {self} gives {2 * self.k}"

    def check(self, answers: AnswerTokens, width: int) -> None:
        """Refuses answers without a token, without K log-probs of each, or with one not finite."""
        if answers.top_k < self.k:
            held = f"these hold {answers.top_k} per token" if answers.top_k else "it is not there"
            raise ValueError(
                f"the router needs the {self.k} largest log-probs of every token, column "
                f"student_top_log_probs, and {held}; `cascade-jax collect` with TOP_K = "
                f"{max(10, self.k)} adds it"
            )
        refuse_empty(answers)
        refuse_non_finite(answers, answers.top_log_probs, "top log-prob")

    def matrix(self, answers: AnswerTokens, width: int) -> Float[np.ndarray, "examples F"]:
        """One row per answer, of answers that `check` let pass."""
        result, offsets = np.zeros((answers.num_examples, width)), answers.offsets
        for rows in segments.blocks(offsets, (1 << 18) // self.k):
            tokens = slice(int(offsets[rows.start]), int(offsets[rows.stop]))
            top = answers.top_log_probs[tokens, : self.k].astype(np.float64)
            parts, starts = -np.exp(top) * top, offsets[rows] - tokens.start
            lengths = answers.lengths[rows][:, None]
            result[rows, : self.k] = np.add.reduceat(parts, starts) / lengths
            result[rows, self.k :] = np.maximum.reduceat(parts, starts)
        return result

    def describe(self) -> dict[str, Any]:
        """JSON values, for `features.build`."""
        return {"kind": "ranks", **dataclasses.asdict(self)}
