"""A certificate as a policy of evaluate: its point recomputed, its promise judged, its refusals."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_jax import records
from cascade_jax.calibration.answer_pool import RecordsPool, RecordsSource
from cascade_jax.deferral.guarantees import splits
from cascade_jax.deferral.guarantees.certificate import DataIdentity, ModelIdentity
from cascade_jax.deferral.scores import Average, Sum
from cascade_jax.evaluation import curves, evaluate, panels, policy_points
from cascade_jax.evaluation.costs import Flops, Latency, Parameters, Price
from cascade_jax.evaluation.policy_points import PolicyError
from cascade_jax.report import terminal
from tests.support import certificates, student_records
from tests.support.certificates import COST, LOSS
from tests.support.reports import evaluate_and_write

TOKENS = "deferred tokens / 20"
LIVE = {"level": "token", "score": "log_prob", "limits": {TOKENS: 0.2, LOSS: 0.5}}
LIVE |= {"objective": "task"}
COST_OF_PARAMETERS = Parameters()


def live_policy(threshold=student_records.LIVE_THRESHOLD):
    return certificates.as_policy(certificates.make(threshold, **LIVE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two students, of which `cat` has run live."""
    result = tmp_path_factory.mktemp("policy")
    stamps = {"student_saved": "1", "teacher_saved": "9", "target_length": 20}
    student_records.write(result / "xent.parquet", "xent", 0.2, **stamps)
    more = {**stamps, "student_saved": "2", "policy": live_policy()}
    student_records.write(result / "cat.parquet", "cat", 0.4, seed=1, live=True, **more)
    return result


def models(student, teacher="9"):
    return {"student": ModelIdentity(saved=student), "teacher": ModelIdentity(saved=teacher)}


def files_of(folder, names):
    return [folder / f"{name}.parquet" for name in names or ("xent", "cat")]


def points(folder, path, *names, cost=COST_OF_PARAMETERS):
    """Points of a policy, without a report."""
    tables = evaluate.load(files_of(folder, names))
    settings = panels.Settings(cost=cost, bootstrap_samples=1)
    cascades, _, _ = panels.score_all(tables, settings)
    return policy_points.points(path, tables, cascades, Average(), cost)


def run(folder, path, *names):
    files = files_of(folder, names)
    return evaluate_and_write(files, folder / "report", bootstrap_samples=1, policy=path)


@pytest.mark.parametrize("threshold", [0.55, 0.7, math.inf, -math.inf])
def test_a_policy_of_answers_is_what_numpy_makes_of_the_records(folder, tmp_path, threshold):
    limits = {COST: 0.3, LOSS: 0.05}
    path = certificates.write(tmp_path, threshold, limits=limits, models=models("2"))
    result = points(folder, path)
    assert list(result) == ["cat"]  # the other is of another student
    point, table = result["cat"], records.read(folder / "cat.parquet")
    deferred, quality = [], []
    for i in range(len(table)):
        tokens = table.student_log_probs[table.student_offsets[i] : table.student_offsets[i + 1]]
        deferred.append(bool(-np.mean(tokens.astype(np.float64)) > threshold))
        quality.append((table.teacher_quality if deferred[-1] else table.student_quality)[i])
    lost = np.mean(table.teacher_quality) - np.mean(quality)
    assert point.rate == np.mean(deferred) and point.quality == pytest.approx(np.mean(quality))
    assert point.cost == pytest.approx(2e6 + 1e7 * np.mean(deferred))
    assert [kept.measured for kept in point.kept] == pytest.approx([np.mean(deferred), lost])
    assert [kept.is_within for kept in point.kept] == [np.mean(deferred) <= 0.3, lost <= 0.05]
    assert [(kept.name, kept.limit) for kept in point.kept] == list(limits.items())
    assert point.num_examples == 400 and point.warnings == () and math.isnan(point.flops)
    if math.isinf(threshold):
        assert point.rate == (threshold < 0)


def test_the_point_lies_on_the_curve_where_no_score_is_tied(folder, tmp_path):
    path = certificates.write(tmp_path, 0.65, models=models("2"))
    table = evaluate.load(files_of(folder, ["cat"]))["cat"]
    point = points(folder, path, "cat")["cat"]
    qualities = table.student_quality, table.teacher_quality
    curve = curves.deferral_curve(Average()(table.student), *qualities, 2e6, 1e7)
    at = np.flatnonzero(np.isclose(curve.rate, point.rate) & curve.is_realised)
    assert len(at) == 1 and 0 < point.rate < 1
    assert curve.quality[at[0]] == pytest.approx(point.quality)
    assert curve.cost[at[0]] == pytest.approx(point.cost)


def test_costs_that_differ_between_examples(tmp_path):
    flops = np.arange(1.0, 401.0)
    path = student_records.write(tmp_path / "cat.parquet", "cat", 0.4, seed=1)
    table = records.read(path)
    columns = {name: pq.read_table(path)[name] for name in records.SCHEMA.names}
    columns |= {"student_flops": flops, "teacher_flops": 10 * flops}
    records.write(
        tmp_path / "cat.parquet", columns, {"name": "cat", "mixture": "demo", "split": "test"}
    )
    deferred = Average()(table.student) > 0.65
    expected = np.mean(flops + deferred * 10 * flops)
    path = certificates.write(tmp_path, 0.65)
    point = points(tmp_path, path, "cat", cost=Flops())["cat"]
    assert point.cost == pytest.approx(expected) and point.flops == pytest.approx(expected)


def test_a_policy_of_tokens_is_what_the_columns_say(folder, tmp_path):
    threshold = student_records.LIVE_THRESHOLD
    path = certificates.write(tmp_path, threshold, **LIVE, models=models("2"))
    point, table = points(folder, path, "cat")["cat"], records.read(folder / "cat.parquet")
    deferred = table.cascade_is_deferred
    assert point.rate == pytest.approx(np.mean(deferred)) and 0.1 < point.rate < 0.5
    assert point.quality == pytest.approx(np.mean(table.cascade_quality))
    assert point.flops == pytest.approx(np.mean(table.cascade_flops))
    assert point.cost == pytest.approx(2e6 + 1e7 * np.mean(deferred))
    spent = np.sum(deferred) / (400 * 20)
    lost = np.mean(table.teacher_quality) - np.mean(table.cascade_quality)
    assert [kept.measured for kept in point.kept] == pytest.approx([spent, lost])
    assert [kept.is_within for kept in point.kept] == [spent <= 0.2, lost <= 0.5]
    assert policy_points.live_cascades.from_records(table).cost == pytest.approx(spent)


def test_what_a_live_cascade_costs_by_each_cost(folder):
    table = records.read(folder / "cat.parquet")
    live = policy_points.live_cascades.from_records(table)
    cascade = policy_points.Cascade(np.zeros(2), np.zeros(2), np.ones(2), 3.0, np.array([10.0, 20]))
    expected = 3 + live.token_share * 15
    assert policy_points.cost_of_live(live, cascade, Parameters()) == pytest.approx(expected)
    assert policy_points.cost_of_live(live, cascade, Flops()) == live.flops
    for cost in (Latency(), Price(1, 1, 1, 1)):
        assert math.isnan(policy_points.cost_of_live(live, cascade, cost))


def test_a_loss_in_another_metric_is_not_judged(folder, tmp_path):
    more = LIVE | {"objective": "rouge1", "models": models("2")}
    path = certificates.write(tmp_path, student_records.LIVE_THRESHOLD, **more)
    kept = points(folder, path, "cat")["cat"].kept
    assert kept[0].is_within is True and kept[1].is_within is None and math.isnan(kept[1].measured)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "sum"}, r"xent: its .*; cat: its thresholds are of the score 'sum', the eval"),
        (
            {"models": models("7")},
            "cat: its student was saved at '7', that of the records was save",
        ),
        ({"models": models("2", "8")}, "cat: its teacher was saved at '8', .* saved at '9'"),
        ({"data": DataIdentity(mixture="xsum")}, "cat: it is of the mixture 'xsum', .* 'demo'"),
        (
            {**LIVE, "threshold": 0.3},
            r"thresholds are \[0.3\] of 'log_prob', those of the rec.*0.8",
        ),
        (
            {**LIVE, "threshold": 0.8, "score": "entropy"},
            r"of 'entropy', those of .* of 'log_prob'",
        ),
        (
            {**LIVE, "threshold": 0.8, "data": DataIdentity(target_length=30)},
            "cat: it is of answers of 30 tokens, the records of 20",
        ),
        (
            {**LIVE, "threshold": 0.8, "models": models("1")},
            "xent: it defers tokens, and the records hold no cascade_. columns; `cascade-jax coll",
        ),
    ],
)
def test_certificates_of_something_else_are_refused(folder, tmp_path, changes, message):
    path = certificates.write(tmp_path, **({"models": models("2")} | changes))
    with pytest.raises(PolicyError, match=message):
        points(folder, path)


def test_a_model_is_told_by_its_path_where_it_was_not_said_when_it_was_saved(tmp_path):
    where = {"student_checkpoint": "runs/cat/checkpoints/300"}
    file = student_records.write(tmp_path / "r", "cat", 0.4, **where)
    table = records.read(file)

    def difference(**described):
        result = certificates.make(0.5, models={"student": ModelIdentity(**described)})
        return policy_points.difference(result, table, Average())

    assert difference(checkpoint="runs/cat/checkpoints/300") == ""
    assert "is the checkpoint 'other'" in difference(checkpoint="other")
    assert difference(run="cat", step=300, saved=None) == ""
    assert "is of the run 'xent', that of the records is of the run 'cat'" in difference(run="xent")
    assert "is of the step 200" in difference(run="cat", step=200)
    assert difference() == ""
    result = certificates.make(0.5, models={}, score="sum")
    assert policy_points.difference(result, table, Sum()) == ""


def test_models_of_any_name_are_told_by_the_metadata_under_their_names(folder, tmp_path):
    student_records.rename_models(folder / "xent.parquet", tmp_path / "r", "small", "large")
    own = records.read(tmp_path / "r")
    assert own.stated("student", "saved") == own.stated("small", "saved") == "1"
    pool = RecordsPool(RecordsSource(), [own])
    assert {role: identity.saved for role, identity in pool.models.items()} == {
        "student": "1",
        "teacher": "9",
    }
    for saved, is_of_these in (("1", True), ("2", False)):
        result = certificates.make(0.5, models=models(saved))
        assert (policy_points.difference(result, own, Average()) == "") is is_of_these


def test_files_that_are_no_policy(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file of a certificate"):
        points(folder, tmp_path / "none.json")
    path = certificates.write(tmp_path, (), status="nothing", limits={COST: 0.3, LOSS: 0.05})
    with pytest.raises(PolicyError, match="of no policy: No threshold could be certified for mean"):
        points(folder, path)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.json: not a certificate of schema 3"):
        points(folder, tmp_path / "bad.json")


def seen(names):
    return tuple(sorted(splits.id_hash(str(name)) for name in names))


def test_a_promise_is_measured_on_examples_that_had_no_say_in_it(folder, tmp_path):
    table = records.read(folder / "cat.parquet")
    settings = {"limits": {COST: 0.3, LOSS: 0.05}, "models": models("2")}
    path = certificates.write(tmp_path, 0.65, seen=seen(table.example_id[100:]), **settings)
    point = points(folder, path, "cat")["cat"]
    deferred = Average()(table.student) > 0.65
    quality = np.where(deferred, table.teacher_quality, table.student_quality)
    lost = np.mean(table.teacher_quality[:100] - quality[:100])
    assert [kept.measured for kept in point.kept] == pytest.approx([deferred[:100].mean(), lost])
    assert (point.num_examples, point.num_judged) == (400, 100)
    assert point.rate == deferred.mean() and point.quality == pytest.approx(quality.mean())
    assert "made on 300 of these 400 examples" in point.warnings[0]
    assert point.rate != point.kept[0].measured


def test_an_example_with_the_input_of_a_calibrated_one_is_no_new_one(tmp_path):
    """Calibration leaves out repeated inputs, so that only the first's id is in the certificate."""
    file = student_records.write(tmp_path / "cat.parquet", "cat", 0.4)
    read = pq.read_table(file)
    inputs = read["inputs"].to_pylist()
    inputs[300:310] = [text + " " for text in inputs[20:30]]
    at = read.schema.get_field_index("inputs")
    pq.write_table(read.set_column(at, "inputs", pa.array(inputs)), file)
    ids = read["example_id"].to_pylist()
    point = points(tmp_path, certificates.write(tmp_path, 0.65, seen=seen(ids[:100])), "cat")["cat"]
    assert point.num_judged == 290
    deferred = Average()(records.read(file).student) > 0.65
    expected = np.delete(deferred, [*range(100), *range(300, 310)]).mean()
    assert point.kept[0].measured == pytest.approx(expected)


def test_tokens_too_are_measured_on_new_examples(folder, tmp_path):
    table = records.read(folder / "cat.parquet")
    more = {**LIVE, "models": models("2"), "seen": seen(table.example_id[100:])}
    path = certificates.write(tmp_path, student_records.LIVE_THRESHOLD, **more)
    point = points(folder, path, "cat")["cat"]
    deferred = table.cascade_is_deferred.reshape(400, 7)
    lost = np.mean(table.teacher_quality[:100] - table.cascade_quality[:100])
    expected = [deferred[:100].sum() / (100 * 20), lost]
    assert [kept.measured for kept in point.kept] == pytest.approx(expected)
    assert point.rate == pytest.approx(deferred.mean())


def test_examples_that_the_thresholds_were_chosen_on_are_warned_of(folder, tmp_path):
    ids = records.read(folder / "cat.parquet").example_id
    same = DataIdentity(mixture="demo", split="test")
    cases = [
        ({"seen": seen(ids)}, "made on these very examples"),
        ({"seen": seen(range(100)), "data": same}, None),  # of the same split, but others
        ({"data": same}, "made on the split 'test' of the same data"),
        ({"data": DataIdentity()}, None),
    ]
    for changes, words in cases:
        path = certificates.write(tmp_path, 0.65, **{"models": models("2"), **changes})
        point = points(folder, path, "cat")["cat"]
        assert len(point.warnings) == (words is not None)
        assert all(words in text for text in point.warnings)
        is_known = "very" not in (words or "")
        assert (point.kept[0].is_within is not None) == is_known
        assert point.num_judged == 400 * is_known


def test_a_fallback_says_that_nothing_was_certified(folder, tmp_path):
    path = certificates.write(tmp_path, math.inf, status="fallback", models=models("2"))
    point = points(folder, path, "cat")["cat"]
    assert point.rate == 0 and point.status == "fallback"
    assert "Nothing could be certified" in point.warnings[0]


def test_the_point_stands_in_every_output(folder, tmp_path):
    same = DataIdentity(mixture="demo", split="test")
    more = {"limits": {COST: 0.01}, "models": models("2"), "data": same}
    path = certificates.write(tmp_path, 0.65, **more)
    evaluation = run(folder, path)
    point = evaluation.points["cat"]
    written = json.loads((folder / "report" / "metrics.json").read_text())
    assert written["policy"]["cat"]["rate"] == point.rate
    assert written["policy"]["cat"]["kept"][0]["is_within"] is False
    rate = f"{100 * point.rate:.3g}"
    verdict = f"mean {COST} promised ≤ 0.01, measured {point.rate:.3f}: above it"
    shown = [terminal.below(evaluation, folder / "report")]
    shown += [(folder / "report" / name).read_text() for name in ("summary.md", "report.html")]
    for text in shown:
        assert verdict in text and rate in text and path in text
        assert "made on the split 'test' of the same data" in text.replace("&#x27;", "'")
