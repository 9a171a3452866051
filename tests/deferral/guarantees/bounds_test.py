"""p-values against sums over outcomes, direct formulas, and a brute-force betting product."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.deferral.guarantees import bounds

VALID = (bounds.WSR, bounds.HOEFFDING_BENTKUS, bounds.BINOMIAL)


def losses_of(configurations, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.beta(rng.uniform(0.2, 2, (configurations, 1)), 2.0, (configurations, n))


def binomial_cdf(k, n, chance):
    """A sum over outcomes, in exact whole numbers but for the powers."""
    return math.fsum(
        math.comb(n, j) * chance**j * (1 - chance) ** (n - j) for j in range(int(k) + 1)
    )


def wealth_by_hand(losses, limit, delta):
    """One gambler, one bet after the other, in plain Python."""
    n, wealth, best = len(losses), 1.0, 1.0
    seen, centred = [limit], [limit * (1 - limit)]
    for i, loss in enumerate(losses):
        aim = 1 / delta if best >= 1 / delta else 1 / delta / wealth
        variance = sum(centred) / len(centred)
        bet = 0.95 / (1 - limit)
        if variance > 0:
            bet = min(bet, math.sqrt(2 * math.log(aim) / ((n - i) * variance)))
        wealth *= 1 + bet * (limit - loss)
        best = max(best, wealth)
        seen.append(loss)
        centred.append((loss - sum(seen) / len(seen)) ** 2)
    return 1 / best if sum(losses) < limit * n else 1.0


@pytest.mark.parametrize("limit", [0.03, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("delta", [0.1, 0.005])
def test_betting_is_the_product_by_hand(limit, delta):
    losses = losses_of(12, 80) * min(1, 2.5 * limit)
    actual = bounds.p_values(losses, limit, bounds.WSR, delta=delta)
    expected = [wealth_by_hand(row.tolist(), limit, delta) for row in losses]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    assert np.ptp(np.log(actual)) > 1


def test_betting_does_not_certify_early_luck():
    losses = np.zeros((2, 200))
    losses[0, 100:] = 0.3  # the mean is 0.15
    losses[1, 100:] = 0.1
    p = bounds.p_values(losses, 0.1, bounds.WSR)
    assert p[0] == 1 and p[1] < 1e-3


@pytest.mark.parametrize("limit", [0.05, 0.2, 0.6])
def test_hoeffding_bentkus_is_the_formula(limit):
    losses = losses_of(30, 60)
    for row, p in zip(losses, bounds.p_values(losses, limit, "hoeffding_bentkus"), strict=True):
        mean = min(row.mean(), limit)
        h = mean * math.log(mean / limit) + (1 - mean) * math.log((1 - mean) / (1 - limit))
        bentkus = math.e * binomial_cdf(math.ceil(row.sum()), 60, limit)
        assert p == pytest.approx(min(1, math.exp(-60 * h), bentkus), rel=1e-9)


def test_both_parts_of_hoeffding_bentkus_are_needed():
    few, many = np.zeros((1, 100)), np.full((1, 100), 0.17)
    hoeffding = 0.8**100
    assert bounds.p_values(few, 0.2, "hoeffding_bentkus")[0] == pytest.approx(hoeffding)
    bentkus = math.e * binomial_cdf(17, 100, 0.2)
    assert bounds.p_values(many, 0.2, "hoeffding_bentkus")[0] == pytest.approx(bentkus)


def test_binomial_is_scipys_and_the_sum():
    from scipy import stats

    losses = (losses_of(20, 50) > 0.5).astype(np.int64)
    actual = bounds.p_values(losses, 0.3, "binomial")
    k = losses.sum(axis=1)
    np.testing.assert_allclose(actual, [binomial_cdf(i, 50, 0.3) for i in k], rtol=1e-10)
    np.testing.assert_allclose(actual, stats.binom.cdf(k, 50, 0.3), rtol=1e-12)


def test_papers_counts_tokens_and_warns():
    tokens = losses_of(10, 40 * 7).reshape(10, 40, 7) > 0.4
    with pytest.warns(bounds.IndependentTokensWarning, match="independent"):
        actual = bounds.p_values(tokens.mean(axis=2), 0.35, "paper", tokens_per_sequence=7)
    expected = [binomial_cdf(row.sum(), 280, 0.35) for row in tokens]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_the_others_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bound in VALID:
            bounds.p_values(np.zeros((2, 30)), 0.2, bound)


@pytest.mark.parametrize("bound", VALID)
def test_a_range_is_moved_to_zero_and_one(bound):
    losses = np.round(losses_of(8, 50)) if bound == "binomial" else losses_of(8, 50)
    plain = bounds.p_values(losses, 0.4, bound)
    moved = bounds.p_values(4 * losses - 1, 4 * 0.4 - 1, bound, lower=-1.0, upper=3.0)
    np.testing.assert_allclose(moved, plain, rtol=1e-9)


@given(data=st.data(), bound=st.sampled_from(VALID), limit=st.floats(0.05, 0.95))
def test_p_is_a_probability_and_a_smaller_limit_is_harder(data, bound, limit):
    values = st.sampled_from([0.0, 1.0]) if bound == "binomial" else st.floats(0, 1)
    losses = np.array([data.draw(st.lists(values, min_size=5, max_size=5))])
    (p,) = bounds.p_values(losses, limit, bound)
    assert 0 < p <= 1
    if bound != bounds.WSR:  # whose bets change with the limit
        assert bounds.p_values(losses, limit / 2, bound)[0] >= p - 1e-12


@pytest.mark.parametrize("bound", VALID)
def test_a_loss_more_never_helps(bound):
    losses = np.zeros((60, 60))
    losses[np.tril_indices(60, -1)] = 1.0  # row i starts with i losses
    p = bounds.p_values(losses, 0.3, bound)
    assert np.all(np.diff(p) >= 0) and p[0] < 1e-6 and p[-1] > 0.999


@pytest.mark.parametrize("bound", VALID)
@pytest.mark.parametrize("chance", [0.1, 0.5])
def test_p_is_rarely_small_where_the_limit_is_broken(bound, chance):
    """P(p ≤ u) ≤ u, exactly: over all sequences of ten, each weighted by its chance."""
    n = 10
    losses = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(float)
    weights = np.prod(np.where(losses == 1, chance, 1 - chance), axis=1)
    p = bounds.p_values(losses, chance, bound)
    for u in np.unique(p):
        assert weights[p <= u].sum() <= u * (1 + 1e-9)


@pytest.mark.parametrize("bound", VALID)
@pytest.mark.parametrize("limit, delta", [(0.1, 0.1), (0.9, 0.2)])
def test_the_smallest_n_is_where_nothing_but_the_best_begins_to_do(bound, limit, delta):
    enough = [
        bounds.p_values(np.zeros((1, n)), limit, bound, delta=delta)[0] <= delta
        for n in range(1, 400)
    ]
    first = enough.index(True)
    assert all(enough[first:])
    assert bounds.smallest_n(limit, delta, bound) == first + 1
    moved = bounds.smallest_n(2 * limit - 1, delta, bound, lower=-1.0, upper=1.0)
    assert moved == first + 1


def test_a_smallest_n_that_can_not_be_searched_is_what_every_bound_needs():
    assert bounds.smallest_n(1e-6, 0.1) == math.ceil(math.log(0.1) / math.log1p(-1e-6))


def test_the_smallest_n_of_the_papers_counts_tokens():
    assert bounds.smallest_n(0.1, 0.1, "binomial") == 22
    assert bounds.smallest_n(0.1, 0.1, "paper", tokens_per_sequence=20) == 2


def test_four_hundred_configurations_take_no_time():
    import time

    losses = losses_of(400, 200)
    for bound in (bounds.WSR, bounds.HOEFFDING_BENTKUS):
        bounds.p_values(losses, 0.3, bound)
        start = time.process_time()
        bounds.p_values(losses, 0.3, bound)
        assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "losses, options, message",
    [
        (
            [[0.5, 0.2], [0.1, 1.5]],
            {},
            r"configuration 1 for example 1 is 1.5, must be in \[0.0, 1",
        ),
        ([[0.5, -0.2]], {}, r"configuration 0 for example 1 is -0.2"),
        ([[0.5, np.nan]], {}, r"configuration 0 for example 1 is nan"),
        ([[0.0, -1.5]], {"lower": -1.0}, r"is -1.5, must be in \[-1.0, 1.0\]"),
        ([[]], {}, "no example"),
        ([[0.5]], {"limit": 0.0}, "never below it"),
        ([[0.5]], {"limit": 1.0}, "always below it"),
        ([[0.5]], {"limit": float("nan")}, "strictly between 0.0 and 1.0, got nan"),
        ([[0.5]], {"lower": 2.0}, "finite range"),
        ([[0.5]], {"delta": 0.0}, "delta must be above 0 and below 1, got 0.0"),
        ([[0.5]], {"delta": 1.0}, "delta must be above 0"),
        ([[0.5]], {"delta": 1e-300}, "delta must be at least 1e-12, got 1e-300"),
        ([[0.5]], {"limit": 1e-320}, "above 0.0 by at least 1e-08 of the range, got 1e-320"),
        ([[0.5]], {"bound": "wrs"}, "bound is 'wrs'.*did you mean 'wsr'"),
        ([[0, 1], [0, 0.5]], {"bound": "binomial"}, "configuration 1 has another for example 1"),
        ([[0.5]], {"bound": "paper"}, "tokens_per_sequence is None; must be an integer of"),
    ],
)
def test_bad_input_is_named(losses, options, message):
    with pytest.raises(ValueError, match=message):
        bounds.p_values(np.array(losses, float), **{"limit": 0.2, **options})
