"""`cascade-jax compare`: which tables its arguments name, and its one-line refusals."""

import re

import pytest

from cascade_jax.cli import compare, flags, main
from cascade_jax.deferral import scores
from cascade_jax.evaluation import costs


@pytest.fixture
def experiment(tmp_path):
    """A folder with empty files where tables would be."""
    for split, name in (("test", "xent"), ("test", "cat"), ("validation", "xent")):
        file = tmp_path / "demo" / "records" / split / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "demo"


def files_of(*argv):
    return compare.evaluate_config(flags.parse(compare.FLAGS, map(str, argv))).records_files


def test_a_folder_gives_its_tables(experiment):
    records = experiment / "records"
    assert files_of(experiment, "--split", "test") == [
        f"cat={records}/test/cat.parquet",
        f"xent={records}/test/xent.parquet",
    ]
    assert files_of(experiment, "--split", "test", "--names", "xent") == [
        f"xent={records}/test/xent.parquet"
    ]


def test_the_folder_of_a_split_gives_its_tables_too(experiment):
    assert files_of(experiment / "records" / "validation") == [
        f"xent={experiment}/records/validation/xent.parquet"
    ]


def test_two_folders_keep_tables_of_one_name_apart(experiment, tmp_path):
    other = tmp_path / "again"
    (other / "records" / "test").mkdir(parents=True)
    (other / "records" / "test" / "xent.parquet").touch()
    result = files_of(experiment, other, "--split", "test", "--names", "xent")
    assert [entry.partition("=")[0] for entry in result] == ["demo:xent", "again:xent"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "nothing to compare"),
        (("{demo}",), "has the splits test, validation; give --split"),
        (
            ("{demo}", "--split", "tset"),
            "is 'tset'.*did you mean 'test'",
        ),
        (("{demo}", "--split", "test", "--names", "xnet"), "is 'xnet'.*did you mean 'xent'"),
        (("{demo}", "--split", "test", "--score", "avrage"), "is 'avrage'.*did you mean 'average'"),
        (("{demo}", "--split", "test", "--cost", "flop"), "cost is 'flop'.*did you mean 'flops'"),
        (("{demo}", "--split", "test", "--cost", "price=1,2"), "expected four prices"),
        (("{demo}", "--split", "test", "--cost", "price"), "expected four prices"),
        (("{demo}", "--split", "test", "--cost", "price=1,2,x,4"), "expected four prices"),
        (("{demo}", "--split", "test", "--score", "quantile_x"), "a score that is no file"),
        (("none.parquet",), "none.parquet: no such records file"),
        (("{demo}", "--bootstrap", "0"), "bootstrap"),
    ],
)
def test_refusals_are_one_line_that_says_what_would_do(argv, message, experiment, capsys):
    argv = [word.format(demo=experiment) for word in argv]
    assert main.main(["compare", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("name", "score"),
    [("sum", scores.Sum()), ("quantile_0.3", scores.Quantile(0.3)), ("entropy", scores.Entropy())],
)
def test_scores_go_by_their_names(name, score):
    config = flags.parse(compare.FLAGS, ["a.parquet", "--score", name, "--scores", "sum"])
    assert compare.evaluate_config(config).score == score
    assert compare.evaluate_config(config).scores == (scores.Sum(),)


@pytest.mark.parametrize(
    ("name", "cost"),
    [("flops", costs.Flops()), ("price=0.1,0.4,1,4", costs.Price(0.1, 0.4, 1.0, 4.0))],
)
def test_costs_go_by_their_names(name, cost):
    assert (
        compare.evaluate_config(flags.parse(compare.FLAGS, ["a.parquet", "--cost", name])).cost
        == cost
    )
