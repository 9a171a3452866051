"""The built wheel carries the gin files where the command looks for them."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # builds a wheel


def test_a_wheel_holds_package_tasks_and_gin_files_and_nothing_else(tmp_path):
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    egg_base = f"[egg_info]\negg_base={tmp_path}\n[build]\nbuild_base={tmp_path}/build\n"
    config = tmp_path / "config.cfg"
    config.write_text(egg_base)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"DIST_EXTRA_CONFIG": str(config), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    code_and_data = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in code_and_data} == {"cascade_jax", "tasks"}
    on_disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gin").rglob("*.gin")}
    installed = "cascade_jax/installed/"
    assert {n.removeprefix(installed) for n in names if n.startswith(installed)} == on_disk
    assert "tasks/flan2021/prompts.toml" in names
    page = "cascade_jax/report/assets/"
    on_disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / page).iterdir()}
    assert f"{page}report.js" in on_disk and {n for n in names if n.startswith(page)} == on_disk
