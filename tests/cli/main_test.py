"""The command line: quick help, examples that work, one line for a mistake."""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cascade_jax.cli import commands, gin_config, main

ROOT = Path(__file__).parents[2]
# Half a second or more each; without them help is there at once.
HEAVY = ("jax", "flax", "numpy", "tensorflow", "seqio", "pyarrow", "matplotlib", "sklearn")


@pytest.mark.parametrize("argv", [["--help"], [], ["train", "--help"]])
def test_help_imports_nothing_heavy(argv):
    code = (
        "import sys\n"
        "from cascade_jax.cli import main\n"
        f"status = main.main({argv!r})\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(status, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


def test_help_lists_every_command():
    text = commands.usage()
    for name in commands.COMMANDS:
        assert f"  {name}" in text


@pytest.mark.parametrize("module", ["cascade_jax", "cascade_jax.cli.main"])
def test_python_dash_m_is_the_same_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, commands.usage())


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert main.main(["colect"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "did you mean 'collect'?" in error


@pytest.mark.medium
def test_a_missing_gin_file_is_named_in_an_interpreter_of_its_own():
    code = (
        f"import sys; sys.path = {sys.path!r}\n"
        "from cascade_jax.cli import main\n"
        "sys.exit(main.main(['evaluate', '--gin_file=gin/experiments/dmo.gin']))"
    )
    # -S: what site-packages start with, such as an editable install, hides missing imports.
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no gin file gin/experiments/dmo.gin; looked in" in done.stderr


WITH_GIN = sorted(name for name in commands.COMMANDS if hasattr(commands.module_of(name), "CONFIG"))


@pytest.mark.parametrize("name", WITH_GIN)
def test_the_examples_of_every_help_build(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = commands.module_of(name)
    text = command.HELP.replace("\\\n", " ")
    examples = [shlex.split(line) for line in text.splitlines() if "--gin_file" in line]
    assert examples
    for program, command_name, *argv in examples:
        assert (program, command_name) == ("cascade-jax", name)
        config = gin_config.parse(command.CONFIG, argv)
        assert type(config).__name__ == command.CONFIG.rpartition(".")[2]


def test_ctrl_c_is_answered_in_one_line(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command = importlib.import_module("cascade_jax.cli.evaluate")

    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert main.main(["evaluate", "--gin_file=gin/experiments/demo.gin"]) == 130
    error = capsys.readouterr().err
    assert error == (
        "cascade-jax evaluate: interrupted; the same command goes on from what is complete\n"
    )
