"""The recommendation: read off the curve, and no surer than the intervals are."""

import numpy as np
import pytest

from cascade_jax.deferral import policy
from cascade_jax.evaluation import summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.report import headline


def cascade(n=400, noise=0.3, seed=0, student=0.6, costs=(1e6, 1e7)):
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    right = (shared.random(n) < student) * 1.0
    teacher = np.maximum(right, (shared.random(n) < 0.8) * 1.0)
    score = -right + noise * rng.normal(size=n)
    return Cascade(score, right, teacher, *costs)


def panel(**cascades):
    return summaries.compare("demo", "accuracy", cascades, bootstrap_samples=100)


def test_the_choice_is_the_first_threshold_that_reaches_it():
    result = panel(a=cascade(n=150))  # all points of the curve are in metrics.json
    choice = headline.choose(result)
    data = cascade(n=150)

    def outcome(threshold):
        deferred = policy.defers(data.score, threshold)
        return np.where(deferred, data.teacher_quality, data.student_quality).mean()

    expected = 0.99 * data.teacher_quality.mean()
    reaching = [threshold for threshold in data.score if outcome(threshold) >= expected]
    assert choice.threshold == np.float32(max(reaching))
    assert choice.quality == pytest.approx(outcome(choice.threshold))
    assert choice.rate == pytest.approx(np.mean(policy.defers(data.score, choice.threshold)))
    assert choice.cost == pytest.approx(1e6 + choice.rate * 1e7)
    assert choice.teacher_cost == pytest.approx(1e7) and choice.pays
    text = headline.recommendation(result)
    for part in ("Ship a ", f"τ = {np.float32(choice.threshold)!s}:", f"{choice.quality:.3f} of "):
        assert part in text


def test_many_examples_give_a_point_of_the_metrics_file():
    result = panel(a=cascade(n=5000))
    choice = headline.choose(result)
    thin = result.curves["a"].thin(201)
    assert choice.threshold in thin.thresholds
    whole = result.curves["a"]
    first = whole.rate[np.argmax(whole.quality >= 0.99 * whole.teacher_quality)]
    assert first <= choice.rate <= first + 0.006


def test_ties_that_leave_no_thinned_point_are_no_hindrance():
    data = cascade(n=3001)
    rounded = Cascade(np.round(data.score), data.student_quality, data.teacher_quality, 1e6, 1e7)
    result = panel(a=rounded)
    choice = headline.choose(result)
    assert choice.threshold in np.unique(np.round(data.score))
    assert choice.rate == np.mean(rounded.score > choice.threshold) < 1


def test_a_small_model_that_is_good_enough_goes_alone():
    text = headline.recommendation(panel(a=cascade(student=0.999)))
    assert text.startswith("Ship a alone")


def test_a_cascade_that_costs_more_than_the_large_model_is_not_recommended():
    text = headline.recommendation(panel(a=cascade(noise=100.0, costs=(9e6, 1e7))))
    assert text.startswith("No cascade pays") and "Ship" not in text


def test_a_lead_inside_the_interval_is_not_called_one():
    for order in (("a", "b"), ("b", "a")):
        even = {"a": cascade(seed=1), "b": cascade(seed=2)}
        text = headline.caution(panel(**{name: even[name] for name in order}))
        assert "do not tell the two apart" in text
        uneven = {"a": cascade(seed=1, noise=0.1), "b": cascade(seed=2, noise=9.0)}
        result = panel(**{name: uneven[name] for name in order})
        text = headline.caution(result)
        assert "leaves out 0" in text and "of b" in text
        assert headline.best(result) == "a"


def test_two_that_were_not_paired_are_told_apart_by_their_own_intervals():
    first = cascade(seed=3, noise=50.0)
    result = panel(first=first, b=cascade(seed=2, noise=9.0), a=cascade(noise=0.1))
    assert "do not overlap" in headline.caution(result)
    result = panel(first=first, b=cascade(seed=2), a=cascade(seed=1))
    assert "do not tell the two apart" in headline.caution(result)


def test_without_resamples_nothing_is_said_of_sureness():
    cascades = {"a": cascade(seed=1, noise=0.1), "b": cascade(noise=9.0)}
    result = summaries.compare("demo", "accuracy", cascades, bootstrap_samples=0)
    assert "was not computed" in headline.caution(result)
    assert "best" not in headline.caution(result)


def test_a_cheaper_way_to_the_same_quality_is_named():
    cheap = cascade(noise=0.45, seed=4, costs=(1e5, 1e7))
    good = cascade(noise=0.1, seed=5, costs=(5e6, 1e7))
    result = panel(good=good, cheap=cheap)
    assert headline.best(result) == "good"
    choices = {name: headline.choose(result, name) for name in ("good", "cheap")}
    assert choices["cheap"].cost < choices["good"].cost
    assert "are reached by cheap" in headline.caution(result)
    result = panel(good=cascade(noise=0.1, seed=5, costs=(1e5, 1e7)), cheap=cheap)
    assert "are reached by" not in headline.caution(result)


def test_a_large_model_that_costs_nothing_has_no_share():
    result = panel(a=cascade(costs=(1.0, 0.0)))
    assert np.isnan(headline.choose(result).share_of_cost)
    text = headline.recommendation(result)
    assert text.startswith("No cascade pays") and "nan" not in text
