"""Quantities of each token of an answer, by which the example browser colours it.

`KNOWN` is the one place that declares them. A column of records that a score reads and that has a
number for each token is offered without a row here, and so is any function from answers to such
numbers that a gin file names (`evaluate.EvaluateConfig.token_values`).
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores import base
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.records import schema

_Values = Float[np.ndarray, " tokens"]

LOW, HIGH = "low", "high"
_PERCENTILES = 5, 95  # where a scale without ends of its own begins and ends


@dataclasses.dataclass(frozen=True)
class TokenValue:
    """A number for each token of an answer, and how it is shown.

    Attributes:
      name: in the selector and the legend.
      values_fn: from answers to the numbers, None where the answers lack what it needs.
      unit: of the numbers; "" for none.
      ends: of the scale of colours. None: the 5th and the 95th percentile of the tokens shown.
      marked: the end that is coloured most, "low" or "high".
      note: what it is, in a few words.
      column: the column of `AnswerTokens` that it shows.
    """

    name: str
    values_fn: Callable[[AnswerTokens], _Values | None]
    unit: str = ""
    ends: tuple[float, float] | None = None
    marked: str = HIGH
    note: str = ""
    column: str = ""

    def __post_init__(self):
        checks.require(bool(self.name), "name", self.name, "a text")
        checks.require(self.marked in (LOW, HIGH), "marked", self.marked, f"{LOW!r} or {HIGH!r}")
        is_scale = self.ends is None or (len(self.ends) == 2 and self.ends[0] < self.ends[1])
        checks.require(is_scale, "ends", self.ends, "two numbers, the lower one first, or None")

    def __call__(self, answers: AnswerTokens) -> _Values | None:
        """The number of each token, all answers end to end.

        Raises:
          ValueError: not one finite number per token (which example).
        """
        values = self.values_fn(answers)
        if values is None:
            return None
        values = np.asarray(values)
        if values.shape != answers.log_probs.shape:
            raise ValueError(
                f"token value {self.name!r} has the shape {values.shape} for "
                f"{len(answers.log_probs)} tokens; must be one number for each"
            )
        base.refuse_non_finite(answers, values, self.name)
        return values


def _known(name: str, column: str, transform: Callable = np.asarray, **more: Any) -> TokenValue:
    """A value that is a function of one column."""

    def values(answers: AnswerTokens) -> _Values | None:
        present = getattr(answers, column, answers.per_token.get(column))
        return None if present is None else transform(present)

    return TokenValue(name, values, column=column, **more)


def _margins(top: Float[np.ndarray, "tokens K"]) -> _Values | None:
    if top.shape[1] < 2:
        return None
    largest = np.exp(top[:, :2].astype(np.float64))
    return largest[:, 0] - largest[:, 1]


_SHARE = {"ends": (0.0, 1.0), "marked": LOW}
KNOWN: tuple[TokenValue, ...] = (
    _known("probability", "log_probs", lambda v: np.minimum(np.exp(v), 1.0), **_SHARE),
    _known("entropy", "entropies", unit="nats", note="of the distribution it was chosen from"),
    _known("margin", "top_log_probs", _margins, **_SHARE,
           note="largest probability at its place minus the second"),
    _known("relevance", "relevances",
           note="how much the answer's meaning changes without it; TokenSAR weighs tokens by it"),
    _known("surface-form CCP", "surface_log_probs", np.exp, **_SHARE,
           note="share of the likeliest tokens that are spelled as it is"),
    _known("mean log-prob", "mean_log_probs", unit="nats",
           note="over the vocabulary; the higher, the closer to a uniform distribution"),
)  # fmt: skip


def offered(
    answers: Mapping[str, AnswerTokens], more: Sequence[Callable[[AnswerTokens], Any]] = ()
) -> list[tuple[TokenValue, dict[str, _Values | None]]]:
    """Every quantity that some of the answers have, with its values by the answers' name.

    Those of `KNOWN` come first, then other columns with a number per token, then `more`.

    Args:
      answers: by the name of a cascade, those of its small model.
      more: token values, or functions from answers to a number per token.

    Raises:
      ValueError: two have one name, or one does not give a finite number for each token.
    """
    quantities = [*KNOWN, *_columns(answers.values(), {value.column for value in KNOWN})]
    quantities += [_as_value(value) for value in more]
    names = [quantity.name for quantity in quantities]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two token values are named {name!r}; names must differ")
    values = [
        (quantity, {name: quantity(tokens) for name, tokens in answers.items()})
        for quantity in quantities
    ]
    return [pair for pair in values if any(value is not None for value in pair[1].values())]


def _columns(answers: Iterable[AnswerTokens], shown: Collection[str]) -> list[TokenValue]:
    """Columns with a number for each token that no other quantity shows."""
    notes = {column.name: column.doc for column in schema.COLUMNS}
    names = {
        name: None
        for tokens in answers
        for name, values in tokens.per_token.items()
        if np.ndim(values) == 1 and name not in shown
    }
    return [_known(name.replace("_", " "), name, note=notes.get(name, "")) for name in names]


def _as_value(value: Callable[[AnswerTokens], Any]) -> TokenValue:
    return value if isinstance(value, TokenValue) else TokenValue(base.name_of(value), value)


def scale(quantity: TokenValue, values: Float[np.ndarray, " tokens"]) -> dict[str, Any]:
    """How the page shows a quantity: its name and unit, the ends of its colours, its range.

    Args:
      quantity: one of `offered`.
      values: of all tokens on the page, at least one.
    """
    span = float(np.min(values)), float(np.max(values))
    ends = quantity.ends
    if ends is None:
        low, high = np.percentile(values, _PERCENTILES)
        ends = (float(low), float(high)) if low < high else span
    shown = {"name": quantity.name, "unit": quantity.unit, "note": quantity.note}
    ends, span = list(map(short, ends)), list(map(short, span))
    return {**shown, "marked": quantity.marked, "ends": ends, "range": span}


def short(value: float) -> float:
    """To three significant digits, which is what a page shows and takes few bytes."""
    return float(f"{value:.3g}")
