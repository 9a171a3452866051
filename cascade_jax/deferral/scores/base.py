"""The protocol of deferral scores, and the checks that all of ours make first.

A score is any callable from `AnswerTokens` to float64 of shape [n], one value per example, higher =
defer. A frozen dataclass is the usual form, so that its settings can be bound in a config. The unit
and the meaning of zero are the score's own: everything after it uses the order of the values only.

What a model computes for a score beside the answer is the score's own cost (`own_flops`). What the
score itself makes of it, means, similarities of words or a router's prediction, is not counted.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.scores.answer_tokens import AnswerTokens

# Columns of what models compute for scores, and the setting by which `collect` adds each.
_FLOPS = {
    "probe_flops": "PROBES",
    "sample_flops": "SAMPLES = 10",
    "sample_state_flops": "PROBES = [@probes.SampleStates()]",
}
_COLUMN_NAMES = {"log_probs": "log-prob", "entropies": "entropy", "top_log_probs": "top log-prob"}


@runtime_checkable
class DeferralScore(Protocol):
    """Protocol of all deferral scores.

    Ours have a text `name` besides, and a method ``own_flops(answers)``: see `Score`.
    """

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]: ...


def name_of(score: DeferralScore) -> str:
    """A score's name for tables and axes; that of a plain function is its own."""
    return str(getattr(score, "name", None) or getattr(score, "__name__", None) or repr(score))


class UnknownCost(ValueError):
    """What a score costs is not known; the message says why."""


def spent(answers: AnswerTokens, *columns: str) -> Float[np.ndarray, " examples"]:
    """The sum of columns of FLOPs, "sample_flops" say, of each example: for a score's `own_flops`.

    Raises:
      UnknownCost: the answers lack one of them.
    """
    total = np.zeros(answers.num_examples)
    for name in columns:
        if name not in answers.per_example:
            setting = _FLOPS.get(name, "its probe")
            raise UnknownCost(
                f"there is no column student_{name}; `cascade-jax collect` with {setting} adds it"
            )
        total += answers.per_example[name]
    return total


def own_flops(score: DeferralScore, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
    """FLOPs that models spend on each example's score beside the small model's own answer.

    A score without a method of that name spends none.

    Raises:
      UnknownCost: they are not known.
      ValueError: the score's method gives anything but a finite number of 0 or more per example.
    """
    if not hasattr(score, "own_flops"):
        return np.zeros(answers.num_examples)
    values = np.asarray(score.own_flops(answers), np.float64)
    _check_flops(score, "own_flops", answers, values, values)
    return values


def saved_flops(
    score: DeferralScore, answers: AnswerTokens, student_flops: Float[np.ndarray, " n"] | None
) -> Float[np.ndarray, " examples"]:
    """FLOPs of the small model's answer that are not spent on each example if it is deferred.

    A score says so by a method ``early_flops(answers)``, as pre-routers do: what the small model
    spends on an example that is deferred before it is answered, NaN for one that is answered first.
    0 for the latter, and for a score without the method.

    Args:
      score: any.
      answers: of the small model.
      student_flops: what the whole answers take; None if not known.

    Raises:
      UnknownCost: they, or what the small model spends, are not known.
      ValueError: the score's method gives neither NaN nor a finite number of 0 or more.
    """
    if not hasattr(score, "early_flops"):
        return np.zeros(answers.num_examples)
    early = np.asarray(score.early_flops(answers), np.float64)
    _check_flops(score, "early_flops", answers, early, np.where(np.isnan(early), 0.0, early))
    if student_flops is None:
        raise UnknownCost("there is no column student_flops")
    return np.where(np.isnan(early), 0.0, student_flops - early)


def _check_flops(score, method: str, answers: AnswerTokens, values, checked) -> None:
    if values.shape != (answers.num_examples,):
        count = f"one for each of {answers.num_examples} examples"
        raise ValueError(
            f"{method} of {name_of(score)!r} has shape {values.shape}; must be {count}"
        )
    bad = np.flatnonzero(~(np.isfinite(checked) & (checked >= 0)))
    if len(bad):
        raise ValueError(
            f"{method} of {name_of(score)!r} for {answers.describe(int(bad[0]))} is "
            f"{values[bad[0]]}; must be finite and 0 or more ({len(bad)} such)"
        )


@dataclasses.dataclass(frozen=True)
class Score:
    """Base of our own scores: checks the answers, then computes.

    Attributes:
      name: for tables and axes: "average", "quantile 0.4".
      column: the field of `AnswerTokens` that it reads.
      least_k: number of the likeliest tokens' log-probs that it needs.
      measured: columns of `AnswerTokens.per_token` and `per_example` that it reads besides, each
        with the setting by which `collect` adds it.
    """

    name: ClassVar[str] = ""
    column: ClassVar[str] = "log_probs"
    least_k: ClassVar[int] = 0
    measured: ClassVar[Mapping[str, str]] = {}

    @property
    def spends(self) -> tuple[str, ...]:
        """Columns of FLOPs that add up to its own: of the probes' pass if it has `measured`."""
        return ("probe_flops",) if self.measured else ()

    def own_flops(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """FLOPs that models spend on each example's score beside the small model's own answer.

        Raises:
          UnknownCost: the answers lack a column that says it.
        """
        return spent(answers, *self.spends)

    def __call__(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        """Scores every example in float64; higher = more reason to defer.

        Args:
          answers: of the small model.

        Raises:
          ValueError: the answers lack a column, an answer has no token, or a value is NaN or
            infinite.
        """
        if lack := self.lack(answers):
            raise ValueError(lack)
        refuse_empty(answers)
        column = self.column_of(answers)
        refuse_non_finite(answers, getattr(answers, column), _COLUMN_NAMES[column])
        for name in self.measured:
            if name in answers.per_token:
                refuse_non_finite(answers, answers.per_token[name], name.replace("_", " "))
        if answers.num_examples == 0:
            return np.zeros(0)
        return self._values(answers)

    def column_of(self, answers: AnswerTokens) -> str:
        """The field of these answers that it reads."""
        return self.column

    def lack(self, answers: AnswerTokens) -> str:
        """The error if the answers lack a column that this score needs; "" if they have all."""
        if self.column == "entropies" and answers.entropies is None:
            return (
                f"score {self.name!r} needs the column student_entropies, which is not there; "
                "`cascade-jax collect` writes it"
            )
        if answers.top_k < self.least_k:
            held = f"these hold {answers.top_k} per token" if answers.top_k else "it is not there"
            return (
                f"score {self.name!r} needs the {self.least_k} largest log-probs of every token, "
                f"column student_top_log_probs, and {held}; `cascade-jax collect` with TOP_K = "
                f"{max(10, self.least_k)} adds it"
            )
        for name, setting in self.measured.items():
            if name not in answers.per_token and name not in answers.per_example:
                return (
                    f"score {self.name!r} needs the column student_{name}, which is not there; "
                    f"`cascade-jax collect` with {setting} adds it"
                )
        return ""

    def _values(self, answers: AnswerTokens) -> Float[np.ndarray, " examples"]:
        raise NotImplementedError


def refuse_empty(answers: AnswerTokens) -> None:
    """Raises ValueError naming the first answer without a token."""
    empty = np.flatnonzero(answers.lengths == 0)
    if len(empty):
        raise ValueError(
            f"{answers.describe(int(empty[0]))} has an answer without tokens ({len(empty)} such): "
            "a deferral score needs at least one, and an empty text still has its EOS"
        )


def refuse_non_finite(answers: AnswerTokens, values: Float[np.ndarray, "..."], name: str) -> None:
    """Raises ValueError naming the first answer and token that is NaN or infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(values.sum()):  # a NaN or infinite value makes the sum so: no mask is made
            return
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        token = int(bad[0, 0])
        row = int(np.searchsorted(answers.offsets, token, side="right")) - 1
        raise ValueError(
            f"{answers.describe(row)} has the {name} {values[tuple(bad[0])]} at token "
            f"{token - answers.offsets[row]} ({len(bad)} such): a score is never made of NaN"
        )
