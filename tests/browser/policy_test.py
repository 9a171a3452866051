"""Scores that are hard to compare, in a browser: the page's badges are those of the rule.

Wants what report_test.py wants; skipped without.
"""

import json
import math

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.deferral.scores import Sum
from tests.support import chromium
from tests.support.deferral import THIRD, TINY, above
from tests.support.reports import evaluate_and_write

By, Keys, WebDriverWait = chromium.By, chromium.Keys, chromium.WebDriverWait
pytestmark = chromium.NEEDED

# Log-probs of answers. The score is minus their sum in float64: of two tokens it may be equal to
# that of one token only as float32.
ANSWERS = [
    [0.0], [-0.0], [1e-40], [-1e-40], [-TINY], [-THIRD], [-THIRD, -1e-9],
    [float(np.nextafter(np.float32(-THIRD), np.float32(-1)))], [-1.0], [-1.0, -1e-8],
]  # fmt: skip
N = len(ANSWERS)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    texts = [f"text {i}" for i in range(N)]
    same = {"mixture": "demo", "task": "add", "split": "test", "metric": "exact_match"}
    columns = {
        **{name: [value] * N for name, value in same.items()},
        **{
            n: texts for n in ("example_id", "inputs", "target", "student_answer", "teacher_answer")
        },
        "student_log_probs": ANSWERS,
        **{f"student_{kind}": [[]] * N for kind in ("tokens", "entropies")},
        **{f"teacher_{kind}": [[]] * N for kind in ("tokens", "log_probs", "entropies")},
        "student_quality": np.arange(N) % 2 * 1.0,
        "teacher_quality": np.ones(N),
        "student_flops_per_token": np.full(N, 2e6),
        "teacher_flops_per_token": np.full(N, 1e7),
    }
    metadata = {"name": "small", "mixture": "demo", "split": "test"}
    records.write(folder / "small.parquet", columns, metadata)
    files = [folder / "small.parquet"]
    evaluate_and_write(files, folder / "report", bootstrap_samples=2, score=Sum())
    return folder / "report", Sum()(records.read(files[0]).student)


def badges(page):
    """By id of the example."""
    return dict(
        page.execute_script(
            "return [...document.querySelectorAll('.card header')].map((header) => "
            "[header.children[1].textContent, header.querySelector('.badge').textContent])"
        )
    )


def test_the_page_defers_what_the_rule_defers(browser, report):
    folder, scores = report
    assert len(set(scores.tolist())) > len(set(scores.astype(np.float32).tolist()))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    curve = metrics["pooled"]["cascades"]["small"]["curve"]
    browser.get((folder / "report.html").as_uri())
    slider = browser.find_element(By.ID, "tau")
    counts = set()
    for point, threshold in enumerate(curve["thresholds"]):
        deferred = above(scores, -math.inf if threshold is None else threshold)
        expected = {f"text {i}": "deferred" if d else "kept" for i, d in enumerate(deferred)}
        slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * point)
        WebDriverWait(browser, 5).until(lambda _, e=expected: badges(browser) == e, f"at {point}")
        counts.add(int(deferred.sum()))
        if curve["is_realised"][point]:
            assert deferred.sum() == round(curve["rate"][point] * N)
    # Two are 1, one is above a third, two are a third, one is tiny, and four are 0.
    assert counts == {0, 2, 3, 5, 6, 10}
