"""The learned entropy production rate: features by a loop, weights by scikit-learn, refusals."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.scores import segments
from tests.support.ragged import answers_of

K = 3
ROUTER = routers.EntropyRateRouter("student_wrong", k=K)


def made(n=400, seed=0):
    rng = np.random.default_rng(seed)
    lists = [[-0.5] * length for length in rng.integers(1, 7, n)]
    return answers_of(lists, [f"{seed}/{i}" for i in range(n)], np.float64, k=K + 1), lists


def by_loop(answers):
    rows = []
    for start, end in zip(answers.offsets[:-1], answers.offsets[1:], strict=True):
        p = np.exp(answers.top_log_probs[start:end, :K].astype(np.float64))
        rows.append([*np.mean(-p * np.log(p), axis=0), *np.max(-p * np.log(p), axis=0)])
    return np.array(rows)


def test_features_are_means_and_largest_of_each_rank(monkeypatch):
    answers, _ = made()
    features = routers.RankFeatures(K)
    whole = features.matrix(answers, 2 * K)
    np.testing.assert_allclose(whole, by_loop(answers), rtol=1e-12)
    rate = scores.EntropyProductionRate(K)(answers)
    np.testing.assert_allclose(whole[:, :K].sum(axis=1), rate, rtol=1e-12)
    blocks = segments.blocks
    monkeypatch.setattr(segments, "blocks", lambda offsets, size: blocks(offsets, 5))
    np.testing.assert_array_equal(features.matrix(answers, 2 * K), whole)


def test_errors_that_ranks_tell_are_learned_and_noise_is_not(tmp_path):
    """The second rank's largest part tells the errors, which the rate itself hardly shows."""
    answers, _ = made()
    is_wrong = (by_loop(answers)[:, K + 1] > np.median(by_loop(answers)[:, K + 1])).astype(float)
    router = ROUTER.fit(answers, 1 - is_wrong, np.ones(400), "validation")
    assert roc_auc_score(is_wrong, router(answers)) > 0.97
    assert roc_auc_score(is_wrong, scores.EntropyProductionRate(K)(answers)) < 0.9
    scaled = by_loop(answers)
    scaled = (scaled - scaled.mean(axis=0)) / scaled.std(axis=0)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(scaled, is_wrong)
    np.testing.assert_allclose(router(answers), theirs.predict_proba(scaled)[:, 1], atol=1e-6)
    router.save(tmp_path / "r.npz")
    read = routers.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(read(answers), router(answers))
    assert read.features == routers.RankFeatures(K) and read.own_flops(answers).max() == 0.0
    noise = np.random.default_rng(1).integers(0, 2, 400).astype(float)
    held_out = ROUTER.cross_validated(answers, 1 - noise, np.ones(400))
    assert abs(roc_auc_score(noise, held_out) - 0.5) < 0.07


def test_answers_that_hold_too_little_are_refused():
    answers, lists = made(20)
    quality = np.arange(20) % 2.0
    with pytest.raises(
        ValueError, match=r"the 10 largest log-probs .* hold 4 per token; .* = 10 a"
    ):
        routers.EntropyRateRouter().fit(answers, quality, quality, "validation")
    with pytest.raises(
        ValueError, match=r"student_top_log_probs, and it is not there; .* TOP_K = 12"
    ):
        routers.EntropyRateRouter(k=12).fit(answers_of(lists), quality, quality, "validation")
    top = answers.top_log_probs.copy()
    top[0, 0] = np.nan
    with pytest.raises(ValueError, match="example '0/0' .* has the top log-prob nan at token 0"):
        ROUTER.fit(dataclasses.replace(answers, top_log_probs=top), quality, quality, "dev")
    with pytest.raises(ValueError, match="k is 0; must be"):
        routers.EntropyRateRouter(k=0)
    assert (
        routers.RankFeatures(2).misfit(5) == "its arrays read 5 features, RankFeatures(k=2) gives 4"
    )
