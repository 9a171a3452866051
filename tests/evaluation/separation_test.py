"""Every figure of how a score tells errors, against brute force, scikit-learn and scipy."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cascade_jax.evaluation import separation
from cascade_jax.evaluation.cascades import Cascade

TIGHT = {"abs": 1e-9, "rel": 0}


def scored(quality=(0.0, 1.0), max_size=25):
    """(score, quality) of one length; scores of few values, so that there are ties."""
    pairs = st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 3.0, 7.5]), st.sampled_from(quality))
    return st.lists(pairs, min_size=2, max_size=max_size).map(
        lambda result: tuple(np.array(column) for column in zip(*result, strict=True))
    )


GRADED = scored((0.0, 0.2, 0.5, 0.9, 1.0))


def one_kind(values):
    return bool(np.all(values == values[0]))


@given(scored())
def test_auroc_is_the_share_of_pairs_and_scikit_learns(cascade):
    score, quality = cascade
    errors, actual = quality == 0, separation.ranking(score, quality).auroc
    if one_kind(quality):
        assert math.isnan(actual)
        return
    pairs = [(e > r) + (e == r) / 2 for e in score[errors] for r in score[~errors]]
    assert actual == pytest.approx(np.mean(pairs), **TIGHT)
    assert actual == pytest.approx(roc_auc_score(errors, score), **TIGHT)


@given(scored())
def test_auprc_is_the_sum_over_thresholds_and_scikit_learns(cascade):
    score, quality = cascade
    errors, actual = quality == 0, separation.ranking(score, quality).auprc
    if one_kind(quality):
        assert math.isnan(actual)
        return
    total, recall = 0.0, 0.0
    for tau in sorted(set(score.tolist()), reverse=True):
        caught = errors[score >= tau]
        total += (caught.sum() / errors.sum() - recall) * caught.mean()
        recall = caught.sum() / errors.sum()
    assert actual == pytest.approx(total, **TIGHT)
    assert actual == pytest.approx(average_precision_score(errors, score), **TIGHT)


def rejection_area(uncertainty, quality, max_rejection):
    """The mean quality of what is left, as lm-polygraph's PredictionRejectionArea has it.

    Written anew from its definition: the surest first, means of the first k, over the k that leave
    at most a share of n rejected.
    """
    n = len(quality)
    rejected = int(max_rejection * n)
    first = np.argsort(uncertainty, kind="stable")
    means = [quality[first[:k]].mean() for k in range(n - rejected + 1, n + 1)]
    return sum(means) / rejected


def rejection_ratio(uncertainty, quality, max_rejection):
    oracle = rejection_area(-quality, quality, max_rejection)
    random = quality.mean()
    result = rejection_area(uncertainty, quality, max_rejection)
    return (result - random) / (oracle - random)


def prr(score, quality, max_rejection=1.0):
    result = separation.ranking(score, quality, is_binary=False)
    return {1.0: result.prr, 0.5: result.prr_half}[max_rejection]


@given(GRADED, st.sampled_from([1.0, 0.5]), st.randoms(use_true_random=False))
def test_prr_without_ties_is_that_of_the_definition(cascade, max_rejection, random):
    _, quality = cascade
    score = np.arange(len(quality), dtype=float)
    random.shuffle(score)
    actual = prr(score, quality, max_rejection)
    if one_kind(quality) or int(max_rejection * len(quality)) < 2:
        assert math.isnan(actual)
        return
    assert actual == pytest.approx(rejection_ratio(score, quality, max_rejection), **TIGHT)
    # lm-polygraph brings the quality to [0, 1] first; it changes nothing.
    stretched = 3 * quality - 1
    assert actual == pytest.approx(rejection_ratio(score, stretched, max_rejection), **TIGHT)


@settings(max_examples=15)
@given(scored((0.0, 0.3, 1.0), max_size=6))
def test_prr_of_ties_is_the_mean_over_their_orders(cascade):
    score, quality = cascade
    assume(not one_kind(quality))
    orders = [
        np.array(order)
        for order in itertools.permutations(range(len(score)))
        if np.all(np.diff(score[list(order)]) >= 0)
    ]
    for share in (1.0, 0.5):
        if int(share * len(score)) < 2:
            assert math.isnan(prr(score, quality, share))
            continue
        ranks = [np.argsort(order).astype(float) for order in orders]
        mean = np.mean([rejection_ratio(rank, quality, share) for rank in ranks])
        assert prr(score, quality, share) == pytest.approx(mean, **TIGHT)


def test_prr_at_random_is_zero_and_of_the_oracle_one():
    rng = np.random.default_rng(0)
    quality = rng.random(300)
    assert prr(-quality, quality) == pytest.approx(1.0)
    assert prr(np.zeros(300), quality) == pytest.approx(0.0, abs=1e-12)
    assert abs(np.mean([prr(rng.random(300), quality) for _ in range(300)])) < 0.02


@given(GRADED)
def test_correlations_are_scipys(cascade):
    score, quality = cascade
    ranking = separation.ranking(score, quality, is_binary=False)
    pairs = (
        (ranking.pearson, scipy.stats.pearsonr),
        (ranking.spearman, scipy.stats.spearmanr),
    )
    for actual, theirs in pairs:
        if one_kind(score) or one_kind(quality):
            assert math.isnan(actual)
        else:
            assert actual == pytest.approx(theirs(score, quality).statistic, **TIGHT)


def cascade_of(n=200, seed=0, graded=False):
    rng = np.random.default_rng(seed)
    quality = rng.random(n) if graded else (rng.random(n) < 0.6) * 1.0
    score = rng.random(n) - quality
    return Cascade(score, quality, np.ones(n), 1.0, 1.0, confidence=np.exp(-1 - score))


def test_a_cascades_figures_are_those_of_its_score_and_confidence():
    cascade = cascade_of()
    actual = separation.separation(cascade)
    errors = cascade.student_quality == 0
    ranking = separation.ranking(cascade.score, cascade.student_quality)
    assert vars(ranking).items() <= vars(actual).items()
    assert actual.error_share == errors.mean()
    assert (
        actual.ece == actual.reliability.ece and actual.ece_scaled == actual.reliability_scaled.ece
    )
    assert 0 < actual.overlap < 1


def test_graded_quality_leaves_undefined_what_needs_right_and_wrong():
    result = separation.separation(cascade_of(graded=True))
    assert all(map(math.isnan, (result.auroc, result.auprc, result.overlap, result.error_share)))
    assert all(map(math.isfinite, (result.prr, result.pearson, result.spearman, result.ece)))


def test_without_confidence_only_the_score_is_judged():
    cascade = Cascade(**(vars(cascade_of()) | {"confidence": None}))
    result = separation.separation(cascade)
    assert math.isnan(result.ece) and math.isnan(result.overlap) and result.reliability is None
    assert math.isfinite(result.auroc)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("n", [1, 7])
def test_one_kind_of_answers_is_undefined_and_never_an_error(value, n):
    rng = np.random.default_rng(0)
    quality = np.full(n, value)
    cascade = Cascade(rng.random(n), quality, np.ones(n), 1.0, 1.0, confidence=rng.random(n))
    actual = separation.separation(cascade)
    names = ("auroc", "auprc", "prr", "prr_half", "pearson", "spearman", "overlap", "ece")
    assert all(math.isnan(getattr(actual, name)) for name in (*names, "ece_scaled"))
    assert actual.reliability.count.sum() == n and actual.reliability_scaled is None


def test_quality_may_be_unsigned():
    score, right = np.array([0.1, 0.9, 0.3]), np.array([1, 0, 1], np.uint8)
    assert separation.ranking(score, right) == separation.ranking(score, right * 1.0)
