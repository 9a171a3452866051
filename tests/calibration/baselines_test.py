"""Other cascades at the same cost, against a walk over the examples and all combinations."""

import itertools

import numpy as np
import pytest

from cascade_jax.calibration import baselines
from cascade_jax.calibration.pool import CascadeAnswers


def evaluations(count, n, seed=0, ties=True):
    """The first costs nothing."""
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        cost = np.zeros(n) if i == 0 else rng.integers(0, 9, n) / 8
        quality = rng.integers(0, 9, n) / 8 if ties else rng.random(n)
        result.append(evaluation(cost, {"q": quality, "r": 1 - quality}, score=rng.random(n)))
    return result


def evaluation(cost, quality, **more):
    ends = np.full((2, len(cost), 1), np.inf)
    return CascadeAnswers(cost, quality, -ends[0], ends[1], **more)


@pytest.mark.parametrize("cost", [0.0, 0.13, 0.4, 5.0])
def test_whole_answers_are_deferred_from_the_highest_score_down(cost):
    student, teacher = evaluations(2, 23)
    rows = np.arange(23)
    actual = baselines.whole_answers(student, teacher, cost)
    left, quality, spent = cost * len(rows), student.quality["q"][rows].sum(), 0.0
    for row in sorted(rows, key=lambda row: -student.score[row]):
        share = 1.0 if teacher.cost[row] <= left else left / teacher.cost[row]
        quality += share * (teacher.quality["q"][row] - student.quality["q"][row])
        left, spent = left - share * teacher.cost[row], spent + share * teacher.cost[row]
        if share < 1:
            break
    assert actual.cost == pytest.approx(spent / len(rows))
    assert actual.quality["q"] == pytest.approx(quality / len(rows))
    assert actual.quality["r"] == pytest.approx(1 - actual.quality["q"])


def test_between_two_evaluations_lies_what_mixing_them_gives():
    result = evaluations(4, 50, seed=1)
    means = sorted((each.cost.mean(), each.quality["q"].mean()) for each in result)
    share = 0.3
    cost, quality = (share * a + (1 - share) * b for a, b in zip(*means[1:3], strict=True))
    mixed = baselines.between(result, cost)
    assert mixed.cost == pytest.approx(cost) and mixed.quality["q"] == pytest.approx(quality)
    assert baselines.between(result, 9.0).cost == pytest.approx(means[-1][0])


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_oracle_is_the_best_of_all_combinations_but_for_one_example(budget, seed):
    n, result = 6, evaluations(3, 6, seed, ties=seed == 2)
    best = 0.0
    for choice in itertools.product(range(3), repeat=n):
        cost = np.mean([result[i].cost[row] for row, i in enumerate(choice)])
        if cost <= budget + 1e-12:
            quality = np.mean([result[i].quality["q"][row] for row, i in enumerate(choice)])
            best = max(best, quality)
    oracle = baselines.oracle(result, budget, "q")
    assert oracle.cost <= budget + 1e-9
    assert best - 1 / n <= oracle.quality["q"] <= best + 1e-12
    if budget in (0.0, 1.0):  # nothing to weigh
        assert oracle.quality["q"] == pytest.approx(best)


def test_the_oracle_spends_its_budget_where_all_examples_gain_alike():
    n = 10
    never = evaluation(np.zeros(n), {"q": np.zeros(n)})
    always = evaluation(np.ones(n), {"q": (np.arange(n) < 8).astype(float)})
    actual = baselines.oracle([never, always], 0.35, "q")
    assert actual == baselines.point(0.3, {"q": 0.3})
