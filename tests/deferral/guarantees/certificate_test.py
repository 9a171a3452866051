"""Certificates survive the way through a file; what is not one is refused by name."""

import dataclasses
import json
import math

import numpy as np
import pytest

from cascade_jax.deferral.guarantees import certificate, learn_then_test, splits
from cascade_jax.deferral.guarantees.risks import Risk, Settings
from tests.support.measurements import COST, WORSE, measured

BUDGET = Risk(COST, 0.2)
FLOOR = Risk(WORSE, 0.46, lower=-1.0, fallback="always_defer")


def made(risks=(BUDGET,), thresholds=None, **options):
    both = [measured(name, 100, seed, thresholds) for seed, name in enumerate(("one", "two"))]
    return certificate.from_calibration(
        learn_then_test.calibrate(Settings(risks, **options), *both),
        level="token",
        score="negative log-prob",
        objective="1 - ROUGE-L",
        models={"student": "ab12", "teacher": "cd34"},
        data="ef56",
        splits={"one": "01", "two": "23"},
    )


CASES = {
    "certified": {},
    "several risks": {"risks": (BUDGET, FLOOR)},
    "infinite": {"thresholds": [0.1, 0.5, math.inf]},
    "fallback": {"thresholds": [0.1, 0.5]},
    "nothing": {"risks": (BUDGET, FLOOR), "thresholds": [0.1, 0.5]},
    "one split": {"procedure": "holm", "bound": "hoeffding_bentkus"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_holds_all_of_it(case, tmp_path):
    whole = made(**CASES[case])
    whole.save(tmp_path / "deep" / "certificate.json")
    assert certificate.load(tmp_path / "deep" / "certificate.json") == whole
    strict = json.loads(whole.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert set(strict) == {field.name for field in dataclasses.fields(whole)}


def test_what_is_promised():
    whole = made(risks=(BUDGET, FLOOR))
    assert whole.status == "certified" and not whole.is_fallback
    assert whole.promise == (
        "On new examples of the same distribution, mean cost ≤ 0.2 and mean worse ≤ 0.46, with a "
        "chance of at least 0.9 over the calibration examples."
    )
    assert whole.policy_thresholds() == whole.thresholds
    assert len(whole.candidates) == 21 and whole.num_second == 100


def test_a_fallback_says_so():
    whole = made(thresholds=[0.1, 0.5])
    assert whole.is_fallback and whole.policy_thresholds() == (math.inf,)
    assert "No threshold could be certified" in whole.promise and "never defers" in whole.promise
    floor = dataclasses.replace(FLOOR, limit=0.001)
    always = made(risks=(floor,), thresholds=[0.1, 0.5])
    assert always.policy_thresholds() == (-math.inf,) and "always defers" in always.promise


def test_no_policy_is_none():
    whole = made(risks=(BUDGET, FLOOR), thresholds=[0.1, 0.5])
    assert whole.status == "nothing" and whole.thresholds == ()
    with pytest.raises(
        ValueError, match="of no policy: No threshold.*No policy keeps it trivially"
    ):
        whole.policy_thresholds()


def test_the_papers_bound_is_promised_with_its_condition():
    with pytest.warns(UserWarning, match="independent"):
        whole = made(bound="paper", tokens_per_sequence=20)
    assert whole.promise.endswith("examples, if all tokens were independent.")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("delta"), "missing fields: delta"),
        (lambda d: d.update(detla=1), "unknown field 'detla'; did you mean 'delta'"),
        (lambda d: d["risks"][0].pop("limit"), r"missing fields of risks\[0\]: limit"),
        (lambda d: d["candidates"][2].update(p=1), r"unknown field 'p' of candidates\[2\]"),
        (lambda d: d.update(delta="0.1"), 'delta must be a number, "inf" or "-inf", got "0.1"'),
        (lambda d: d.update(delta=1.5), "delta must be above 0 and below 1, got 1.5"),
        (lambda d: d.update(delta=True), "delta must be a number"),
        (lambda d: d.update(thresholds=0.5), "thresholds must be a list, got 0.5"),
        (lambda d: d.update(thresholds=[0.123]), "not among the candidates that are certified"),
        (lambda d: d.update(thresholds=[]), "status 'certified' has 0 thresholds"),
        (
            lambda d: d["candidates"][0].update(is_accepted=1),
            r"candidates\[0\].is_accepted must be",
        ),
        (lambda d: d["models"].update(student=3), "models.student must be a text, got 3"),
        (lambda d: d.update(num_first=2.5), "num_first must be a whole number, got 2.5"),
        (lambda d: d.update(level="tokens"), "level must be.*did you mean 'token'"),
        (lambda d: d.update(status="sure"), "status must be one of certified, fallback, nothing"),
        (lambda d: d.update(schema=2), "not a certificate of schema 1: its schema is 2"),
        (lambda d: d.update(risks=[]), "risks must hold one or more"),
    ],
)
def test_what_is_changed_is_refused(change, message):
    fields = json.loads(made().to_json())
    change(fields)
    with pytest.raises(ValueError, match=message):
        certificate.from_json(json.dumps(fields))


@pytest.mark.parametrize("thresholds", [[0.5], ["-inf"]])
def test_a_fallback_of_thresholds_that_keep_nothing_trivially_is_refused(thresholds):
    fields = json.loads(made().to_json()) | {"status": "fallback", "thresholds": ["inf"]}
    assert certificate.from_json(json.dumps(fields)).thresholds == (math.inf,)
    with pytest.raises(ValueError, match="not those of the policy that keeps its limits trivially"):
        certificate.from_json(json.dumps(fields | {"thresholds": thresholds}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "delta": NaN}', "\x00"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json: not a certificate"):
        certificate.load(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="b.json: no such file of a certificate"):
        certificate.load(tmp_path / "b.json")


def test_it_is_not_judged_on_what_it_was_calibrated_on(tmp_path):
    made().save(tmp_path / "a.json")
    whole = certificate.load(tmp_path / "a.json")
    assert whole.splits == {"one": "01", "two": "23"} and len(whole.seen) == 200
    whole.check_not_calibrated_on([f"test/{i}" for i in range(1000)])
    with pytest.raises(ValueError, match="on 2 of these 3 examples: 'one/7', 'two/99'; evaluate"):
        whole.check_not_calibrated_on(["one/7", "test/1", "two/99"])


def test_splits_have_the_fingerprints_of_their_ids():
    found = learn_then_test.calibrate(
        Settings([BUDGET]), measured("one", 50, 0), measured("two", 60, 1)
    )
    whole = certificate.from_calibration(found, "answer", "average", "1 - quality", {}, "")
    ids = {"one": [f"one/{i}" for i in range(50)], "two": [f"two/{i}" for i in range(60)]}
    assert whole.splits == {name: splits.split_fingerprint(ids[name]) for name in ids}


def test_blocks_need_their_length():
    whole = made()
    accepted = dataclasses.replace(whole.candidates[-1], thresholds=(0.9, 0.8), is_accepted=True)
    blocks = {"thresholds": (0.9, 0.8), "candidates": (accepted,)}
    with pytest.raises(ValueError, match="2 thresholds need a block_length of 1 or more, got None"):
        dataclasses.replace(whole, **blocks)
    kept = dataclasses.replace(whole, **blocks, block_length=10)
    assert certificate.from_json(kept.to_json()) == kept


def test_numbers_are_kept_to_the_last_bit():
    whole = made()
    values = np.random.default_rng(0).random(len(whole.candidates)) ** 40
    candidates = [
        dataclasses.replace(candidate, first_p=float(p))
        for candidate, p in zip(whole.candidates, values, strict=True)
    ]
    whole = dataclasses.replace(whole, candidates=tuple(candidates))
    assert certificate.from_json(whole.to_json()) == whole


def test_a_budget_file_is_told_from_a_certificate():
    with pytest.raises(ValueError, match="a budget file"):
        certificate.from_json('{"schema_version": 1, "alphas": [0.1]}')
