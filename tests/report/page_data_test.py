"""What is embedded in the page: the points of metrics.json, in text that ends no script."""

import base64
import gzip
import json
import re

import numpy as np
import pytest

from cascade_jax.deferral import policy
from cascade_jax.deferral.scores import Average
from cascade_jax.evaluation import cascades, summaries
from cascade_jax.report import headline, page_data
from tests.support import student_records
from tests.support.reports import evaluate_and_write

EVIL = "</script><script>alert(1)</script><!-- & \u2028\u2029 \\u003c"


def test_text_ends_no_script_and_reads_back():
    value = {EVIL: [EVIL, 1.5, None]}
    text = page_data.script_text(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value


def test_long_data_is_compressed_and_reads_back(monkeypatch):
    value = {EVIL: list(range(100))}
    assert page_data.element(value).startswith('<script type="application/json" id="data">{')
    monkeypatch.setattr(page_data, "MOST_PLAIN", 50)
    text = page_data.element(value)
    assert text == page_data.element(value)  # no time is in it
    (data,) = re.findall(r'<script type="text/plain" id="data" data-encoding="gzip">(.*)</s', text)
    assert json.loads(gzip.decompress(base64.b64decode(data))) == value


def test_values_become_those_of_json():
    actual = page_data.to_json({"a": np.array([1.0, np.nan, np.inf, 0.5]), "b": (np.int64(3),)})
    assert actual == {"a": [1, None, None, 0.5], "b": [3]}
    assert isinstance(actual["a"][0], int)  # shorter


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    files = [
        student_records.write(folder / "xent.parquet", "xent", 0.2),
        student_records.write(folder / "cat.parquet", "cat", 0.4, seed=1),
    ]
    groups = {"exact": ["yes_no", "add", "copy"]}
    evaluation = evaluate_and_write(files, folder / "report", bootstrap_samples=5, groups=groups)
    scores = {name: Average()(table.student) for name, table in evaluation.tables.items()}
    written = json.loads((folder / "report" / "metrics.json").read_text(encoding="utf-8"))
    data = json.loads(page_data.script_text(page_data.build(evaluation)))
    return data, written, evaluation.tables, scores


def test_points_are_those_of_the_metrics_file(built):
    data, written, _, _ = built
    result = {(panel["kind"], panel["title"]): panel for panel in data["panels"]}
    expected = {
        ("pooled", "demo"): written["pooled"],
        ("group", "exact"): written["groups"]["exact"],
    }
    expected |= {("task", task): panel for task, panel in written["tasks"].items()}
    expected |= {("mean", task): panel for task, panel in written["per_example"].items()}
    assert set(result) == set(expected) and len(data["panels"]) == len(result) == 7
    ties = 0
    for key, panel in result.items():
        assert panel["is_corpus"] == (key == ("task", "to_english"))
        for name in ("xent", "cat"):
            ours, theirs = panel["cascades"][name], expected[key]["cascades"][name]
            for field in ("quality", "cost", "thresholds", "is_realised"):
                assert ours[field] == theirs["curve"][field], field
            n = panel["num_examples"]
            assert [k / n for k in ours["ks"]] == theirs["curve"]["rate"]
            for field in ("a1", "a2"):
                if panel["is_corpus"]:
                    assert set(ours[field]) == {None}
                else:
                    np.testing.assert_allclose(ours[field], theirs["curve"][field], rtol=1e-5)
            ties += ours["is_realised"].count(False)
            np.testing.assert_allclose(ours["oracle"], theirs["oracle_quality"], rtol=1e-5)
            assert ours["area"] == theirs["summary"]["area"]["value"]
            ece = theirs["summary"]["separation"]["ece"]
            assert ours["reliability"]["ece"] == ece
    assert ties > 100


def test_counts_are_those_of_each_threshold(built):
    data, _, tables, scores = built
    for panel in data["panels"]:
        for name, actual in panel["cascades"].items():
            table = tables[name]
            rows = table.task == panel["title"]
            if panel["kind"] in ("pooled", "group"):
                rows = np.full(len(table), panel["kind"] == "pooled") | (table.task != "to_english")
            right = table.student_quality[rows] >= 0.5
            for i, threshold in enumerate(actual["thresholds"]):
                if not actual["is_realised"][i]:
                    continue
                deferred = policy.defers(
                    scores[name][rows], -np.inf if threshold is None else threshold
                )
                assert actual["right_kept"][i] == np.sum(right & ~deferred)
                assert actual["wrong_deferred"][i] == np.sum(~right & deferred)
                assert actual["rate_at_threshold"][i] == pytest.approx(np.mean(deferred), rel=1e-5)


def test_the_slider_starts_at_the_threshold_that_is_recommended(built):
    data, written, _, _ = built
    areas = {n: c["summary"]["area"]["value"] for n, c in written["pooled"]["cascades"].items()}
    assert data["best"] == max(areas, key=areas.get)
    left_out = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        right = (rng.random(3001) < 0.6) * 1.0
        score = np.round(rng.normal(size=3001) - right, seed // 3)  # some ties, and many
        cascade = cascades.Cascade(score, right, np.ones(3001), 1.0, 10.0)
        panel = summaries.compare("demo", "accuracy", {"a": cascade}, bootstrap_samples=2)
        choice, thin = headline.choose(panel), panel.curves["a"].thin(201)
        start = page_data.start(panel)
        assert thin.thresholds[start] == choice.threshold < thin.thresholds[start - 1]
        assert choice.rate == np.mean(policy.defers(score, choice.threshold)) < 1
        left_out += choice.rate not in thin.rate
    assert 0 < left_out < 6  # ties take the very point out of the thinned curve, or do not
