"""By simulation: certificates are wrong as rarely as promised, also where tokens are dependent."""

import numpy as np
import pytest

from cascade_jax.deferral.guarantees import bounds
from tests.benchmarks import coverage

VALID = (bounds.WSR, bounds.HOEFFDING_BENTKUS)
PROCEDURES = ("pareto_testing", "fixed_sequence", "holm", "bonferroni")


def test_the_made_tokens_have_the_risk_and_the_correlation_they_should():
    for correlation in (*coverage.CORRELATIONS, coverage.WHOLE_ANSWERS):
        actual = coverage.costs(0.2, correlation, 300, seed=1)
        assert actual.mean() == pytest.approx(0.2, abs=0.01)
        # The variance of a mean of 20 tokens that are correlated in pairs.
        variance = 0.2 * 0.8 * (1 + 19 * correlation) / 20
        assert actual.var() == pytest.approx(variance, rel=0.05)
    made = coverage.split("one", 0.2, 0.5, seed=0)
    cost = np.mean([coverage.split("one", 0.2, 0.5, s).losses["cost"] for s in range(20)], (0, 2))
    np.testing.assert_allclose(cost, 1 - np.array(made.thresholds)[:, 0], atol=0.02)


def check_one_threshold(repeats):
    for correlation in (*coverage.CORRELATIONS, coverage.WHOLE_ANSWERS):
        for share in coverage.BROKEN:
            for bound in VALID:
                rate = coverage.certified(0.2, share * 0.2, correlation, bound, repeats)
                assert rate <= coverage.allowed(repeats), (correlation, share, bound)


def test_dependent_tokens_do_not_break_the_promise():
    check_one_threshold(500)


def test_binomial_keeps_its_promise_for_whole_answers():
    rate = coverage.certified(0.2, 0.2, coverage.WHOLE_ANSWERS, bounds.BINOMIAL, 500)
    assert 0.02 < rate <= coverage.allowed(500)


def test_the_papers_bound_holds_for_independent_tokens_and_breaks_for_others():
    assert coverage.certified(0.2, 0.2, 0.0, bounds.PAPER, 500) <= coverage.allowed(500)
    for correlation in (0.2, 0.5):
        rate = coverage.certified(0.2, 0.2, correlation, bounds.PAPER, 500)
        assert rate > coverage.allowed(500), correlation


def test_betting_certifies_more_than_hoeffding_bentkus():
    for correlation in coverage.CORRELATIONS:
        rates = [coverage.certified(0.2, 0.16, correlation, bound, 200) for bound in VALID]
        assert rates[0] > rates[1] + 0.2


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_whole_procedures_keep_their_promise(procedure):
    repeats = 60
    wrong, wrong_choice, nothing, share = coverage.procedure_figures(
        0.2, 0.5, procedure, bounds.WSR, repeats
    )
    assert wrong_choice <= wrong <= coverage.allowed(repeats)
    assert nothing < 0.05 and 0.6 < share < 1


@pytest.mark.slow
def test_two_thousand_repeats_of_one_threshold():
    check_one_threshold(2000)


@pytest.mark.slow
@pytest.mark.parametrize("procedure", PROCEDURES)
@pytest.mark.parametrize("correlation", [0.2, 0.5])
def test_two_thousand_repeats_of_a_procedure(procedure, correlation):
    wrong, *_ = coverage.procedure_figures(0.2, correlation, procedure, bounds.WSR, 2000)
    assert wrong <= coverage.allowed(2000)
