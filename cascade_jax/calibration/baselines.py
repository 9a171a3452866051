"""Other cascades of the same cost, to compare a calibrated one with."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from cascade_jax.calibration.pool import CascadeAnswers
from cascade_jax.deferral.guarantees.budget_runs import Point


def point(cost: float, quality: Mapping[str, float]) -> Point:
    """Mean cost and mean qualities, of NumPy numbers or others."""
    return Point(float(cost), {name: float(value) for name, value in quality.items()})


def mean_point(evaluation: CascadeAnswers) -> Point:
    """Means over the examples."""
    quality = {name: np.mean(values) for name, values in evaluation.quality.items()}
    return point(np.mean(evaluation.cost), quality)


def whole_answers(student: CascadeAnswers, teacher: CascadeAnswers, cost: float) -> Point:
    """Whole answers deferred from the highest score down, until the mean cost is reached.

    A deferred answer costs what the large model's own costs. The last answer counts in part. The
    student never defers and has scores, the teacher always defers, on the same examples.
    """
    order = np.argsort(-student.score, kind="stable")
    gained = np.cumsum(teacher.cost[order] - student.cost[order])
    gained = np.concatenate([[0.0], gained]) / len(order)
    base = float(np.mean(student.cost))
    reached = float(np.clip(cost - base, 0.0, gained[-1]))
    quality = {}
    for name in student.quality:
        steps = np.cumsum(teacher.quality[name][order] - student.quality[name][order])
        steps = np.concatenate([[0.0], steps]) / len(order)
        quality[name] = np.mean(student.quality[name]) + np.interp(reached, gained, steps)
    return point(base + reached, quality)


def between(evaluations: Sequence[CascadeAnswers], cost: float) -> Point:
    """Straight lines between the nearest two evaluations: what mixing them by chance gives.

    The cheapest and the most expensive of the evaluations lie around the cost.
    """
    costs = np.array([np.mean(evaluation.cost) for evaluation in evaluations])
    order = np.argsort(costs, kind="stable")
    reached = float(np.clip(cost, costs[order[0]], costs[order[-1]]))
    quality = {}
    for name in evaluations[0].quality:
        means = np.array([np.mean(evaluations[i].quality[name]) for i in order])
        quality[name] = np.interp(reached, costs[order], means)
    return point(reached, quality)


def oracle(evaluations: Sequence[CascadeAnswers], budget: float, metric: str) -> Point:
    """For each example the best of the evaluated thresholds with hindsight, within the budget.

    ``max Σ q_i(λ_i)`` subject to ``mean c_i(λ_i) ≤ budget``, by a price on cost: each example takes
    ``argmax q_i - price · c_i`` at the lowest price (to 1 in 2^40) whose mean cost is within, and
    of those that change at that price as many do as still fit: the optimum but for one example.

    Args:
      evaluations: of the same examples; one of them costs nothing.
      budget: the most that the mean cost may be.
      metric: whose best is taken; the other qualities are those of the same answers.
    """
    costs: Float[np.ndarray, "C R"] = np.stack([evaluation.cost for evaluation in evaluations])
    order = np.argsort(costs.mean(axis=1), kind="stable")  # of equal ones the cheapest is taken
    costs = costs[order]
    quality = np.stack([evaluations[i].quality[metric] for i in order])
    columns = np.arange(costs.shape[1])

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
        taken, expensive = chosen(high), chosen(low)
        more = costs[expensive, columns] - costs[taken, columns]
        by_step = np.argsort(more, kind="stable")
        total = np.sum(costs[taken, columns]) + np.cumsum(more[by_step])
        fits = by_step[total <= budget * len(columns) + 1e-9]
        taken[fits] = expensive[fits]
    best = order[taken]
    means = {
        name: np.mean([evaluations[i].quality[name][row] for row, i in enumerate(best)])
        for name in evaluations[0].quality
    }
    return point(np.mean(costs[taken, columns]), means)
