"""What else could have been done at the same cost: other cascades beside the calibrated one."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.evaluation.calibration_pool import Evaluation

Point = dict[str, float | dict[str, float]]


def point(cost: float, quality: Mapping[str, float]) -> Point:
    """Mean cost and mean qualities as JSON values."""
    values = {name: float(value) for name, value in quality.items()}
    return {"cost": float(cost), "quality": values}


def at(evaluation: Evaluation, rows: Int[np.ndarray, " R"]) -> Point:
    """Means over some rows."""
    quality = {name: np.mean(values[rows]) for name, values in evaluation.quality.items()}
    return point(np.mean(evaluation.cost[rows]), quality)


def whole_answers(
    student: Evaluation, teacher: Evaluation, rows: Int[np.ndarray, " R"], cost: float
) -> Point:
    """Whole answers deferred from the highest score down, until the mean cost is reached.

    A deferred answer costs what the large model's own costs. The last answer counts in part.

    Args:
      student: never deferring; its scores.
      teacher: always deferring.
      rows: which examples.
      cost: to reach.
    """
    order = rows[np.argsort(-student.score[rows], kind="stable")]
    gained = np.cumsum(teacher.cost[order] - student.cost[order])
    gained = np.concatenate([[0.0], gained]) / len(rows)
    base = float(np.mean(student.cost[rows]))
    reached = float(np.clip(cost - base, 0.0, gained[-1]))
    quality = {}
    for name in student.quality:
        steps = np.cumsum(teacher.quality[name][order] - student.quality[name][order]) / len(rows)
        start = np.mean(student.quality[name][rows])
        quality[name] = start + np.interp(reached, gained, np.concatenate([[0.0], steps]))
    return point(base + reached, quality)


def between(evaluations: Sequence[Evaluation], rows: Int[np.ndarray, " R"], cost: float) -> Point:
    """Straight lines between the nearest two evaluations: what mixing them by chance gives.

    Args:
      evaluations: at least two, of which the cheapest and the dearest lie around the cost.
      rows: which examples.
      cost: to reach.
    """
    costs = np.array([np.mean(evaluation.cost[rows]) for evaluation in evaluations])
    order = np.argsort(costs, kind="stable")
    reached = float(np.clip(cost, costs[order[0]], costs[order[-1]]))
    quality = {
        name: np.interp(
            reached,
            costs[order],
            np.array([np.mean(evaluations[i].quality[name][rows]) for i in order]),
        )
        for name in evaluations[0].quality
    }
    return point(reached, quality)


def oracle(
    evaluations: Sequence[Evaluation], rows: Int[np.ndarray, " R"], budget: float, metric: str
) -> Point:
    """For each example the best of the evaluated thresholds with hindsight, within the budget.

    ``max Σ q_i(λ_i)`` subject to ``mean c_i(λ_i) ≤ budget``, by a price on cost: each example takes
    ``argmax q_i - price · c_i`` at the lowest price (to 1 in 2^40) whose mean cost is within, and
    of those that change at that price as many do as still fit: the optimum but for one example.

    Args:
      evaluations: one of which costs nothing.
      rows: which examples.
      budget: the most that the mean cost may be.
      metric: whose best is taken; the other qualities are those of the same answers.
    """
    costs: Float[np.ndarray, "C R"] = np.stack([found.cost[rows] for found in evaluations])
    order = np.argsort(costs.mean(axis=1), kind="stable")  # of equal ones the cheapest is taken
    costs = costs[order]
    quality = np.stack([evaluations[i].quality[metric][rows] for i in order])
    columns = np.arange(len(rows))

    def chosen(price: float) -> Int[np.ndarray, " R"]:
        return np.argmax(quality - price * costs, axis=0)

    def mean_cost(price: float) -> float:
        return float(np.mean(costs[chosen(price), columns]))

    taken, low, high = chosen(0.0), 0.0, 1.0
    if mean_cost(0.0) > budget:
        while mean_cost(high) > budget and high < 2.0**40:
            high *= 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if mean_cost(middle) <= budget else (middle, high)
        # Many examples may change at one price: as many of them do as the budget takes.
        taken, dear = chosen(high), chosen(low)
        more = costs[dear, columns] - costs[taken, columns]
        by_step = np.argsort(more, kind="stable")
        total = np.sum(costs[taken, columns]) + np.cumsum(more[by_step])
        fits = by_step[total <= budget * len(rows) + 1e-9]
        taken[fits] = dear[fits]
    best = order[taken]
    columns_of = {
        name: [evaluations[i].quality[name][row] for i, row in zip(best, rows, strict=True)]
        for name in evaluations[0].quality
    }
    means = {name: np.mean(values) for name, values in columns_of.items()}
    return point(np.mean(costs[taken, columns]), means)
