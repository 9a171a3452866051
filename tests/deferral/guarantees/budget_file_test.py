"""budget.json: what is read of it, figures over repeats, and every refusal."""

import copy
import json
import math

import numpy as np
import pytest

from cascade_jax.deferral.guarantees import budget_file
from tests.support import synthetic_budget

LACKING = object()


def changed(path, value):
    """A file's values with one changed or taken out."""
    made = copy.deepcopy(synthetic_budget.make())
    at = made
    for key in path[:-1]:
        at = at[key]
    if value is LACKING:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return made


def test_every_field_is_read(tmp_path):
    made = synthetic_budget.make()
    (tmp_path / "budget.json").write_text(json.dumps(made))
    actual = budget_file.load(tmp_path / "budget.json")
    for name in ("name", "level", "uncertainty", "delta", "max_length", "objective", "repeats"):
        assert getattr(actual, name) == made[name]
    for name in ("metrics", "alphas", "deferred_by_position"):
        assert list(getattr(actual, name)) == made[name]
    assert actual.ends.teacher.quality == made["ends"]["teacher"]["quality"]
    assert actual.ends.student.cost == 0 and math.isnan(actual.runs[0].test.worse)
    for candidate, expected in zip(actual.candidates, made["candidates"], strict=True):
        for at, value in enumerate(expected["cost"]):
            assert math.isnan(candidate.cost[at]) if value is None else candidate.cost[at] == value
        assert candidate.hypervolume == expected["hypervolume"]
        assert candidate.quality["rouge1"][0] == expected["quality"]["rouge1"][0]
    assert actual.candidates[0].thresholds == (math.inf,)
    assert actual.candidates[-1].thresholds == (-math.inf,)
    for run, expected in zip(actual.runs, made["runs"], strict=True):
        assert (run.alpha, run.repeat) == (expected["alpha"], expected["repeat"])
        assert list(run.accepted) == expected["accepted"] and run.certified == expected["certified"]
        assert run.test.flops == expected["test"]["flops"]
        assert (run.p_values is None) == (expected["repeat"] > 0)
        assert (run.thresholds is None) == (expected["thresholds"] is None)
        assert set(run.baselines) == set(expected["baselines"])
    assert actual.first_run.alpha == 0.2 and actual.first_run.repeat == 0


def test_figures_over_repeats_are_those_of_numpy():
    made = synthetic_budget.make()
    for actual in budget_file.from_values(made).over_alphas():
        runs = [run for run in made["runs"] if run["alpha"] == actual.alpha]
        costs = np.array([run["test"]["cost"] for run in runs])
        assert actual.cost.mean == pytest.approx(costs.mean())
        assert (actual.cost.low, actual.cost.high) == (costs.min(), costs.max())
        assert actual.share_within == pytest.approx((costs <= actual.alpha).mean())
        assert actual.share_certified == sum(run["certified"] for run in runs) / 5
        for metric in made["metrics"]:
            values = [run["test"]["quality"][metric] for run in runs]
            assert actual.quality[metric].mean == pytest.approx(np.mean(values))
            for name in ("random_tokens", "whole_answers", "oracle"):
                values = [run["baselines"][name]["quality"][metric] for run in runs]
                assert actual.baselines[name][metric] == pytest.approx(np.mean(values))
    assert 0 < min(f.share_within for f in budget_file.from_values(made).over_alphas()) <= 1


def test_a_promise_of_quality_limits_what_is_lost():
    made = synthetic_budget.make(promise="quality")
    for run in made["runs"]:
        run["test"]["worse"] = round(run["alpha"] + 0.01 * (run["repeat"] - 2.5), 4)
    for actual in budget_file.from_values(made).over_alphas():
        assert actual.risk.mean == pytest.approx(actual.alpha - 0.005)
        assert actual.share_within == pytest.approx(3 / 5) and actual.cost.mean < actual.alpha
    made |= {"promise": "cost", "quality_drop": 0.1}
    within = {at.alpha: at.share_within for at in budget_file.from_values(made).over_alphas()}
    assert within[0.05] == 1 and within[0.15] == within[0.2] == 0  # both limits count


def test_what_has_no_policy_counts_as_not_certified_only():
    made = synthetic_budget.make()
    made["deferred_by_position"][3] = None
    for run in made["runs"][:2] + made["runs"][15:]:
        run |= dict.fromkeys(("thresholds", "calibration", "test", "baselines"))
        run |= {"certified": False, "accepted": []}
    actual = budget_file.from_values(made)
    first, *_, last = actual.over_alphas()
    costs = [run["test"]["cost"] for run in made["runs"][2:5]]
    assert first.cost.mean == pytest.approx(np.mean(costs)) and first.share_within == 1
    assert first.share_certified == 2 / 5  # repeat 4 has the fallback
    assert last.share_certified == 0 and math.isnan(last.cost.mean)
    assert math.isnan(last.share_within) and math.isnan(last.baselines["oracle"]["rouge1"])
    assert actual.first_run.test is None and math.isnan(actual.deferred_by_position[3])


def test_alphas_may_stand_in_any_order_and_a_baseline_in_some_runs():
    made = synthetic_budget.make()
    made["alphas"].reverse()
    del made["runs"][0]["baselines"]["oracle"]
    actual = budget_file.from_values(made)
    assert actual.alphas == (0.05, 0.1, 0.15, 0.2) and actual.first_run.alpha == 0.2
    rest = [run["baselines"]["oracle"]["quality"]["rouge1"] for run in made["runs"][1:5]]
    at = actual.over_alphas()[0].baselines
    assert at["oracle"]["rouge1"] == pytest.approx(np.mean(rest)) and len(at) == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 3, "not a budget file of schema_version 2: it is 3"),
        (("schema_version",), LACKING, "f.json: not a budget file of schema_version 2: it is None"),
        (("deferred_by_position",), LACKING, "field 'deferred_by_position' is missing"),
        (("name",), "", 'name must be a text of length >= 1, got ""'),
        (("level",), "word", "level is 'word'; must be one of answer, token"),
        (("promise",), "time", "promise is 'time'; must be one of cost, quality"),
        (("quality_drop",), 2, "quality_drop must be a number < 1.0, got 2"),
        (("delta",), 1.5, "delta must be a number < 1.0, got 1.5"),
        (("delta",), 0, "delta must be a number > 0.0, got 0"),
        (("alphas",), [], r"alphas must be a list of length >= 1, got \[\]"),
        (("alphas",), [0.1, 2], r"alphas\[1\] must be a number < 1.0, got 2"),
        (("objective",), "bleu", "objective is 'bleu'; must be one of rouge1, rouge2, rougeL"),
        (("max_length",), 2.5, "max_length must be a whole number, got 2.5"),
        (("max_length",), 0, "max_length must be a whole number >= 1, got 0"),
        (("repeats",), True, "repeats must be a whole number, got true"),
        (("repeats",), 6, r"runs lack alpha = 0.05, repeat = 5 \(4 such\)"),
        (("runs", 3, "repeat"), 2, "runs lack alpha = 0.05, repeat = 3"),
        (("runs", 3, "repeat"), -1, r"runs\[3\].repeat must be a whole number >= 0, got -1"),
        (("runs", 3, "alpha"), 0.3, "runs lack alpha = 0.05, repeat = 3"),
        (("runs", 3, "test", "cost"), None, r'runs\[3\].test.cost must be a number, "inf" .* null'),
        (("runs", 3, "test", "cost"), "inf", r"runs\[3\].test: cost must be a finite number"),
        (("runs", 3, "test", "cost"), "0.1", r'test.cost must be a number, "inf" or .* "0.1"'),
        (("runs", 3, "test", "quality", "rouge2"), LACKING, r"runs\[3\].test.quality lacks rouge2"),
        (("runs", 3, "test", "flops"), "1", r"test.flops must be a number, null if not known, .*"),
        (("runs", 3, "certified"), 1, r"runs\[3\].certified must be true or false, got 1"),
        (
            ("runs", 3, "thresholds"),
            None,
            r"runs\[3\]: thresholds must be known, as the",
        ),
        (("runs", 3, "test"), None, r"runs\[3\]: test must be known, as the run is certified"),
        (("runs", 3, "baselines"), 3, r"runs\[3\].baselines must be an object or null, got 3"),
        (
            ("runs", 3, "baselines", "oracle", "cost"),
            "low",
            r"runs\[3\].baselines.oracle.cost must be a number, .* \"low\"",
        ),
        (("runs", 15, "accepted"), [16], r"runs\[15\].accepted must be indices of the 16 .*\[16\]"),
        (("runs", 15, "p_values", "second"), [0.5], r"p_values.second has 1 values, candidates 16"),
        (("runs", 3), 7, r"runs\[3\] must be an object, got 7"),
        (("candidates", 2, "cost"), [0.1], r"candidates\[2\].cost must be a list of length 2, got"),
        (("candidates", 2, "order"), -1, r"candidates\[2\].order must be a whole number >= 0"),
        (
            ("candidates", 2, "thresholds"),
            [],
            r"candidates\[2\].thresholds must be a list of len",
        ),
        (("candidates", 2, "quality", "rouge1"), LACKING, r"candidates\[2\].quality lacks rouge1"),
        (("candidates", 2, "order"), 99, "candidates have the orders .*99.*, must be 0 to 15"),
        (
            ("candidates", 2, "thresholds"),
            ["inf"],
            r"candidates\[0\] and .*\[2\] have the same thr",
        ),
        (("candidates", 2, "thresholds"), [1, 2], "have 1 and 2 thresholds; must be the same"),
        (("candidates", 2, "cost", 1), 1.5, r"candidates\[2\].cost is 1.5, must be a share from 0"),
        (
            ("candidates", 2, "hypervolume"),
            9.5,
            "the hypervolume of the candidate of order .* falls",
        ),
        (("runs", 15, "accepted"), [0, 0], r"runs\[15\]: accepted holds an index twice"),
        (("runs", 15, "accepted"), [], r"certified is True, but 0 candidates are accepted"),
        (("runs", 15, "certified"), False, "certified is False, but .* candidates are accepted"),
        (
            ("runs", 15, "thresholds"),
            ["-inf"],
            r"runs\[15\].thresholds \[-inf\] are not among those",
        ),
        (("runs", 15, "p_values", "second", 0), 0.2, "accepts candidate 0 in spite of its p-value"),
        (("runs", 15, "p_values", "first", 0), 1.2, r"first\[0\] is 1.2, must be in \[0, 1\]"),
        (("runs", 15, "alpha"), 0.01, "runs lack alpha = 0.2, repeat = 0"),
        (
            ("candidates", 0, "cost", 1),
            0.9,
            r"runs\[0\] accepts candidate 0 with the mean cost 0.9",
        ),
        (
            ("runs", 4, "thresholds"),
            [0.5],
            r"runs\[4\]: thresholds are \[0.5\], but certified is False",
        ),
        (("runs", 4, "thresholds"), None, "thresholds are null, but there are results of them"),
        (("repeats",), 2**30, r"runs lack alpha = 0.05, repeat = 5 \(4294967276 such\)"),
        (("procedure",), "pareto", "procedure is 'pareto'; .* did you mean 'pareto_testing'"),
        (("sizes",), {"first": 0}, "sizes.first must be a whole number >= 1, got 0"),
        (("deferred_by_position",), [0.5], "has 1 values, must have max_length = 20 or none"),
        (("deferred_by_position", 3), 1.5, r"deferred_by_position\[3\] is 1.5, must be in"),
        (("ends", "teacher"), LACKING, "field 'teacher' is missing in ends"),
        (("ends", "student", "quality", "rouge2"), LACKING, "ends.student.quality lacks rouge2"),
    ],
)
def test_what_is_refused(path, value, message):
    with pytest.raises(ValueError, match=message):
        budget_file.from_values(changed(path, value), "f.json")


def test_a_misspelt_field_is_named_with_what_is_there():
    made = synthetic_budget.make()
    made["candidate"] = made.pop("candidates")
    with pytest.raises(ValueError, match="'candidates' is missing; did you mean 'candidate'?"):
        budget_file.from_values(made)
    made = synthetic_budget.make() | {"boundd": "wsr"}
    with pytest.raises(ValueError, match="unknown field 'boundd'; did you mean 'bound'"):
        budget_file.from_values(made)
    made = synthetic_budget.make()
    made["runs"].append(made["runs"][0])
    with pytest.raises(ValueError, match=r"runs have alpha = 0.05, repeat = 0 \(1 such\) twice"):
        budget_file.from_values(made)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such budget file; `cascade-jax calibrate`"):
        budget_file.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad.json: not JSON \("):
        budget_file.load(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="list.json: not a budget file of schema_version 2"):
        budget_file.load(tmp_path / "list.json")


def test_an_edit_is_refused(tmp_path):
    whole = budget_file.from_values(synthetic_budget.make())
    whole.save(tmp_path / "budget.json")
    assert budget_file.load(tmp_path / "budget.json").runs == whole.runs
    text = (tmp_path / "budget.json").read_text()
    (tmp_path / "budget.json").write_text(text.replace('"name": "cat"', '"name": "dog"'))
    with pytest.raises(ValueError, match="budget.json: was edited after it was written"):
        budget_file.load(tmp_path / "budget.json")
    values = {name: value for name, value in json.loads(text).items() if name != "digest"}
    (tmp_path / "budget.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="budget.json: was edited .*: its digest, .* is missing"):
        budget_file.load(tmp_path / "budget.json")
    (tmp_path / "budget.json").write_text(json.dumps(values | {"schema_version": 1}))
    assert (
        budget_file.load(tmp_path / "budget.json").runs == whole.runs
    )  # an old file has no digest


def test_a_certificate_is_told_from_a_budget_file():
    with pytest.raises(ValueError, match="c.json is a certificate"):
        budget_file.from_values({"schema": 1, "thresholds": [0.5]}, "c.json")
