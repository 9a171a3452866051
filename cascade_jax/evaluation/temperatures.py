"""Whether uncertainty rises with the temperature that samples are drawn at: TSU."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral import policy
from cascade_jax.deferral.scores.base import DeferralScore, name_of
from cascade_jax.records.alignment import align
from cascade_jax.records.table import Records, RecordsError


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How a score of uncertainty follows the sampling temperature.

    Attributes:
      temperatures: rising.
      tsu: share of examples whose uncertainty rises at every step, see `tsu`.
      steps: share of examples whose uncertainty rises, at each step from one temperature to the
        next.
      means: mean uncertainty at each temperature.
      num_examples: n.
    """

    temperatures: tuple[float, ...]
    tsu: float
    steps: tuple[float, ...]
    means: tuple[float, ...]
    num_examples: int


def tsu(uncertainties: Float[np.ndarray, "temperatures examples"]) -> float:
    """Share of examples whose uncertainty rises strictly from each temperature to the next.

    ``TSU = (1/n) * sum_i [u_1i < u_2i < ... < u_mi]``, in [0, 1]. Scores are compared as the rule
    that defers compares them (`policy.defers`), so that rounding is no rise. A score that sampling
    does not change, of the greedy answer say, has 0. With m independent random numbers in place of
    uncertainties it is 1/m!.

    Args:
      uncertainties: a row for each of two temperatures or more, the lowest first; higher = less
        sure.

    Raises:
      ValueError: fewer than two temperatures, no example, or a value that is not finite.

    Reference: Song et al. 2025, "Inv-Entropy: A Fully Probabilistic Framework for Uncertainty
    Quantification in Language Models", temperature sensitivity of uncertainty. Their code does not
    have it, and this formula is not verified against the paper.
    """
    return float(np.mean(np.all(_rises(uncertainties), axis=0)))


def _rises(uncertainties: Float[np.ndarray, "m n"]) -> np.ndarray:
    """Where a row is above the one before it."""
    values = np.asarray(uncertainties)
    if values.ndim != 2 or values.shape[0] < 2 or not values.shape[1]:
        raise ValueError(
            f"uncertainties have the shape {values.shape}; must be at least two temperatures by "
            "at least one example"
        )
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"the uncertainty of example {column} at temperature {row} (counted from 0) is "
            f"{values[row, column]}; must be finite"
        )
    return policy.defers(values[1:], values[:-1])


def sensitivity(tables: Sequence[Records], score: DeferralScore) -> Sensitivity:
    """How a score of the first model follows the temperature of its samples.

    Args:
      tables: of the same examples, each with samples at another temperature, in any order. The
        temperature is what `cascade-jax collect` notes beside the samples.
      score: of sampled answers; others do not change with the temperature.

    Raises:
      RecordsError: tables that do not say their temperature, that share one, or that can not be
        compared.
      ValueError: fewer than two tables, or answers that lack what the score needs.
    """
    if len(tables) < 2:
        raise ValueError(f"{len(tables)} tables; TSU takes two temperatures or more")
    stated = [_temperature_of(table) for table in tables]
    order = np.argsort(stated, kind="stable")
    for low, high in zip(order, order[1:], strict=False):
        if stated[low] == stated[high]:
            raise RecordsError(
                f"{tables[low].source} and {tables[high].source} both have samples at temperature "
                f"{stated[low]}; must differ"
            )
    aligned = align([tables[i] for i in order])
    values = np.stack([score(table.student) for table in aligned])
    try:
        rises = _rises(values)
    except ValueError as error:
        raise ValueError(f"score {name_of(score)!r}: {error}") from None
    return Sensitivity(
        temperatures=tuple(stated[i] for i in order),
        tsu=tsu(values),
        steps=tuple(map(float, np.mean(rises, axis=1))),
        means=tuple(map(float, np.mean(values, axis=1))),
        num_examples=len(aligned[0]),
    )


def _temperature_of(table: Records) -> float:
    """The temperature of the first model's samples."""
    stated = table.stated("student", "samples")
    if not isinstance(stated, dict) or not isinstance(stated.get("temperature"), int | float):
        raise RecordsError(
            f"{table.source} does not say at what temperature samples were drawn; `cascade-jax "
            "collect` with SAMPLES and SAMPLE_TEMPERATURE notes it"
        )
    return float(stated["temperature"])
