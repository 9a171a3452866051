"""Searches on functions of which the whole grid is known."""

import dataclasses
import math

import numpy as np
import pytest

from cascade_jax.calibration import search
from cascade_jax.deferral.guarantees import pareto
from tests.benchmarks import search_curves as curves

GRID = np.linspace(0.0, 1.0, 400)[:, None]


def searched(result, function):
    for thresholds in result:
        result.tell(thresholds, function(np.array(thresholds[0])))
    return result


@pytest.mark.parametrize("function", [curves.cheap_soon, curves.waves, curves.stairs])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])  # as seed 0
def test_25_evaluations_find_99_percent_of_400(function, seed):
    everything = function(GRID[:, 0])
    reference = pareto.reference_point(everything)
    whole = pareto.hypervolume(everything, reference)
    result = searched(search.BayesianSearch(GRID, 25, seed=seed), function)
    reached = result.hypervolumes(reference)[-1]
    assert reached >= 0.99 * whole
    evenly = everything[np.linspace(0, 399, 25).astype(int)]
    assert pareto.hypervolume(evenly, reference) < 0.98 * whole
    assert reached <= curves.best_of(25, everything, reference) * (1 + 1e-12)


def test_a_front_in_two_pieces_is_found_whole():
    """Schaffer's second, on which the posterior mean alone stays in one piece."""
    grid, function = np.linspace(-5.0, 10.0, 400)[:, None], curves.schaffer_2
    everything = function(grid[:, 0])
    reference = pareto.reference_point(everything)
    result = searched(search.BayesianSearch(grid, 25), function)
    reached = result.hypervolumes(reference)[-1]
    assert reached >= 0.98 * pareto.hypervolume(everything, reference)
    places = np.array([trial.thresholds[0] for trial in result.front()])
    assert np.any((places > 1) & (places < 2)) and np.any((places > 4) & (places < 5))


def test_a_grid_asks_for_all_once():
    actual = searched(search.GridSearch(GRID[::40]), curves.cost_and_loss)
    assert [trial.thresholds[0] for trial in actual.trials] == GRID[::40, 0].tolist()
    assert actual.ask() is None


def test_what_is_asked_depends_on_what_was_told_alone():
    whole = searched(search.BayesianSearch(GRID, 12, seed=1), curves.cost_and_loss)
    again = search.BayesianSearch(GRID, 12, seed=1)
    for trial in whole.trials[:8]:
        assert again.ask() == again.ask() == trial.thresholds
        again.tell(trial.thresholds, trial.objectives)
    resumed = search.BayesianSearch(GRID, 12, seed=1)
    for trial in whole.trials[:8]:
        resumed.tell(trial.thresholds, trial.objectives)
    assert searched(resumed, curves.cost_and_loss).trials == whole.trials


def test_no_candidate_is_asked_for_twice_until_there_is_none_left():
    result = searched(search.BayesianSearch(GRID[::40], 50), curves.cost_and_loss)
    assert sorted(trial.thresholds[0] for trial in result.trials) == GRID[::40, 0].tolist()


def test_a_warm_start_counts_and_may_be_off_the_grid():
    result = search.BayesianSearch(GRID, 9)
    for x in (0.31111, 0.7):
        result.tell(x, curves.cost_and_loss(np.array(x)))
    searched(result, curves.cost_and_loss)
    assert len(result.trials) == 9
    first = result.trials[2].thresholds[0]
    assert first == 0.0 or first == 1.0  # far from both


def test_objectives_that_never_change_are_no_trouble():
    result = searched(search.BayesianSearch(GRID, 10), lambda x: np.array([0.5, 0.25]))
    assert len(result.trials) == 10
    # Nothing promises anything, so it goes on filling the largest gaps.
    places = np.sort([trial.thresholds[0] for trial in result.trials])
    assert np.diff(places).max() < 0.2


def test_infinite_thresholds_have_a_place():
    candidates = np.array([-math.inf, *np.linspace(1, 5, 30), math.inf])[:, None]
    result = search.BayesianSearch(candidates, 8)
    searched(result, lambda x: curves.schaffer_1(np.clip(x, 0, 6) - 2))
    asked = {trial.thresholds[0] for trial in result.trials}
    assert {-math.inf, math.inf} <= asked and len(asked) == 8


def test_the_search_does_not_depend_on_the_scale_of_the_score():
    plain = searched(search.BayesianSearch(GRID, 10), curves.cost_and_loss)
    bent = search.BayesianSearch(np.exp(20 * GRID), 10)
    searched(bent, lambda x: curves.cost_and_loss(np.log(x) / 20))
    for one, other in zip(plain.trials, bent.trials, strict=True):
        assert np.log(other.thresholds[0]) / 20 == pytest.approx(one.thresholds[0], abs=1e-9)


def test_front_and_hypervolumes_are_of_the_evaluations():
    actual = search.GridSearch(np.arange(4.0)[:, None])
    for x, objectives in enumerate([(0.0, 2.0), (2.0, 2.0), (1.0, 1.0), (1.5, 0.0)]):
        actual.tell(float(x), objectives)
    assert [trial.objectives for trial in actual.front()] == [(0.0, 2.0), (1.0, 1.0), (1.5, 0.0)]
    volumes = actual.hypervolumes(np.array([3.0, 3.0]))
    np.testing.assert_allclose(volumes, [3.0, 3.0, 5.0, 6.5])
    reference = pareto.reference_point(actual.objectives())
    assert actual.hypervolumes()[-1] == pareto.hypervolume(actual.objectives(), reference)


def test_thresholds_of_blocks_are_searched():
    """Two blocks that cost alike, of which deferring the first alone helps."""

    def function(thresholds):
        first, second = thresholds
        return (2 - first - second) / 2, 0.5 + 0.4 * first**2 + 0.01 * second

    one = np.linspace(0.0, 1.0, 20)[:, None]
    candidates = search.several_thresholds(one, 2, count=400)
    assert len(candidates) == 400
    actual = search.BayesianSearch(candidates, 20)
    for thresholds in actual:
        actual.tell(thresholds, function(thresholds))
    same = np.array([function((x, x)) for x in one[:, 0]])
    everything = np.array([function(row) for row in candidates])
    reference = pareto.reference_point(everything)
    assert actual.hypervolumes(reference)[-1] > pareto.hypervolume(same, reference)
    assert actual.hypervolumes(reference)[-1] > 0.95 * pareto.hypervolume(everything, reference)


def test_candidates_of_blocks():
    one = np.linspace(0.0, 1.0, 50)[:, None]
    rows = search.several_thresholds(one, 3, count=256)
    assert 200 < len(rows) <= 256 and rows.shape[1] == 3
    assert len(np.unique(rows, axis=0)) == len(rows) and set(rows.ravel()) <= set(one[:, 0])
    same = rows[np.ptp(rows, axis=1) == 0][:, 0]
    assert {0.0, 1.0} <= set(same) and len(same) >= 50
    np.testing.assert_array_equal(rows, search.several_thresholds(one, 3, count=256))
    assert len(search.several_thresholds(one, 2, count=2500)) == 2500


def test_candidates_from_scores_are_their_quantiles():
    scores = np.random.default_rng(0).exponential(size=5000)
    values = search.score_quantiles(scores, 11)[:, 0]
    np.testing.assert_allclose(values, np.quantile(scores, np.arange(11) / 10))
    counts = np.histogram(scores, values)[0]
    assert counts.min() >= 499
    assert len(search.score_quantiles(np.array([1.0, 1.0, 1.0, 2.0]), 100)) < 100


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: search.score_quantiles(np.ones(5)), "5 scores have 1 different values"),
        (lambda: search.score_quantiles(np.array([1.0, np.nan])), "finite"),
        (lambda: search.GridSearch(np.zeros((1, 1))), "two different candidates or more, got 1"),
        (lambda: search.GridSearch(np.array([[0.0], [1.0], [0.0]])), "more than once"),
        (lambda: search.GridSearch(np.array([[0.0], [np.nan]])), "and not NaN"),
        (lambda: search.BayesianSearch(GRID, 4, num_initial=5), "got 5 and 4"),
        (lambda: search.BayesianSearch(GRID, margin=0.0), "margin must be above 0, got 0.0"),
        (lambda: search.GridSearch(GRID).tell((0.0, 1.0), (0.0, 0.0)), "has 2 thresholds"),
        (lambda: search.GridSearch(GRID).tell(0.0, (0.0, math.nan)), "two finite numbers"),
        (lambda: search.GridSearch(GRID).tell(0.0, (0.0,)), "two finite numbers"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_told_twice_is_refused():
    result = search.GridSearch(GRID)
    result.tell(0.5, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"\[0.5\] were evaluated before"):
        result.tell(0.5, (0.0, 1.0))
    assert dataclasses.asdict(result.trials[0])["objectives"] == (0.0, 1.0)
