"""Whole answers of records: what is certified, written and printed, against a walk by hand."""

import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from cascade_jax import json_file, records, text_table
from cascade_jax.calibration import answer_pool, calibrate, summary, token_pool
from cascade_jax.data import pipeline
from cascade_jax.deferral import routers
from cascade_jax.deferral.guarantees import budget_file, certificate
from cascade_jax.runs.saved_model import CascadeRuns

N = 900


def write_records(path, n=N, seed=0, split="validation", start=0, teacher="b/2", **changes):
    """A small model that knows what it does not know, and a large one that is right at 0.9."""
    rng = np.random.default_rng(seed)
    unsure = rng.random(n)
    rows = {
        "mixture": ["m"] * n,
        "task": ["easy", "hard"] * (n // 2),
        "split": [split] * n,
        "example_id": [f"{split}/{i}" for i in range(n)],
        "inputs": [f"what is {i}?" for i in range(start, start + n)],
        "target": ["x"] * n,
        "metric": ["accuracy"] * n,
        "student_answer": ["x"] * n,
        "teacher_answer": ["x"] * n,
        "student_tokens": [[1]] * n,
        "teacher_tokens": [[1]] * n,
        "student_log_probs": [[-value] for value in unsure.astype(np.float32)],
        "student_entropies": [[0.5]] * n,
        "teacher_log_probs": [[-0.1]] * n,
        "teacher_entropies": [[0.1]] * n,
        "student_quality": (rng.random(n) > unsure).astype(float),
        "teacher_quality": (rng.random(n) < 0.9).astype(float),
        "student_flops_per_token": [2.0] * n,
        "teacher_flops_per_token": [20.0] * n,
        "student_flops": [10.0] * n,
        "teacher_flops": [100.0] * n,
    }
    metadata = {"name": "tiny", "mixture": "m", "split": split}
    metadata |= {"student_checkpoint": "a/1", "teacher_checkpoint": teacher}
    records.write(path, rows | changes, metadata)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "tiny.parquet")


def config(table, tmp_path, **changes):
    data = pipeline.DataConfig("m", input_length=8, target_length=4, batch_size=2)
    source = token_pool.LiveSource(CascadeRuns(str(tmp_path), ["tiny"], ["teacher"], data))
    settings = {"level": "answer", "alphas": [0.1, 0.3], "grid_size": 60, "search": "grid"}
    settings |= {"records": answer_pool.RecordsSource(table), "live": source}
    return calibrate.CalibrateConfig(**(settings | changes))


def calibrated(made):
    """The values of the budget."""
    return json_file.to_values(calibrate.calibrate(made))


def load(folder, alpha):
    return certificate.load(calibrate.certificate_path(folder, alpha))


def test_a_certificate_for_every_alpha_and_the_figures_beside_it(table, tmp_path):
    made = config(table, tmp_path, repeats=3)
    budget = calibrate.calibrate(made)
    actual = json_file.to_values(budget)
    written = json.loads((tmp_path / "calibration/tiny_answers/budget.json").read_text())
    assert actual == {name: value for name, value in written.items() if name != "digest"}
    assert budget == budget_file.load(tmp_path / "calibration/tiny_answers/budget.json")
    read = records.read(table)
    score = -read.student_log_probs.astype(np.float64)
    for alpha in (0.1, 0.3):
        promised = load(made.output_dir, alpha)
        (run,) = [r for r in actual["runs"] if r["alpha"] == alpha and r["repeat"] == 0]
        assert promised.status == "certified" and run["certified"]
        assert list(promised.thresholds) == run["thresholds"]
        assert promised.risks[0].limit == alpha and promised.delta == 0.1
        assert promised.level == "answer" and promised.score == "average"
        assert promised.models["teacher"].checkpoint == "b/2"
        # By hand: on the whole table the certified share is below the limit, and not idly so.
        share = np.mean(score > run["thresholds"][0])
        assert 0.3 * alpha < share <= alpha
        used = np.where(score > run["thresholds"][0], read.teacher_quality, read.student_quality)
        counts = actual["sizes"]
        assert counts == {"first": 200, "second": 200, "test": N - 400}
        sums = sum(run[part]["quality"]["quality"] * n
                   for part, n in (("calibration", 200), ("test", N - 400)))  # fmt: skip
        first = actual["candidates"][run["accepted"][-1]]  # any: its first split is a third part
        assert 0 < first["quality"]["quality"][0] < 1
        assert abs(sums / (N - 200) - used.mean()) < 0.03
        assert run["test"]["flops"] == pytest.approx(10 + 100 * run["test"]["cost"])
    assert len(actual["runs"]) == 6 and actual["ends"]["teacher"]["cost"] == 1.0
    kept = [run for run in budget.runs if budget.is_within(run)]
    assert len(kept) >= 5


def test_p_values_and_the_sequence_are_those_of_the_second_split(table, tmp_path):
    made = config(table, tmp_path, bound="binomial", alphas=[0.2])
    result = calibrated(made)
    (run,) = result["runs"]
    p_values = run["p_values"]
    for candidate, first, second in zip(
        result["candidates"], p_values["first"], p_values["second"], strict=True
    ):
        counts = [round(200 * cost) for cost in candidate["cost"]]
        assert first == pytest.approx(stats.binom.cdf(counts[0], 200, 0.2))
        assert second == pytest.approx(stats.binom.cdf(counts[1], 200, 0.2))
    costs = [result["candidates"][i]["cost"][1] for i in run["accepted"]]
    best = max(result["candidates"][i]["quality"]["quality"][1] for i in run["accepted"])
    assert run["calibration"]["quality"]["quality"] == best
    assert all(p_values["second"][i] <= 0.1 for i in run["accepted"]) and max(costs) < 0.2


def test_a_quality_floor_is_kept_at_the_least_cost(table, tmp_path):
    made = config(table, tmp_path, promise="quality", alphas=[0.1, 0.001], second_size=150)
    result = calibrated(made)
    small, large = (
        next(run for run in result["runs"] if run["alpha"] == alpha) for alpha in (0.001, 0.1)
    )
    assert large["certified"] and 0.05 < large["test"]["cost"] < 1
    assert large["test"]["worse"] <= 0.1
    # So near to the large model nothing is certified on 150 examples.
    assert not small["certified"] and small["thresholds"] == ["-inf"]
    assert small["test"]["worse"] == 0 and small["test"]["cost"] == 1
    assert load(made.output_dir, 0.001).status == "fallback"
    promised = load(made.output_dir, 0.1)
    assert "loss of quality against the large model ≤ 0.1" in promised.promise
    assert promised.data.metric == "quality"


def test_a_promise_of_quality_names_its_metric(table, tmp_path):
    made = config(table, tmp_path, level="token", promise="quality", alphas=[0.1])
    assert made.settings(0.1).risks[0].name == "loss of rouge1 against the large model"
    made = dataclasses.replace(made, objective="rougeL")
    assert made.settings(0.1).risks[0].name == "loss of rougeL against the large model"


def test_two_limits_at_once_and_what_no_policy_keeps(table, tmp_path):
    budget = calibrate.calibrate(config(table, tmp_path, alphas=[0.05, 0.9], quality_drop=0.15))
    result = json_file.to_values(budget)
    tight, wide = result["runs"]
    assert wide["certified"] and wide["test"]["worse"] <= 0.15 and wide["test"]["cost"] <= 0.9
    assert not tight["certified"]
    assert tight["thresholds"] is None and tight["test"] is None and tight["baselines"] is None
    assert "–" in text_table.as_text(summary.table(budget))


@pytest.mark.parametrize("procedure", ["fixed_sequence", "holm", "bonferroni"])
def test_the_other_procedures_use_the_second_split_alone(table, tmp_path, procedure):
    made = config(table, tmp_path, procedure=procedure, alphas=[0.3], grid_size=20)
    (run,) = calibrated(made)["runs"]
    assert run["certified"] and run["test"]["cost"] <= 0.3
    # Thresholds were searched on the first split: its examples are no new ones either.
    assert len(load(made.output_dir, 0.3).seen) == 400
    assert set(run["p_values"]["first"]) == {None}
    second = run["p_values"]["second"]
    tested = [p for p in second if p is not None]  # what no other beats on the first split
    assert 5 < len(tested) <= len(second) == 20
    level = {"fixed_sequence": 0.1, "holm": 0.1, "bonferroni": 0.1 / len(tested)}[procedure]
    assert all(second[i] <= level for i in run["accepted"])


@pytest.mark.parametrize("procedure", ["pareto_testing", "fixed_sequence", "holm", "bonferroni"])
def test_where_deferring_only_harms_nothing_is_deferred(tmp_path, procedure):
    """One threshold beats all others on the first split; there is a choice all the same."""
    answers = {"student_quality": [1.0] * N, "teacher_quality": [0.0] * N}
    harmful = write_records(tmp_path / "harmful.parquet", **answers)
    made = config(harmful, tmp_path, procedure=procedure, alphas=[0.3], grid_size=20)
    (run,) = calibrated(made)["runs"]
    assert run["certified"] and run["test"]["cost"] < 0.01


def test_of_whole_answers_bayesian_search_measures_all_thresholds(table, tmp_path):
    """An answer is kept or deferred: two of each example say what all thresholds do."""
    made = config(table, tmp_path, search="bayesian", iterations=12)
    actual = calibrated(made)
    evaluated = actual["candidates"]
    assert [candidate["answers"] for candidate in evaluated][-1] <= 2
    volumes = [candidate["hypervolume"] for candidate in evaluated]
    assert volumes == sorted(volumes)
    assert actual == calibrated(made)
    grid = calibrated(config(table, tmp_path, iterations=12))
    key = lambda candidate: candidate["thresholds"]  # noqa: E731
    for one, other in zip(*(sorted(f["candidates"], key=key) for f in (actual, grid)), strict=True):
        assert {**one, "order": 0, "hypervolume": 0, "answers": 0} == {
            **other, "order": 0, "hypervolume": 0, "answers": 0
        }  # fmt: skip


def test_baselines_are_ordered_as_they_must_be(table, tmp_path):
    result = calibrated(config(table, tmp_path, alphas=[0.3]))
    (run,) = result["runs"]
    beside = {name: point["quality"]["quality"] for name, point in run["baselines"].items()}
    assert beside["random_answers"] < run["test"]["quality"]["quality"] < beside["oracle"]
    # The same score in the same order: the same cascade.
    assert beside["whole_answers"] == pytest.approx(run["test"]["quality"]["quality"])
    assert run["baselines"]["whole_answers"]["cost"] == pytest.approx(run["test"]["cost"])


def test_so_many_examples_of_each_task_and_table(table, tmp_path):
    test = write_records(tmp_path / "test.parquet", 100, 5, "test", start=N)
    source = answer_pool.RecordsSource(table, test, limit=30)
    pool = source.open()
    assert [pool.ids[i] for i in (0, 59, 60, 119)] == [
        "validation/0", "validation/59", "test/0", "test/59"
    ]  # fmt: skip
    assert len(pool.ids) == 120 and pool.test_rows.tolist() == list(range(60, 120))
    assert len(answer_pool.RecordsSource(table, tasks=["easy"], limit=7).open().ids) == 7
    with pytest.raises(ValueError, match="limit is 0; must be an integer of at least 1, or None"):
        answer_pool.RecordsSource(table, limit=0)


def test_limits_that_are_nearly_the_same_have_certificates_of_their_own(table, tmp_path):
    alphas = [0.3, 0.30000001, 1 / 3]
    calibrated(config(table, tmp_path, alphas=alphas, baselines=False))
    folder = tmp_path / "calibration" / "tiny_answers"
    files = {path.name: certificate.load(path) for path in folder.glob("certificate_*.json")}
    names = ["certificate_0.3.json", "certificate_0.30000001.json"]
    assert sorted(files) == [*names, "certificate_0.3333333333333333.json"]
    assert [files[name].risks[0].limit for name in sorted(files)] == alphas


def test_another_table_to_test_on(table, tmp_path):
    test = write_records(tmp_path / "test.parquet", 100, 5, "test", start=N)
    source = answer_pool.RecordsSource(table, test)
    actual = calibrated(config(table, tmp_path, records=source, alphas=[0.3]))
    assert actual["sizes"] == {"first": 200, "second": 200, "test": 100}


def test_the_split_to_test_on_is_that_of_its_name(table, tmp_path):
    for split, start in (("validation", 0), ("test", N)):
        folder = tmp_path / "records" / split
        folder.mkdir(parents=True)
        write_records(folder / "tiny.parquet", 900 - start // 2, 5, split, start=start)
    made = config(table, tmp_path, records=answer_pool.RecordsSource(), alphas=[0.3])
    made = dataclasses.replace(made, live=dataclasses.replace(made.live, test_split="test"))
    assert calibrated(made)["sizes"]["test"] == 450


def overlapping(table, tmp_path):
    test = write_records(tmp_path / "test.parquet", 100, 5, "test", start=N - 1)
    return {"records": answer_pool.RecordsSource(table, test), "first_size": 450,
            "second_size": 450}  # fmt: skip


def learned(table, tmp_path):
    """A router that has learned from some of the examples, among others."""
    read = records.read(table).take(np.arange(0, N, 3))
    qualities = read.student_quality, read.teacher_quality
    router = routers.LogisticRouter().fit(read.student, *qualities, "validation")
    return {"records": answer_pool.RecordsSource(table, score=router)}


def with_another_teacher(table, tmp_path):
    test = write_records(tmp_path / "test.parquet", 100, 5, "test", N, teacher="b/3")
    return {"records": answer_pool.RecordsSource(table, test)}


REFUSED = {
    "delta": ({"delta": 1.0}, "delta must be above 0 and below 1, got 1.0"),
    "alpha": ({"alphas": [0.1, 1.2]}, r"limit must be strictly between 0.0 and 1.0, got 1.2"),
    "nan": ({"alphas": [math.nan]}, "ALPHAS are .nan.; must be a list of different numbers"),
    "bool": ({"alphas": [0.1, False]}, r"ALPHAS are \[0.1, False\]; must be a list of different"),
    "huge": ({"alphas": [10**400]}, r"ALPHAS are .*; must be a list of different numbers"),
    "tiny": ({"alphas": [1e-12]}, "ALPHAS holds 1e-12: the limit must be above 0.0 by at least"),
    "small": ({"alphas": [1e-7]}, "'second' has 200 examples.*: it takes 23,025,850 or more"),
    "drop": ({"quality_drop": 1.5}, "quality_drop is 1.5: the limit must be strictly between -1"),
    "repeats": ({"repeats": 10**9}, "repeats is 1000000000; must be .* and at most 10000"),
    "seed": ({"seed": -1}, "seed is -1; must be an integer of at least 0"),
    "alphas": ({"alphas": 0.1}, "ALPHAS are 0.1; must be a list of different numbers"),
    "none": ({"alphas": []}, "must be a list of different numbers"),
    "twice": ({"alphas": [0.1, 0.1]}, "must be a list of different numbers"),
    "large grid": ({"grid_size": 10**7}, "grid_size is .* and at most 100000"),
    "grid": ({"grid_size": 1}, "grid_size is 1; must be an integer of at least 2"),
    "iterations": ({"search": "bayesian", "iterations": 99}, "with 60 thresholds to choose"),
    "search": ({"search": "bayes"}, "did you mean 'bayesian'"),
    "level": ({"level": "tokens"}, "did you mean 'token'"),
    "objective": ({"objective": "rouge1"}, r"objective is 'rouge1'; must be one of quality"),
    "procedure": ({"procedure": "pareto"}, "did you mean 'pareto_testing'"),
    "few": ({"second_size": 20}, r"'second' has 20 examples, too few .* ≤ 0.1 .*: 2\d could"),
    "many": ({"first_size": 800}, "do not fit into the 900 examples"),
    "binomial": ({"promise": "quality", "bound": "binomial"}, "is for losses of 0 or 1: a cost at"),
    "binomial tokens": ({"level": "token", "bound": "binomial"}, "is for losses of 0 or 1: a cost"),
    "task": (lambda table, _: {"records": answer_pool.RecordsSource(table, tasks=["esy"])},
             "no task matches 'esy'; nearest is 'easy' of 2 tasks"),
    "overlap": (overlapping, "share 1 of 100 examples: 'what is 899"),
    "learned": (learned, "the logistic router was fitted on these examples: 300 of 900"),
    "teacher": (with_another_teacher, "the teacher of the records to test on is .*b/3.*b/2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_is_refused(table, tmp_path, name):
    changes, message = REFUSED[name]
    changes = changes(table, tmp_path) if callable(changes) else changes
    with pytest.raises(ValueError, match=message):
        calibrated(config(table, tmp_path, **changes))
    assert not (tmp_path / "calibration").exists()


def test_a_quality_outside_its_range_is_refused_with_its_row(table, tmp_path):
    read = pq.read_table(table)
    quality = read["student_quality"].to_numpy().copy()
    quality[7] = 1.5
    at = read.schema.get_field_index("student_quality")
    pq.write_table(
        read.set_column(at, "student_quality", pa.array(quality)), tmp_path / "x.parquet"
    )
    source = answer_pool.RecordsSource(tmp_path / "x.parquet")
    with pytest.raises(records.RecordsError, match=r"student_quality.* 1\.5"):
        calibrated(config(table, tmp_path, records=source))
