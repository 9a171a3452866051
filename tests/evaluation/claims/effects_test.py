"""Effects over seeds: coverage in a simulation, the cases with a known answer, and Holm."""

import math

import numpy as np
import pytest
from scipy import stats

from cascade_jax.evaluation.claims import effects

DRAWS = 60


def studies(count, spreads, number, seed=0):
    """Values of studies whose true effect is 0: normal parts of seeds, of examples, of both."""
    rng = np.random.default_rng(seed)
    of_seed, shared, own = spreads
    for _ in range(number):
        means = rng.normal(0, of_seed, count) + rng.normal(0, shared) + rng.normal(0, own, count)
        # Bootstrap draws of the examples: what all seeds share moves together.
        together = rng.normal(0, shared, DRAWS)
        draws = together + rng.normal(0, own, (count, DRAWS))
        yield list(np.hstack([means[:, None], means[:, None] + draws]))


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("spreads", [(1, 0, 0), (1, 0.5, 0.3), (0.3, 1, 0.3), (0, 1, 1), (0, 0, 1)])
def test_intervals_hold_the_true_effect_in_95_percent_or_a_little_more(count, spreads):
    number = 600
    within = 0
    for values in studies(count, spreads, number):
        low, high = effects.over_seeds(values).interval
        within += low <= 0 <= high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / number) <= within / number <= 0.99


def test_a_percentile_bootstrap_over_seeds_would_cover_far_too_little():
    rng, within, number = np.random.default_rng(1), 0, 300
    for values in studies(3, (1, 0, 0), number):
        means = np.array([of_seed[0] for of_seed in values])
        drawn = means[rng.integers(3, size=(200, 3))].mean(axis=1)
        within += np.quantile(drawn, 0.025) <= 0 <= np.quantile(drawn, 0.975)
    assert within / number < 0.85


def test_seeds_alone_give_students_interval_and_p_value():
    values = np.array([0.3, 0.1, 0.25, 0.18])
    effect = effects.over_seeds([np.array([v]) for v in values])
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    np.testing.assert_allclose(effect.interval, expected)
    assert effect.p_above() == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater")[1])
    assert effect.p_below() == pytest.approx(stats.ttest_1samp(values, 0, alternative="less")[1])
    assert effect.p_above(0.2) == pytest.approx(
        stats.ttest_1samp(values, 0.2, alternative="greater")[1]
    )


def test_examples_that_all_seeds_share_give_the_normal_interval():
    drawn = np.random.default_rng(0).normal(0.2, 0.05, 2000)
    effect = effects.over_seeds([np.append(0.2, drawn)] * 4)
    half = stats.norm.isf(0.025) * np.std(drawn, ddof=1)
    np.testing.assert_allclose(effect.interval, (0.2 - half, 0.2 + half))
    assert effect.p_above() == pytest.approx(stats.norm.sf(0.2 / np.std(drawn, ddof=1)), rel=1e-6)


def test_p_values_and_intervals_agree():
    values = next(studies(5, (1, 1, 0.5), 1))
    effect = effects.over_seeds(values)
    low, high = effect.interval
    assert effect.p_above(low) == pytest.approx(0.025) == effect.p_below(high)
    assert effect.p_above(effect.value) == pytest.approx(0.5)
    assert effect.p_above(0.3) + effect.p_below(0.3) == pytest.approx(1)


def test_one_seed_has_an_interval_of_its_examples_and_no_p_value():
    effect = effects.over_seeds([np.append(1.0, np.random.default_rng(0).normal(1, 0.1, 500))])
    assert effect.seeds == 1 and math.isnan(effect.p_above()) and math.isnan(effect.p_below())
    assert 0.7 < effect.interval[0] < 0.85 and 1.15 < effect.interval[1] < 1.3


def test_one_seed_without_draws_has_no_interval():
    effect = effects.over_seeds([np.array([0.1])])
    assert effect.value == 0.1 and all(map(math.isnan, effect.interval))


def test_all_seeds_alike_leave_no_doubt_about_seeds():
    effect = effects.over_seeds([np.array([0.1])] * 3)
    assert effect.interval == pytest.approx((0.1, 0.1)) and effect.p_above() < 1e-30


def test_what_is_undefined_on_one_seed_or_draw_is_undefined():
    for bad in (math.nan, math.inf):
        effect = effects.over_seeds([np.array([0.1, 0.1, 0.2]), np.array([0.1, bad, 0.3])])
        assert math.isnan(effect.value) and all(map(math.isnan, effect.interval))
        assert math.isnan(effect.p_above())


def test_holm():
    np.testing.assert_allclose(effects.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(effects.holm([0.01, math.nan, 0.5]), [0.02, math.nan, 0.5])
    p = (np.random.default_rng(0).random(12) ** 3).tolist()
    sorted_p = effects.holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected, order = set(), np.argsort(p)
        for rank, i in enumerate(order):
            if p[i] > level / (12 - rank):
                break
            rejected.add(i)
        assert {i for i in range(12) if sorted_p[i] <= level} == rejected
