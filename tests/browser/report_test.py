"""The report in a browser: what the slider shows is metrics.json, filters filter, nothing leaves.

Wants selenium (the extra `browser`), Chromium and its driver, on the PATH or named in
CASCADE_JAX_CHROMIUM and CASCADE_JAX_CHROMEDRIVER; skipped without.
"""

import json
import math
import re

import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.deferral import policy
from cascade_jax.deferral.scores import Average
from cascade_jax.report import page_data
from tests.support import chromium, student_records
from tests.support.reports import evaluate_and_write

By, Keys, WebDriverWait = chromium.By, chromium.Keys, chromium.WebDriverWait
start, choose, cards = chromium.start, chromium.choose, chromium.cards
pytestmark = chromium.NEEDED
SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two students, four tasks, BLEU, ties, a group: the folder of the report and the records."""
    folder = tmp_path_factory.mktemp("browser")
    files = [
        student_records.write(folder / "xent.parquet", "xent", 0.2, pieces=False),
        student_records.write(folder / "cat.parquet", "cat", 0.4, seed=1, measured=True),
    ]
    groups = {"exact": ["yes_no", "add", "copy"]}
    evaluate_and_write(files, folder / "report", bootstrap_samples=20, groups=groups)
    return folder / "report", {records.read(file).name: records.read(file) for file in files}


@pytest.fixture
def page(browser, report):
    """The report, freshly opened."""
    browser.get((report[0] / "report.html").as_uri())
    return browser


@pytest.fixture(scope="module")
def written(report):
    return json.loads((report[0] / "metrics.json").read_text(encoding="utf-8"))


def test_data_that_is_compressed_moves_as_well(browser, monkeypatch, tmp_path):
    monkeypatch.setattr(page_data, "MOST_PLAIN", 1000)
    file = student_records.write(tmp_path / "xent.parquet", "xent", 0.2)
    evaluate_and_write([file], tmp_path / "report", bootstrap_samples=2)
    page = tmp_path / "report" / "report.html"
    assert 'data-encoding="gzip"' in page.read_text("utf-8")
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, "html.live"))
    assert float(figure(browser, "tau")) > 0
    browser.get_log("performance")  # is not that of the next page


def figure(page, key):
    return page.find_element(By.CSS_SELECTOR, f"[data-figure={key}]").text


def number(text):
    """The number a text begins with, and the half of its last digit: what rounding may hide."""
    result = re.match(r"([\d,]+)(\.\d+)?", text)
    digits = len(result[2] or ".") - 1
    return float(result[0].replace(",", "")), 0.5 * 10**-digits + 1e-9


def check_figures(page, curve, i):
    """Every figure of the tiles is that of point i of a curve in metrics.json."""
    threshold = curve["thresholds"][i]
    if threshold is None:
        assert figure(page, "tau") == "−∞"
    else:
        assert float(figure(page, "tau")) == pytest.approx(threshold, rel=1e-3, abs=1e-9)
    shown = {"rate": 100 * curve["rate"][i], "quality": curve["quality"][i]}
    shown |= {key: curve[key][i] for key in ("a1", "a2") if key in curve}
    for key, value in shown.items():
        actual, half = number(figure(page, key))
        assert actual == pytest.approx(value, abs=half), key
    amount, _, prefix = figure(page, "cost").partition(" ")
    assert float(amount) * SCALES[prefix] == pytest.approx(curve["cost"][i], rel=6e-3)


def check_counts(page, score, right, threshold, is_realised):
    """The 2 x 2 counts are those of deferring scores above the threshold."""
    deferred = policy.defers(score, -math.inf if threshold is None else threshold)
    kinds = {"right": right, "wrong": ~right}
    actual = {
        f"{kind}_{what}": number(figure(page, f"{kind}_{what}"))[0]
        for kind in kinds
        for what in ("kept", "deferred")
    }
    assert sum(actual.values()) == pytest.approx(len(score), abs=0.2)
    tied = page.find_elements(By.CSS_SELECTOR, "[data-figure=tied]")
    assert bool(tied) == (not is_realised)
    if is_realised:
        for kind, flags in kinds.items():
            assert actual[f"{kind}_kept"] == np.sum(flags & ~deferred)
            assert actual[f"{kind}_deferred"] == np.sum(flags & deferred)
    else:
        rate, half = number(tied[0].text.partition("defers ")[2])
        assert rate == pytest.approx(100 * np.mean(deferred), abs=half)


def test_the_page_runs_and_asks_for_nothing(page, report):
    address = (report[0] / "report.html").as_uri()
    assert page.find_element(By.TAG_NAME, "html").get_attribute("class") == "live"
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = {parameters["request"]["url"] for parameters in requests}
    assert address in asked
    assert all(url == address or url.startswith("data:image/png") for url in asked)


def test_the_policy_lets_no_request_leave(page):
    script = """
        const done = arguments[0];
        document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
        const tries = {"img-src": () => (new Image().src = "http://127.0.0.1:9/x.png"),
          "connect-src": () => fetch("http://127.0.0.1:9/").catch(() => 0),
          "script-src-elem": () => document.body.append(Object.assign(
            document.createElement("script"), {textContent: "window.hacked = 1"}))};
        tries["%s"]();"""
    for directive in ("img-src", "connect-src", "script-src-elem"):
        page.refresh()
        assert page.execute_async_script(script % directive) == directive
    assert page.execute_script("return window.hacked") is None


def test_the_slider_shows_metrics_json_at_every_step(page, report, written):
    table = report[1]["cat"]
    score, right = Average()(table.student), table.student_quality >= 0.5
    curve = written["pooled"]["cascades"]["cat"]["curve"]
    last = len(curve["rate"]) - 1
    assert curve["is_realised"].count(False) > 10 < curve["is_realised"].count(True)
    choose(page, "Cascade", "cat")
    slider = page.find_element(By.ID, "tau")
    slider.send_keys(Keys.HOME)
    for i in range(30):
        check_figures(page, curve, i)
        check_counts(page, score, right, curve["thresholds"][i], curve["is_realised"][i])
        said = slider.get_attribute("aria-valuetext")
        assert figure(page, "tau") in said and figure(page, "quality") in said
        slider.send_keys(Keys.ARROW_RIGHT)
    slider.send_keys(Keys.END)
    check_figures(page, curve, last)
    slider.send_keys(Keys.ARROW_LEFT)
    check_figures(page, curve, last - 1)
    status = page.find_element(By.CSS_SELECTOR, "[role=status][aria-live=polite]")
    WebDriverWait(page, 5).until(
        lambda _: status.get_attribute("textContent") == slider.get_attribute("aria-valuetext")
    )


def test_the_first_sentence_is_where_the_slider_starts(page, report):
    sentence = page.find_element(By.CSS_SELECTOR, ".headline > p").text
    name, tau = re.match(r"Ship (\w+) with τ = ([\d.]+):", sentence).groups()
    assert figure(page, "tau") == tau
    table = report[1][name]
    score = Average()(table.student)

    def outcome(threshold):
        deferred = policy.defers(score, threshold)
        return np.where(deferred, table.teacher_quality, table.student_quality).mean()

    expected = 0.99 * table.teacher_quality.mean()
    first = max(threshold for threshold in score if outcome(threshold) >= expected)
    assert np.float32(tau) == np.float32(first)
    assert f"({outcome(first):.3f} of {table.teacher_quality.mean():.3f})" in sentence


def test_panels_keep_the_threshold_and_cascades_the_rate(page, report, written):
    slider = page.find_element(By.ID, "tau")
    choose(page, "Cascade", "xent")
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 60)
    tau = written["pooled"]["cascades"]["xent"]["curve"]["thresholds"][60]
    for title in ("copy", "to_english"):
        button = page.find_element(By.XPATH, f"//button[@data-panel][b='{title}']")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        curve = written["tasks"][title]["cascades"]["xent"]["curve"]
        at = min(i for i, t in enumerate(curve["thresholds"]) if t is None or t <= tau)
        check_figures(page, curve, at)
        assert bool(page.find_elements(By.CSS_SELECTOR, "[data-figure=a1]")) == (title == "copy")
        tau = curve["thresholds"][at]
    choose(page, "Cascade", "cat")
    theirs = written["tasks"]["to_english"]["cascades"]["cat"]["curve"]
    check_figures(
        page, theirs, int(np.argmin(np.abs(np.array(theirs["rate"]) - curve["rate"][at])))
    )
    choose(page, "Panel", "exact (group, 300)")
    quality = written["groups"]["exact"]["cascades"]["cat"]["curve"]["quality"]
    slider.send_keys(Keys.HOME)
    assert float(figure(page, "quality")) == pytest.approx(quality[0], abs=6e-4)


def test_the_chart_takes_keys_and_the_pointer(page, written):
    chart = page.find_element(By.ID, "curve")
    page.execute_script("arguments[0].focus()", chart)
    before = int(chart.get_attribute("aria-valuenow"))
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert int(chart.get_attribute("aria-valuenow")) == before + 1
    assert page.find_element(By.ID, "tau").get_attribute("value") == str(before + 1)
    choose(page, "Across", "share deferred")
    chromium.webdriver.ActionChains(page).move_to_element(chart).perform()
    tip = page.find_element(By.CSS_SELECTOR, ".tip").text
    # The pointer is in the middle of the picture, which is near the middle of the axis.
    shares = [float(share) for share in re.findall(r"([\d.]+) %", tip)]
    assert len(shares) == 2 and all(45 < share < 60 for share in shares)
    for name in ("xent", "cat"):
        assert name in tip


def test_filters_leave_what_they_say(page, report):
    table, teacher = report[1]["cat"], report[1]["cat"].teacher_quality >= 0.5
    score, right = Average()(table.student), table.student_quality >= 0.5
    choose(page, "Cascade", "cat")
    slider = page.find_element(By.ID, "tau")
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 80)
    tau = page.execute_script("return JSON.parse(document.getElementById('data').textContent)")
    tau = tau["panels"][0]["cascades"]["cat"]["thresholds"][80]

    def shows(expected):
        def is_so(_):
            text = page.find_element(By.ID, "matches").text
            return text.startswith(f"{np.sum(expected)} match, of 400")

        WebDriverWait(page, 5).until(is_so, f"{np.sum(expected)} wanted")
        assert len(cards(page)) == min(10, np.sum(expected))

    shows(np.ones(400, bool))
    choose(page, "Task", "add")
    shows(table.task == "add")
    choose(page, "Answers", "only the large model right")
    shows((table.task == "add") & ~right & teacher)
    choose(page, "At this τ", "kept")
    expected = (table.task == "add") & ~right & teacher & ~policy.defers(score, tau)
    assert 0 < expected.sum() < np.sum((table.task == "add") & ~right & teacher)
    shows(expected)
    slider.send_keys(Keys.END)  # where none is kept
    shows(np.zeros(400, bool))
    choose(page, "At this τ", "deferred")
    shows((table.task == "add") & ~right & teacher)
    choose(page, "Answers", "any answers")
    choose(page, "Order", "highest score first")
    actual = [float(re.search(r"score ([\d.]+)", card.text)[1]) for card in cards(page)]
    assert actual == pytest.approx(
        np.sort(score[table.task == "add"])[::-1][:10].tolist(), rel=1e-3
    )
    page.find_element(By.ID, "search").send_keys("QUESTION 13 ")
    shows(np.arange(400) == 13)


def test_markup_in_a_prompt_stays_text(page):
    page.find_element(By.ID, "search").send_keys("hacked")
    WebDriverWait(page, 5).until(lambda _: len(cards(page)) == 1)
    assert student_records.EVIL in cards(page)[0].text
    assert page.execute_script("return window.hacked") is None
    assert len(page.find_elements(By.CSS_SELECTOR, ".card img, .card script")) == 0


def tokens_of_row_5(page):
    """The tokens of one example, and what each says on its title."""
    page.find_element(By.ID, "search").clear()
    page.find_element(By.ID, "search").send_keys("question 5 ")
    WebDriverWait(page, 5).until(lambda _: len(cards(page)) == 1)
    tokens = cards(page)[0].find_elements(By.CSS_SELECTOR, ".token")
    return tokens, [token.get_attribute("title") for token in tokens]


@pytest.mark.parametrize(
    ("name", "unit", "column", "values_fn"),
    [
        ("probability", "", "log_probs", np.exp),
        ("entropy", " nats", "entropies", np.asarray),
        ("relevance", "", "relevances", np.asarray),
        ("surface-form CCP", "", "surface_log_probs", np.exp),
        ("mean log-prob", " nats", "mean_log_probs", np.asarray),
        ("self attention logs", "", "self_attention_logs", np.asarray),
    ],
)
def test_tokens_are_coloured_by_any_quantity(page, report, name, unit, column, values_fn):
    choose(page, "Cascade", "cat")
    choose(page, "Colour tokens by", name)
    table = report[1]["cat"]
    everything = values_fn(getattr(table, f"student_{column}").astype(np.float64))
    values = everything[slice(*table.student_offsets[5:7])]
    tokens, titles = tokens_of_row_5(page)
    stated = [float(title.removeprefix(f"{name} ").removesuffix(unit)) for title in titles]
    np.testing.assert_allclose(stated, values, rtol=6e-3, atol=1e-9)
    is_share = name in ("probability", "surface-form CCP")
    low, high = (0, 1) if is_share else np.percentile(everything, [5, 95])
    strength = 6 * (np.array(stated) - low) / (high - low)
    strength = 6 - strength if is_share else strength
    for token, exact in zip(tokens, strength, strict=True):
        level = int(re.search(r"\bt(\d)\b", token.get_attribute("class"))[1])
        assert min(max(exact - 1.05, 0), 5) <= level <= min(max(exact + 0.05, 0), 5)
    key = page.find_element(By.XPATH, f"//p[starts-with(., 'Tokens by {name}')]")
    ends = re.search(r"Here they go from (\S+) to (\S+)\.$", key.text).groups()
    expected = everything.min(), everything.max()
    actual = [float(end.replace("−", "-")) for end in ends]
    np.testing.assert_allclose(actual, expected, rtol=0.05, atol=6e-3)


def test_colours_have_thicker_lines_the_stronger_they_are(page):
    choose(page, "Cascade", "cat")
    widths = []
    for token in page.find_elements(By.CSS_SELECTOR, "p .token"):
        thickness = token.value_of_css_property("text-decoration-thickness")
        line = token.value_of_css_property("text-decoration-line")
        widths.append(0.0 if line == "none" else float(thickness.removesuffix("px")))
    assert widths == [0, 1, 2, 3, 4, 5]


def test_a_cascade_without_a_quantity_says_so_and_numbers_stand_in_for_lacking_pieces(page):
    choose(page, "Colour tokens by", "relevance")
    choose(page, "Cascade", "xent")
    said = "The records of xent do not have relevance; their tokens are not coloured."
    WebDriverWait(page, 5).until(lambda _: page.find_elements(By.XPATH, f"//p[. = '{said}']"))
    assert tokens_of_row_5(page)[0] == []
    choose(page, "Colour tokens by", "entropy")
    assert "entropy of each token: " in cards(page)[0].text
    assert len(tokens_of_row_5(page)[0]) == 7


def test_answers_have_the_means_and_kurtosis_of_their_probabilities(page, report):
    choose(page, "Cascade", "cat")
    tokens_of_row_5(page)
    table = report[1]["cat"]
    p = np.exp(table.student_log_probs[slice(*table.student_offsets[5:7])].astype(np.float64))
    line = cards(page)[0].find_element(By.CSS_SELECTOR, ".statistics").text
    mean = f"geometric mean {np.exp(np.log(p).mean()):.2f}, arithmetic mean {p.mean():.2f}"
    assert line == f"token probabilities: {mean}, excess kurtosis 0.00"  # all are equal


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(page, scheme):
    """Contrast of at least 4.5 : 1, by WCAG's formula, and of 3 : 1 for lines of charts."""
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},  # fmt: skip
    )

    def luminance(name):
        script = """
            const probe = document.createElement("i");
            probe.style.color = `var(--${arguments[0]})`;
            document.body.append(probe);
            return getComputedStyle(probe).color;"""
        channels = np.array(re.findall(r"\d+", page.execute_script(script, name)), float) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    back = luminance("bg")
    assert (back > 0.9) == (scheme == "light")
    for name, least in [("ink", 7), ("soft", 4.5), ("accent", 4.5), ("good", 4.5), ("bad", 4.5),
                        *((f"c{i}", 3) for i in range(7))]:  # fmt: skip
        ours = luminance(name)
        assert (max(ours, back) + 0.05) / (min(ours, back) + 0.05) >= least, name
    chromium.assert_contrast(page, "p .token.t5", 4.5)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_whatever_takes_keys_has_a_name_and_every_table_heads(page):
    chromium.assert_keys_and_tables_are_named(page)


def test_nothing_sticks_out_of_a_phone(page):
    chromium.assert_fits_a_phone(page)


def test_without_javascript_sentences_and_tables_are_there(report):
    browser = start(javascript=False)
    try:
        browser.get((report[0] / "report.html").as_uri())
        text = browser.find_element(By.TAG_NAME, "main").text
        for needed in (
            "Ship ",
            "area",
            "to_english",
            "Definitions",
            f"schema version {records.SCHEMA_VERSION}",
            "summary.md",
        ):
            assert needed in text
        assert not browser.find_elements(By.CSS_SELECTOR, ".controls")
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Cascades whose names are whole numbers, which an object of JavaScript puts in order."""
    folder = tmp_path_factory.mktemp("numbered")
    names = ("b", "20", "3")
    files = [student_records.write(folder / n, n, 0.1 * i, seed=i) for i, n in enumerate(names)]
    evaluate_and_write(files, folder / "report", bootstrap_samples=2)
    return folder / "report", names


def test_the_legend_is_that_of_the_curves_whatever_their_names(browser, numbered):
    folder, names = numbered
    browser.get((folder / "report.html").as_uri())
    choose(browser, "Across", "share deferred")
    written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    drawn = [p.get_attribute("d") for p in browser.find_elements(By.CSS_SELECTOR, "#curve .series")]
    starts = [float(re.match(r"M[\d.]+ ([\d.]+)", path)[1]) for path in drawn]
    expected = [written["pooled"]["cascades"][n]["curve"]["quality"][0] for n in names]
    assert np.argsort(starts).tolist() == np.argsort(expected)[::-1].tolist()
    legend = browser.find_elements(By.CSS_SELECTOR, ".legend button")
    assert len(legend) == len(names)
    assert all(button.text.startswith(name) for button, name in zip(legend, names, strict=True))
