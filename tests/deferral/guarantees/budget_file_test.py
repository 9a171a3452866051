"""budget.json: what is read of it, figures over repeats, and every refusal."""

import copy
import json
import math

import numpy as np
import pytest

from cascade_jax.deferral.guarantees import budget_file
from cascade_jax.deferral.guarantees.json_field import FieldError
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
    found = budget_file.read(tmp_path / "budget.json")
    for name in ("name", "level", "uncertainty", "delta", "max_length", "objective", "repeats"):
        assert getattr(found, name) == made[name]
    for name in ("metrics", "alphas", "deferred_by_position"):
        assert list(getattr(found, name)) == made[name]
    assert found.source == str(tmp_path / "budget.json")
    assert found.teacher.quality == made["ends"]["teacher"]["quality"]
    assert found.student.cost == 0 and math.isnan(found.student.flops)
    for candidate, wanted in zip(found.candidates, made["candidates"], strict=True):
        for at, value in enumerate(wanted["cost"]):
            assert math.isnan(candidate.cost[at]) if value is None else candidate.cost[at] == value
        assert candidate.hypervolume == wanted["hypervolume"]
        assert candidate.quality["rouge1"][0] == wanted["quality"]["rouge1"][0]
    assert found.candidates[0].thresholds == (math.inf,)
    assert found.candidates[-1].thresholds == (-math.inf,)
    for run, wanted in zip(found.runs, made["runs"], strict=True):
        assert (run.alpha, run.repeat) == (wanted["alpha"], wanted["repeat"])
        assert list(run.accepted) == wanted["accepted"] and run.certified == wanted["certified"]
        assert run.test.flops == wanted["test"]["flops"]
        assert (run.p_values is None) == (wanted["repeat"] > 0)
        assert (run.thresholds is None) == (wanted["thresholds"] is None)
        assert set(run.baselines) == set(wanted["baselines"])
    assert found.first_run.alpha == 0.2 and found.first_run.repeat == 0


def test_figures_over_repeats_are_those_of_numpy():
    made = synthetic_budget.make()
    for found in budget_file.from_json(made).over_alphas():
        runs = [run for run in made["runs"] if run["alpha"] == found.alpha]
        costs = np.array([run["test"]["cost"] for run in runs])
        assert found.cost.mean == pytest.approx(costs.mean())
        assert (found.cost.low, found.cost.high) == (costs.min(), costs.max())
        assert found.share_within == pytest.approx((costs <= found.alpha).mean())
        assert found.share_certified == sum(run["certified"] for run in runs) / 5
        for metric in made["metrics"]:
            values = [run["test"]["quality"][metric] for run in runs]
            assert found.quality[metric].mean == pytest.approx(np.mean(values))
            for name in ("random_tokens", "whole_answers", "oracle"):
                values = [run["baselines"][name]["quality"][metric] for run in runs]
                assert found.baselines[name][metric] == pytest.approx(np.mean(values))
    assert 0 < min(f.share_within for f in budget_file.from_json(made).over_alphas()) <= 1


def test_a_promise_of_quality_limits_what_is_lost():
    made = synthetic_budget.make(promise="quality")
    for run in made["runs"]:
        run["test"]["worse"] = round(run["alpha"] + 0.01 * (run["repeat"] - 2.5), 4)
    for found in budget_file.from_json(made).over_alphas():
        assert found.risk.mean == pytest.approx(found.alpha - 0.005)
        assert found.share_within == pytest.approx(3 / 5) and found.cost.mean < found.alpha
    made |= {"promise": "cost", "quality_drop": 0.1}
    within = {at.alpha: at.share_within for at in budget_file.from_json(made).over_alphas()}
    assert within[0.05] == 1 and within[0.15] == within[0.2] == 0  # both limits count


def test_what_has_no_policy_counts_as_not_certified_only():
    made = synthetic_budget.make()
    made["deferred_by_position"][3] = None
    for run in made["runs"][:2] + made["runs"][15:]:
        run |= dict.fromkeys(("thresholds", "calibration", "test", "baselines"))
        run |= {"certified": False, "accepted": []}
    found = budget_file.from_json(made)
    first, *_, last = found.over_alphas()
    costs = [run["test"]["cost"] for run in made["runs"][2:5]]
    assert first.cost.mean == pytest.approx(np.mean(costs)) and first.share_within == 1
    assert first.share_certified == 2 / 5  # repeat 4 has the fallback
    assert last.share_certified == 0 and math.isnan(last.cost.mean)
    assert math.isnan(last.share_within) and math.isnan(last.baselines["oracle"]["rouge1"])
    assert found.first_run.test is None and math.isnan(found.deferred_by_position[3])


def test_alphas_may_stand_in_any_order_and_a_baseline_in_some_runs():
    made = synthetic_budget.make()
    made["alphas"].reverse()
    del made["runs"][0]["baselines"]["oracle"]
    found = budget_file.from_json(made)
    assert found.alphas == (0.05, 0.1, 0.15, 0.2) and found.first_run.alpha == 0.2
    rest = [run["baselines"]["oracle"]["quality"]["rouge1"] for run in made["runs"][1:5]]
    at = found.over_alphas()[0].baselines
    assert at["oracle"]["rouge1"] == pytest.approx(np.mean(rest)) and len(at) == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version is 2; must be 1, the version"),
        (("schema_version",), LACKING, "f.json: field 'schema_version' is missing"),
        (("deferred_by_position",), LACKING, "field 'deferred_by_position' is missing"),
        (("name",), "", 'name is ""; must be a text'),
        (("level",), "word", 'level is "word"; must be one of token, answer'),
        (("promise",), "time", 'promise is "time"; must be one of cost, quality'),
        (("quality_drop",), 2, "quality_drop is 2; must be a number between -1 and 1"),
        (("delta",), 1.5, "delta is 1.5; must be a number between 0 and 1"),
        (("alphas",), [], r"alphas is \[\]; must be a list of 1 or more"),
        (("alphas",), [0.1, 2], r"alphas\[1\] is 2; must be a number between -1 and 1"),
        (("objective",), "bleu", 'objective is "bleu"; must be one of rouge1, rouge2, rougeL'),
        (("max_length",), 2.5, "max_length is 2.5; must be a whole number of 1 or more"),
        (("repeats",), True, "repeats is true; must be a whole number"),
        (("repeats",), 6, r"runs lack alpha = 0.05, repeat = 5 \(4 such\)"),
        (("runs", 3, "repeat"), 2, "runs lack alpha = 0.05, repeat = 3"),
        (("runs", 3, "repeat"), 7, r"runs\[3\].repeat is 7; must be below the number of repeats"),
        (("runs", 3, "alpha"), 0.3, r"runs\[3\].alpha is 0.3; must be one of the alphas, 0.05"),
        (("runs", 3, "test", "cost"), None, r"runs\[3\].test.cost is null; must be a finite"),
        (("runs", 3, "test", "cost"), "0.1", r'test.cost is "0.1"; must be a number, null if not'),
        (("runs", 3, "test", "quality", "rouge2"), LACKING, r"'rouge2' is missing in runs\[3\].te"),
        (("runs", 3, "certified"), 1, r"runs\[3\].certified is 1; must be true or false"),
        (("runs", 3, "thresholds"), None, r"runs\[3\].thresholds is null; must be known, as the"),
        (("runs", 3, "test"), None, r"runs\[3\].test is null; must be known, as the run is"),
        (("runs", 3, "baselines"), 3, r"runs\[3\].baselines is 3; must be an object"),
        (("runs", 15, "accepted"), [16], r"runs\[15\].accepted is \[16\]; must be indices of the"),
        (("runs", 15, "p_values", "second"), [0.5], r"p_values.second has 1 values, candidates 16"),
        (("runs", 3), 7, r"runs\[3\] is 7; must be an object"),
        (("candidates", 2, "cost"), [0.1], r"candidates\[2\].cost is \[0.1\]; must be two numbers"),
        (("candidates", 2, "order"), -1, r"candidates\[2\].order is -1; must be a whole number of"),
        (("candidates", 2, "thresholds"), [], r"candidates\[2\].thresholds is \[\]; must be a lis"),
        (("ends", "teacher"), LACKING, "field 'teacher' is missing in ends"),
    ],
)
def test_what_is_refused(path, value, message):
    with pytest.raises(FieldError, match=message):
        budget_file.from_json(changed(path, value), "f.json")


def test_a_misspelt_field_is_named_with_what_is_there():
    made = synthetic_budget.make()
    made["candidate"] = made.pop("candidates")
    with pytest.raises(FieldError, match="'candidates' is missing; did you mean 'candidate'?"):
        budget_file.from_json(made)
    made = synthetic_budget.make()
    made["runs"].append(made["runs"][0])
    with pytest.raises(FieldError, match="runs have alpha = 0.05, repeat = 0 twice"):
        budget_file.from_json(made)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such budget file; `cascade-jax calibrate`"):
        budget_file.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FieldError, match="bad.json is not a budget file: not JSON"):
        budget_file.read(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FieldError, match=r"list.json: the file is \[\]; must be an object"):
        budget_file.read(tmp_path / "list.json")


def test_a_certificate_is_told_from_a_budget_file():
    with pytest.raises(FieldError, match="c.json is a certificate"):
        budget_file.from_json({"schema": 1, "thresholds": [0.5]}, "c.json")
