"""The demo tasks do what their table says, the same every time."""

import importlib
import itertools
import zlib
from collections import Counter

import pytest
import seqio

import tasks.demo
from cascade_jax.data import pipeline

RULES = ("last", "reverse", "lookup", "add")
ALL = (*RULES, "capital", "code", "toss")


def _answer(name, text):
    """The rule, written another way."""
    words = text.split(" ")
    if name == "last":
        return list(words[1]).pop()
    if name == "reverse":
        return "".join(reversed(words[1]))
    if name == "lookup":
        return {word[0]: word[1:] for word in words[2:]}[words[1]]
    return str(sum(map(int, words[1:])))


@pytest.mark.parametrize("name", ALL)
def test_rows_are_the_same_every_time_and_differ_by_seed(name):
    assert tasks.demo.make_rows(name, "test") == tasks.demo.make_rows(name, "test")
    assert tasks.demo.make_rows(name, "test") != tasks.demo.make_rows(name, "test", seed=1)
    assert len(tasks.demo.make_rows(name, "train")) == 20000


def _inputs_in_all(name):
    """Every input that a rule of few inputs can have."""
    if name == "add":
        return {f"add {a} {b}" for a in range(10, 60) for b in range(10, 60)}
    return {
        f"get {asked} {a}{x} {b}{y}"
        for a, b in itertools.permutations("abc", 2)
        for x, y in itertools.product(range(10), repeat=2)
        for asked in (a, b)
    }


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("name", ALL)
def test_held_out_inputs_are_distinct_and_as_many_as_there_are(name, split):
    inputs = [row["inputs"] for row in tasks.demo.make_rows(name, split)]
    assert len(set(inputs)) == len(inputs)
    if name in ("lookup", "add"):
        bucket = ["validation", "test"].index(split)
        kept = {t for t in _inputs_in_all(name) if zlib.crc32(t.encode()) % 10 == bucket}
        assert set(inputs) == kept and len(kept) < 300
    else:
        assert len(inputs) == 300


@pytest.mark.parametrize("name", RULES)
def test_a_rule_holds(name):
    for split in tasks.demo.SPLIT_ROWS:
        rows = tasks.demo.make_rows(name, split)
        assert all(row["targets"] == _answer(name, row["inputs"]) for row in rows)


@pytest.mark.parametrize("name", [*RULES, "toss"])
def test_what_is_not_to_be_remembered_is_never_asked_in_two_splits(name):
    rows = {split: tasks.demo.make_rows(name, split) for split in tasks.demo.SPLIT_ROWS}
    asked = {split: {row["inputs"] for row in split_rows} for split, split_rows in rows.items()}
    assert not asked["train"] & asked["validation"]
    assert not asked["train"] & asked["test"]
    assert not asked["validation"] & asked["test"]


@pytest.mark.parametrize(("name", "size"), [("capital", 500), ("code", 1000)])
def test_facts_to_remember_are_the_same_in_every_split(name, size):
    facts = {}
    for split in tasks.demo.SPLIT_ROWS:
        for row in tasks.demo.make_rows(name, split):
            assert facts.setdefault(row["inputs"], row["targets"]) == row["targets"]
    assert len(facts) == size
    train = {row["inputs"] for row in tasks.demo.make_rows(name, "train")}
    assert len(train) == size


@pytest.mark.parametrize(("name", "size"), [("capital", 500), ("code", 1000)])
def test_frequent_facts_are_asked_more_often_in_every_split(name, size):
    train = Counter(row["inputs"] for row in tasks.demo.make_rows(name, "train"))
    often = {text for text, _ in train.most_common(size // 10)}
    for split in ("validation", "test"):
        inputs = [row["inputs"] for row in tasks.demo.make_rows(name, split)]
        # Of 300 equally likely names 30 would be among them, give or take 3 (capital) or 5 (code).
        assert sum(text in often for text in inputs) > 40


def test_the_toss_is_fair_and_its_first_letter_known():
    rows = tasks.demo.make_rows("toss", "train")
    assert all(row["targets"][0] == row["inputs"].split()[1][0] for row in rows)
    for letter in "wxyz":
        share = sum(row["targets"][1] == letter for row in rows) / len(rows)
        assert abs(share - 0.25) < 0.013  # four standard errors of 20,000 draws


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("last", ("last dgfa", "a")),
        ("reverse", ("turn jiiifgi", "igfiiij")),
        ("lookup", ("get a b9 a5", "5")),
        ("add", ("add 36 57", "93")),
        ("capital", ("capital kky", "aa")),
        ("code", ("code wgx", "bf")),
        ("toss", ("toss fhgj", "fx")),
    ],
)
def test_the_first_held_out_row_of_each_task(name, first):
    row = tasks.demo.make_rows(name, "validation")[0]
    assert (row["inputs"], row["targets"]) == first


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("last", ("last jcgie", "e"), ("last jiba", "a")),
        ("reverse", ("turn fhicc", "ccihf"), ("turn bcbgce", "ecgbcb")),
        ("lookup", ("get b b1 a0", "1"), ("get b a3 b5", "5")),
        ("add", ("add 19 25", "44"), ("add 47 19", "66")),
        ("capital", ("capital mkq", "hg"), ("capital uve", "ad")),
        ("code", ("code yhu", "bf"), ("code upa", "bb")),
        ("toss", ("toss ccge", "cz"), ("toss agia", "aw")),
    ],
)
def test_the_first_and_the_last_training_row_of_each_task(name, first, last):
    """The demo's figures are of these rows: other draws would need another demo run."""
    rows = tasks.demo.make_rows(name, "train")
    assert [(rows[i]["inputs"], rows[i]["targets"]) for i in (0, -1)] == [first, last]


def test_everything_fits_the_stated_lengths():
    for name in ALL:
        for row in tasks.demo.make_rows(name, "train"):
            assert len(row["inputs"]) < 16 and len(row["targets"]) < 8


def test_importing_again_registers_nothing_twice():
    importlib.reload(tasks.demo)
    mixture = pipeline.open_mixture(pipeline.DataConfig("demo_mixture_v1", 16, 8, 8))
    assert list(mixture.tasks) == sorted(f"demo_{name}_v1" for name in ALL)
    assert mixture.vocab_size == 259 and mixture.eos_id == 1
    for task in mixture.tasks.values():
        assert [fn.__name__ for fn in task.metric_fns] == ["accuracy"]
        assert sorted(task.splits) == ["test", "train", "validation"]
    assert "demo_mixture_v1" in seqio.MixtureRegistry.names()
