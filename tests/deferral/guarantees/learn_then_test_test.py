"""Calibration against its definition by hand, and what it refuses."""

import dataclasses
import math

import numpy as np
import pytest

from cascade_jax.deferral.guarantees import bounds, learn_then_test
from cascade_jax.deferral.guarantees.losses import CalibrationLosses
from cascade_jax.deferral.guarantees.risks import CalibrationSettings as Settings
from cascade_jax.deferral.guarantees.risks import Risk
from tests.support.measurements import COST, WORSE, measured

BUDGET = Risk(COST, 0.2)
FLOOR = Risk(WORSE, 0.46, lower=-1.0, fallback="always_defer")
SETTINGS = Settings([BUDGET])


def both(n=200, seed=0, **options):
    return measured("one", n, 2 * seed, **options), measured("two", n, 2 * seed + 1, **options)


def p_of(split, risk, delta):
    losses = split.losses[risk.name]
    return bounds.p_values(losses, risk.limit, "wsr", risk.lower, risk.upper, delta)


def test_pareto_testing_is_its_definition():
    first, second = both()
    actual = learn_then_test.calibrate(SETTINGS, first, second)
    p = [p_of(first, BUDGET, 0.1), p_of(second, BUDGET, 0.1)]
    means = np.stack([first.objective.mean(axis=1), first.losses[COST].mean(axis=1)], axis=1)
    on_front = [
        not any(np.all(other <= mean) and np.any(other < mean) for other in means) for mean in means
    ]
    order = sorted(np.flatnonzero(on_front), key=lambda i: (p[0][i], means[i, 0]))
    accepted = []
    for index in order:
        if p[1][index] > 0.1:
            break
        accepted.append(index)
    assert 2 < len(accepted) < len(order)
    assert set(actual.accepted) == set(accepted)
    best = min(accepted, key=lambda i: second.objective[i].mean())
    assert actual.chosen == best and actual.thresholds == first.thresholds[best]
    assert actual.thresholds[0] >= 0.8  # where the true cost is the budget
    assert (actual.num_first, actual.num_second) == (200, 200)
    for i, candidate in enumerate(actual.candidates):
        assert candidate.first_p == p[0][i] and candidate.second_p == p[1][i]
        assert candidate.first_risks == {COST: pytest.approx(means[i, 1])}
        assert candidate.rank == (order.index(i) if i in order else None)


def test_a_second_split_that_is_measured_only_as_far_as_needed_gives_the_same():
    first, second = both()
    proposal = learn_then_test.propose(SETTINGS, first)
    part, asked = None, []
    while (thresholds := learn_then_test.next_to_test(proposal, part)) is not None:
        asked.append(thresholds)
        rows = [second.row_of(value) for value in asked]
        part = dataclasses.replace(
            second,
            thresholds=asked,
            losses={name: values[rows] for name, values in second.losses.items()},
            objective=second.objective[rows],
        )
        assert len(asked) < 20
    actual, whole = learn_then_test.decide(proposal, part), learn_then_test.decide(proposal, second)
    assert actual.thresholds == whole.thresholds and actual.accepted == whole.accepted
    assert len(actual.accepted) == len(asked) - 1  # the last has failed
    assert sum(candidate.second_p is None for candidate in actual.candidates) == 21 - len(asked)
    rows = [second.row_of(value) for value in asked[1:]]
    lacking = dataclasses.replace(
        second,
        thresholds=asked[1:],
        losses={name: values[rows] for name, values in second.losses.items()},
        objective=second.objective[rows],
    )
    with pytest.raises(ValueError, match=r"'two' was not measured at the thresholds \["):
        learn_then_test.decide(proposal, lacking)


@pytest.mark.parametrize("procedure", ["bonferroni", "holm", "fixed_sequence"])
def test_the_others_take_both_splits_together(procedure):
    first, second = both(thresholds=np.linspace(1, 0.5, 21))  # from the safest
    settings = Settings([BUDGET], procedure=procedure)
    actual = learn_then_test.calibrate(settings, first, second)
    losses = np.concatenate([first.losses[COST], second.losses[COST]], axis=1)
    level = 0.1 if procedure == "fixed_sequence" else 0.1 / 21
    p = bounds.p_values(losses, 0.2, "wsr", delta=level)
    np.testing.assert_array_equal([c.first_p for c in actual.candidates], p)
    if procedure == "bonferroni":
        expected = set(np.flatnonzero(p <= 0.1 / 21))
    elif procedure == "fixed_sequence":
        expected = set(range(int(np.argmax(p > 0.1))))
    else:
        expected, left = set(), sorted(range(21), key=lambda i: p[i])
        while p[left[0]] <= 0.1 / len(left):
            expected.add(left.pop(0))
    assert set(actual.accepted) == expected and expected
    objective = np.concatenate([first.objective, second.objective], axis=1).mean(axis=1)
    assert actual.chosen == min(expected, key=lambda i: objective[i])
    assert (actual.num_first, actual.num_second) == (400, 0)


def test_the_p_value_of_several_risks_is_the_largest():
    first, second = both()
    settings = Settings([BUDGET, FLOOR])
    expected = np.maximum(p_of(first, BUDGET, 0.1), p_of(first, FLOOR, 0.1))
    np.testing.assert_array_equal(settings.p_values(first), expected)
    actual = learn_then_test.calibrate(settings, first, second)
    assert actual.accepted
    for index in actual.accepted:
        assert p_of(second, BUDGET, 0.1)[index] <= 0.1
        assert p_of(second, FLOOR, 0.1)[index] <= 0.1
        assert first.thresholds[index][0] >= 0.8  # the budget
        assert first.thresholds[index][0] <= 0.92  # the floor


def test_nothing_certified_falls_back():
    costly = np.linspace(0.1, 0.5, 9)
    cases = {
        (BUDGET,): (math.inf,),
        (dataclasses.replace(FLOOR, limit=0.001),): (-math.inf,),
        (BUDGET, FLOOR): None,
        (dataclasses.replace(BUDGET, fallback="none"),): None,
    }
    for risks, expected in cases.items():
        first, second = both(thresholds=costly)
        actual = learn_then_test.calibrate(Settings(risks), first, second)
        assert actual.chosen is None and actual.accepted == ()
        assert actual.thresholds == expected


def test_a_fallback_has_as_many_thresholds_as_the_candidates():
    first, second = (
        dataclasses.replace(split, thresholds=[(t[0], 0.5) for t in split.thresholds])
        for split in both(thresholds=[0.1, 0.2])
    )
    assert learn_then_test.calibrate(SETTINGS, first, second).thresholds == (math.inf, math.inf)


def test_an_infinite_threshold_costs_nothing_and_is_accepted():
    first, second = both(thresholds=[0.1, 0.5, math.inf])
    actual = learn_then_test.calibrate(SETTINGS, first, second)
    assert actual.accepted == (2,) and actual.thresholds == (math.inf,)


def test_too_few_examples_are_told_how_many_could():
    first, second = both(n=10)
    with pytest.raises(ValueError, match="'two' has 10 examples, too few.*: 11 could, if every"):
        learn_then_test.calibrate(SETTINGS, first, second)
    settings = Settings([BUDGET], procedure="bonferroni", bound="binomial")
    with pytest.raises(ValueError, match=r"delta = 0.1 / 21 with the bound 'binomial': 24 could"):
        settings.check_enough(20, 21, "both")
    assert 0.8**24 <= 0.1 / 21 < 0.8**23
    settings.check_enough(24, 21, "both")


def test_splits_that_share_examples_are_refused():
    first, second = both()
    second = dataclasses.replace(second, example_ids=("one/3", *second.example_ids[1:]))
    for procedure in ("pareto_testing", "holm"):
        with pytest.raises(ValueError, match="'one' and 'two' share 1 of 200 examples: 'one/3'"):
            learn_then_test.calibrate(Settings([BUDGET], procedure=procedure), first, second)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Settings([]), "one risk or more"),
        (lambda: Settings([BUDGET, BUDGET]), "of different names"),
        (
            lambda: Settings([BUDGET], delta=1.0),
            "delta must be above 0 and below 1, got 1.0",
        ),
        (lambda: Settings([BUDGET], procedure="holms"), "did you mean 'holm'"),
        (
            lambda: Settings([BUDGET], bound="betting"),
            "bound is 'betting'; must be one of wsr",
        ),
        (
            lambda: Settings([BUDGET], bound="paper"),
            "'paper' counts tokens: tokens_per_sequence is None",
        ),
        (
            lambda: Settings(
                [Risk("worse", 0.1, lower=-1.0)], bound="paper", tokens_per_sequence=5
            ),
            r"counts deferred tokens, and a loss of 'worse' is a difference in \[-1, 1\]",
        ),
        (lambda: Risk("", 0.2), "needs a name"),
        (lambda: Risk(COST, 1.0), "strictly between 0.0 and 1.0, got 1.0"),
        (lambda: Risk(COST, -0.1, lower=-1.0), "no policy keeps a limit below 0"),
        (lambda: Risk(COST, 0.2, fallback="never"), "did you mean 'never_defer'"),
        (lambda: measured("one", 5, 0, thresholds=[0.5, 0.5]), r"0 and 1 of 'one' both.*\[0.5\]"),
        (lambda: measured("one", 5, 0, thresholds=[0.5, math.nan]), "and not NaN"),
        (
            lambda: CalibrationLosses("one", [0.5], {}, np.zeros((1, 2)), ["a"]),
            r"\(1, 2\), must be \(1, 1",
        ),
        (
            lambda: CalibrationLosses("one", [0.5], {}, np.full((1, 1), np.nan), ["a"]),
            "objective of configuration 0 for example 0 is nan",
        ),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_measurements_are_refused():
    first, second = both()
    with pytest.raises(ValueError, match="has no losses of 'costs'.*did you mean 'cost'"):
        learn_then_test.calibrate(Settings([Risk("costs", 0.2)]), first, second)
    wrong = first.losses[COST].copy()
    wrong[4, 7] = 1.25
    bad = dataclasses.replace(first, losses={COST: wrong})
    with pytest.raises(
        ValueError, match="'cost' in 'one' of configuration 4 for example 7 is 1.25"
    ):
        learn_then_test.calibrate(SETTINGS, bad, second)
    with pytest.raises(ValueError, match="needs two splits"):
        learn_then_test.calibrate(SETTINGS, first)
    one = both(thresholds=[0.9])
    for procedure in ("pareto_testing", "holm"):
        with pytest.raises(ValueError, match="was measured at 1; give two or more"):
            learn_then_test.calibrate(Settings([BUDGET], procedure=procedure), *one)
    other = measured("two", 200, 1, thresholds=[0.9, 0.8])
    with pytest.raises(ValueError, match="different thresholds"):
        learn_then_test.calibrate(Settings([BUDGET], procedure="holm"), first, other)
