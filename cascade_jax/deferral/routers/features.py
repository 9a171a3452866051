"""Features of an answer for learned routers: a row of numbers of one width for all answers."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.routers.rank_features import RankFeatures
from cascade_jax.deferral.routers.state_features import StateFeatures
from cascade_jax.deferral.scores import segments
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import refuse_empty, refuse_non_finite
from cascade_jax.names import check_choice

# Finer near 0, where the answer's least sure tokens are.
QUANTILES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class QuantileFeatures:
    """Quantiles of an answer's log-probs; optionally its length and embedding.

    Gupta et al. feed quantiles of the tokens' log-probs to a learned rule, because any one of them,
    and the mean, loses what the others tell; and the small model's pooled embedding beside them.
    Which quantiles is our choice.

    Example: quantiles (0, 0.5, 1) of log-probs ``[-0.1 -0.3 -2.0]`` are ``[-2.0 -0.3 -0.1]``; with
    `lengths` ``log 3 = 1.0986`` follows.

    Attributes:
      quantiles: each in [0, 1], rising; linear between two log-probs as in `scores.Quantile`.
      lengths: whether the logarithm of the number of tokens follows them.
      embeddings: whether the answers' embeddings follow.

    Reference: Gupta et al. 2024, Language Model Cascades: Token-level Uncertainty and Beyond.
    """

    quantiles: Sequence[float] = QUANTILES
    lengths: bool = False
    embeddings: bool = False

    def __post_init__(self):
        quantiles = self.quantiles
        quantiles = tuple(quantiles) if isinstance(quantiles, Iterable) else ()
        are_numbers = all(map(checks.is_number, quantiles))
        rises = are_numbers and all(a < b for a, b in itertools.pairwise(quantiles))
        if not quantiles or not rises or quantiles[0] < 0 or quantiles[-1] > 1:
            raise ValueError(
                f"quantiles must rise within [0, 1], got {checks.shown(self.quantiles)}"
            )
        object.__setattr__(self, "quantiles", tuple(map(float, quantiles)))
        checks.true_or_false("lengths", self.lengths)
        checks.true_or_false("embeddings", self.embeddings)

    def width(self, answers: AnswerTokens) -> int:
        """Numbers per answer.

        Raises:
          ValueError: embeddings are asked for, and the answers have none.
        """
        if not self.embeddings:
            return self.width_with(0)
        if answers.embeddings is None:
            raise ValueError(
                "the router's features need the column student_embedding, which is not there; "
                "`cascade-jax collect` with EMBEDDINGS = True adds it"
            )
        return self.width_with(answers.embeddings.shape[1])

    def width_with(self, embedding_size: int) -> int:
        """Numbers per answer where embeddings have that size."""
        return len(self.quantiles) + self.lengths + self.embeddings * embedding_size

    def misfit(self, width: int) -> str:
        """Why a model with this number of features does not fit; "" if it does."""
        least = self.width_with(0)
        if width > least if self.embeddings else width == least:
            return ""
        more = " and embeddings" * self.embeddings
        return f"its arrays read {width} features, {self} give {least}{more}"

    def check(self, answers: AnswerTokens, width: int) -> None:
        """Refuses answers that a model of this width can not read.

        Raises:
          ValueError: another width, an answer without a token, a value that is NaN or infinite.
        """
        own, fixed = self.width(answers), self.width_with(0)
        if own != width:
            raise ValueError(
                f"a router fitted on embeddings of {width - fixed} values can not read answers "
                f"with embeddings of {own - fixed}: they are of another small model"
            )
        _check_tokens(answers)
        if self.embeddings:
            _check_embeddings(answers)

    def matrix(self, answers: AnswerTokens, width: int) -> Float[np.ndarray, "examples F"]:
        """One row per answer, of answers that `check` let pass."""
        parts = [segments.quantiles(answers.offsets, answers.log_probs, self.quantiles)]
        if self.lengths:
            parts.append(np.log(answers.lengths)[:, None])
        if self.embeddings:
            parts.append(answers.embeddings.astype(np.float64))
        return np.concatenate(parts, axis=1)

    def describe(self) -> dict[str, Any]:
        """JSON values, for `build`."""
        return {"kind": "quantiles", **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class ProbabilityFeatures:
    """The probabilities of an answer's tokens in order, zero-padded: the EdgeInference input.

    ``[p_S(y_S,i | x, y_S,<i)]`` for i = 1..N, then zeros up to `length`; of a longer answer the
    first `length`.

    Example: length 4 and log-probs ``[-0.1 -0.3]`` give ``[0.9048 0.7408 0 0]``.

    Attributes:
      length: 2048 in the paper.

    Reference: CAT, equation 10; Kag et al. 2023, Efficient Edge Inference by Selective Query.
    """

    length: int = 2048

    def __post_init__(self):
        checks.whole_number("length", self.length, 1, most=1 << 20)

    def width(self, answers: AnswerTokens) -> int:
        """Columns that are not zero for all: those up to the longest answer."""
        return min(self.length, int(np.max(answers.lengths, initial=1)))

    def misfit(self, width: int) -> str:
        """Why a model with this number of features does not fit; "" if it does."""
        is_right = width <= self.length
        return "" if is_right else f"its arrays read {width} features of {self}"

    def check(self, answers: AnswerTokens, width: int) -> None:
        """Refuses an answer without a token, and a log-prob that is NaN or infinite."""
        _check_tokens(answers)

    def matrix(self, answers: AnswerTokens, width: int) -> Float[np.ndarray, "examples F"]:
        """The first `width` columns, in float32, of answers that `check` let pass."""
        rows = np.repeat(np.arange(answers.num_examples), answers.lengths)
        columns = np.arange(answers.offsets[-1]) - answers.offsets[rows]
        is_read = columns < width
        result = np.zeros((answers.num_examples, width), np.float32)
        result[rows[is_read], columns[is_read]] = np.exp(answers.log_probs[is_read])
        return result

    def describe(self) -> dict[str, Any]:
        """JSON values, for `build`."""
        return {"kind": "probabilities", **dataclasses.asdict(self)}


Features = QuantileFeatures | ProbabilityFeatures | RankFeatures | StateFeatures
_KINDS = {
    "quantiles": QuantileFeatures, "probabilities": ProbabilityFeatures, "ranks": RankFeatures,
    "states": StateFeatures,
}  # fmt: skip


def build(description: Mapping[str, Any]) -> Features:
    """Features from the values of `describe`; refuses an unknown kind or setting."""
    settings = dict(description)
    kind = settings.pop("kind", None)
    check_choice("the kind of features", kind, _KINDS)
    try:
        return _KINDS[kind](**settings)
    except TypeError as error:
        raise ValueError(f"features of kind {kind!r}: {error}") from None


def _check_tokens(answers: AnswerTokens) -> None:
    refuse_empty(answers)
    refuse_non_finite(answers, answers.log_probs, "log-prob")


def _check_embeddings(answers: AnswerTokens) -> None:
    bad = np.flatnonzero(~np.all(np.isfinite(answers.embeddings), axis=1))
    if len(bad):
        example = answers.describe(int(bad[0]))
        raise ValueError(f"{example} has an embedding that is not finite ({len(bad)} such)")
