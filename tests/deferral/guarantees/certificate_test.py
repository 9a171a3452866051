"""Certificates survive the way through a file; what is not one is refused by name."""

import dataclasses
import json
import math

import numpy as np
import pytest

from cascade_jax import json_file
from cascade_jax.deferral.guarantees import certificate, learn_then_test, splits
from cascade_jax.deferral.guarantees.certificate import DataIdentity, ModelIdentity
from cascade_jax.deferral.guarantees.risks import CalibrationSettings, Risk
from tests.support.measurements import COST, WORSE, measured

BUDGET = Risk(COST, 0.2)
FLOOR = Risk(WORSE, 0.46, lower=-1.0, fallback="always_defer")


def made(risks=(BUDGET,), thresholds=None, **options):
    both = [measured(name, 100, seed, thresholds) for seed, name in enumerate(("one", "two"))]
    return certificate.from_calibration(
        learn_then_test.calibrate(CalibrationSettings(risks, **options), *both),
        level="token",
        score="negative log-prob",
        objective="1 - ROUGE-L",
        models={"student": ModelIdentity("small", 6, 12), "teacher": ModelIdentity("large", 7, 34)},
        data=DataIdentity("m", "validation", examples=("ef56",), target_length=20, metric="task"),
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
    text = (tmp_path / "deep" / "certificate.json").read_text()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert set(strict) == {field.name for field in dataclasses.fields(whole)} | {"digest"}


def test_what_is_promised():
    whole = made(risks=(BUDGET, FLOOR))
    assert whole.status == "certified"
    assert whole.promise == (
        "On new examples of the same distribution, mean cost ≤ 0.2 and mean worse ≤ 0.46, with a "
        "chance of at least 0.9 over the calibration examples."
    )
    assert whole.policy().thresholds == whole.thresholds
    assert len(whole.candidates) == 21 and whole.num_second == 100


def test_a_fallback_says_so():
    whole = made(thresholds=[0.1, 0.5])
    assert whole.status == "fallback" and whole.policy().thresholds == (math.inf,)
    assert "No threshold could be certified" in whole.promise and "never defers" in whole.promise
    floor = dataclasses.replace(FLOOR, limit=0.001)
    always = made(risks=(floor,), thresholds=[0.1, 0.5])
    assert always.policy().thresholds == (-math.inf,) and "always defers" in always.promise


def test_no_policy_is_none():
    whole = made(risks=(BUDGET, FLOOR), thresholds=[0.1, 0.5])
    assert whole.status == "nothing" and whole.thresholds == ()
    with pytest.raises(
        ValueError, match="of no policy: No threshold.*No policy keeps it trivially"
    ):
        whole.policy()


def test_the_papers_bound_is_promised_with_its_condition():
    with pytest.warns(UserWarning, match="independent"):
        whole = made(bound="paper", tokens_per_sequence=20)
    assert whole.promise.endswith("examples, if all tokens were independent.")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("delta"), "c.json: field 'delta' is missing"),
        (lambda d: d.pop("schema"), "c.json: not a certificate of schema 3: its schema is None"),
        (lambda d: d.update(detla=1), "unknown field 'detla'; did you mean 'delta'"),
        (lambda d: d["risks"][0].pop("limit"), r"field 'limit' is missing in risks\[0\]"),
        (lambda d: d["risks"][0].pop("lower"), r"missing fields of risks\[0\]: lower"),
        (lambda d: d["candidates"][2].update(p=1), r"unknown field 'p' of candidates\[2\]"),
        (lambda d: d.update(delta="0.1"), 'delta must be a number, got "0.1"'),
        (
            lambda d: d.update(thresholds=[None]),
            r'thresholds\[0\] must be a number, "inf" or "-inf"',
        ),
        (lambda d: d.update(delta=1.5), "delta must be above 0 and below 1, got 1.5"),
        (lambda d: d.update(delta=True), "delta must be a number"),
        (lambda d: d.update(thresholds=0.5), "thresholds must be a list, got 0.5"),
        (lambda d: d.update(thresholds=[0.123]), "not among the candidates that are certified"),
        (lambda d: d.update(thresholds=[]), "status 'certified' has 0 thresholds"),
        (
            lambda d: d["candidates"][0].update(is_accepted=1),
            r"candidates\[0\].is_accepted must be",
        ),
        (lambda d: d["models"].update(student=3), "models.student must be an object, got 3"),
        (lambda d: d["models"]["student"].update(step="6"), 'models.student.step must be .*"6"'),
        (
            lambda d: d["candidates"][3]["first_risks"].update(cost="low"),
            r'candidates\[3\].first_risks.cost must be a number, "inf" or "-inf", got "low"',
        ),
        (lambda d: d.update(num_first=2.5), "num_first must be a whole number, got 2.5"),
        (lambda d: d.update(level="tokens"), "level is 'tokens'.*did you mean 'token'"),
        (
            lambda d: d.update(status="sure"),
            "status is 'sure'; must be one of certified, fallback, nothing",
        ),
        (lambda d: d.update(schema=4), "not a certificate of schema 3: its schema is 4"),
        (lambda d: d.update(risks=[]), "risks must hold one or more"),
    ],
)
def test_what_is_changed_is_refused(change, message):
    fields = json_file.to_values(made())
    change(fields)
    with pytest.raises(ValueError, match=message):
        certificate.from_values(fields, "c.json")


@pytest.mark.parametrize("thresholds", [[0.5], ["-inf"]])
def test_a_fallback_of_thresholds_that_keep_nothing_trivially_is_refused(thresholds):
    fields = json_file.to_values(made(thresholds=[0.1, 0.5]))
    assert certificate.from_values(fields).thresholds == (math.inf,)
    with pytest.raises(ValueError, match="not those of the policy that keeps its limits trivially"):
        certificate.from_values(fields | {"thresholds": thresholds})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "delta": NaN}', "\x00"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json: (not (a certificate|JSON|UTF-8)|holds NaN)"):
        certificate.load(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="b.json: no such file of a certificate"):
        certificate.load(tmp_path / "b.json")


def test_it_knows_what_it_was_calibrated_on(tmp_path):
    made().save(tmp_path / "a.json")
    whole = certificate.load(tmp_path / "a.json")
    assert whole.splits == {"one": "01", "two": "23"} and len(whole.seen) == 200
    assert not any(whole.was_calibrated_on([f"test/{i}" for i in range(1000)]))
    assert whole.was_calibrated_on(["one/7", "test/1", "two/99"]) == [True, False, True]


def test_splits_have_the_fingerprints_of_their_ids():
    result = learn_then_test.calibrate(
        CalibrationSettings([BUDGET]), measured("one", 50, 0), measured("two", 60, 1)
    )
    whole = certificate.from_calibration(
        result, "answer", "average", "1 - quality", {}, DataIdentity()
    )
    ids = {"one": [f"one/{i}" for i in range(50)], "two": [f"two/{i}" for i in range(60)]}
    assert whole.splits == {name: splits.split_fingerprint(ids[name]) for name in ids}


def test_blocks_need_their_length():
    whole = made()
    best = next(c for c in whole.candidates if c.thresholds == whole.thresholds)
    pairs = [
        dataclasses.replace(best, thresholds=(0.9, 0.8 + rank), rank=rank) for rank in range(2)
    ]
    blocks = {"thresholds": (0.9, 0.8), "candidates": tuple(pairs)}
    with pytest.raises(ValueError, match="2 thresholds need a block_length of 1 or more, got None"):
        dataclasses.replace(whole, **blocks)
    kept = dataclasses.replace(whole, **blocks, block_length=10)
    assert certificate.from_values(json_file.to_values(kept)) == kept


def chosen(fields):
    """The candidate of a certificate that was chosen."""
    return next(c for c in fields["candidates"] if c["thresholds"] == fields["thresholds"])


def of_rank(fields, rank):
    return next(c for c in fields["candidates"] if c["rank"] == rank)


def other_accepted(fields):
    others = [c for c in fields["candidates"] if c["is_accepted"] and c is not chosen(fields)]
    fields.update(thresholds=others[0]["thresholds"])


CONTRADICTIONS = {
    "promise": (
        lambda d: d.update(promise=d["promise"].replace("0.2", "0.1")),
        "the promise contradicts status, risks and delta: .*≤ 0.1.*must be .*≤ 0.2",
    ),
    "delta": (
        lambda d: d.update(delta=0.05),
        "contradicts the p-values at|the promise contradicts",
    ),
    "limit": (lambda d: d["risks"][0].update(limit=0.3), "the promise contradicts"),
    "tight limit": (
        lambda d: d["risks"][0].update(limit=0.001),
        "above the limit 0.001, but first_p",
    ),
    "p above delta": (
        lambda d: chosen(d).update(second_p=0.2),
        r"candidates\[\d+\] is certified, which contradicts the p-values at delta = 0.1 by 'pareto",
    ),
    "p below what is possible": (
        lambda d: chosen(d).update(second_p=1e-30),
        "second_p is 1e-30, but with 100 examples it is at least .* for the limit 0.2 of cost",
    ),
    "no probability": (lambda d: chosen(d).update(first_p=1.5), "first_p is 1.5, must be in"),
    "mean": (
        lambda d: chosen(d)["second_risks"].update(cost=0.4),
        "second_risks: the mean cost is 0.4, above the limit 0.2, but second_p is",
    ),
    "mean outside": (
        lambda d: chosen(d)["first_risks"].update(cost=-0.5),
        r"the mean cost is -0.5, must be in \[0, 1\]",
    ),
    "names": (
        lambda d: chosen(d).update(second_risks={"price": 0.1}),
        r"second_risks are of \['price'\], the certificate's risks \['cost'\]",
    ),
    "half": (
        lambda d: chosen(d).update(second_p=None),
        "must have all of second_p, second_risks, ",
    ),
    "rank": (lambda d: of_rank(d, 1).update(rank=0), "ranks 0 to .* with 0 out of order"),
    "gap": (lambda d: of_rank(d, 0).update(rank=None), "ranks 0 to .* with 1 out of order"),
    "order": (
        lambda d: (a := of_rank(d, 0), b := of_rank(d, 3), a.update(rank=3), b.update(rank=0)),
        "the ranks of candidates are not in the order of 'pareto_testing'",
    ),
    "accepted": (
        lambda d: of_rank(d, 0).update(is_accepted=False),
        r"candidates\[\d+\] is not certified, which contradicts",
    ),
    "all fail": (
        lambda d: d.update(status="fallback", thresholds=["inf"]),
        "status is 'fallback', but .* candidates are certified",
    ),
    "worse": (other_accepted, "are not the best: .* are certified, too, with a better mean"),
    "twice": (
        lambda d: d["candidates"][1].update(thresholds=d["candidates"][0]["thresholds"]),
        r"candidates\[0\] and candidates\[1\] have the same thresholds",
    ),
    "blocks": (lambda d: d["candidates"][1].update(thresholds=[1, 2]), r"\[1\] has 2 thresholds,"),
    "count": (lambda d: d.update(num_second=5), "with 5 examples it is at least"),
    "none": (lambda d: d.update(num_first=0), "num_first is 0 and num_second 100, but 'pareto_te"),
    "one split": (lambda d: d.update(procedure="holm"), "'holm' tests on one split"),
    "seen": (lambda d: d["seen"].pop(), "the hashes of 199 examples, but num_first . num_second"),
    "seen order": (lambda d: d["seen"].reverse(), "seen must be sorted, each hash once"),
    "seen hash": (
        lambda d: d["seen"].insert(0, "00"),
        r"seen\[0\] is '00'; must be 16 hexadecimal",
    ),
    "splits": (lambda d: d["splits"].update(two="01"), "splits.one and splits.two are the same"),
    "tokens": (lambda d: d.update(tokens_per_sequence=7), "is 7, but data.target_length 20 tokens"),
    "block length": (lambda d: d.update(block_length=3), "block_length is 3; 1 equal blocks of 20"),
    "answer": (
        lambda d: d.update(level="answer", block_length=20),
        "block_length is 20, but the level 'answer' has no blocks",
    ),
    "role": (lambda d: d["models"].update(techer={}), "field|role of models is 'techer'"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_refused(case):
    """Without a digest, as files of before."""
    change, message = CONTRADICTIONS[case]
    fields = json_file.to_values(made())
    assert certificate.from_values(fields) is not None
    change(fields)
    with pytest.raises(ValueError, match=message):
        certificate.from_values(fields, "c.json")


def test_any_edit_of_a_file_is_refused(tmp_path):
    path = tmp_path / "c.json"
    made().save(path)
    written = json.loads(path.read_text())

    def load(fields, **options):
        path.write_text(json.dumps(fields, **options))
        return certificate.load(path)

    assert load(written, indent=4, sort_keys=True) == made()
    for change in (
        lambda d: d["data"].update(mixture="other"),
        lambda d: d["models"]["student"].update(step=7),
        lambda d: d["candidates"][0].update(first_objective=0.1),
        lambda d: d.update(digest="0" * 32),
        lambda d: d.update(digest=None),
    ):
        fields = json.loads(json.dumps(written))
        change(fields)
        with pytest.raises(ValueError, match="c.json: was edited after it was written: its digest"):
            load(fields)
    del written["digest"]
    with pytest.raises(ValueError, match="c.json: was edited .*: its digest, .* is missing; take"):
        load(written)
    assert load(written | {"schema": 2}) == made()  # an old file has no digest


def test_nan_is_written_nowhere():
    whole = made()
    candidates = (dataclasses.replace(whole.candidates[0], first_objective=math.nan),)
    with pytest.raises(ValueError, match=r"candidates\[0\].first_objective is nan, must be finite"):
        dataclasses.replace(whole, candidates=candidates + whole.candidates[1:])


def test_schema_1_is_read():
    """It held models and data as JSON in texts."""
    whole = made()
    fields = json_file.to_values(whole) | {
        "schema": 1,
        "models": {
            "student": '{"run": "small", "step": 6, "saved": 12}',
            "teacher": '{"run": "large", "step": 7, "saved": 34}',
        },
        "data": '{"mixture": "m", "split": "validation", "data": "ef56", "target_length": 20, '
        '"metric": "task"}',
    }
    assert certificate.from_values(fields) == whole
    several = json.dumps(json.loads(fields["data"]) | {"data": ["ef56", "78"]})
    assert certificate.from_values(fields | {"data": several}).data.examples == ("ef56", "78")
    for changes in ({"data": "ef56"}, {"models": {"student": "ab"}}, {"data": "3"}):
        with pytest.raises(ValueError, match="c.json: a certificate of schema 1 .*: calibrate ag"):
            certificate.from_values(fields | changes, "c.json")


def test_numbers_are_kept_to_the_last_bit():
    whole = made()
    values = np.random.default_rng(0).random(len(whole.candidates)) ** 40
    candidates = [
        dataclasses.replace(candidate, first_objective=float(value))
        for candidate, value in zip(whole.candidates, values, strict=True)
    ]
    whole = dataclasses.replace(whole, candidates=tuple(candidates))
    assert certificate.from_values(json.loads(json_file.to_text(whole))) == whole


def test_a_budget_file_is_told_from_a_certificate():
    with pytest.raises(ValueError, match="c.json: a budget file"):
        certificate.from_values({"schema_version": 1, "alphas": [0.1]}, "c.json")
