"""What the tests of tasks share: each leaves the data folder as it found it."""

import pytest

from cascade_jax.data import sources


@pytest.fixture(autouse=True)
def _restore_data_dir():
    before = sources.get_data_dir()
    yield
    sources.set_data_dir(before)


@pytest.fixture
def real_data(data_folder):
    sources.set_data_dir(data_folder)
