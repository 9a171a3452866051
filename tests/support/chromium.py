"""Chromium, what tests of a page do in it, and whether there is one."""

import os
import shutil
import subprocess

import numpy as np
import pytest

selenium = pytest.importorskip("selenium", reason="no selenium: pip install '.[browser]'")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402, F401
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402, F401

CHROMIUM = os.environ.get("CASCADE_JAX_CHROMIUM") or shutil.which("chromium")
DRIVER = os.environ.get("CASCADE_JAX_CHROMEDRIVER") or shutil.which("chromedriver")
NEEDED = [
    pytest.mark.medium,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no Chromium with its driver: apt-get install chromium-driver",
    ),
]


def start(*, javascript=True, width=1280):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={width},1000")
    if not javascript:
        key = "profile.managed_default_content_settings.javascript"
        options.add_experimental_option("prefs", {key: 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service(DRIVER, log_output=subprocess.DEVNULL))


def choose(page, label, text):
    (select,) = page.find_elements(By.XPATH, f"//label[span='{label}']/select")
    Select(select).select_by_visible_text(text)


def cards(page):
    return page.find_elements(By.CSS_SELECTOR, ".card")


def assert_keys_and_tables_are_named(page):
    selector = "button, select, input, [tabindex], [role=img], summary"
    named = [
        (element.tag_name, element.accessible_name)
        for element in page.find_elements(By.CSS_SELECTOR, selector)
        if element.is_displayed()
    ]
    assert len(named) > 15
    assert [tag for tag, name in named if not name.strip()] == []
    for table in page.find_elements(By.CSS_SELECTOR, "main table"):
        if table.is_displayed():
            assert table.find_elements(By.CSS_SELECTOR, "th[scope=col]")
            assert table.find_elements(By.CSS_SELECTOR, "caption")


def assert_contrast(page, selector, least):
    """Text of an element stands out from its half transparent background, by WCAG's formula."""
    script = """
        const token = document.querySelector(arguments[0]);
        const canvas = document.createElement("canvas").getContext("2d");
        const paint = (...colors) => { for (const color of colors) {
          canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const page = getComputedStyle(document.body).backgroundColor;
        const style = getComputedStyle(token);
        return [paint(style.color), paint(page, style.backgroundColor)];"""
    linear = []
    for color in page.execute_script(script, selector):
        channels = np.array(color) / 255
        parts = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        linear.append(parts @ [0.2126, 0.7152, 0.0722])
    assert (max(linear) + 0.05) / (min(linear) + 0.05) >= least


def assert_fits_a_phone(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    page.refresh()
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    assert page.execute_script(widths) == [420, 420]
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
