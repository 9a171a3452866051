"""Batches: their exact ids, their division over hosts, and saving and restoring their order."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import seqio
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import tasks.demo  # noqa: F401  (registers its tasks)
from cascade_jax.batch import DecoderBatch
from cascade_jax.data import features, pipeline, sources
from cascade_jax.task_metrics import quality

FIELDS = {"inputs": str, "targets": str}


def _register(name, rows_by_split):
    """A task over generated rows, unregistered again by the fixture below."""
    source = sources.GeneratedSource(rows_by_split.__getitem__, tuple(rows_by_split), FIELDS)
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=features.tokenizing(),
        output_features=features.output_features(),
        metric_fns=[quality.accuracy],
    )


def _rows(tag, count):
    return [{"inputs": f"{tag}{i}", "targets": str(i % 7)} for i in range(count)]


@pytest.fixture(scope="module", autouse=True)
def _toy_tasks():
    _register("toy_a", {"train": _rows("a", 40), "validation": _rows("v", 5)})
    _register("toy_b", {"train": _rows("b", 24), "validation": _rows("w", 6)})
    _register("toy_c", {"train": _rows("c", 4)})
    seqio.MixtureRegistry.add("toy_mixture", ["toy_a", "toy_b", "toy_c"], default_rate=1.0)
    yield
    seqio.MixtureRegistry.remove("toy_mixture")
    for name in ("toy_a", "toy_b", "toy_c"):
        seqio.TaskRegistry.remove(name)


def _sharding(data=4, model=2):
    mesh = Mesh(np.array(jax.devices()).reshape(data, model), ("data", "model"))
    return NamedSharding(mesh, PartitionSpec("data"))


CONFIG = pipeline.DataConfig("toy_mixture", input_length=8, target_length=4, batch_size=4)


def _arrays(batch):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]


def _equal(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(np.array_equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_a_batch_from_a_jsonl_folder_has_the_ids_of_its_bytes(tmp_path):
    folder = tmp_path / "some__task"
    folder.mkdir()
    rows = [{"q": "ab", "a": "c"}, {"q": "abcdefgh", "a": "wxyz"}, {"q": "é", "a": "0"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    source = sources.TfdsOrJsonlSource("some/task:1.0.0", {"q": str, "a": str}, {"train": "train"})
    rename = seqio.map_over_dataset(lambda row: {"inputs": row["q"], "targets": row["a"]})
    seqio.TaskRegistry.add(
        "toy_jsonl",
        source=source,
        preprocessors=[rename, *features.tokenizing()],
        output_features=features.output_features(),
    )
    before = sources.get_data_dir()
    try:
        config = pipeline.DataConfig("toy_jsonl", 5, 3, 4, data_dir=str(tmp_path))
        (batch,) = pipeline.eval_batches(config, _sharding(), "train")
    finally:
        seqio.TaskRegistry.remove("toy_jsonl")
        sources.set_data_dir(before)
    # Byte b has id b + 3, EOS is 1; "abcdefgh" and "wxyz" are cut so that EOS stays.
    assert batch.inputs.tolist() == [
        [100, 101, 1, 0, 0],
        [100, 101, 102, 103, 1],
        [0xC3 + 3, 0xA9 + 3, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert batch.targets.tolist() == [[102, 1, 0], [122, 123, 1], [51, 1, 0], [0, 0, 0]]
    assert batch.decoder_inputs.tolist() == [[0, 102, 1], [0, 122, 123], [0, 51, 1], [0, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert batch.weights.dtype == np.float32 and batch.inputs.dtype == np.int32
    assert batch.input_segment_ids is None
    assert batch.inputs.sharding.is_equivalent_to(_sharding(), 2)


@pytest.mark.parametrize(
    "pack, taken",
    [
        pytest.param(False, 0, marks=pytest.mark.slow),  # the others in parts
        (False, 37),
        (True, 0),
        pytest.param(True, 37, marks=pytest.mark.slow),
    ],
)
def test_a_restored_iterator_goes_on_as_if_never_stopped(pack, taken):
    config = dataclasses.replace(CONFIG, pack=pack, seed=5, vocabulary="byte")
    iterator = pipeline.train_batches(config, _sharding())
    for _ in range(taken):
        next(iterator)
    state = iterator.get_state()
    expected = [_arrays(next(iterator)) for _ in range(40)]  # beyond several epochs of toy_c
    fresh = pipeline.train_batches(config, _sharding())
    fresh.set_state(state)
    assert _equal([_arrays(next(fresh)) for _ in range(40)], expected)
    assert len(expected[0]) == (8 if pack else 4)
    assert not _equal(expected[:1], expected[1:2])


_CHILD = """
import pickle, sys
import jax, numpy as np
import tasks.demo
from cascade_jax.data import pipeline
state, output = sys.argv[1:]
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
config = pipeline.DataConfig("demo_last_v1", 16, 8, 8, seed=1, cache_rows=0)
iterator = pipeline.train_batches(config, sharding)
iterator.set_state(open(state, "rb").read())
batches = [[np.asarray(x) for x in jax.tree.leaves(next(iterator))] for _ in range(5)]
pickle.dump(batches, open(output, "wb"))
"""


@pytest.mark.slow  # tests/training/resume_test.py goes on in another process, too
def test_a_new_process_restores_a_task_of_the_demo(tmp_path, repository):
    config = pipeline.DataConfig("demo_last_v1", 16, 8, 8, seed=1, cache_rows=0)
    iterator = pipeline.train_batches(config, _sharding())
    for _ in range(3):
        next(iterator)
    state, output = tmp_path / "state", tmp_path / "batches"
    state.write_bytes(iterator.get_state())
    assert state.stat().st_size < 100_000
    expected = [_arrays(next(iterator)) for _ in range(5)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", _CHILD, str(state), str(output)]
    subprocess.run(command, check=True, env=environment, cwd=repository)
    assert _equal(pickle.loads(output.read_bytes()), expected)


def test_a_state_of_another_run_is_refused():
    state = pipeline.train_batches(CONFIG, _sharding()).get_state()
    other = pipeline.train_batches(dataclasses.replace(CONFIG, seed=9), _sharding())
    with pytest.raises(ValueError, match="iterator state has seed 0; this run has 9"):
        other.set_state(state)
    with pytest.raises(ValueError, match="not a data iterator state"):
        other.set_state(b"nonsense")


def _host_batches(config, shard, count, state=None):
    batches = pipeline.HostBatches(config, "train", shard)
    if state is not None:
        batches.set_state(state)
    return [next(batches) for _ in range(count)]


def _merged(hosts):
    """The rows of all hosts below each other, batch by batch."""
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*hosts, strict=True)
    ]


def _assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("mixture", "pack", "cache_rows"),
    [
        ("toy_a", False, 100),
        ("toy_mixture", True, 100),
        pytest.param("toy_mixture", False, 0, marks=pytest.mark.slow),  # the two above together
    ],
)
def test_four_hosts_have_together_the_batches_of_one(mixture, pack, cache_rows):
    config = dataclasses.replace(
        CONFIG, mixture=mixture, pack=pack, batch_size=8, seed=7, cache_rows=cache_rows
    )
    one = pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
    hosts = [pipeline.HostBatches(config, "train", seqio.ShardInfo(i, 4)) for i in range(4)]
    before = [next(one) for _ in range(12)]  # more than an epoch of each task
    _assert_same(_merged([[next(host) for _ in range(12)] for host in hosts]), before)
    of_one, of_second = one.get_state(), hosts[1].get_state()
    after = [next(one) for _ in range(12)]
    # A run of one host goes on with four, and one of four hosts with one.
    for host in hosts:
        host.set_state(of_one)
    _assert_same(_merged([[next(host) for _ in range(12)] for host in hosts]), after)
    one.set_state(of_second)
    _assert_same([next(one) for _ in range(12)], after)


def test_two_hosts_that_read_their_own_rows_have_together_all():
    config = dataclasses.replace(CONFIG, mixture="toy_a", shuffle_buffer=1, hosts_read="own_rows")
    vocabulary = pipeline.open_mixture(config).vocabulary

    def texts(shard):
        batches = _host_batches(config, shard, 10)  # 10 batches of 4: one epoch
        rows = np.concatenate([batch["encoder_input_tokens"] for batch in batches])
        return [vocabulary.decode(row.tolist()) for row in rows]

    one_host = texts(seqio.ShardInfo(0, 1))
    hosts = [texts(seqio.ShardInfo(index, 2)) for index in range(2)]
    assert not set(hosts[0]) & set(hosts[1])
    assert sorted(hosts[0] + hosts[1]) == sorted(one_host)
    assert sorted(one_host) == sorted(row["inputs"] for row in _rows("a", 40))
    state = pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 2)).get_state()
    with pytest.raises(ValueError, match=r"has shard \[0, 2\]; this run has \[1, 2\]"):
        _host_batches(config, seqio.ShardInfo(1, 2), 1, state)


@pytest.mark.medium
@pytest.mark.parametrize("pack", [False, True])
def test_batches_for_a_decoder_only_model_are_global_arrays(pack):
    config = dataclasses.replace(CONFIG, architecture="prefix_lm", pack=pack)
    batch = next(pipeline.train_batches(config, _sharding()))
    assert isinstance(batch, DecoderBatch)
    leaves = jax.tree.leaves(batch)
    assert len(leaves) == (6 if pack else 4) and {leaf.shape for leaf in leaves} == {(4, 12)}
    assert batch.weights.dtype == np.float32 and batch.tokens.dtype == np.int32
    assert all(leaf.sharding.is_equivalent_to(_sharding(), 2) for leaf in leaves)
    *_, last = pipeline.eval_batches(config, _sharding())
    if pack:  # "w2" to "w5" with targets "2" to "5" in two rows
        assert last.segment_ids[1].tolist() == [1] * 5 + [2] * 5 + [0] * 2
        assert last.targets[1].tolist() == [122, 55, 1, 55, 1, 122, 56, 1, 56, 1, 0, 0]
        assert np.asarray(last.weights).sum(axis=1).tolist() == [4, 4, 0, 0]
    else:  # "w3", "w4", "w5", and a row that is filled up
        assert last.targets[2].tolist() == [122, 56, 1, 56, 1] + [0] * 7
        assert np.asarray(last.weights).sum(axis=1).tolist() == [2, 2, 2, 0]
        assert last.segment_ids is None


def test_the_seed_sets_the_order():
    def first(seed):
        config = dataclasses.replace(CONFIG, seed=seed)
        return [_arrays(next(pipeline.train_batches(config, _sharding())))]

    assert _equal(first(1), first(1))
    assert not _equal(first(1), first(2))


def test_host_shard_follows_the_rows_that_the_devices_hold():
    class Held:
        """A sharding of which this process holds some rows."""

        def __init__(self, *rows):
            self.rows = rows

        def shard_shape(self, shape):
            return shape

        def addressable_devices_indices_map(self, shape):
            return {i: (rows, slice(None)) for i, rows in enumerate(self.rows)}

    assert pipeline.host_shard(_sharding(), 8, 3) == seqio.ShardInfo(0, 1)
    second_half = Held(slice(4, 6), slice(6, 8), slice(6, 8))
    assert pipeline.host_shard(second_half, 8, 3) == seqio.ShardInfo(1, 2)
    with pytest.raises(ValueError, match=r"one equal block .* holds rows \[0, 1, 4, 5\]"):
        pipeline.host_shard(Held(slice(0, 2), slice(4, 6)), 8, 3)
    with pytest.raises(ValueError, match="batch_size 6 does not divide over the mesh"):
        pipeline.train_batches(dataclasses.replace(CONFIG, batch_size=6), _sharding())


def test_evaluation_is_one_pass_in_order_with_a_filled_up_last_batch():
    batches = list(pipeline.eval_batches(CONFIG, _sharding()))
    vocabulary = pipeline.open_mixture(CONFIG).vocabulary
    rows = np.concatenate([np.asarray(batch.inputs) for batch in batches])
    texts = [vocabulary.decode(row.tolist()) for row in rows]
    expected = [row["inputs"] for row in _rows("v", 5) + _rows("w", 6)]  # toy_c has no validation
    assert texts == [*expected, ""]
    assert np.asarray(batches[-1].weights).sum(axis=1).tolist() == [2, 2, 2, 0]
    assert len(list(pipeline.eval_batches(CONFIG, _sharding(), max_batches=2))) == 2


def test_examples_for_decoding_have_texts_ids_and_targets():
    examples = list(pipeline.decode_examples(CONFIG, "toy_b", "validation"))
    assert [example.example_id for example in examples] == [
        f"toy_b/validation/{i}" for i in range(6)
    ]
    example = examples[3]
    assert (example.inputs_text, example.target_text, example.target) == ("w3", "3", "3")
    assert example.inputs.tolist() == [ord("w") + 3, ord("3") + 3, 1, 0, 0, 0, 0, 0]
    assert example.inputs.dtype == np.int32
    groups = list(pipeline.batch_inputs(examples, 4, _sharding()))
    assert [len(group) for group, _ in groups] == [4, 2]
    rows = [e.inputs.tolist() for e in (examples[4], examples[5], examples[5], examples[5])]
    assert groups[1][1].tolist() == rows
    assert len(list(pipeline.decode_examples(CONFIG, "toy_b", "validation", limit=2))) == 2


def test_unknown_names_and_splits_say_what_there_is():
    with pytest.raises(ValueError, match="'toy_mixtur'; .* nearest are toy_mixture"):
        pipeline.open_mixture(dataclasses.replace(CONFIG, mixture="toy_mixtur"))
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['train', 'validation'\]"):
        next(pipeline.decode_examples(CONFIG, "toy_a", "dev"))
    with pytest.raises(ValueError, match="has no task 'toy_x'; nearest: toy_"):
        next(pipeline.decode_examples(CONFIG, "toy_x", "train"))
    with pytest.raises(ValueError, match=r"has a split 'dev'; there are \['train', 'validation'\]"):
        next(pipeline.eval_batches(CONFIG, _sharding(), "dev"))
    with pytest.raises(FileNotFoundError, match="vocabulary '/none.model' does not exist"):
        pipeline.open_mixture(dataclasses.replace(CONFIG, vocabulary="/none.model"))
