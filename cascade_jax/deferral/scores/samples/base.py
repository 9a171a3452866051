"""Base of scores of sampled answers: what they need, checks, and blocks of many examples."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import checks
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.deferral.scores.base import Score, UnknownCost, name_of
from cascade_jax.deferral.scores.samples import pairwise
from cascade_jax.deferral.scores.samples.similarity import ExactMatch, Similarity, check

# Rounding of sums must not put an order on examples whose samples are all equal.
_DECIMALS = 12
_COLUMNS = {"log_probs": "sample_log_probs", "tokens": "sample_tokens", "greedy": "answer"}


@dataclasses.dataclass(frozen=True)
class SampleScore(Score):
    """Base of scores of several answers to each example, drawn at random.

    Attributes:
      label: the score's name; `name` has the settings besides that are not the usual ones.
      needs: fields of `SampledAnswers` that it reads beside the texts.
      spends: see `Score`.
    """

    label: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    spends: ClassVar[tuple[str, ...]] = ("sample_flops",)

    @property
    def name(self) -> str:
        changed = [
            _shown(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return " ".join([self.label, *changed])

    def lack(self, answers: AnswerTokens) -> str:
        """The error if there are no samples, or they lack what this score needs; "" otherwise."""
        column = "" if answers.samples else "sample_answers"
        for field in self.needs if answers.samples else ():
            if getattr(answers.samples, field) is None:
                column = column or _COLUMNS[field]
        return column and (
            f"score {self.name!r} needs the column student_{column}, which is not there; "
            "`cascade-jax collect` with SAMPLES = 10 adds it"
        )

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """Scores every example in float64; higher = more reason to defer.

        Raises:
          ValueError: no samples, or they lack a column; an example without a sample, a sample
            without a token, a log-prob that is NaN or infinite; a similarity that is none.
        """
        if lack := self.lack(answers):
            raise ValueError(lack)
        _refuse_unsampled(answers)
        if "log_probs" in self.needs:
            _refuse_bad_log_probs(answers)
        result = np.zeros(answers.num_examples)
        for rows, at in answers.samples.blocks():
            result[rows] = self._block(answers, rows, at)
        is_small = np.abs(result) < 1e3  # the others have no such decimals
        result[is_small] = np.round(result[is_small], _DECIMALS) + 0.0  # + 0.0: no -0.0
        return result

    def own_flops(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """FLOPs of drawing the samples; see `Score`.

        Raises:
          UnknownCost: the answers lack them, or samples are compared by a model (a setting whose
            value has ``is_model = True``).
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if getattr(value, "is_model", False):
                raise UnknownCost(f"its {field.name}, {name_of(value)!r}, is a model's")
        return super().own_flops(answers)

    def _block(
        self, answers: AnswerTokens, rows: Int[np.ndarray, " m"], at: Int[np.ndarray, "m n"]
    ) -> Float[np.ndarray, " m"]:
        """Scores of m examples (`rows`) that have n samples each, which stand at `at`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SimilarityScore(SampleScore):
    """Base of scores that compare samples.

    Attributes:
      similarity: of two texts, in [0, 1]; see similarity.py.
    """

    similarity: Similarity = ExactMatch()

    def __post_init__(self):
        check("similarity", self.similarity)

    def _matrices(self, answers, rows, at) -> Float[np.ndarray, "m n n"]:
        return pairwise.matrices(answers, self.similarity, rows, at)


def _shown(setting: str, value: Any) -> str:
    """A setting that is not the usual one, for a score's name."""
    words = setting.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"not {words}"
    if isinstance(value, str):
        return value
    return f"{words} {value:g}" if checks.is_number(value) else name_of(value)


def _refuse_unsampled(answers: AnswerTokens) -> None:
    empty = np.flatnonzero(np.diff(answers.samples.offsets) == 0)
    if len(empty):
        raise ValueError(
            f"{answers.describe(int(empty[0]))} has no sampled answer ({len(empty)} such); "
            "`cascade-jax collect` with SAMPLES = 10 draws ten for each example"
        )


def _refuse_bad_log_probs(answers: AnswerTokens) -> None:
    samples = answers.samples
    empty = np.flatnonzero(samples.lengths == 0)
    if len(empty):
        raise ValueError(
            f"{_sample(answers, int(empty[0]))} has no token ({len(empty)} such): a sampled answer "
            "has at least one, and an empty text still has its EOS"
        )
    bad = np.flatnonzero(~np.isfinite(samples.log_probs))
    if len(bad):
        sample = int(np.searchsorted(samples.token_offsets, bad[0], side="right")) - 1
        raise ValueError(
            f"{_sample(answers, sample)} has the log-prob {samples.log_probs[bad[0]]} at token "
            f"{bad[0] - samples.token_offsets[sample]} ({len(bad)} such): a score is never made of "
            "NaN"
        )


def _sample(answers: AnswerTokens, sample: int) -> str:
    row = answers.samples.example_of(sample)
    return f"sample {sample - answers.samples.offsets[row]} of {answers.describe(row)}"
