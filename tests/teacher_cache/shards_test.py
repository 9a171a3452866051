"""Shards: every example is found by its key, in any order; damage is named."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cascade_jax import array_file
from cascade_jax.teacher_cache import shards as shards_lib
from cascade_jax.teacher_cache.format import Holding, TokenFacts
from cascade_jax.teacher_cache.shards import CacheReader, Shard, ShardWriter, TeacherCacheError

INDEX = ".index.npz"
HOLDING = Holding(100, 3, "uint8")


def key_of(number: int) -> bytes:
    """The first eight bytes of some keys are the same."""
    return (number % 50).to_bytes(8, "big") + number.to_bytes(8, "big")


def facts_of(number: int) -> TokenFacts:
    rng = np.random.default_rng(number)
    tokens = number % 7 + 1
    kept = np.sort(-rng.exponential(3, (tokens, 3)))[:, ::-1]
    return TokenFacts(
        rng.random(tokens) < 0.5,
        kept[:, 0].astype(np.float32),
        rng.integers(0, 100, (tokens, 3)),
        kept.astype(np.float32),
        kept[:, -1].astype(np.float32),
    )


def same(result: TokenFacts, number: int) -> bool:
    arguments = HOLDING.decode(HOLDING.encode(facts_of(number)), number % 7 + 1)
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(
        vars(result).values(), vars(arguments).values(), strict=True
    ))  # fmt: skip


@pytest.fixture
def cache(tmp_path):
    """Numbers 0 to 999, each added twice; 100 to 199 are in two of the four shards."""
    for group, start in enumerate((0, 200, 500, 100)):
        end = (200, 500, 1000, 200)[group]
        with ShardWriter(tmp_path, Shard("train", group, 0, 1), HOLDING, "mine") as writer:
            for number in [*range(start, end), *range(start, end)]:
                facts = facts_of(number)
                writer.add(key_of(number), facts, facts.label_log_probs)
    complete(tmp_path)
    return tmp_path


def complete(folder):
    result = shards_lib.shards_in(folder, "mine")
    sizes = {name: facts["bytes"] for name, facts in result.items()}
    text = json.dumps({"shards": sizes, "splits": {}})
    (folder / "complete.json").write_text(text)


def test_every_example_is_found_in_any_order(cache):
    reader = CacheReader(cache, HOLDING, "mine", "make it again")
    assert sum(facts["examples"] for facts in shards_lib.shards_in(cache, "mine").values()) == 1100
    order = np.random.default_rng(0).permutation(1000).tolist() + [5, 5]
    for start in range(0, len(order), 64):
        numbers = order[start : start + 64]
        result = reader.find([key_of(number) for number in numbers])
        assert all(same(facts, number) for facts, number in zip(result, numbers, strict=True))
    missing = reader.find([key_of(1000), key_of(3), bytes(16), b"\xff" * 16])
    assert [facts is None for facts in missing] == [True, False, False, True]
    assert reader.find([]) == []


def test_a_cache_without_an_example(tmp_path):
    with ShardWriter(tmp_path, Shard("train", 0, 0, 1), HOLDING, "mine"):
        pass
    complete(tmp_path)
    assert CacheReader(tmp_path, HOLDING, "mine", "").find([key_of(1)]) == [None]


def test_shards_of_another_cache_or_not_whole_do_not_count(cache):
    assert len(shards_lib.shards_in(cache, "mine")) == 4
    assert shards_lib.shards_in(cache, "other") == {}
    records = cache / "train-00001-0-of-1.array_record"
    records.write_bytes(records.read_bytes()[:-1])
    (cache / "train-00002-0-of-1.index.npz").write_bytes(b"no index")
    assert sorted(shards_lib.shards_in(cache, "mine")) == [
        "train-00000-0-of-1",
        "train-00003-0-of-1",
    ]


def test_what_fails_while_a_shard_is_written_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        with ShardWriter(tmp_path, Shard("train", 0, 0, 1), HOLDING, "mine") as writer:
            for number in range(900):
                writer.add(key_of(number), facts_of(number), facts_of(number).label_log_probs)
            raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from cascade_jax.teacher_cache.format import Holding, TokenFacts
from cascade_jax.teacher_cache.shards import Shard, ShardWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
rng = np.random.default_rng(0)
values = rng.random(2000).astype(np.float32)
facts = TokenFacts(values < 0.5, values)
try:
    with ShardWriter(Path(sys.argv[1]), Shard("train", 0, 0, 1), Holding(9), "mine") as writer:
        for number in range(int(sys.argv[2])):
            writer.add(number.to_bytes(16, "big"), facts, values)
            values = rng.random(2000).astype(np.float32)
            facts = TokenFacts(values < 0.5, values)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("examples", [45, 2000])
def test_a_disk_that_is_full_at_the_end_or_long_before_is_named(tmp_path, examples):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(examples)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "train-00000-0-of-1.array_record could not be written: write() failed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_is_cut_off_is_named(cache):
    records = cache / "train-00001-0-of-1.array_record"
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    message = (
        f"train-00001-0-of-1.array_record is damaged .it has {len(whole) // 2} bytes and should "
        f"have {len(whole)}.; delete it and make it again"
    )
    with pytest.raises(TeacherCacheError, match=message):
        CacheReader(cache, HOLDING, "mine", "make it again")


def test_a_flipped_bit_is_named(cache):
    reader = CacheReader(cache, HOLDING, "mine", "make it again")
    records = cache / "train-00000-0-of-1.array_record"
    whole = bytearray(records.read_bytes())
    whole[2000] ^= 1  # of a record, past the file's head
    records.write_bytes(whole)
    with pytest.raises(TeacherCacheError, match="train-00000-0-of-1.array_record is damaged"):
        for number in range(100):
            reader.find([key_of(number)])


def of_one_shard(folder, numbers, fingerprint="mine"):
    folder.mkdir()
    with ShardWriter(folder, Shard("train", 0, 0, 1), HOLDING, fingerprint) as writer:
        for number in numbers:
            facts = facts_of(number)
            writer.add(key_of(number), facts, facts.label_log_probs)
    return folder / "train-00000-0-of-1.array_record", folder / "train-00000-0-of-1.index.npz"


def test_records_of_another_shard_are_named(cache, tmp_path):
    """As long as those of the index, and whole by themselves."""
    records, index = (cache / f"train-00000-0-of-1{ending}" for ending in (".array_record", INDEX))
    other, _ = of_one_shard(tmp_path / "other", range(700, 900))  # as many tokens
    with np.load(index) as file:
        arrays = dict(file.items())
    facts = json.loads(str(arrays["facts"])) | {"bytes": other.stat().st_size}
    records.write_bytes(other.read_bytes())
    del arrays["digest"]
    array_file.write(index, {**arrays, "facts": np.array(json.dumps(facts))})
    complete(cache)
    reader = CacheReader(cache, HOLDING, "mine", "make it again")
    with pytest.raises(TeacherCacheError, match="array_record is damaged .record 0 is not the one"):
        reader.find([key_of(1)])


def test_an_edited_index_and_one_of_another_cache_are_named(cache, tmp_path):
    index = cache / f"train-00000-0-of-1{INDEX}"
    with np.load(index) as file:
        arrays = dict(file.items())
    swapped = arrays["keys"][::-1]  # each example would get the facts of another
    np.savez(index, **(arrays | {"keys": swapped}))
    with pytest.raises(
        TeacherCacheError, match="index.npz is damaged .*: was changed after it was"
    ):
        CacheReader(cache, HOLDING, "mine", "make it again")
    _, index = of_one_shard(tmp_path / "other", range(200), "another")
    (cache / index.name).write_bytes(index.read_bytes())
    with pytest.raises(TeacherCacheError, match="index.npz is damaged .it is of another cache"):
        CacheReader(cache, HOLDING, "mine", "make it again")


def test_an_index_without_checksums_is_read(cache):
    """As versions before wrote it."""
    for index in cache.glob(f"*{INDEX}"):
        with np.load(index) as file:
            arrays = {name: file[name] for name in ("keys", "tokens", "first", "facts")}
        np.savez(index, **arrays)
    assert len(shards_lib.shards_in(cache, "mine")) == 4
    reader = CacheReader(cache, HOLDING, "mine", "make it again")
    assert same(reader.find([key_of(7)])[0], 7)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("tokens"), "array 'tokens' is missing"),
        (lambda a: a.update(tokens=a["tokens"][1:]), "array 'tokens' is uint32 .199.; must be int"),
        (
            lambda a: a.update(first=a["first"][::-1]),
            "numbers of examples, tokens and records contr",
        ),
        (lambda a: a.update(keys=a["keys"].astype(float)), "array 'keys' is float64"),
        (lambda a: a.update(facts=np.array("{}")), "fields 'fingerprint', .* are missing"),
        (
            lambda a: a.update(tokens=a["tokens"] + 1),
            "numbers of examples, tokens and records contr",
        ),
    ],
)
def test_an_index_that_contradicts_itself_is_named(cache, change, message):
    index = cache / f"train-00000-0-of-1{INDEX}"
    with np.load(index) as file:
        arrays = {name: file[name] for name in ("keys", "tokens", "first", "facts")}
    change(arrays)
    np.savez(index, **arrays)
    with pytest.raises(TeacherCacheError, match=message):
        CacheReader(cache, HOLDING, "mine", "make it again")


def test_a_list_that_lacks_a_shard_is_named(cache):
    written = json.loads((cache / "complete.json").read_text())
    keys = ("tokens", "right", "log_probs", "bytes", "index_bytes")
    written["splits"] = {"train": {"examples": 1100, **dict.fromkeys(keys, 1)}}
    (cache / "complete.json").write_text(json.dumps(written))
    assert CacheReader(cache, HOLDING, "mine", "").find([key_of(7)]) != [None]
    del written["shards"]["train-00001-0-of-1"]
    (cache / "complete.json").write_text(json.dumps(written))
    said = "complete.json counts 1100 examples of split 'train', its shards have 800; delete"
    with pytest.raises(TeacherCacheError, match=said):
        CacheReader(cache, HOLDING, "mine", "make it again")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "complete.json: not JSON"),
        ("[]", "complete.json: is .., must be an object|must be an object"),
        ('{"splits": {}}', "complete.json: field 'shards' is missing"),
        (
            '{"shards": {"../x-0-0-of-1": 3}, "splits": {}}',
            "'../x-0-0-of-1', which is no name of a",
        ),
        ('{"shards": {"train-0-0-of-1": "3"}, "splits": {}}', "must be a whole number"),
        ('{"shards": {}, "splits": {}}', "has no finished shard; make it again"),
    ],
)
def test_a_list_of_shards_that_can_not_be_is_named(cache, text, message):
    (cache / "complete.json").write_text(text)
    with pytest.raises(TeacherCacheError, match=message):
        CacheReader(cache, HOLDING, "mine", "make it again")


@pytest.mark.parametrize("ending", ["array_record", "index.npz"])
def test_a_missing_file_is_named(cache, ending):
    (cache / f"train-00001-0-of-1.{ending}").unlink()
    with pytest.raises(TeacherCacheError, match=f"train-00001-0-of-1.{ending} is missing; make"):
        CacheReader(cache, HOLDING, "mine", "make it again")


def flipped(whole: bytes) -> bytes:
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda whole: b"no index", lambda whole: b"", lambda whole: whole[:-9], flipped]
)
def test_a_damaged_index_is_named_and_a_cut_one_is_made_anew(cache, damage):
    index = cache / "train-00001-0-of-1.index.npz"
    index.write_bytes(damage(index.read_bytes()))
    with pytest.raises(TeacherCacheError, match="train-00001-0-of-1.index.npz is damaged"):
        CacheReader(cache, HOLDING, "mine", "make it again")
    assert index.name.removesuffix(".index.npz") not in shards_lib.shards_in(cache, "mine")
