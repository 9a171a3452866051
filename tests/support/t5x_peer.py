"""T5X, for tests that compare with it; docs/t5x.md says how to get it."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

_NEEDED = ("t5x", "airio", "jestimator", "clu", "fiddle", "grain")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
needed = pytest.mark.skipif(
    bool(_MISSING), reason=f"T5X can't be imported (no {', '.join(_MISSING)}); see docs/t5x.md"
)
ROOT = pathlib.Path(__file__).parents[2]


def run(*command, **environment):
    """Runs Python in the project's folder with one device and gives its output."""
    settings = {"XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT, env={**os.environ, **settings, **environment},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout
