"""docs/scores.md: every score is in its table, its examples run, its figures are those made."""

import contextlib
import io
import re
import shlex

import gin
import numpy as np
import pytest

from cascade_jax.cli import commands, gin_config
from cascade_jax.deferral import routers, scores
from tests.benchmarks import scores as made


@pytest.fixture
def page(repository) -> str:
    return (repository / "docs/scores.md").read_text()


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_table_has_every_score_and_its_class(page):
    table = page.split("| score | class |")[1].split("\n\n")[0].splitlines()[2:]
    actual = [
        (name, cells(row)[1].strip("`")) for row in table for name in cells(row)[0].split(", ")
    ]
    assert actual == [(score.name, type(score).__name__) for score in scores.ALL]


def test_the_table_has_every_router(page):
    table = page.split("| router | sees |")[1].split("\n\n")[0].splitlines()[2:]
    kinds = [type(router).__name__ for router in made.ROUTERS]
    assert [cells(row)[0].strip("`") for row in table] == kinds
    assert f"{len(routers.LogisticRouter().quantiles)} quantiles" in table[0]


def test_the_examples_run_and_print_what_they_say(page):
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "docs/scores.md", "exec"), namespace)
        promised = re.findall(r"^print\(.*\)  # (.+)$", block, re.M)
        assert promised and printed.getvalue().splitlines() == promised


@pytest.fixture
def in_root(repository, monkeypatch):
    monkeypatch.chdir(repository)
    yield
    gin.clear_config(clear_constants=True)


def test_the_commands_build(page, in_root, monkeypatch):
    monkeypatch.setattr(routers.kinds, "load", lambda path: path)
    blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert len(lines) == 6
    for line in lines:
        _, name, *argv = shlex.split(line)
        config = gin_config.parse(commands.module_of(name).CONFIG, argv)
        if "Saved" in line:
            assert config.score == routers.Saved("runs/demo/router.npz")


def test_the_areas_are_those_of_the_made_answers(page):
    rows = page.split("| score | spiky | length |")[1].split("\n\n")[0].splitlines()[2:]
    stated = {cells(row)[0]: [float(value) for value in cells(row)[1:]] for row in rows}
    actual = {kind: made.areas(make) for kind, make in made.MAKES.items()}
    assert list(stated) == list(actual["spiky"])
    for name, values in stated.items():
        # Networks may end elsewhere on another machine.
        tolerance = 0.006 if name.endswith("router") else 0.00051
        expected = [actual[kind][name] for kind in ("spiky", "length")]
        np.testing.assert_allclose(values, expected, atol=tolerance)
    spiky, length = ({name: values[i] for name, values in stated.items()} for i in (0, 1))
    fixed = [spiky[score.name] for score in scores.ALL if score.name in spiky]
    for router in made.ROUTERS:
        assert spiky[router.name] > spiky["average"] + 0.1
        assert spiky[router.name] > max(fixed)
    random = length["deferring at random"]
    assert length["sum"] - random < 0.5 * (length["average"] - random)
