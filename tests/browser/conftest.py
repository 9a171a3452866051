"""A browser for the tests of this folder, which skip where there is none."""

import pytest


@pytest.fixture(scope="module")
def browser():
    from tests.support import chromium

    driver = chromium.start()
    yield driver
    driver.quit()
