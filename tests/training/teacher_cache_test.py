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

from cascade_jax.batch import Batch
from cascade_jax.data import features, pipeline, sources
from cascade_jax.losses import variants
from cascade_jax.models import families
from cascade_jax.parallel import hosts
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.training import (
    checkpoints,
    loop,
    one_run,
    saved,
    taught_batches,
    teacher_cache,
    teacher_cache_shards,
)
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.teacher_cache_format import Holding
from tests import fakes
from tests.training import resume_test

VOCAB = 384
STEPS = 8
DATA = pipeline.DataConfig("cached_v1", 12, 8, batch_size=16, cache_rows=0)
STUDENT = fakes.t5_config(8, vocab_size=VOCAB, dropout_rate=0.1)
TEACHER = fakes.t5_config(16, vocab_size=VOCAB)
FOLDERS = {"bits": {}, "all": {"top_k": VOCAB}, "few": {"top_k": 8, "dtype": "uint8"}}


def rows(split: str) -> list[dict[str, str]]:
    """Of 150 rows some occur twice; those of another split are others."""
    count = {"train": 150, "validation": 40}[split]
    return [{"inputs": f"{split[0]}{i % 140}", "targets": "ab" * (i % 4 + 1)} for i in range(count)]


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


def run_config(name: str, loss, **changes) -> loop.TrainRun:
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
    return loop.TrainRun(name=name, loss=loss, **(settings | changes))


def cache_config(folder: Path, name: str, **changes) -> teacher_cache.CacheConfig:
    settings = dict(
        folder=str(folder / name),
        teacher=TEACHER,
        teacher_run="teacher",
        experiment_dir=str(folder),
        data=DATA,
        eval_batches=2,
        shard_rows=48,
    )
    return teacher_cache.CacheConfig(**(settings | changes))


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig().build(jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(task, mesh, tmp_path_factory):
    """A trained teacher, caches of it, and two students trained beside it."""
    folder = tmp_path_factory.mktemp("experiment")
    learning = Adafactor(0.1, warmup_steps=2)
    teacher = run_config(
        "teacher", variants.Xent(), model=TEACHER, teacher=None, teacher_run=None,
        steps=20, optimizer=learning, microbatches=1, checkpoint_every=20,
    )  # fmt: skip
    loop.train_one(teacher, folder, mesh)
    for name, changes in FOLDERS.items():
        teacher_cache.make(cache_config(folder, name, **changes), mesh)
    loop.train_one(run_config("cat_xent", variants.CATXent()), folder, mesh)
    loop.train_one(run_config("cat_dist", variants.CATDist()), folder, mesh)
    return folder


def without_teacher(monkeypatch):
    def load(*args):
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(one_run, "load_teacher", load)
    monkeypatch.setattr(saved, "load", load)


def figures(run: Path) -> list[dict]:
    """What was logged, but for what depends on the clock or is not known of a cache."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = re.compile("second|goodput|teacher_kl|flops")
    return [{key: line[key] for key in line if not clocks.search(key)} for line in lines]


def same_end(run: Path, other: Path) -> None:
    mine, theirs = (resume_test.arrays(each / "checkpoints" / str(STEPS)) for each in (run, other))
    assert mine.keys() == theirs.keys() and len(mine) > 10
    for name, array in theirs.items():
        np.testing.assert_array_equal(mine[name], array, err_msg=name)


def cached(folder: Path, cache: str, name: str, loss, **changes) -> loop.TrainRun:
    return run_config(name, loss, teacher_cache=str(folder / cache), **changes)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("cache", ["bits", "all"])
def test_cat_xent_from_a_cache_is_bitwise_that_beside_the_teacher(
    folder, mesh, monkeypatch, tmp_path, cache
):
    without_teacher(monkeypatch)
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    loop.train_one(cached(folder, cache, "run", variants.CATXent()), tmp_path, mesh)
    expected = figures(folder / "cat_xent")
    assert figures(tmp_path / "run") == expected
    assert len(expected) == STEPS + 2
    right = [line["teacher_token_accuracy"] for line in expected]
    assert 0 < min(right) and max(right) < 1  # both kinds of tokens were there
    same_end(tmp_path / "run", folder / "cat_xent")


def test_cat_dist_from_the_whole_distribution_is_that_beside_the_teacher(
    folder, mesh, monkeypatch, tmp_path
):
    without_teacher(monkeypatch)
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    loop.train_one(cached(folder, "all", "run", variants.CATDist()), tmp_path, mesh)
    ours, theirs = figures(tmp_path / "run"), figures(folder / "cat_dist")
    assert len(ours) == len(theirs) == STEPS + 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_a_run_that_is_stopped_goes_on_bitwise(folder, mesh, tmp_path):
    class Stop(hosts.StopSignal):
        calls = 0

        def asked(self):
            self.calls += 1
            return self.calls == 3  # two steps are done

    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    run = cached(folder, "bits", "run", variants.CATXent())
    with pytest.raises(hosts.Stopped):
        loop.train_one(run, tmp_path, mesh, Stop())
    assert checkpoints.chosen_step(tmp_path / "run", "last") == 2
    # The teacher itself is gone meanwhile: the cache knows which it was.
    shutil.rmtree(tmp_path / "teacher")
    loop.train_one(run, tmp_path, mesh)
    same_end(tmp_path / "run", folder / "cat_xent")


def test_a_saved_position_is_that_of_the_next_step(folder, mesh):
    """Whatever was read ahead, also when it is saved again before all of that is given out."""
    run = cached(folder, "few", "run", variants.CATDist())
    mixture = pipeline.open_mixture(DATA)

    def opened():
        return taught_batches.open_batches(run, mixture, mesh)[0]

    straight, batches = opened(), opened()
    expected = [next(straight) for _ in range(7)]
    found = [next(batches)]
    for taken in (1, 0, 2, 3):
        state = batches.get_state()
        batches = opened()
        batches.set_state(state)
        found += [next(batches) for _ in range(taken)]
    for mine, theirs in zip(found, expected, strict=True):
        for ours, other in zip(*map(jax.tree.leaves, (mine, theirs)), strict=True):
            np.testing.assert_array_equal(ours, other)


# ------------------------------------------------------------------ what is kept


def log_softmax(logits) -> np.ndarray:
    """In float64."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.mark.parametrize("cache", FOLDERS)
@pytest.mark.parametrize("pack", [False, True])
def test_facts_are_those_of_whole_logits(folder, mesh, cache, pack):
    data = dataclasses.replace(DATA, pack=pack, input_length=24, target_length=20) if pack else DATA
    run = dataclasses.replace(cached(folder, cache, "run", variants.CATDist()), data=data)
    holding = Holding(VOCAB, **FOLDERS[cache])
    lookup = taught_batches.Lookup(run, pipeline.open_mixture(data), holding)
    lookup._wants_top_k = holding.top_k > 0
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    given = pipeline.HostBatches(data, "train", pipeline.host_shard(one, 16, data.row_length))
    rows = next(given)
    facts = lookup(rows, "train")
    batch = Batch(**vars(pipeline.to_global_batch(rows, one, 16)))
    step = checkpoints.chosen_step(folder / "teacher", "best")
    params = saved.load(folder / "teacher", step, TEACHER, mesh)
    log_p = log_softmax(families.logits(families.build(TEACHER), params, batch))
    counted = np.asarray(batch.weights) != 0
    assert not pack or np.asarray(batch.target_segment_ids).max() > 1
    of_label = np.take_along_axis(log_p, np.asarray(batch.targets)[..., None], -1)[..., 0]
    is_best = of_label >= log_p.max(-1) - 1e-7
    if not holding.top_k:
        np.testing.assert_array_equal(np.asarray(facts.is_correct)[counted], is_best[counted])
        assert not facts.is_correct[~counted].any()
        return
    np.testing.assert_array_equal(np.asarray(facts.label_is_best)[counted], is_best[counted])
    error = holding.largest_error + 1e-5
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


def test_every_example_is_kept_once_in_a_shard(folder):
    complete = json.loads((folder / "bits" / "complete.json").read_text())
    # 150 rows in groups of 48; of the last 10, which repeat the first, none is in their shard.
    examples = [
        facts["examples"]
        for name, facts in sorted(
            teacher_cache_shards.shards_in(folder / "bits", _digest(folder / "bits")).items()
        )
        if name.startswith("train")
    ]
    assert examples == [48, 48, 48, 6]
    assert complete["splits"]["train"]["examples"] == 150
    assert (
        complete["splits"]["train"]["tokens"] == sum(2 * (i % 4 + 1) + 1 for i in range(150)) - 40
    )
    assert complete["splits"]["validation"]["examples"] == 32


def _digest(cache: Path) -> str:
    from cascade_jax.training import teacher_cache_identity

    return teacher_cache_identity.digest(json.loads((cache / "fingerprint.json").read_text()))
