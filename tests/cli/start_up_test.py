"""Commands that read no text start without TensorFlow and seqio, which take seconds to import."""

import json
import os
import subprocess
import sys
import types

import gin
import pytest

from cascade_jax.cli import gin_config, run_command
from tests.support import processes

RUN = """
import json, sys
from cascade_jax.cli.main import main
for argv in json.loads(sys.argv[1]):
    status = main(argv)
    slow = [name for name in ("tensorflow", "seqio") if name in sys.modules]
    print("RESULT", json.dumps([argv[0], status, slow]), flush=True)
"""
DEMO = "--gin_file=gin/experiments/demo.gin"
COMMANDS = {  # argv and exit status; those of status 2 have imported all and then find no file
    "--help": ([], 0),
    "tasks": ([], 0),
    "train": (["--help"], 0),
    "collect": (["--help"], 0),
    "vocab": (["--help"], 0),
    "evaluate": ([DEMO], 2),
    "fit-router": ([DEMO, "--gin_file=gin/runs/fit_router.gin"], 2),
    "compare": (["missing.parquet"], 2),
    "records": (["to-jsonl", "--records=missing.parquet", "--output=x.jsonl"], 2),
    "plan": ([DEMO, "--topology=cpu:9", "--step=train"], 2),
    "import": (["--from=hf", "--path=missing", "--out=imported"], 2),
    "export": (["--run=missing", "--out=exported", "--to=hf"], 2),
}

REFUSED = [  # before what reads text is imported
    ["train", DEMO, "--gin.STUDENT_STEPZ=5"],
    ["train", DEMO, "--gin.mesh.MeshConfig.tensr=2"],
    ["train", DEMO, "--gin.ONLY='nobody'"],
    ["collect", DEMO, "--gin.COLECT_SPLIT='test'"],
    ["calibrate", DEMO, "--gin.LEVEL='word'"],
    ["vocab", DEMO],
    ["cache-teacher", DEMO, "--gin.SEEDS=1"],
]


@pytest.fixture
def no_tasks():
    """No module of the package `tasks` is imported; what a test imports is forgotten after it."""
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_task_module(name)}
    yield
    for name in filter(_is_task_module, [*sys.modules]):
        del sys.modules[name]
    sys.modules.update(before)
    gin.clear_config(clear_constants=True)


def _is_task_module(name: str) -> bool:
    return name.partition(".")[0] == "tasks"


@pytest.mark.medium
def test_commands_that_read_no_text_import_no_tensorflow(tmp_path):
    output = f"--gin.OUTPUT_DIR='{tmp_path}'"
    argvs = [
        [name, *argv, *([output] if DEMO in argv else [])] for name, (argv, _) in COMMANDS.items()
    ] + REFUSED
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(argvs)],
        cwd=processes.ROOT,
        env=os.environ | {"PYTHONPATH": str(processes.ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    results = [json.loads(line[7:]) for line in done.stdout.splitlines() if line[:7] == "RESULT "]
    expected = [[name, status, []] for name, (_, status) in COMMANDS.items()]
    expected += [[name, 2, []] for name, *_ in REFUSED]
    assert results == expected, done.stderr


def test_modules_of_tasks_are_found_but_not_run(tmp_path, monkeypatch, no_tasks):
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text("raise AssertionError('was run')\n")
    (package / "used.py").write_text("class Use:\n    def __init__(self, x=1): ...\n")
    file = tmp_path / "x.gin"

    file.write_text("import tasks.mine\n")
    gin_config.load([str(file)], needs_tasks=False)
    run_command._write_configs(types.SimpleNamespace(output_dir=str(tmp_path)))
    assert "import tasks.mine" in (tmp_path / "config.gin").read_text()
    assert "tasks.mine" not in sys.modules and not hasattr(sys.modules["tasks"], "mine")
    file.write_text("import tasks.miss\n")
    with pytest.raises(gin_config.UsageError, match=r"No module named 'tasks\.miss'"):
        gin_config.load([str(file)], needs_tasks=False)
    assert "tasks.used" not in sys.modules
    # What a binding uses is run all the same.
    file.write_text(
        "from __gin__ import dynamic_registration\nfrom tasks import used\nused.Use.x = 2\n"
    )
    gin_config.load([str(file)], needs_tasks=False)
    assert hasattr(sys.modules["tasks.used"], "Use")
