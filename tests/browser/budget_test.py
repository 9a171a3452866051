"""Budgets, a policy and a live cascade in a browser: what is drawn and coloured is what was found.

Wants what report_test.py wants; skipped without.
"""

import json

import numpy as np
import pytest

from cascade_jax import records
from tests.support import certificates, chromium, student_records, synthetic_budget
from tests.support.reports import evaluate_and_write

By, Select, WebDriverWait = chromium.By, chromium.Select, chromium.WebDriverWait
pytestmark = chromium.NEEDED
LIMITS = {"deferred tokens / 20": 0.2, certificates.LOSS: 0.01}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two students, one of which ran live: the folder and the records of that one."""
    folder = tmp_path_factory.mktemp("budgets")
    more = {"level": "token", "score": "log_prob", "limits": LIMITS, "objective": "task"}
    policy = certificates.make(student_records.LIVE_THRESHOLD, **more)
    files = [
        student_records.write(folder / "xent", "xent", 0.2, n=120, pieces=False),
        student_records.write(
            folder / "cat", "cat", 0.4, n=120, seed=1, live=True, target_length=20,
            policy=certificates.as_policy(policy),
        ),
    ]  # fmt: skip
    (folder / "budget.json").write_text(json.dumps(synthetic_budget.make()))
    policy.save(folder / "certificate.json")
    settings = {"budget": folder / "budget.json", "policy": folder / "certificate.json"}
    evaluate_and_write(files, folder / "report", bootstrap_samples=2, **settings)
    return folder / "report", records.read(files[1])


@pytest.fixture
def page(browser, report):
    browser.get((report[0] / "report.html").as_uri())
    return browser


def markers(page, place, kind):
    """Where the markers of a series stand, in pixels."""
    selector = f"#budgets .pair > :nth-child({place}) .marker.{kind}"
    result = page.find_elements(By.CSS_SELECTOR, selector)
    texts = [f.get_attribute("transform").removeprefix("translate(")[:-1] for f in result]
    return np.array([[float(v) for v in text.split()] for text in texts])


def test_the_page_runs(page):
    assert page.find_element(By.TAG_NAME, "html").get_attribute("class") == "live"
    assert page.get_log("browser") == []
    for place in ("budgets", "positions"):
        assert page.find_element(By.ID, place).find_elements(By.TAG_NAME, "svg")


def test_cost_and_quality_stand_in_line_with_the_file(page):
    made = synthetic_budget.make()
    runs = {a: [r for r in made["runs"] if r["alpha"] == a] for a in made["alphas"]}
    costs = [np.mean([r["test"]["cost"] for r in of]) for of in runs.values()]

    def check(places, values):
        """Pixels are a straight line of the values."""
        slope, start = np.polyfit(values, places[:, 1], 1)
        assert slope < 0
        np.testing.assert_allclose(places[:, 1], slope * np.array(values) + start, atol=0.2)

    check(markers(page, 1, "c0"), costs)
    label = page.find_element(By.XPATH, "//div[@id='budgets']//label[span='Quality']/select")
    for metric in ("rouge1", "rouge2"):
        Select(label).select_by_visible_text(metric)
        names = {"c0": None, "c1": "random_tokens", "c2": "whole_answers", "c3": "oracle"}
        shown, values = [], []
        for kind, name in names.items():
            points = [
                r["baselines"][name] if name else r["test"] for of in runs.values() for r in of
            ]
            result = np.array([p["quality"][metric] for p in points]).reshape(4, 5).mean(axis=1)
            shown.append(markers(page, 2, kind))
            values.append(result)
        check(np.concatenate(shown), np.concatenate(values))
        svg = page.find_element(By.CSS_SELECTOR, "#budgets .pair > :nth-child(2) svg")
        assert f"Mean {metric}" in svg.accessible_name
        assert f"α 0.2: {values[0][-1]:.3f}" in svg.accessible_name


def test_bars_are_the_share_of_deferrals_at_each_position(page, report):
    table = report[1]
    shares = table.cascade_is_deferred.reshape(-1, 7).mean(axis=0)
    bars = page.find_elements(By.CSS_SELECTOR, "#positions .bar")
    heights = np.array([float(bar.get_attribute("height")) for bar in bars])
    np.testing.assert_allclose(heights / heights[0], shares / shares[0], rtol=2e-3)
    titles = [bar.find_element(By.TAG_NAME, "title") for bar in bars]
    assert titles[2].get_attribute("textContent") == f"token 3: {100 * shares[2]:.1f} % of 120"


def test_the_point_of_the_policy_is_marked(page, report):
    written = json.loads((report[0] / "metrics.json").read_text())
    point = written["policy"]["cat"]
    (mark,) = page.find_elements(By.CSS_SELECTOR, "#curve .point")
    title = mark.find_element(By.TAG_NAME, "title").get_attribute("textContent")
    assert title == f"certified policy of cat: quality {point['quality']:.3f}"
    box = page.find_element(By.CSS_SELECTOR, "section.policy")
    assert "✓ mean deferred tokens / 20 promised ≤ 0.2" in box.text
    assert "✗ mean loss of quality" in box.text and "broken" in box.get_attribute("class")
    chromium.choose(page, "Across", "share deferred")  # of examples: it has none
    assert not page.find_elements(By.CSS_SELECTOR, "#curve .point")


def tokens_of(page, number):
    page.find_element(By.ID, "search").clear()
    page.find_element(By.ID, "search").send_keys(f"question {number} ")
    WebDriverWait(page, 5).until(lambda _: len(chromium.cards(page)) == 1)
    return chromium.cards(page)[0].find_elements(By.CSS_SELECTOR, "ruby[class*=by-]")


def test_tokens_are_coloured_by_who_wrote_them(page, report):
    table = report[1]
    chromium.choose(page, "Cascade", "cat")
    for row in (5, 9):
        result = tokens_of(page, row)
        span = slice(table.cascade_offsets[row], table.cascade_offsets[row + 1])
        assert [token.text for token in result] == table.pieces("cascade", row)
        flags = ["by-large" in token.get_attribute("class") for token in result]
        assert flags == table.cascade_is_deferred[span].tolist()
        for token, flag, value in zip(
            result, flags, table.cascade_uncertainties[span], strict=True
        ):
            who = "large" if flag else "small"
            title = f"{who} model; uncertainty of the small one {value:.3f}"
            assert token.get_attribute("title") == title
            line = token.value_of_css_property("text-decoration-style")
            assert line == ("solid" if flag else "dotted")  # not by its colour alone
    (numbers,) = page.find_elements(By.CSS_SELECTOR, "#browser input[type=checkbox]")
    ruby = result[0].find_element(By.TAG_NAME, "rt")
    assert not ruby.is_displayed()
    numbers.click()
    assert ruby.is_displayed()
    chromium.choose(page, "Cascade", "xent")
    assert tokens_of(page, 5) == []  # it has not run live


def test_whatever_takes_keys_has_a_name_and_every_table_heads(page):
    chromium.assert_keys_and_tables_are_named(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_the_large_models_colour_stands_out(page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.assert_contrast(page, "p .by-large", 4.5)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_sticks_out_of_a_phone(page):
    chromium.assert_fits_a_phone(page)


def test_without_javascript_tables_stand_there(report):
    browser = chromium.start(javascript=False)
    try:
        browser.get((report[0] / "report.html").as_uri())
        text = browser.find_element(By.TAG_NAME, "main").text
        for needed in ("Budgets", "promised mean cost", "Token by token", "certified policy"):
            assert needed in text
    finally:
        browser.quit()
