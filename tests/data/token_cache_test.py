"""Tokens kept: batches as without, which tasks they are of, and files whole or made anew."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf

import tasks.all  # noqa: F401  (registers the tasks)
from cascade_jax.data import features, pipeline, sources, token_cache

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CASCADE_JAX_TEST_DATA", ROOT.parent / "shared/data"))
FIELDS = {"inputs": str, "targets": str, "keep": bool, "times": int}
ROWS = [
    {
        "inputs": f"row {i}" * (1 + i % 4),
        "targets": "é" * (i % 9),
        "keep": i % 3 != 1,
        "times": i % 4,
    }
    for i in range(90)
]

pytestmark = pytest.mark.medium


def _texts(row):
    return {name: row[name] for name in ("inputs", "targets")}


def _several(row):
    """As many examples as the row says: none, one or more."""
    numbers = tf.data.Dataset.range(row["times"])
    return numbers.map(
        lambda n: {"inputs": row["inputs"] + tf.strings.as_string(n), "targets": row["targets"]}
    )


def _pair(rows):
    joined = rows.map(_texts).batch(2)
    return joined.map(lambda two: {name: tf.strings.reduce_join(two[name]) for name in two})


@seqio.map_over_dataset(num_seeds=1)
def _seeded(row, seed):
    number = tf.random.stateless_uniform([], seed, maxval=9, dtype=tf.int32)
    return _texts(row) | {"targets": tf.strings.as_string(number)}


def _random(row):
    return _texts(row) | {"targets": tf.strings.as_string(tf.random.uniform([]), 3)}


_TO_TEXTS = seqio.map_over_dataset(_texts)
STEPS = {
    "toy_plain": [_TO_TEXTS],
    "toy_filtered": [lambda rows: rows.filter(lambda row: row["keep"]), _TO_TEXTS],
    "toy_several": [lambda rows: rows.flat_map(_several)],
    "toy_paired": [_pair],
    "toy_seeded": [_seeded],
    "toy_random": [lambda rows: rows.map(_random)],
    "toy_by_length": [lambda rows, sequence_length: rows.map(_texts)],
}
KEPT = ("toy_filtered", "toy_plain", "toy_several")


@pytest.fixture(scope="module", autouse=True)
def _toy_tasks():
    def add(name, source, steps):
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=steps,
            output_features=features.output_features(),
            shuffle_buffer_size=7,
        )

    for name, steps in STEPS.items():
        source = sources.GeneratedSource(lambda split: ROWS, ["train"], FIELDS)
        add(name, source, [*steps, *features.tokenizing()])
    without_name = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
            {name: [row[name] for row in ROWS] for name in ("inputs", "targets")}
        ),
        ["train"],
        num_input_examples={"train": len(ROWS)},
    )
    add("toy_unnamed", without_name, features.tokenizing())
    source = sources.GeneratedSource(lambda split: ROWS, ["train"], FIELDS)
    other_ending = [_TO_TEXTS, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    add("toy_other_ending", source, other_ending)
    rates = list(zip(KEPT, (1.0, 2.0, 3.0), strict=True))
    seqio.MixtureRegistry.add("toy_kept", rates)
    seqio.MixtureRegistry.add("toy_some_kept", [*rates, ("toy_seeded", 1.0)])
    yield
    for name in ("toy_kept", "toy_some_kept"):
        seqio.MixtureRegistry.remove(name)
    for name in (*STEPS, "toy_unnamed", "toy_other_ending"):
        seqio.TaskRegistry.remove(name)


@pytest.fixture(autouse=True)
def _nothing_in_memory(monkeypatch):
    monkeypatch.setattr(token_cache, "_in_memory", {})


CONFIG = pipeline.DataConfig("toy_kept", input_length=12, target_length=6, batch_size=4, seed=3)
WHOLE = seqio.ShardInfo(0, 1)


def _batches(config, count, shard=WHOLE, state=None):
    batches = pipeline.HostBatches(config, "train", shard)
    if state is not None:
        batches.set_state(state)
    return [next(batches) for _ in range(count)]


def _assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# Each mixture and each kind of rows once; the other two pairs are slow.
@pytest.mark.parametrize(
    "pack, mixture",
    [
        (False, "toy_kept"),
        (True, "toy_some_kept"),
        pytest.param(True, "toy_kept", marks=pytest.mark.slow),
        pytest.param(False, "toy_some_kept", marks=pytest.mark.slow),
    ],
)
def test_batches_are_those_that_seqio_gives_without_a_cache(mixture, pack):
    config = dataclasses.replace(CONFIG, mixture=mixture, pack=pack)
    kept = _batches(config, 60)
    _assert_equal(kept, _batches(dataclasses.replace(config, cache_rows=0), 60))
    trim = {"inputs": 12, "targets": 6}
    whole = seqio.get_mixture_or_task(mixture).get_dataset(
        trim, "train", seed=3, num_epochs=None, try_in_mem_cache=False
    )
    whole = seqio.EncDecFeatureConverter(pack=pack)(whole, trim).batch(4).take(60)
    _assert_equal(kept, whole.as_numpy_iterator())
    assert any(batch["decoder_target_tokens"][:, -1].any() for batch in kept)  # some were cut


@pytest.mark.parametrize(
    "name", ["toy_filtered", *(pytest.param(n, marks=pytest.mark.slow) for n in KEPT[1:])]
)
def test_shards_of_a_task_are_those_without_a_cache(name):
    config = dataclasses.replace(CONFIG, mixture=name, hosts_read="own_rows", vocabulary="byte")
    for index in range(3):
        shard = seqio.ShardInfo(index, 3)
        # batch_size 6: two rows a host.
        kept = dataclasses.replace(config, batch_size=6)
        _assert_equal(
            _batches(kept, 70, shard),
            _batches(dataclasses.replace(kept, cache_rows=0), 70, shard),
        )


def test_a_restored_iterator_goes_on_over_kept_tokens(tmp_path):
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path))
    batches = pipeline.HostBatches(config, "train", WHOLE)
    for _ in range(50):
        next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(50)]
    _assert_equal(_batches(config, 50, state=state), expected)
    with pytest.raises(ValueError, match="state has cached_tasks .* this run has"):
        _batches(dataclasses.replace(config, cache_rows=0), 1, state=state)


def test_a_saved_state_holds_numbers_and_not_tokens():
    letters = np.random.default_rng(0).integers(97, 123, (3000, 500), np.uint8)
    rows = [{"inputs": bytes(row).decode(), "targets": "y"} for row in letters]
    source = sources.GeneratedSource(lambda split: rows, ["train"], {"inputs": str, "targets": str})
    seqio.TaskRegistry.add(
        "toy_long",
        source=source,
        preprocessors=features.tokenizing(),
        output_features=features.output_features(),
    )  # a shuffle buffer of 1000 examples
    sizes = []
    try:
        for cache_rows in (3000, 2999):
            config = pipeline.DataConfig("toy_long", 512, 4, 2, cache_rows=cache_rows)
            batches = pipeline.HostBatches(config, "train", WHOLE)
            next(batches)
            sizes.append(len(batches.get_state()))
    finally:
        seqio.TaskRegistry.remove("toy_long")
    assert sizes[0] < 40_000 and sizes[1] > 300_000


def _kept(name, max_rows=90, cache_dir=None):
    task = seqio.get_mixture_or_task(name)
    return token_cache.cached_tokens(task, name, "train", max_rows, cache_dir)


def test_what_is_kept_is_whole_and_knows_its_rows():
    kept = _kept("toy_several")
    expected = [row | {"n": n} for row in ROWS for n in range(row["times"])]
    assert kept.row_splits[-1] == len(expected) == 133
    assert kept.row_splits[:6].tolist() == [0, 0, 1, 3, 6, 6]
    assert kept.lengths("targets").tolist() == [2 * len(row["targets"]) for row in expected]
    assert (kept.values["inputs"] - 3).astype(np.uint8).tobytes().decode() == "".join(
        f"{row['inputs']}{row['n']}" for row in expected
    )
    assert kept.values["inputs"].dtype == np.uint16
    assert _kept("toy_filtered").row_splits[-1] == 60


def test_an_epoch_shuffles_all_rows():
    kept = _kept("toy_plain")
    first, second = kept.order(1, WHOLE), kept.order(2, WHOLE)
    assert sorted(first) == sorted(second) == list(range(90))
    assert np.abs(first - np.arange(90)).max() > 45 and not np.array_equal(first, second)


@pytest.mark.parametrize(
    "name",
    ["toy_paired", "toy_seeded", "toy_random", "toy_by_length", "toy_unnamed", "toy_other_ending"],
)
def test_a_task_that_is_not_the_same_row_by_row_is_read_anew(name):
    assert _kept(name) is None
    assert len(_batches(dataclasses.replace(CONFIG, mixture=name), 3)) == 3


def test_a_task_with_more_rows_is_read_anew():
    assert _kept("toy_plain", max_rows=89) is None
    assert _kept("toy_plain", max_rows=90) is not None


def _made(monkeypatch):
    """Counts how often a task is tokenised."""
    calls = []
    make = token_cache._make
    monkeypatch.setattr(token_cache, "_make", lambda *a: calls.append(a) or make(*a))
    return calls


def _same(one, other):
    return np.array_equal(one.row_splits, other.row_splits) and all(
        np.array_equal(one.values[name], other.values[name])
        and np.array_equal(one.splits[name], other.splits[name])
        for name in ("inputs", "targets")
    )


def test_tokens_are_made_once_in_a_process_and_once_for_a_folder(tmp_path, monkeypatch):
    made = _made(monkeypatch)
    first = _kept("toy_several", cache_dir=str(tmp_path))
    assert _kept("toy_several", cache_dir=str(tmp_path)) is first and len(made) == 1
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("toy_several-train-") and file.suffix == ".npz"
    token_cache._in_memory.clear()
    assert _same(_kept("toy_several", cache_dir=str(tmp_path)), first) and len(made) == 1
    token_cache._in_memory.clear()
    _kept("toy_several")
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_a_damaged_file_is_made_anew(tmp_path, monkeypatch, damage, capsys):
    first = _kept("toy_plain", cache_dir=str(tmp_path))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "bit":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        file.write_bytes({"cut": whole[:-100], "empty": b"", "other": b"text\n"}[damage])
    token_cache._in_memory.clear()
    made = _made(monkeypatch)
    assert _same(_kept("toy_plain", cache_dir=str(tmp_path)), first) and len(made) == 1
    assert capsys.readouterr().out.startswith(f"{file}: damaged, made anew (")
    assert file.read_bytes() == whole and list(tmp_path.iterdir()) == [file]


def test_other_rows_another_prompt_or_vocabulary_are_other_tokens(tmp_path, monkeypatch):
    folder = str(tmp_path)
    _kept("toy_plain", cache_dir=folder)
    made = _made(monkeypatch)
    task = seqio.get_mixture_or_task("toy_plain")
    louder = seqio.map_over_dataset(lambda row: _texts(row) | {"inputs": row["inputs"] + "!"})
    changed = task.replace(preprocessors=[louder, *features.tokenizing()])
    kept = token_cache.cached_tokens(changed, "toy_plain", "train", 90, folder)
    assert kept.values["inputs"][kept.splits["inputs"][1] - 1] == ord("!") + 3 and len(made) == 1
    fewer = sources.GeneratedSource(lambda split: ROWS[:5], ["train"], FIELDS)
    kept = token_cache.cached_tokens(task.replace(source=fewer), "toy_plain", "train", 90, folder)
    assert kept.row_splits[-1] == 5 and len(made) == 2
    ids = seqio.ByteVocabulary(extra_ids=7)
    other = task.replace(output_features=features.output_features(ids))
    token_cache.cached_tokens(other, "toy_plain", "train", 90, folder)
    assert len(made) == 3 and len(list(tmp_path.iterdir())) == 3


def test_a_change_that_only_late_rows_show_is_noticed(tmp_path, monkeypatch):
    old = _kept("toy_plain", cache_dir=str(tmp_path))
    token_cache._in_memory.clear()
    made = _made(monkeypatch)

    def late(row):
        is_late = tf.strings.regex_full_match(row["inputs"], "row [6-8][0-9](row.*)?")
        return _texts(row) | {"targets": tf.where(is_late, "late", row["targets"])}

    task = seqio.get_mixture_or_task("toy_plain")
    steps = [seqio.map_over_dataset(late), *features.tokenizing()]
    changed = task.replace(preprocessors=steps)
    kept = token_cache.cached_tokens(changed, "toy_plain", "train", 90, str(tmp_path))
    assert len(made) == 1 and not _same(kept, old)
    assert kept.lengths("targets")[60:].tolist() == [4] * 30
    assert kept.lengths("targets")[:60].tolist() == old.lengths("targets")[:60].tolist()


REAL = {
    "cascade_superglue_record_v1": "several examples a row",
    "cascade_superglue_wsc_v1": "rows left out",
    "cascade_wmt22_ja_en_v1": "another script",
    "cascade_flan2021_squad_v1_v1": "long texts",
}


@pytest.mark.slow  # the made tasks above take every kind of step
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_batches_of_real_tasks_are_those_without_a_cache(tmp_path):
    before = sources.get_data_dir()
    seqio.MixtureRegistry.add("toy_real", list(REAL), default_rate=1.0)
    try:
        config = pipeline.DataConfig("toy_real", 128, 48, 8, data_dir=str(DATA), pack=True)
        plain = dataclasses.replace(config, cache_rows=0, cache_dir=str(tmp_path))
        _assert_equal(_batches(config, 25), _batches(plain, 25))
        opened = pipeline.open_mixture(config)
        kept = [token_cache.cached_tokens(opened.tasks[name], name, "train", 9999) for name in REAL]
    finally:
        seqio.MixtureRegistry.remove("toy_real")
        sources.set_data_dir(before)
    rows = [len(tokens.row_splits) - 1 for tokens in kept]
    examples = [tokens.row_splits[-1] for tokens in kept]
    assert examples[0] > rows[0] and examples[1] < rows[1] and examples[2:] == rows[2:]
    assert not list(tmp_path.iterdir())  # what is not kept in memory is not kept in files
