"""What deferral scores spend themselves, in the unit of an evaluation; or why it is not known."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from cascade_jax.deferral.scores.base import DeferralScore, UnknownCost, own_flops, saved_flops
from cascade_jax.evaluation.costs import CostModel
from cascade_jax.evaluation.curves import Cost
from cascade_jax.records.table import Records


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreCost:
    """What a score spends on each example beside the small model's answer.

    Attributes:
      flops: in FLOPs; None where they are not known.
      cost: in the evaluation's unit; 0 where it is free, or not known.
      saved: of the small model's answer, in that unit, what an example does not cost if it is
        deferred before it is answered; 0 if none is, or it is not known.
      num_cut: how many examples save more than the large model's answer costs. They count as free
        to defer, so that a curve's costs do not fall.
      unknown: why one of both is not known; "" where both are.
    """

    flops: Float[np.ndarray, " n"] | None
    cost: Cost = 0.0
    saved: Cost = 0.0
    num_cut: int = 0
    unknown: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it is known to spend nothing, and to save nothing."""
        return not self.unknown and not np.any(self.flops) and not np.any(self.saved)

    @property
    def mean_flops(self) -> float:
        """Of an example; NaN where they are not known."""
        return np.nan if self.flops is None else float(np.mean(self.flops))


FREE = ScoreCost(np.zeros(0))
ByScore = Mapping[str, ScoreCost]


def cost_of(score: DeferralScore, table: Records, cost: CostModel) -> ScoreCost:
    """What a score spends on records.

    Raises:
      ValueError: the score's own method gives something else than FLOPs.
      RecordsError: a column that can not be used.
    """
    flops, values = None, {}
    try:
        flops = own_flops(score, table.student)
        if np.any(flops):
            values["cost"] = _in_unit(cost, table, flops)
        saved = saved_flops(score, table.student, table.student_flops)
        if np.any(saved):
            values["saved"] = _in_unit(cost, table, saved)
            values["num_cut"] = int(np.sum(values["saved"] > cost(table)[1]))
    except UnknownCost as error:
        return ScoreCost(flops, unknown=str(error), **values)
    return ScoreCost(flops, **values)


def _in_unit(
    cost: CostModel, table: Records, flops: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    if not hasattr(cost, "score_cost"):
        raise UnknownCost(f"{cost!r} says nothing of what scores cost, as it has no `score_cost`")
    return np.asarray(cost.score_cost(table, flops), np.float64)


def notes(main: str, by_cascade: Mapping[str, ByScore]) -> tuple[str, ...]:
    """A sentence for each score whose cost is not known or cut: it is left out of the costs shown.

    Args:
      main: the name of the score that orders the examples.
      by_cascade: by cascade and score.
    """
    cascades: dict[tuple[str, str], list[str]] = {}
    cut = []
    for name, by_score in by_cascade.items():
        for score, cost in by_score.items():
            if cost.unknown:
                cascades.setdefault((score, cost.unknown), []).append(name)
            if cost.num_cut:
                cut.append(
                    f"By the score {score!r}, {cost.num_cut} examples sent to the large model at "
                    f"once cost less than the small model's answers; they are shown as free to "
                    f"defer, so the costs of {name} are upper bounds"
                )
    unknown = [_note(score, score == main, why, names) for (score, why), names in cascades.items()]
    return (*unknown, *cut)


def _note(score: str, is_main: bool, why: str, names: Iterable[str]) -> str:
    where = " of every curve and cost" if is_main else ""
    return (
        f"What the score {score!r} itself costs is not known, and left out{where} "
        f"({', '.join(names)}): {why}"
    )
