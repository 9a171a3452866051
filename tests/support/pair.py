"""A tiny pair of models, trained once in a test session, and the gin text for its users."""

import os
from collections.abc import Callable
from pathlib import Path

import gin
from filelock import FileLock

from cascade_jax.cli.main import main
from tests.support import tiny_demo

STEPS, EVERY = 6, 2
MACROS = f"""\
MIXTURE = "demo_last_v1"
BATCH_SIZE = 8
TEACHER_STEPS = {STEPS}
STUDENT_STEPS = {STEPS}
CHECKPOINT_EVERY = {EVERY}
WARMUP_STEPS = 1
EVAL_BATCHES = 1
ONLY = ["teacher", "xent"]
saved_model.CascadeRuns.students = ["xent"]
"""


def write_gin(file: Path, macros: str = "", *imports: str) -> str:
    """Writes the pair's gin file, some lines added or in place of its own; returns its flag."""
    imports = "from cascade_jax.runs import saved_model", *imports
    names = {line.partition(" = ")[0] for line in macros.splitlines()}
    own = [each for each in MACROS.splitlines(True) if each.partition(" = ")[0] not in names]
    file.write_text(tiny_demo.gin_text("".join([*own, macros]), *imports))
    return f"--gin_file={file}"


def output(folder: Path) -> str:
    """The flag of the folder that holds the runs."""
    return f"--gin.OUTPUT_DIR='{folder}'"


def train(folder: Path) -> None:
    """Trains `teacher` and `xent`, of which all three checkpoints stay."""
    flag = write_gin(folder.with_suffix(".gin"))
    try:
        assert main(["train", flag, output(folder), "--gin.experiment.TrainRun.keep_last=3"]) == 0
    finally:
        gin.clear_config(clear_constants=True)


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of pytest's workers makes and all read.

    The recipe of pytest-xdist's documentation, "Making session-scoped fixtures execute only once".
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder
