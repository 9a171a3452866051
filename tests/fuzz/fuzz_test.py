"""The fuzzer: some of its cases with the readers that are quick, and that it notices each fault."""

import random
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzzer
from tests.fuzz import worker
from tests.fuzz.json_mutations import change_bytes, change_json
from tests.fuzz.reader import Reader, WrongValue

# None of them imports TensorFlow or compiles.
QUICK = ("records.openai", "records.vllm", "records.table", "parquet.live", "parquet.top")
QUICK += ("router.linear", "router.trees", "logs", "lock", "answer_store")


@pytest.fixture
def cases(tmp_path):
    def make(**readers: Reader) -> worker.Cases:
        (tmp_path / "place").mkdir()
        made = worker.Cases(tmp_path / "valid", tmp_path / "place")
        made._readers |= readers
        return made

    return make


@pytest.mark.medium
def test_fifty_changed_inputs_end_in_a_value_or_in_one_line(cases, in_the_clone):
    runner = cases()
    jobs = [(name, 0, index) for name in QUICK for index in range(5)]
    found = {job: finding for job in jobs if (finding := runner.run(*job))}
    assert not found, found


def _write(folder: Path) -> None:
    (folder / "a.json").write_text('{"a": [1, 2], "b": "text"}')


def _refuse(folder: Path) -> None:
    raise ValueError("no")


def _refuse_by_name(folder: Path) -> None:
    raise ValueError(f"{folder / 'a.json'}: no")


def _fail(folder: Path) -> None:
    raise KeyError("a")


def _recurse(folder: Path) -> None:
    _recurse(folder)


def _accept_nan(folder: Path) -> None:
    raise WrongValue("NaN")


def _use_memory(folder: Path) -> None:
    bytearray(600_000_000)[::4096]


def _read(folder: Path) -> str:
    return (folder / "a.json").read_bytes().hex()


@pytest.mark.parametrize(
    "read, kind",
    [
        (_refuse, worker.UNNAMED),
        (_refuse_by_name, None),
        (_fail, worker.TRACEBACK),
        (_recurse, worker.TRACEBACK),
        (_accept_nan, worker.WRONG),
        (_use_memory, worker.MEMORY),
        (_read, worker.ACCEPTED),
        (lambda folder: None, None),
    ],
)
def test_every_kind_of_fault_is_noticed(cases, read, kind):
    only_valid = [_read, read]  # the valid input is read twice and must be accepted

    def changing(folder: Path):
        return (
            only_valid[0](folder) if "[1, 2]" in (folder / "a.json").read_text() else read(folder)
        )

    json_only = {"*.json": (lambda data, rng: (b'{"a": 7}', "value"),)}
    reader = Reader("own", _write, changing, json_only, is_protected=True)
    finding = cases(own=reader).run("own", 0, 0)
    assert (finding and finding["kind"]) == kind
    if finding:
        assert finding["file"] == "a.json" and finding["mutation"] == "value"


def test_a_valid_input_that_is_refused_is_a_finding(cases):
    reader = Reader("own", _write, _refuse_by_name, {"*": (change_bytes,)})
    assert cases(own=reader).run("own", 0, 0)["kind"] == worker.REFUSED_VALID


def test_the_same_seed_makes_the_same_changes(tmp_path):
    reader = Reader("own", _write, _read, {"*.json": (change_json, change_bytes)})

    def changed(seed: int, index: int) -> tuple:
        _write(tmp_path)
        return *reader.change(tmp_path, seed, index), (tmp_path / "a.json").read_bytes()

    first = [changed(0, index) for index in range(30)]
    assert [changed(0, index) for index in range(30)] == first
    assert len({content for *_, content in first}) > 20
    assert [changed(1, index) for index in range(30)] != first


def test_every_mutation_changes_any_content():
    """No mutation fails, also on contents that are not of its kind."""
    readers = worker.all_readers().values()
    mutations = {m for reader in readers for group in reader.mutations.values() for m in group}
    contents = (b"", b"\n", b"{", b"[1]", b'{"a": {"b": [1, "x"]}}\n{"a": 1}\n', bytes(range(256)))
    for mutate in mutations:
        if "parquet" in mutate.__name__:
            continue
        for content in contents:
            for seed in range(20):
                changed, words = mutate(content, random.Random(seed))
                assert isinstance(changed, bytes) and words


def test_shares_and_order():
    readers = [Reader("a", _write, _read, {}, 3.0), Reader("b", _write, _read, {}, 1.0)]
    counts = fuzzer.shares(readers, 40)
    assert counts == {"a": 30, "b": 10}
    first = [name for name, *_ in list(fuzzer.jobs(counts, 0))[:8]]
    assert first.count("b") == 2  # a run that ends early has read a quarter of them
