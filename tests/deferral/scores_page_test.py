"""docs/scores.md: every score is in its table, its examples run, its figures are those made."""

import contextlib
import io
import re
import shlex
import sys
import types

import gin
import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.cli import commands, gin_config
from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.routers import arrays
from cascade_jax.evaluation import evaluate, panels
from tests.benchmarks import scores as made
from tests.support import records_table
from tests.support.sampled import answers_of


@pytest.fixture
def page(repository) -> str:
    return (repository / "docs/scores.md").read_text()


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_table_has_every_score_and_its_class(page):
    tables = page.split("| score | class |")[1:]
    rows = [row for table in tables for row in table.split("\n\n")[0].splitlines()[2:]]
    actual = [
        (name, cells(row)[1].strip("`")) for row in rows for name in cells(row)[0].split(", ")
    ]
    assert actual == [(score.name, type(score).__name__) for score in scores.ALL]


def test_the_table_has_every_router(page):
    table = page.split("| router | sees |")[1].split("\n\n")[0].splitlines()[2:]
    of_states = routers.StateRouter(), routers.StateNetworkRouter()
    kinds = [*made.ROUTERS, routers.EntropyRateRouter(), *of_states]
    assert [cells(row)[0].strip("`") for row in table] == [type(kind).__name__ for kind in kinds]
    assert f"{len(routers.LogisticRouter().quantiles)} quantiles" in table[0]


def test_the_examples_run_and_print_what_they_say(page):
    namespace = {}
    for block in re.findall(r"```python\n(?!# my_)(.*?)```", page, re.S):
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
    three_way = arrays.ThreeWay(np.ones(1), np.ones(1), np.ones((1, 3)), np.ones(3), 0.5)
    models = {"runs/demo/router.npz": None, "runs/demo/pre.npz": three_way}
    for module in (routers.kinds, routers.pre_router):
        monkeypatch.setattr(module, "load", lambda path: types.SimpleNamespace(model=models[path]))
    blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert len(lines) == 12
    for line in lines:
        if "my.gin" in line:
            continue  # is called below
        _, name, *argv = shlex.split(line)
        config = gin_config.parse(commands.module_of(name).CONFIG, argv)
        if "Saved" in line:
            assert config.score == routers.Saved("runs/demo/router.npz")
        if "PreRouted" in line:
            assert config.score == routers.PreRouted("runs/demo/pre.npz")


def test_a_score_and_a_similarity_of_ones_own(page, tmp_path, monkeypatch):
    """The page, followed to the letter, on records with samples."""
    for name, text in re.findall(r"```\w*\n# (my\w*\.\w+)\n(.*?)```", page, re.S):
        (tmp_path / name).write_text(text)
    (command,) = [b for b in re.findall(r"```bash\n(.*?)```", page, re.S) if "my.gin" in b]
    (path,) = re.findall(r"'(\S+\.parquet)'", command)
    rows = records_table.make_rows(4)
    for row, texts in zip(
        rows, (["a b"], ["a b", "c d e"], ["", "a"], ["a b", "a c"]), strict=True
    ):
        row["student_sample_answers"] = texts
    records.write(tmp_path / path, rows, {"name": "s", "mixture": "m", "split": "test"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        argv = [*shlex.split(command.replace("\\\n", " "))[2:], "--gin.BOOTSTRAP_SAMPLES=1"]
        config = gin_config.parse(commands.module_of("evaluate").CONFIG, argv)
        tables = evaluate.load(config.records_files)
        _, by_score, spent = panels.score_all(tables, config)
    finally:
        gin.clear_config(clear_constants=True)
        sys.modules.pop("my_scores", None)
    values = by_score["s"]
    np.testing.assert_array_equal(values["longest sample"], [3, 5, 1, 3])
    np.testing.assert_array_equal(values["Deg same_first_word"], [0, 0.5, 0.5, 0])
    assert "student_sample_flops" in spent["s"]["longest sample"].unknown


def test_the_numbers_of_worked_solutions_are_compared(page, tmp_path, in_root):
    (text,) = re.findall(r"```\n# numbers.gin\n(.*?)```", page, re.S)
    (tmp_path / "numbers.gin").write_text(text)
    argv = [f"--gin_file={tmp_path}/numbers.gin", "--gin.RECORDS='a'", "--gin.REPORT_DIR='b'"]
    score = gin_config.parse(commands.module_of("evaluate").CONFIG, argv).score
    assert score.name == "discrete semantic entropy exact match by final_number"
    samples = [["so 5 + 5 = 10. #### 10", "It is 10.00", "#### 1,000", "12"]]
    assert score(answers_of(samples))[0] == pytest.approx(1.5 * np.log(2))


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
