"""The kill torture itself, on a few kills: `make torture` does 200."""

import subprocess
import sys

import numpy as np
import pytest

from tests.torture import kill


@pytest.mark.slow
def test_a_few_kills_change_nothing(repository):
    argv = ["--kills", "4", "--seed", "7", "--only", "collect", "train_lora"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.kill", *argv],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("0 differences")


@pytest.mark.parametrize("other", [np.float32([1.0, -0.0]), np.float64([1.0, 0.0]), [1.0, 0.0]])
def test_results_are_compared_bit_for_bit(other):
    array = np.float32([1.0, 0.0])
    assert kill._same(array.copy(), array) and kill._same({"a": float("nan")}, {"a": float("nan")})
    assert not kill._same(np.asarray(other), array)
    assert not kill._same([(1, "loss"), (1, "loss")], [(1, "loss")])
