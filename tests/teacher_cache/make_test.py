"""Training from a cache is training beside the teacher; what can go wrong with one is refused.

The task is small and in memory, the models are tiny, and dropout and microbatches are part of what
must come out the same.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from cascade_jax.batch import Batch
from cascade_jax.data import example_keys, features, pipeline, sources
from cascade_jax.losses import variants
from cascade_jax.models import families
from cascade_jax.parallel import hosts, rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, parameters
from cascade_jax.runs.saved_model import CascadeRuns
from cascade_jax.teacher_cache import batches as cached_batches
from cascade_jax.teacher_cache import facts as teacher_facts
from cascade_jax.teacher_cache import identity, make, shards
from cascade_jax.teacher_cache.format import Holding
from cascade_jax.training import experiment
from cascade_jax.training import run as run_lib
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.programs import Programs
from cascade_jax.training.run import train_one
from tests.support import fakes, saved

pytestmark = pytest.mark.medium

VOCAB = 384
STEPS = 8
DATA = pipeline.DataConfig("cached_v1", 12, 8, batch_size=16, cache_rows=0)
STUDENT = fakes.t5_config(8, vocab_size=VOCAB, dropout_rate=0.1)
TEACHER = fakes.t5_config(16, vocab_size=VOCAB)
FOLDERS = {"bits": {}, "all": {"top_k": VOCAB}, "few": {"top_k": 8, "dtype": "uint8"}}


def rows(split: str) -> list[dict[str, str]]:
    """Of 150 rows some occur twice; those of another split are others."""
    count = {"train": 150, "validation": 40}[split]
    return [{"inputs": f"{split[0]}{i % 140}", "targets": "ab" * (i % 3 + 1)} for i in range(count)]


def register(name: str, prompt: str = "", steps=()) -> None:
    def read(split):
        return [row | {"inputs": prompt + row["inputs"]} for row in rows(split)]

    seqio.TaskRegistry.add(
        name,
        source=sources.GeneratedSource(
            read, ("train", "validation"), {"inputs": str, "targets": str}
        ),
        preprocessors=[*steps, *features.tokenizing()],
        output_features=features.output_features(),
    )


@pytest.fixture(scope="module", autouse=True)
def task():
    register("cached_v1")
    yield
    seqio.TaskRegistry.remove("cached_v1")


def run_config(name: str, loss, **changes) -> experiment.TrainRun:
    settings = dict(
        model=STUDENT,
        data=DATA,
        optimizer=Adafactor(0.05, warmup_steps=2),
        steps=STEPS,
        teacher=TEACHER,
        teacher_run="teacher",
        microbatches=2,
        eval_batches=2,
        log_every=1,
        checkpoint_every=4,
        eval_every=4,
    )
    return experiment.TrainRun(name=name, loss=loss, **(settings | changes))


def cache_config(folder: Path, name: str, /, **changes) -> make.CacheConfig:
    settings = dict(
        folder=str(folder / name),
        cascade=CascadeRuns(str(folder), ["student"], ["teacher"], changes.pop("data", DATA)),
        eval_batches=2,
        shard_rows=48,
    )
    return make.CacheConfig(**(settings | changes))


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig().build(jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(task, mesh, tmp_path_factory):
    """A trained teacher, caches of it, and a student trained beside it."""
    folder = tmp_path_factory.mktemp("experiment")
    learning = Adafactor(0.1, warmup_steps=2)
    teacher = run_config(
        "teacher", variants.Xent(), model=TEACHER, teacher=None, teacher_run=None,
        steps=20, optimizer=learning, microbatches=1, checkpoint_every=20,
    )  # fmt: skip
    train_one(teacher, folder, mesh)
    for name, changes in FOLDERS.items():
        make.make(cache_config(folder, name, **changes), mesh)
    train_one(run_config("cat_xent", variants.CATXent()), folder, mesh)
    return folder


def without_teacher(monkeypatch):
    def load(*args):
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(parameters, "load_teacher", load)
    monkeypatch.setattr(parameters, "load", load)


def figures(run: Path) -> list[dict]:
    """What was logged, but for what depends on the clock or is not known of a cache."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = re.compile("second|goodput|teacher_kl|flops")
    return [{key: line[key] for key in line if not clocks.search(key)} for line in lines]


def assert_same_figures(run: Path, other: Path) -> None:
    """Up to rounding: with and without a teacher a step is another program."""
    for ours, expected in zip(figures(run), figures(other), strict=True):
        assert ours.pop("split") == expected.pop("split")
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)


def cached(folder: Path, cache: str, name: str, loss, **changes) -> experiment.TrainRun:
    return run_config(name, loss, teacher_cache=str(folder / cache), **changes)


# ------------------------------------------------------------------ training


def train_beside_no_teacher(folder, cache, loss, mesh, to: Path) -> None:
    """Trains `run` from a cache where a teacher that is loaded fails the test."""
    shutil.copytree(folder / "teacher", to / "teacher")
    with pytest.MonkeyPatch.context() as patch:
        without_teacher(patch)
        train_one(cached(folder, cache, "run", loss), to, mesh)


@pytest.fixture(scope="module")
def from_bits(folder, mesh, tmp_path_factory):
    """CAT-Xent from the cache of bits."""
    to = tmp_path_factory.mktemp("bits")
    train_beside_no_teacher(folder, "bits", variants.CATXent(), mesh, to)
    return to / "run"


def check_cat_xent(folder, run):
    expected = figures(folder / "cat_xent")
    assert_same_figures(run, folder / "cat_xent")
    assert len(expected) == STEPS + 2
    right = [line["teacher_token_accuracy"] for line in expected]
    assert 0 < min(right) and max(right) < 1  # both kinds of tokens were there
    saved.assert_close_end(run, folder / "cat_xent", STEPS)


def test_cat_xent_from_bits_is_that_beside_the_teacher(folder, from_bits):
    check_cat_xent(folder, from_bits)


@pytest.mark.slow
def test_cat_xent_from_the_whole_distribution_is_that_beside_the_teacher(folder, mesh, tmp_path):
    train_beside_no_teacher(folder, "all", variants.CATXent(), mesh, tmp_path)
    check_cat_xent(folder, tmp_path / "run")


@pytest.mark.slow  # what is kept is compared below, the loss from it in losses/fused_test.py
def test_cat_dist_from_the_whole_distribution_is_that_beside_the_teacher(folder, mesh, tmp_path):
    train_one(run_config("cat_dist", variants.CATDist()), folder, mesh)
    train_beside_no_teacher(folder, "all", variants.CATDist(), mesh, tmp_path)
    ours, theirs = figures(tmp_path / "run"), figures(folder / "cat_dist")
    assert len(ours) == len(theirs) == STEPS + 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_a_run_that_is_stopped_goes_on_bitwise(folder, mesh, from_bits, tmp_path):
    class Stop(hosts.StopSignal):
        calls = 0

        def asked(self):
            self.calls += 1
            return self.calls == 3  # two steps are done

    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    run = cached(folder, "bits", "run", variants.CATXent())
    with pytest.raises(hosts.Stopped):
        train_one(run, tmp_path, mesh, Stop())
    assert checkpoints.chosen_step(tmp_path / "run", "last") == 2
    # The teacher itself is gone meanwhile: the cache knows which it was.
    shutil.rmtree(tmp_path / "teacher")
    train_one(run, tmp_path, mesh)
    saved.assert_same_end(tmp_path / "run", from_bits, STEPS)


def test_a_saved_position_is_that_of_the_next_step(folder, mesh):
    """Whatever was read ahead, also when it is saved again before all of that is given out."""
    run = cached(folder, "few", "run", variants.CATDist())
    mixture = pipeline.open_mixture(DATA)

    def opened():
        return cached_batches.open_batches(run, mixture, mesh)[0]

    straight, batches = opened(), opened()
    expected = [next(straight) for _ in range(7)]
    actual = [next(batches)]
    for taken in (1, 0, 2, 3):
        state = batches.get_state()
        batches = opened()
        batches.set_state(state)
        actual += [next(batches) for _ in range(taken)]
    for mine, theirs in zip(actual, expected, strict=True):
        for ours, other in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True):
            np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("loss", [variants.CATXent(), variants.CATDist()])
def test_the_shapes_of_facts_are_known_without_data(folder, mesh, loss):
    run = cached(folder, "few", "run", loss)
    batches, _ = cached_batches.open_batches(run, pipeline.open_mixture(DATA), mesh)
    facts = next(batches).teacher
    expected = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), facts)
    actual = cached_batches.fact_shapes(run, rules.batch_sharding(mesh))
    assert expected == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), actual)


# ------------------------------------------------------------------ what is kept


def log_softmax(logits) -> np.ndarray:
    """In float64."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    "pack, cache",
    [
        *((False, cache) for cache in FOLDERS),
        (True, "all"),
        pytest.param(True, "bits", marks=pytest.mark.slow),
        pytest.param(True, "few", marks=pytest.mark.slow),
    ],
)
def test_facts_are_those_of_whole_logits(folder, mesh, cache, pack):
    data = dataclasses.replace(DATA, pack=pack, input_length=24, target_length=20) if pack else DATA
    run = dataclasses.replace(cached(folder, cache, "run", variants.CATDist()), data=data)
    holding = Holding(VOCAB, **FOLDERS[cache])
    lookup = cached_batches.Lookup(run, pipeline.open_mixture(data), holding)
    lookup._needs_top_k = holding.top_k > 0
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arguments = pipeline.HostBatches(data, "train", pipeline.host_shard(one, 16, data.row_length))
    rows = next(arguments)
    facts = lookup(rows, "train")
    batch = Batch(**vars(pipeline.to_global_batch(rows, one, 16)))
    step = checkpoints.chosen_step(folder / "teacher", "best")
    params = parameters.load(folder / "teacher", step, TEACHER, mesh)
    log_p = log_softmax(fakes.logits(families.build(TEACHER), params, batch))
    counted = np.asarray(batch.weights) != 0
    assert not pack or np.asarray(batch.target_segment_ids).max() > 1
    of_label = np.take_along_axis(log_p, np.asarray(batch.targets)[..., None], -1)[..., 0]
    is_best = of_label >= log_p.max(-1) - 1e-7
    if not holding.top_k:
        np.testing.assert_array_equal(np.asarray(facts.is_correct)[counted], is_best[counted])
        assert not facts.is_correct[~counted].any()
        return
    np.testing.assert_array_equal(np.asarray(facts.label_is_best)[counted], is_best[counted])
    error = {"float32": 0.0, "uint16": 0.00025, "uint8": 0.032}[holding.dtype] + 1e-5
    ids = facts.ids[counted].astype(int)
    assert len(set(ids[0])) == holding.top_k
    at_ids = np.take_along_axis(log_p[counted], ids, -1)
    floor = -16 if holding.dtype == "uint8" else -np.inf
    np.testing.assert_allclose(facts.log_probs[counted], np.maximum(at_ids, floor), atol=error)
    largest = -np.sort(-log_p[counted], axis=-1)[:, : holding.top_k]
    np.testing.assert_allclose(at_ids, largest, atol=1e-5)
    if holding.has_tail:
        tail = np.log(np.maximum(1 - np.exp(at_ids).sum(-1), 1e-300))
        np.testing.assert_allclose(facts.log_tail[counted], np.maximum(tail, floor), atol=2 * error)


def test_a_teacher_that_reads_packed_rows_says_the_same_of_fewer_rows(folder, mesh, tmp_path):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    data = dataclasses.replace(DATA, input_length=24, target_length=20)
    examples = [
        example.key
        for batch in pipeline.rows_once(data, one, "train")
        for example in example_keys.examples_of(batch, data.architecture)
    ]
    kept, num_batches = {}, {}
    for pack in (False, True):
        data = dataclasses.replace(data, pack=pack)
        num_batches[pack] = len(list(pipeline.rows_once(data, one, "train")))
        config = cache_config(folder, "unused", data=data, top_k=8)
        config = dataclasses.replace(config, folder=str(tmp_path / f"pack_{pack}"))
        make.make(config, mesh)
        holding = Holding(VOCAB, top_k=8)
        reader = shards.CacheReader(Path(config.folder), holding, _digest(Path(config.folder)), "")
        kept[pack] = reader.find(examples)
    assert num_batches[True] < num_batches[False] / 2
    assert len(kept[True]) == len(examples) == 150
    for ours, theirs in zip(*kept.values(), strict=True):
        np.testing.assert_array_equal(ours.label_is_best, theirs.label_is_best)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
    with pytest.raises(shards.TeacherCacheError, match="pack is True there and None here"):
        make.check(dataclasses.replace(config, cascade=cache_config(folder, "x").cascade))


def test_every_example_is_kept_once_in_a_shard(folder):
    complete = json.loads((folder / "bits" / "complete.json").read_text())
    examples = [
        facts["examples"]
        for name, facts in sorted(
            shards.shards_in(folder / "bits", _digest(folder / "bits")).items()
        )
        if name.startswith("train")
    ]
    assert examples == [48, 48, 48, 6]
    assert complete["splits"]["train"]["examples"] == 150
    tokens = [2 * (i % 3 + 1) + 1 for i in range(150)]
    assert complete["splits"]["train"]["tokens"] == sum(tokens)
    assert complete["splits"]["validation"]["examples"] == 32


def _digest(cache: Path) -> str:
    return identity.digest(json.loads((cache / "fingerprint.json").read_text()))


# ------------------------------------------------------------------ making


def contents(cache: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache.iterdir() if "-of-" in file.name}


def test_making_goes_on_where_it_was_stopped(folder, mesh, tmp_path, monkeypatch):
    config = cache_config(folder, "again", folder=str(tmp_path / "cache"), **FOLDERS["few"])
    calls = []
    make_facts_fn = teacher_facts.make_facts_fn

    def counted(*args):
        facts_fn = make_facts_fn(*args)

        def call(params, batch):
            calls.append(len(batch.targets))
            return facts_fn(params, batch)

        return call

    monkeypatch.setattr(teacher_facts, "make_facts_fn", counted)
    with monkeypatch.context() as patch:
        patch.setattr(hosts.StopSignal, "asked", lambda self: len(calls) == 7)
        with pytest.raises(hosts.Stopped, match="whole shards stay"):
            make.make(config, mesh)
    cache = tmp_path / "cache"
    # Two batches of held-out rows and three of the first group; the second group is done again.
    assert len(list(cache.glob("*.index.npz"))) == 2
    run = run_config("run", variants.CATXent(), teacher_cache=str(cache))
    with pytest.raises(ValueError, match="is not finished; finish it: `cascade-jax cache-") as said:
        run_lib.check(Programs(run, mesh), folder)
    begun = f"--gin.CACHE_BATCH_SIZE={config.rows_at_once} --gin.CACHE_SHARD_ROWS="
    assert f"{begun}{config.shard_rows}" in str(said.value)
    other = dataclasses.replace(config, shard_rows=config.shard_rows * 2)
    with pytest.raises(ValueError, match="give what it was begun with: .*CACHE_TOP_K=") as said:
        make.check(other)
    assert f"{begun}{config.shard_rows}" in str(said.value)
    (cache / ".train-00001-0-of-1.array_record.0.tmp").write_text("of one that was killed")
    for ending in (".array_record", ".index.npz"):  # half a group, of two hosts
        shard = (cache / f"train-00000-0-of-1{ending}").read_bytes()
        (cache / f"train-00001-1-of-2{ending}").write_bytes(shard)
    calls.clear()
    make.make(config, mesh)
    assert len(calls) == 7  # of the ten of the training split
    complete = [json.loads((at / "complete.json").read_text()) for at in (cache, folder / "few")]
    for split in ("train", "validation"):
        examples = [each["splits"][split]["examples"] for each in complete]
        assert examples[0] == examples[1]
    for ending in (".array_record", ".index.npz"):
        (cache / f"train-00001-1-of-2{ending}").unlink()  # nothing reads it
    assert contents(cache).keys() == contents(folder / "few").keys()
    same = contents(cache).items() & contents(folder / "few").items()
    assert {name for name, _ in same} >= {n for n in contents(cache) if n.endswith("record")}
    assert not list(cache.glob(".*.tmp"))
    calls.clear()
    make.make(config, mesh)  # complete
    (cache / "train-00002-0-of-1.array_record").unlink()
    make.make(config, mesh)  # that shard again
    assert len(calls) == 3
    assert contents(cache).keys() == contents(folder / "few").keys()


def test_a_part_has_the_first_rows_and_no_run_trains_from_it(folder, mesh, tmp_path, capsys):
    place = f"{tmp_path}/cache"
    config = cache_config(folder, "part", folder=place, limit=20)
    for end in ("", "nothing to do"):
        make.make(config, mesh)
        complete = json.loads((tmp_path / "cache" / "complete.json").read_text())
        assert complete["splits"]["train"]["examples"] == 20
        printed = capsys.readouterr().out
        assert end in printed and "a part: the first 20 rows of each task" in printed
    run = run_config("run", variants.CATXent(), teacher_cache=place)
    with pytest.raises(ValueError, match="is a part, .*: it holds the first 20 rows of each task"):
        run_lib.check(Programs(run, mesh), folder)
    with pytest.raises(ValueError, match="limit is 20 there and None here.*--gin.CACHE_LIMIT=20"):
        make.check(cache_config(folder, "part", folder=place))


def test_hosts_that_do_not_see_one_folder_make_no_cache(folder, mesh, tmp_path, monkeypatch):
    config = cache_config(folder, "apart", folder=str(tmp_path / "cache"))
    # As if another host held these rows, and wrote them to a disk of its own.
    monkeypatch.setattr(make.placement, "is_first_holder", lambda *args: False)
    with pytest.raises(ValueError, match="of group 0 of split 'validation' not all parts are here"):
        make.make(config, mesh)
    assert not (tmp_path / "cache" / "complete.json").exists()


def test_a_folder_of_another_cache_is_not_written_to(folder, mesh):
    before = contents(folder / "bits")
    config = cache_config(folder, "bits", top_k=4)
    with pytest.raises(ValueError, match="holding.top_k is 0 there and 4 here. Choose another"):
        make.make(config, mesh)
    assert contents(folder / "bits") == before


def test_other_parameters_under_the_same_name_are_refused(folder, mesh, tmp_path):
    cache = tmp_path / "bits"
    shutil.copytree(folder / "bits", cache)
    fingerprint = json.loads((cache / "fingerprint.json").read_text())
    fingerprint["teacher"]["parameters"] = "0123"
    (cache / "fingerprint.json").write_text(json.dumps(fingerprint))
    (cache / "complete.json").unlink()
    with pytest.raises(ValueError, match="teacher.parameters is '0123' there and '"):
        make.make(cache_config(folder, "bits", folder=str(cache)), mesh)


def test_a_teacher_that_says_nan_is_named_with_the_example(folder, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "load", _with_nan(parameters.load))
    config = cache_config(folder, "nan", folder=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="says NaN of an example of split 'validation': inp"):
        make.make(config, mesh)
    assert not contents(tmp_path / "cache")


def _with_nan(load):
    def loaded(*args):
        return jax.tree.map(lambda leaf: leaf * np.nan, load(*args))

    return loaded


@pytest.mark.parametrize("is_told", [True, False])
def test_rows_that_are_made_anew_each_time_are_refused(folder, tmp_path, mesh, is_told):
    """Whether or not seqio hands the preprocessor a seed by name."""

    @seqio.map_over_dataset(num_seeds=1)
    def numbered(row, seed):
        number = tf.random.stateless_uniform([], seed, 0, 1000, tf.int32)
        return row | {"inputs": row["inputs"] + tf.strings.as_string(number)}

    register("anew_v1", steps=[numbered if is_told else lambda dataset: numbered(dataset)])
    data = dataclasses.replace(DATA, mixture="anew_v1")
    try:
        with pytest.raises(ValueError, match="'anew_v1' .* makes other examples of its rows each"):
            make.make(cache_config(folder, "anew", data=data, folder=f"{tmp_path}/anew"), mesh)
    finally:
        seqio.TaskRegistry.remove("anew_v1")


# ------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teacher": fakes.t5_config(16, vocab_size=VOCAB, mlp_dim=8)},
         "teacher.model.mlp_dim is 32 there and 8 here"),
        ({"data": dataclasses.replace(DATA, target_length=7)},
         "data.target_length is 8 there and 7 here"),
        ({"eval_batches": 3}, "holds 32 rows of split 'validation', and this run evaluates on 48"),
        ({"eval_split": "test"}, "no task of 'cached_v1' has a split 'test'"),
        ({"loss": variants.CATDist()},
         r"holds only whether the teacher is right, and CATDist needs the teacher's distribution; "
         r"make one that holds it: .*--gin.CACHE_TOP_K=64"),
        ({"loss": variants.Gatekeeper(labels="teacher")}, "needs the teacher's most likely token"),
        ({"teacher_cache": "/nowhere"}, "teacher cache /nowhere is not there; make it: `cascade"),
    ],
)  # fmt: skip
def test_a_cache_that_does_not_fit_is_refused(folder, mesh, changes, message):
    settings = {"loss": variants.CATXent(), "teacher_cache": str(folder / "bits")} | changes
    with pytest.raises(ValueError, match=message):
        run_lib.check(Programs(run_config("run", **settings), mesh), folder)


def test_a_teacher_that_was_trained_anew_is_refused(folder, mesh, tmp_path):
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    (saved_at,) = (tmp_path / "teacher" / "checkpoints").glob("*/_CHECKPOINT_METADATA")
    facts = json.loads(saved_at.read_text())
    there = facts["commit_timestamp_nsecs"]
    saved_at.write_text(json.dumps(facts | {"commit_timestamp_nsecs": there + 5}))
    run = cached(folder, "bits", "run", variants.CATXent())
    message = f"teacher.saved_at is {there} there and {there + 5} here"
    with pytest.raises(ValueError, match=message):
        run_lib.check(Programs(run, mesh), tmp_path)


def test_a_changed_prompt_is_refused_at_the_start_and_a_changed_row_by_its_text(
    folder, mesh, monkeypatch
):
    run = cached(folder, "bits", "run", variants.CATXent())
    mixture = pipeline.open_mixture(DATA)
    lookup = cached_batches.Lookup(run, mixture, Holding(VOCAB))
    seqio.TaskRegistry.remove("cached_v1")
    try:
        register("cached_v1", prompt="Q: ")
        with pytest.raises(ValueError, match=r"data.examples.cached_v1 is '\w+' there and '\w+' h"):
            run_lib.check(Programs(run, mesh), folder)
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        changed = next(pipeline.rows_once(DATA, one, "train"))
        with pytest.raises(ValueError, match="not have an example .*: inputs 'Q: t0' and targets"):
            lookup(changed, "train")
    finally:
        seqio.TaskRegistry.remove("cached_v1")
        register("cached_v1")


def test_a_cache_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="teacher_cache is 'x' and there is no teacher"):
        run_config("run", variants.Xent(), teacher=None, teacher_run=None, teacher_cache="x")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"folder": None}, "folder of the teacher cache is None; must be a path, e.g. --gin.TEACH"),
        ({"shard_rows": 0}, "shard_rows is 0; must be an integer of at least 1"),
        ({"batch_size": True}, "batch_size is True"),
        (
            {"hang_seconds": 0},
            "hang_seconds is 0; must be a number above 0, or None",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        cache_config(tmp_path, "cache", **changes)


def test_more_tokens_than_the_teacher_has_are_refused(folder, tmp_path):
    config = cache_config(folder, "wide", folder=f"{tmp_path}/cache", top_k=VOCAB + 1)
    with pytest.raises(ValueError, match="top_k is 385; must be 0 .none. to 384"):
        make.check(config)
