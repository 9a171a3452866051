"""docs/tasks.md, followed to the letter: a task of one's own, and the outputs that it shows."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import seqio

import tasks.all  # noqa: F401
from cascade_jax.cli.main import main
from cascade_jax.data import catalog, sources
from cascade_jax.data.browse import tasks as browse
from tests.support import processes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tasks.md").read_text()
OWN = PAGE.split("## A task of your own\n")[1].split("\n## ")[0]
REGISTERED = frozenset(seqio.TaskRegistry.names())  # before other tests add theirs
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", OWN, re.S)


def _in_bash(script, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "THE_PYTHON": sys.executable}
    # A user's machine has one CPU device, the tests' eight.
    environment["XLA_FLAGS"] = processes.xla_flags(1)
    # As installed, under its own name.
    script = f'set -e; cascade-jax() {{ "$THE_PYTHON" -m cascade_jax "$@"; }}\n{script}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def _in_this_process(command, folder):
    """What a command prints; spares the imports of another process."""
    before = sources.get_data_dir()
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        try:
            assert main(shlex.split(command)[1:]) == 0
        finally:
            sources.set_data_dir(before)
            sys.modules.pop("my_tasks", None)
            seqio.TaskRegistry.remove("my_colours_v1")
            catalog._cards.pop("my_colours_v1")
    return printed.getvalue()


def _write_files(folder):
    """The page's files; the rows are what a shell writes."""
    for language, text in BLOCKS:
        if language == "bash" and "cascade-jax" not in text:
            _in_bash(text, folder)
        if named := re.match(r"# (my\w*\.\w+)\n", text):
            (folder / named[1]).write_text(text)


def test_the_walk_through_is_short():
    code = [text for language, text in BLOCKS if language == "python"]
    code += [text for _, text in BLOCKS if text.startswith("# my.gin")]
    lines = [line for line in "".join(code).splitlines() if line.strip()]
    assert len(code) == 2 and len(lines) <= 20


def test_the_page_shows_what_the_list_prints(tmp_path):
    _write_files(tmp_path)
    (command,) = [text for _, text in BLOCKS if text.startswith("cascade-jax tasks ")]
    (stated,) = [text for language, text in BLOCKS if not language and text[0] != "#"]
    assert _in_this_process(command, tmp_path) == stated


@pytest.mark.slow  # as README's commands, which docs_test.py builds and end_to_end_test.py runs
def test_the_run_leaves_two_trained_models(tmp_path):
    _write_files(tmp_path)
    for language, text in BLOCKS:
        if language == "bash" and re.search("cascade-jax (train|[$]command)", text):
            _in_bash(text, tmp_path)
    for name in ("teacher", "cat_xent"):
        assert (tmp_path / "runs/my_colours" / name / "checkpoints/3").is_dir()
    assert not list((tmp_path / "runs/my_colours").glob("xent*"))


SHOWN = re.findall(r"```\n\$ cascade-jax (tasks demo[^\n]*)\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("command, output", SHOWN, ids=[command for command, _ in SHOWN])
def test_the_outputs_on_the_page_are_the_commands_own(command, output, capsys):
    status = main(shlex.split(command))
    printed = capsys.readouterr()
    assert printed.out + printed.err == output
    assert status == (2 if printed.err else 0)


def _listed():
    return [facts for facts in browse.list_tasks() if facts.name in REGISTERED]


def test_the_table_of_suites_is_the_registrys():
    section = PAGE.split("## Suites\n")[1].split("\n## ")[0]
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in section.splitlines()]
    table = {cells[0]: cells for cells in rows if len(cells) == 6 and cells[0] != "suite"}
    suites = {}
    for facts in _listed():
        if facts.suite in table or facts.name.startswith("cascade_"):
            suites.setdefault(facts.suite, []).append(facts)
    assert table.keys() == suites.keys()
    for suite, (_, count, splits, _, _, files) in table.items():
        assert int(count) == len(suites[suite]), suite
        actual = {split for facts in suites[suite] for split in facts.splits}
        assert set(splits.split(", ")) == actual, suite
        for file in re.findall(r"`(.*?)`", files):
            assert (ROOT / file).is_file()
    total = sum(int(cells[1]) for cells in table.values())
    assert f"`cascade-jax tasks` lists all {total}," in PAGE


def test_the_tasks_to_get_by_hand_are_named():
    before = sources.get_data_dir()
    sources.set_data_dir(None)
    by_hand = [facts for facts in _listed() if facts.manual]
    sources.set_data_dir(before)
    (sentence,) = re.findall(r"- \*\*By hand\.\*\*(.*?)\n\n", PAGE, re.S)
    names = {facts.name.removeprefix("cascade_flan2021_").removesuffix("_v1") for facts in by_hand}
    names = {"xsum" if name.startswith("cascade_xsum") else name for name in names}
    assert set(re.findall(r"`([a-z_0-9]+)`", sentence)) == names


def test_mixtures_on_the_page_are_registered():
    names = {*seqio.MixtureRegistry.names()}
    for name in re.findall(r"`(cascade_\w+_v1)`", PAGE.split("## Mixtures\n")[1]):
        assert name in names
    for ending in re.findall(r"`\.\.\.(_\w+_v1)`", PAGE):
        assert {f"cascade_superglue{ending}", f"cascade_wmt22{ending}"} <= names
