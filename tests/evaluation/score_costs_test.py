"""What scores themselves spend, on the cost axis, against a brute force over thresholds."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.calibration.answer_pool import RecordsSource
from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.scores.base import UnknownCost, own_flops
from cascade_jax.evaluation import bootstrap, curves, equal_cost, panels, policy_points
from cascade_jax.evaluation.cascades import Cascade
from cascade_jax.evaluation.costs import Flops, Latency, Parameters, Price
from cascade_jax.evaluation.evaluate import load
from cascade_jax.evaluation.live_cascades import LiveCascade
from cascade_jax.report import markdown, metrics_json, tables, terminal
from tests.support import certificates, evaluated
from tests.support.evaluated import N, write_sampled
from tests.support.reports import evaluate_and_write

DISAGREEMENT = scores.Disagreement()


evaluate = functools.partial(evaluated.evaluate, score=DISAGREEMENT)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_sampled(tmp_path_factory.mktemp("costs") / "a.parquet")


def brute_points(score, quality, cost, teacher_quality, teacher_cost, own):
    """(cost, quality) with the k highest scores deferred, ties as the mean over their orders."""
    score = np.float32(score)
    points = []
    for k in range(len(score) + 1):
        cut = -np.sort(-score)[k - 1] if k else np.inf
        is_tied = score == cut
        share = np.where(is_tied, (k - np.sum(score > cut)) / max(is_tied.sum(), 1), score > cut)
        points.append(
            (
                np.mean(cost + own + share * teacher_cost),
                np.mean((1 - share) * quality + share * teacher_quality),
            )
        )
    return np.array(points).T


def at_cost(points, budget, alone):
    """Quality for a budget: the small model's without a score below what the score costs."""
    return alone if budget < points[0][0] else np.interp(budget, *points)


def test_a_score_spends_what_its_columns_say(file):
    answers = records.read(file).student
    np.testing.assert_array_equal(
        own_flops(DISAGREEMENT, answers), answers.per_example["sample_flops"]
    )
    np.testing.assert_array_equal(own_flops(scores.Average(), answers), np.zeros(N))
    np.testing.assert_array_equal(own_flops(lambda answers: answers.lengths, answers), np.zeros(N))
    both = {"probe_flops": np.full(N, 5.0), "sample_flops": np.full(N, 2.0)}
    both["sample_state_flops"] = np.full(N, 1.0)
    made = dataclasses.replace(answers, per_example=both)
    expected = {scores.Rauq(): 5, scores.TokenSar(): 5, scores.SurfaceFormCcp(): 0}
    expected |= {scores.SAR(): 2, scores.EigenScore(): 3, scores.Entropy(): 0}
    for score, value in expected.items():
        assert np.all(own_flops(score, made) == value), score.name
    assert len(own_flops(scores.SAR(), made.take(np.array([3, 1])))) == 2
    model = routers.fitted.router_models.Linear(np.zeros(2), np.ones(2), np.zeros(2), 0.0)
    for features, value in (
        (routers.StateFeatures(layer=1), 5),
        (routers.QuantileFeatures((0.0, 1.0)), 0),
    ):
        router = routers.FittedRouter(
            "r", features, "student_wrong", model, "a", "", np.empty(0, np.uint64), 4
        )
        assert np.all(own_flops(router, made) == value)


def test_what_is_not_known_is_said(file):
    answers = dataclasses.replace(records.read(file).student, per_example={})
    for score, column in (
        (scores.SAR(), "student_sample_flops.*SAMPLES = 10"),
        (scores.Rauq(), "student_probe_flops.*PROBES"),
    ):
        with pytest.raises(UnknownCost, match=column):
            own_flops(score, answers)

    class Reader:
        is_model = True

        def __call__(self, first, second):
            return float(first == second)

    full = records.read(file).student
    with pytest.raises(UnknownCost, match="its similarity.*Reader.* is a model's"):
        own_flops(scores.Disagreement(Reader()), full)

    class Wrong(scores.Average):
        def own_flops(self, answers):
            return np.full(answers.num_examples, np.nan)

    with pytest.raises(ValueError, match="own_flops of 'average' for example 'short/test/0'.* nan"):
        own_flops(Wrong(), full)


@pytest.mark.parametrize("cost", [Flops(), Parameters()])
def test_the_curve_is_that_of_the_thresholds_with_what_the_score_spends(file, cost):
    result = evaluate([file], cost, several=(scores.Sum(),))
    table = records.read(file)
    own = table.student_sample_flops
    small, large = table.student_flops, table.teacher_flops
    if isinstance(cost, Parameters):  # as much more than the answer as in FLOPs
        own, small, large = 2e6 * own / small, np.full(N, 2e6), np.full(N, 1e7)
    score = DISAGREEMENT(table.student)
    points = brute_points(score, table.student_quality, small, table.teacher_quality, large, own)
    curve = result.pooled.curves["xent"]
    np.testing.assert_allclose([curve.cost, curve.quality], points, rtol=1e-12)
    first = small.mean() + own.mean()
    references = [first + rate * large.mean() for rate in (0.25, 0.5, 0.75)]
    np.testing.assert_allclose(result.pooled.references.costs, references)
    task = result.tasks["short"].curves["xent"]
    of_task = table.task == "short"
    assert task.cost[0] == pytest.approx((small + own)[of_task].mean())
    # Another score of the same cascade pays its own alone: nothing.
    free = result.scores["xent"]["sum"].curve
    assert free.cost[0] == pytest.approx(small.mean())
    assert list(result.scores["xent"]) == ["disagreement", "sum", "average"]


def test_area_at_equal_cost_and_where_it_pays_by_brute_force(file):
    result, table = evaluate([file], several=(scores.Sum(),)), records.read(file)
    small, large = table.student_flops, table.teacher_flops
    quality = table.student_quality, small, table.teacher_quality, large
    alone, (start, width) = quality[0].mean(), (small.mean(), large.mean())

    def points_of(score, own):
        return brute_points(score(table.student), *quality, own)

    average = points_of(scores.Average(), 0.0)
    grid = start + width * (np.arange(20_000) + 0.5) / 20_000
    base = np.interp(grid, *average)
    for score, own in ((DISAGREEMENT, table.student_sample_flops), (scores.Sum(), np.zeros(N))):
        points = points_of(score, own)
        mine = np.where(grid < points[0][0], alone, np.interp(grid, *points))
        shown = result.scores["xent"][score.name].own_cost
        assert shown.flops == own.mean()
        assert shown.area.value == pytest.approx(mine.mean(), abs=1e-5)
        difference = shown.area_minus_average.value
        assert difference == pytest.approx(mine.mean() - base.mean(), abs=2e-5)
        is_paid = (grid >= points[0][0]) & (mine >= base) & (mine > alone)
        rates = np.interp(grid, points[0], np.arange(N + 1) / N)
        changes = np.flatnonzero(np.diff(np.pad(is_paid.astype(int), 1))).reshape(-1, 2)
        lengths = changes[:, 1] - changes[:, 0]
        expected = np.inf, np.nan
        if len(lengths):
            expected = rates[changes[np.argmax(lengths)] - [0, 1]]
        actual = shown.pays_from, shown.pays_until
        assert actual == pytest.approx(expected, abs=2e-4, nan_ok=True)
    assert result.scores["xent"]["average"].own_cost.area_minus_average.value == 0.0


def test_a_free_score_at_one_cost_has_the_area_over_the_rate():
    rng = np.random.default_rng(1)
    score, student, teacher = rng.random((3, 40))
    curve = curves.deferral_curve(score, student, teacher, 3.0, 7.0)
    area = equal_cost.area(curve.quality, curve.cost, 3.0, 7.0)
    assert float(area) == pytest.approx(curves.area(curve), rel=1e-12)
    dear = curves.deferral_curve(score, student, teacher, 3.0 + 7.0, 7.0)
    area = equal_cost.area(dear.quality, dear.cost, 3.0, 7.0)
    assert float(area) == pytest.approx(student.mean(), rel=1e-12)  # never affordable
    assert np.isnan(equal_cost.area(curve.quality, np.full(41, 3.0), 3.0, 0.0))
    assert float(equal_cost.area(np.array([0.0, 1.0]), np.array([2.0, 4.0]), 1.0, 2.0)) == 0.125


def test_a_score_pays_where_its_line_crosses_the_average_line():
    def line(cost, quality):
        rate = np.linspace(0, 1, len(cost))
        fields = dict.fromkeys(("thresholds", "a1", "a2"), rate) | {"is_realised": rate >= 0}
        return curves.Curve(rate=rate, quality=np.array(quality), cost=np.array(cost), **fields)

    average = line([1.0, 11.0], [0.0, 1.0])
    # At rate r it costs 3 + 10 r and has min(1, 2 r); the average has 0.2 + r there.
    steep = line([3.0, 8.0, 13.0], [0.0, 1.0, 1.0])
    never = pytest.approx((np.inf, np.nan), nan_ok=True)

    def pays(curve, other=average):
        return equal_cost.pays_between(curve, other, 1.0, 10.0)

    assert pays(steep) == pytest.approx((0.2, 0.8))  # the costs end at rate 0.8
    assert pays(line([3.0, 13.0], [0.0, 1.0])) == never
    assert pays(line([12.0, 22.0], [1.0, 1.0])) == pays(line([11.0, 21.0], [1.0, 1.0])) == never
    assert pays(average) == (0.0, 1.0)
    # Nothing is paid where nothing is gained yet, nor by deferring everything.
    late = line([1.0, 6.0, 11.0], [0.0, 0.0, 1.0])
    assert pays(late, late) == pytest.approx((0.5, 1.0)) and pays(late) == never
    # The longest of two stretches.
    twice = line([1.0, 2.0, 3.0, 5.0, 9.0, 11.0], [0.0, 0.2, 0.1, 0.3, 0.9, 0.95])
    assert pays(twice) == pytest.approx((0.2 * 3.5, 0.2 * (4 + 2 / 3)))
    # The other one falls below the small model: being above that is what is left to reach.
    falls = line([1.0, 6.0, 11.0], [0.5, 0.0, 1.0])
    dips = line([2.0, 4.5, 7.0, 9.5, 12.0], [0.5, 0.3, 0.4, 0.9, 1.0])
    assert pays(dips, falls)[0] == pytest.approx(0.55)


def test_resamples_count_what_is_drawn(file):
    result, table = evaluate([file], samples=40), records.read(file)
    own = result.scores["xent"]["disagreement"].own_cost
    assert own.area.low <= own.area.value <= own.area.high
    assert 0 < own.area_minus_average.p_value <= 1
    # Resamples by hand, with the same draws: inputs are all different.
    rng, areas, differences = np.random.default_rng(0), [], []
    scored = {score.name: score(table.student) for score in (DISAGREEMENT, scores.Average())}
    for _ in range(40):
        rows = rng.integers(N, size=N, dtype=np.int32)
        taken = table.take(rows)
        pair = []
        for name, values in scored.items():
            spent = taken.student_sample_flops if name == "disagreement" else np.zeros(N)
            curve = curves.deferral_curve(
                values[rows], taken.student_quality, taken.teacher_quality,
                taken.student_flops + spent, taken.teacher_flops,
            )  # fmt: skip
            ends = taken.student_flops.mean(), taken.teacher_flops.mean()
            pair.append(float(equal_cost.area(curve.quality, curve.cost, *ends)))
        areas.append(pair[0])
        differences.append(pair[0] - pair[1])
    assert (own.area.low, own.area.high) == pytest.approx(bootstrap.interval(np.array(areas)))
    shown = own.area_minus_average
    assert (shown.low, shown.high) == pytest.approx(bootstrap.interval(np.array(differences)))


def test_free_scores_change_nothing(tmp_path):
    """A table without columns of what scores spend is shown as before."""
    bare = evaluated.write(tmp_path / "a.parquet", "xent")
    several = (scores.Sum(), scores.Maximum())
    result = evaluate([bare], Parameters(), score=scores.Average(), several=several)
    assert result.scores["xent"]["sum"].own_cost is None
    written = json.dumps(metrics_json.to_json(result))
    assert "own_cost" not in written and "cost_notes" not in written
    assert "itself" not in markdown.render(result)
    assert result.pooled.curves["xent"].cost[0] == 2e6


@pytest.mark.parametrize(
    "cost, why",
    [
        (Latency(), "the seconds that scores take were not measured"),
        (Price(1, 2, 3, 4), "prices are of tokens"),
    ],
)
def test_costs_in_which_scores_have_none_say_so(file, cost, why):
    price = isinstance(cost, Price)
    if price:  # the large model's answers have no tokens here, so no price
        cost = Price(1, 2, 3, 0)
    result = evaluate([file], cost)
    (note,) = result.cost_notes
    assert why in note and "'disagreement'" in note and "every curve and cost" in note
    own = result.scores["xent"]["disagreement"].own_cost
    assert own.flops > 0 and np.isnan([own.area.value, own.pays_from]).all()
    assert result.scores["xent"]["average"].own_cost.pays_from < 1
    assert note.replace("'", "") in markdown.render(result).replace("'", "").replace("\\_", "_")
    assert why in terminal.below(result, "o")


def test_a_table_without_the_flops_names_them(tmp_path, file):
    other = write_sampled(tmp_path / "b.parquet", "cat", 1, without=["student_sample_flops"])
    result = evaluate([file, other], score=scores.Average(), several=(DISAGREEMENT,))
    (note,) = result.cost_notes
    assert "left out (cat): there is no column student_sample_flops" in note
    rows = tables.score_costs(result.scores).texts
    assert rows[2][:2] == ["xent", "disagreement"] and rows[2][5] != "–"
    assert rows[4][:2] == ["cat", "disagreement"] and rows[4][5:] == ["–"] * 4
    without = write_sampled(
        tmp_path / "c.parquet", "cat", 1, without=["student_flops", "teacher_flops"]
    )
    (note,) = evaluate([without], Parameters()).cost_notes
    assert "student_flops, which is not there" in note


def test_a_cost_model_of_ones_own_says_what_scores_cost_or_is_named(file):
    class Calls:
        label, unit = "calls per example", "calls"

        def __call__(self, records):
            return np.ones(len(records)), np.full(len(records), 9.0)

        def __repr__(self):
            return "Calls()"

    (note,) = evaluate([file], Calls()).cost_notes
    assert "Calls() says nothing of what scores cost" in note

    class Counted(Calls):
        def score_cost(self, records, flops):
            return 4.0 * (flops > 0)

    result = evaluate([file], Counted())
    assert result.cost_notes == () and result.pooled.curves["xent"].cost[0] == 5.0


def test_another_score_named_average_is_refused(file):
    class Average(scores.Sum):
        name = "average"

    with pytest.raises(ValueError, match="a score is named 'average'"):
        evaluate([file], score=Average(), several=(DISAGREEMENT,))


def test_a_policy_and_a_calibration_count_it(file, tmp_path):
    path = certificates.write(tmp_path, 0.6, score="disagreement")
    read = load([file])
    (table,) = read.values()
    deferred = DISAGREEMENT(table.student) > 0.6
    settings = panels.Settings(score=DISAGREEMENT, cost=Flops(), bootstrap_samples=1)
    cascades, _, _ = panels.score_all(read, settings)
    point = policy_points.points(path, read, cascades, DISAGREEMENT, Flops())["xent"]
    per_example = table.student_flops + table.student_sample_flops + deferred * table.teacher_flops
    assert point.cost == pytest.approx(np.mean(per_example))
    assert point.flops == pytest.approx(np.mean(per_example)) and 0 < point.rate < 1
    answers = RecordsSource(file, score=DISAGREEMENT).open().evaluate((0.6,), np.arange(N))
    np.testing.assert_allclose(answers.flops, per_example)
    unknown = write_sampled(tmp_path / "b.parquet", without=["student_sample_flops"])
    assert RecordsSource(unknown, score=DISAGREEMENT).open().evaluate((0.6,), [0]).flops is None


def test_a_live_cascade_does_not_pay_for_the_score_of_the_page():
    live = LiveCascade(2, 0.0, 0.0, 0.5, 0.0, 1, True, np.ones(1), np.ones(1, np.int64))
    cascade = Cascade(*np.zeros((3, 2)), 1.0, 10.0, score_cost=np.full(2, 7.0))
    assert policy_points.cost_of_live(live, cascade, Parameters()) == 6.0


@pytest.mark.medium
def test_everything_that_is_written_has_the_table(file, tmp_path):
    result = evaluate_and_write(
        [file], tmp_path / "o", score=DISAGREEMENT, cost=Flops(), bootstrap_samples=20
    )
    page = (tmp_path / "o" / "report.html").read_text()
    summary = (tmp_path / "o" / "summary.md").read_text()
    assert "pays for itself from" in page and "What scores themselves cost" in summary
    written = json.loads((tmp_path / "o" / "metrics.json").read_text())
    own = written["scores"]["xent"]["disagreement"]["own_cost"]
    assert own["flops"] == result.scores["xent"]["disagreement"].own_cost.flops
    assert written["pooled"]["cascades"]["xent"]["curve"]["cost"][0] > own["flops"]
