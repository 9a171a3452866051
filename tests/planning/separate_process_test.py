"""A function in a process of its own. Started in another one: JAX must not be in it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]

APART = """\
import os
from cascade_jax.planning import separate_process

def refuse():
    raise ValueError("does not divide")

def words(fn):
    try:
        return fn()
    except ValueError as error:
        return str(error)

assert separate_process.apart(lambda x: x + 1, 2) == 3
assert words(lambda: separate_process.apart(refuse)) == "does not divide"
assert words(lambda: separate_process.apart(os._exit, 11)) == "the compiler ended with status 11"
print("done")
"""


def test_a_compiler_that_ends_its_process_does_not_end_a_sweep():
    done = subprocess.run(
        [sys.executable, "-c", APART], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "done" in done.stdout, done.stderr[-2000:]
