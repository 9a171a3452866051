"""Cost of an answer: by parameters, FLOPs, measured time, or a price per token.

A cost model is any callable from `Records` to the costs of both models' answers, with a `label` for
axes and a `unit`. The cascade pays the small model always and the large one where it defers:
``cost = mean_i(C_S,i) + sum_{i deferred} C_L,i / n``, and always what the score spends besides.
"""

import dataclasses
import math
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from cascade_jax import checks
from cascade_jax.deferral.scores.base import UnknownCost
from cascade_jax.records.schema import PAIR
from cascade_jax.records.table import Records, RecordsError
from cascade_jax.text_table import number

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_PREFIXES += ((1e-3, "m"), (1e-6, "µ"))
SI_UNITS = ("FLOPs", "s")  # those that take a prefix on an axis

Costs = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


@runtime_checkable
class CostModel(Protocol):
    """The protocol of cost models.

    Called with records, a model returns the costs of both models' answers to each example, and
    raises RecordsError for a missing column, a value that is negative or not finite, or parameters
    that vary between rows.

    A method ``score_cost(records, flops)`` puts FLOPs that scores spend [n] into its unit; it
    raises `UnknownCost` where it can't. Without the method they are not known in its unit.

    Attributes:
      label: of an axis, begins with the unit: ``FLOPs per example``.
      unit: ``FLOPs``, ``s`` or a currency.
    """

    @property
    def label(self) -> str: ...

    @property
    def unit(self) -> str: ...

    def __call__(self, records: Records) -> Costs: ...


@dataclasses.dataclass(frozen=True)
class Parameters:
    """FLOPs per token, 2 x parameters: the same for every example, whatever its length.

    ``C = 2 * P``, from the columns student_flops_per_token and teacher_flops_per_token.

    Reference: Cascade-Aware Training of Language Models, equation 6 and its experiments.
    """

    label: ClassVar[str] = "FLOPs per token (2 × parameters)"
    unit: ClassVar[str] = "FLOPs"

    def __call__(self, records: Records) -> Costs:
        costs = []
        for model in PAIR:
            column = f"{model}_flops_per_token"
            values = getattr(records, column)
            if len(values) and np.ptp(values) > 0:
                raise RecordsError(
                    f"{records.source}: {column} varies from {np.min(values):g} to "
                    f"{np.max(values):g} between rows; a cascade has one cost per token and model, "
                    "2 x parameters"
                )
            costs.append(values)
        return tuple(costs)

    def score_cost(
        self, records: Records, flops: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """``C_S * F_i / F_S,i``: as much more than the small model's answer as it is in FLOPs.

        F_i are what the score of example i spends and F_S,i what its answer took, from the column
        student_flops. To divide F_i by the tokens of the answer instead would count the reading
        of the input for the score, which `2 x parameters` a token leaves out for the answer.

        Raises:
          UnknownCost: no column student_flops.
        """
        if records.student_flops is None:
            raise UnknownCost(
                "FLOPs of a score per token need the column student_flops, which is not there"
            )
        return records.student_flops_per_token * flops / _column(records, "student_flops")


class _PerAnswer:
    """Costs that the records hold for every answer, in a column of each model."""

    column: ClassVar[str]

    def __call__(self, records: Records) -> Costs:
        return tuple(_column(records, f"{model}_{self.column}") for model in PAIR)


@dataclasses.dataclass(frozen=True)
class Flops(_PerAnswer):
    """FLOPs of each whole answer: prefill of the input and decoding of what was written.

    From the columns student_flops and teacher_flops, which `cascade-jax collect` fills by the
    closed forms of models/flops.py.
    """

    label: ClassVar[str] = "FLOPs per example (prefill and decoding)"
    unit: ClassVar[str] = "FLOPs"
    column: ClassVar[str] = "flops"

    def score_cost(
        self, records: Records, flops: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """The same: they are in its unit."""
        return flops


@dataclasses.dataclass(frozen=True)
class Latency(_PerAnswer):
    """Seconds that each answer took, the two models one after the other.

    From the columns student_seconds and teacher_seconds: wall time of decoding a batch over its
    rows, so at the batch size that collect had, on its machine.
    """

    label: ClassVar[str] = "s per example (measured while collecting)"
    unit: ClassVar[str] = "s"
    column: ClassVar[str] = "seconds"

    def score_cost(
        self, records: Records, flops: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Always raises UnknownCost: FLOPs at once take less time than FLOPs token by token."""
        raise UnknownCost("the seconds that scores take were not measured, and FLOPs do not tell")


@dataclasses.dataclass(frozen=True)
class Price:
    """Price of the tokens that both models read and write.

    ``C = input_price * tokens in + output_price * tokens out``. Prices are per million tokens, so
    the sum is the price of a million such answers.

    Example: with prices of 0.1 and 0.4 for the small model, an input of 100 tokens and an answer of
    5, a million such answers cost 12.

    Attributes:
      student_input, student_output, teacher_input, teacher_output: per million tokens.
      currency: of the prices, as text on axes.
    """

    student_input: float | int
    student_output: float | int
    teacher_input: float | int
    teacher_output: float | int
    currency: str = "USD"

    def __post_init__(self):
        for field in dataclasses.fields(self)[:4]:
            value = getattr(self, field.name)
            is_price = isinstance(value, int | float) and 0 <= value < math.inf
            checks.require(is_price, field.name, value, "a price of 0 or more")
        checks.require(bool(self.currency), "currency", self.currency, "a text such as 'USD'")

    @property
    def label(self) -> str:
        return f"{self.currency} per million examples (price of tokens)"

    @property
    def unit(self) -> str:
        return self.currency

    def __call__(self, records: Records) -> Costs:
        costs = []
        for model in PAIR:
            tokens_in = _column(records, f"{model}_input_tokens")
            tokens_out = np.diff(getattr(records, f"{model}_offsets"))
            output_price = getattr(self, f"{model}_output")
            if output_price and len(records) and not tokens_out.any():
                raise RecordsError(
                    f"{records.source}: {model}_tokens are empty in every row, so the price of "
                    "what that model wrote is not known"
                )
            costs.append(getattr(self, f"{model}_input") * tokens_in + output_price * tokens_out)
        return tuple(costs)

    def score_cost(
        self, records: Records, flops: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Always raises UnknownCost: prices are of tokens that are read and written."""
        raise UnknownCost("prices are of tokens, so FLOPs that scores take have none")


def _column(records: Records, column: str) -> Float[np.ndarray, " n"]:
    """An optional column, checked."""
    values = getattr(records, column, None)
    if values is None:
        raise RecordsError(
            f"{records.source}: no column {column!r}, which this cost needs; `cascade-jax collect` "
            "writes it, so collect the records anew (or add it to a table of your own)"
        )
    values = np.asarray(values, np.float64)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise RecordsError(
            f"{records.source}: {column} of example {records.example_id[bad[0]]!r} is "
            f"{values[bad[0]]}, must be 0 or more ({len(bad)} such)"
        )
    return values


def short_label(label: str) -> str:
    """A label without what stands in brackets, for heads of tables."""
    return label.partition(" (")[0]


def prefix_of(most: float, unit: str) -> tuple[float, str]:
    """The SI prefix, and what it stands for, in which a largest value is best shown.

    Currencies and other units have none.
    """
    if unit not in SI_UNITS or not 0 < most < math.inf:
        return 1.0, ""
    return next((pair for pair in _PREFIXES if most >= pair[0]), _PREFIXES[-1])


def format_cost(value: float, unit: str) -> str:
    """A cost with three digits: ``2.21 M`` (FLOPs), ``25 ms``, ``3.4`` (of a currency)."""
    if not math.isfinite(value):
        return number(value)
    scale, prefix = prefix_of(abs(value), unit)
    symbol = unit if unit in SI_UNITS and unit != "FLOPs" else ""
    return f"{value / scale:.3g} {prefix}{symbol}".strip()
