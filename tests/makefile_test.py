"""`make` on a machine with an older Python, and on one that has installed before."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLD_PYTHON = """#!{python}
import sys
sys.version_info, sys.version = (3, 9, 2, "final", 0), "3.9.2 (default)"
sys.executable = "/usr/bin/python3.9"
exec(sys.argv[2])
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder, *argv):
    # Without what an outer make hands down to its children.
    outer = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        ["make", *argv], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("target", ["demo", "test"])
def test_an_older_python_is_refused_in_one_line(clone, target):
    python = clone / "python3.9"
    python.write_text(OLD_PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    done = make(clone, target, f"PYTHON={python}")
    assert done.returncode != 0 and done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert ours == [
        "cascade_jax needs Python 3.11, 3.12 or 3.13 and /usr/bin/python3.9 is 3.9.2; name another "
        "one: make PYTHON=python3.11"
    ]
    assert not (clone / ".venv").exists()


def test_a_second_call_installs_nothing(clone):
    assert "pip install" in make(clone, "-n", "demo").stdout
    (clone / ".venv").mkdir()
    (clone / ".venv" / "installed").touch()
    for target in ("demo", "test"):
        plan = make(clone, "-n", target).stdout
        assert "pip" not in plan and ".venv/bin/" in plan
