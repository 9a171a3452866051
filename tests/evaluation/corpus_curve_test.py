"""Curves of BLEU and chrF against sacrebleu's figure of the answers that a cascade would give."""

import numpy as np
import pytest
import sacrebleu

from cascade_jax.deferral import policy
from cascade_jax.evaluation import bootstrap, cascades, curves, summaries
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.task_metrics import quality
from cascade_jax.task_metrics.corpus import Statistics
from cascade_jax.task_metrics.translation import Bleu, Chrf
from tests.support.sentences import sentences, spoilt

COSTS = (3.0, 20.0)
CORPUS_FNS = {
    Bleu(): lambda answers, targets: sacrebleu.corpus_bleu(answers, [targets], force=True),
    Bleu("char"): lambda answers, targets: sacrebleu.corpus_bleu(
        answers, [targets], tokenize="char", force=True
    ),
    Chrf(): lambda answers, targets: sacrebleu.corpus_chrf(answers, [targets]),
    Chrf(2): lambda answers, targets: sacrebleu.corpus_chrf(answers, [targets], word_order=2),
}


def made_up(n, seed=0, levels=None):
    """(score, targets, student's answers, teacher's); `levels` makes ties."""
    rng = np.random.default_rng(seed)
    targets = sentences(rng, n)
    score = rng.normal(size=n)
    score = score if levels is None else np.round(score * levels)
    return score, targets, spoilt(rng, targets, 0.6), spoilt(rng, targets, 0.2)


def counts_of(metric, targets, *answers):
    return [metric.statistics(targets, of_one) for of_one in answers]


def cascade_of(metric, n=60, seed=0, levels=None):
    score, targets, student, teacher = made_up(n, seed, levels)
    qualities = [quality.per_example_quality([metric], targets, a)[1] for a in (student, teacher)]
    return Cascade(
        score, *qualities, *COSTS, Statistics(metric, *counts_of(metric, targets, student, teacher))
    )


@pytest.mark.parametrize("metric", CORPUS_FNS)
@pytest.mark.parametrize("levels", [None, 2])
def test_every_realised_point_is_sacrebleus_figure_of_the_mixed_answers(metric, levels):
    score, targets, student, teacher = made_up(50, levels=levels)
    counts = counts_of(metric, targets, student, teacher)
    curve = curves.corpus_curve(score, *counts, metric.scores, *COSTS)
    realised = np.flatnonzero(curve.is_realised)
    assert len(realised) == len(set(score.tolist())) + 1
    for k in realised:
        is_deferred = policy.defers(score, curve.thresholds[k])
        assert is_deferred.sum() == k
        answers = [t if d else s for s, t, d in zip(student, teacher, is_deferred, strict=True)]
        expected = CORPUS_FNS[metric](answers, targets).score / 100
        assert curve.quality[k] == pytest.approx(expected, abs=1e-9, rel=0)
        assert curve.cost[k] == pytest.approx(COSTS[0] + COSTS[1] * np.mean(is_deferred))
    between = np.interp(curve.rate, curve.rate[realised], curve.quality[realised])
    np.testing.assert_allclose(curve.quality, between, atol=1e-15)
    # A sum of two parts it is not, and a mean of sentence figures neither.
    assert np.all(np.isnan(curve.a1)) and np.all(np.isnan(curve.a2))
    of_sentences = quality.per_example_quality([metric], targets, student)[1]
    assert abs(curve.quality[0] - of_sentences.mean()) > 1e-4


def test_ten_thousand_examples_give_as_many_thresholds():
    rng = np.random.default_rng(1)
    pieces = counts_of(Bleu(), *made_up(200)[1:])
    rows = rng.integers(200, size=10_000)
    student, teacher = (piece[rows] for piece in pieces)
    curve = curves.corpus_curve(rng.random(10_000), student, teacher, Bleu().scores, *COSTS)
    assert len(curve.quality) == 10_001
    ends = [float(Bleu().scores(piece.sum(axis=0))) for piece in (student, teacher)]
    assert [curve.quality[0], curve.quality[-1]] == pytest.approx(ends)


def test_the_random_line_is_about_the_mean_of_random_orders():
    score, targets, student, teacher = made_up(120)
    # At other lengths than the references, so that the line is not straight.
    student = [" ".join(text.split()[:4]) for text in student]
    counts = counts_of(Bleu(), targets, student, teacher)
    rng = np.random.default_rng(0)
    drawn = [
        curves.corpus_curve(rng.random(120), *counts, Bleu().scores, *COSTS).quality
        for _ in range(400)
    ]
    rate = np.arange(121) / 120
    line = curves.corpus_random(rate, *(c.sum(axis=0) for c in counts), Bleu().scores)
    mean = np.mean(drawn, axis=0)
    # A standard error is 0.02 / sqrt(400) = 0.001 here.
    np.testing.assert_allclose(line, mean, atol=0.005)
    assert line[0] == pytest.approx(mean[0]) and line[-1] == pytest.approx(mean[-1])
    straight = curves.random_quality(rate, line[0], line[-1])
    assert np.max(np.abs(straight - mean)) > 0.012


def test_for_a_mean_the_two_lines_are_one():
    def mean(sums):
        return sums[..., 0] / sums[..., 1]

    right = np.array([3, 7]), np.array([6, 7])
    rate = np.linspace(0, 1, 11)
    line = curves.corpus_random(rate, *right, mean)
    np.testing.assert_allclose(line, curves.random_quality(rate, 3 / 7, 6 / 7))


@pytest.mark.parametrize("metric", [Bleu(), Chrf()])
def test_the_gain_is_what_deferring_one_example_adds(metric):
    """With many examples one of them changes the sums little, and first order is all there is."""
    _, targets, student, teacher = made_up(300)
    counts = counts_of(metric, targets, student, teacher)
    gain = curves.corpus_gain(*counts, metric.scores)
    middle = (counts[0].sum(axis=0) + counts[1].sum(axis=0)) / 2
    moved = metric.scores(middle + counts[1] - counts[0]) - metric.scores(middle)
    np.testing.assert_allclose(gain, moved, atol=0.02 * np.max(np.abs(moved)))


@pytest.mark.parametrize("metric", [Bleu(), Chrf()])
def test_the_order_by_gain_comes_close_to_the_best_subset(metric):
    _, targets, student, teacher = made_up(10, seed=3)
    counts = counts_of(metric, targets, student, teacher)
    gain = curves.corpus_gain(*counts, metric.scores)
    curve = curves.corpus_curve(gain, *counts, metric.scores, *COSTS)
    sets = (np.arange(2**10)[:, None] >> np.arange(10)) & 1
    values = metric.scores(counts[0].sum(axis=0) + sets @ (counts[1] - counts[0]))
    for k in range(11):
        best = values[sets.sum(axis=1) == k].max()
        room = best - curves.random_quality(np.array([k / 10]), *values[[0, -1]])[0]
        assert curve.quality[k] <= best + 1e-12
        assert best - curve.quality[k] <= 0.1 * room + 1e-12


@pytest.mark.parametrize(
    ("score", "counts", "message"),
    [
        (np.zeros(0), np.ones((0, 10), int), "at least one example"),
        (np.array([0.0, np.nan]), np.ones((2, 10), int), "the deferral score of row 1 is nan"),
    ],
)
def test_refusals(score, counts, message):
    with pytest.raises(ValueError, match=message):
        curves.corpus_curve(score, counts, counts, Bleu().scores, *COSTS)


def _resample(cascade, **settings):
    ((resamples,),) = bootstrap.resample_all([(cascade, (cascade.score,))], **settings)
    return resamples


@pytest.mark.parametrize("levels", [None, 2])
def test_resamples_are_those_of_explicitly_resampled_curves(levels):
    cascade = cascade_of(Bleu(), 25, levels=levels)
    rates, qualities = (0.1, 0.5), (0.3, 0.6, 0.99)
    settings = {"rates": rates, "qualities": qualities, "samples": 20, "seed": 4}
    got = _resample(cascade, **settings)
    counts = cascade.statistics.student, cascade.statistics.teacher, Bleu().scores
    gain, rng = curves.corpus_gain(*counts), np.random.default_rng(4)
    for b in range(20):
        rows = rng.integers(25, size=25, dtype=np.int32)
        drawn = cascade.take(rows)
        lines = cascades.lines_of(drawn)
        curve = lines.curve
        assert got.student_quality[b] == pytest.approx(drawn.ends()[0], abs=1e-12)
        assert got.teacher_quality[b] == pytest.approx(drawn.ends()[1], abs=1e-12)
        # Copies of an example are tied, and so is the curve between its first and last copy.
        assert got.area[b] == pytest.approx(curves.area(curve), abs=1e-12)
        of_drawn = drawn.statistics.student, drawn.statistics.teacher, Bleu().scores
        oracle = curves.corpus_curve(gain[rows], *of_drawn, *COSTS)
        assert got.oracle_area[b] == pytest.approx(curves.area(oracle), abs=1e-12)
        assert got.random_area[b] == pytest.approx(lines.random_area, abs=1e-4)
        for column, rate in enumerate(rates):
            expected = curves.quality_at_rate(curve, rate)
            assert got.quality_at_rate[b, column] == pytest.approx(expected, abs=1e-12)
        for column, reference in enumerate(qualities):
            expected = curves.rate_at_quality(curve, reference)
            expected = np.inf if np.isnan(expected) else expected
            assert got.rate_at_quality[b, column] == pytest.approx(expected, abs=1e-9)
    assert np.all(np.isnan(got.ideal_area))


def test_costs_of_single_examples_go_with_a_corpus_metric_too():
    rng = np.random.default_rng(2)
    costs = rng.random(25) + 0.5, rng.random(25) + 2.0
    names = ("student_cost", "teacher_cost")
    cascade = Cascade(**(vars(cascade_of(Bleu(), 25)) | dict(zip(names, costs, strict=True))))
    curve = cascades.lines_of(cascade).curve
    order = np.argsort(-cascade.score)
    expected = costs[0].mean() + np.append(0, np.cumsum(costs[1][order])) / 25
    np.testing.assert_allclose(curve.cost, expected)
    got = _resample(cascade, costs=(2.0, 2.6), samples=15, seed=4)
    draws = np.random.default_rng(4)
    for b in range(15):
        drawn = cascade.take(draws.integers(25, size=25, dtype=np.int32))
        curve = cascades.lines_of(drawn).curve
        for column, cost in enumerate((2.0, 2.6)):
            expected = curves.quality_at_cost(curve, cost)
            assert got.quality_at_cost[b, column] == pytest.approx(expected, abs=1e-12)


def test_many_examples_are_scored_at_fewer_points_with_nearly_the_same_result(monkeypatch):
    cascade = cascade_of(Chrf(), 700)
    coarse = _resample(cascade, rates=(0.333,), samples=5)
    monkeypatch.setattr(bootstrap, "_CORPUS_NODES", 10_000)
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", 1)
    fine = _resample(cascade, rates=(0.333,), samples=5)
    np.testing.assert_allclose(coarse.area, fine.area, atol=2e-4)
    np.testing.assert_allclose(coarse.quality_at_rate, fine.quality_at_rate, atol=2e-3)
    np.testing.assert_array_equal(coarse.teacher_quality, fine.teacher_quality)
    assert np.any(coarse.area != fine.area)


def test_a_panel_of_a_corpus_metric():
    cascade = cascade_of(Bleu(), 80)
    other = Cascade(**(vars(cascade) | {"score": -cascade.score}))
    panel = summaries.compare("wmt", "BLEU (corpus)", {"a": cascade, "b": other})
    assert panel.is_corpus and panel.metric == "BLEU (corpus)"
    summary, curve = panel.summaries["a"], panel.curves["a"]
    assert summary.student_quality.value == pytest.approx(cascade.ends()[0])
    assert summary.quality_at_rate[1].value == pytest.approx(curve.quality[40])
    assert summary.area.low < summary.area.value < summary.area.high
    assert np.isnan(summary.ideal_area) and np.isnan(summary.s_d_ideal.value)
    halfway = np.mean(cascade.ends())
    assert panel.references.qualities["halfway"] == pytest.approx(halfway)
    np.testing.assert_allclose(panel.randoms["a"][[0, -1]], cascade.ends())
    # The order by sentence gain is better than random, so there is room to win.
    assert summary.oracle_area > summary.random_area
    room = summary.oracle_area - summary.random_area
    assert summary.s_d_oracle.value == pytest.approx(
        (summary.area.value - summary.random_area) / room
    )


def test_statistics_of_some_cascades_only_are_refused():
    cascade = cascade_of(Bleu(), 10)
    bare = Cascade(**(vars(cascade) | {"statistics": None}))
    with pytest.raises(ValueError, match="statistics all of them, or none"):
        summaries.compare("t", "m", {"a": cascade, "b": bare})
