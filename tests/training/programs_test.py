"""Programs of runs that differ in data and numbers alone, and compiling them ahead."""

import collections
import dataclasses
import threading

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

import tasks.demo  # noqa: F401
from cascade_jax.cli import compilation_cache
from cascade_jax.data import pipeline
from cascade_jax.losses.variants import CATDist, Xent
from cascade_jax.models.lora import Lora
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import start
from cascade_jax.training import experiment, programs
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.run import train_one
from tests.support import fakes

RUN = experiment.TrainRun(
    name="first",
    model=fakes.t5_config(vocab_size=384),
    data=pipeline.DataConfig("demo_last_v1", 16, 8, batch_size=8, cache_rows=0),
    loss=Xent(),
    optimizer=Adafactor(0.1, warmup_steps=2),
    steps=2,
    eval_batches=1,
)


@pytest.fixture
def folder(tmp_path):
    """Where JAX keeps what it compiles."""
    settings = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    settings += ("jax_persistent_cache_min_compile_time_secs",)
    before = {name: getattr(jax.config, name) for name in settings}
    assert compilation_cache.use(str(tmp_path / "compiled")) is None
    # The suite's environment has a limit that a fast machine's evaluation step stays under.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield tmp_path / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def names(folder) -> list[str]:
    """Of the programs that are kept."""
    return sorted(file.name.rsplit("-", 2)[0] for file in folder.glob("*-cache"))


@pytest.mark.medium
def test_runs_that_differ_in_data_and_numbers_share_their_programs(tmp_path, folder):
    mesh = MeshConfig(data=1).build(jax.devices()[:1])

    def train(**changes):
        jax.clear_caches()
        before = collections.Counter(names(folder))
        state = train_one(dataclasses.replace(RUN, **changes), tmp_path, mesh)
        return state.params, list((collections.Counter(names(folder)) - before).elements())

    large = {"jit_train_step", "jit_eval_step", "jit_make"}
    _, new = train()
    assert large <= {*new}
    data = dataclasses.replace(RUN.data, mixture="demo_lookup_v1", seed=7)
    numbers = dict(optimizer=dataclasses.replace(RUN.optimizer, learning_rate=0.2), steps=3, seed=4)
    _, new = train(name="second", data=data, **numbers)
    assert not large & {*new}
    _, new = train(name="third", optimizer=dataclasses.replace(RUN.optimizer, warmup_steps=3))
    assert large & {*new} == {"jit_train_step"}
    # The learning rate that is an argument is the one that is used.
    twice = dataclasses.replace(RUN.optimizer, learning_rate=0.2)
    second, _ = train(name="fourth", optimizer=twice, steps=1)
    once, _ = train(name="fifth", steps=1)
    none, _ = train(name="sixth", steps=1, optimizer=Adafactor(1e-30, warmup_steps=2))
    for far, near, zero in zip(*map(jax.tree.leaves, (second, once, none)), strict=True):
        np.testing.assert_allclose(far - zero, 2 * (near - zero), rtol=1e-3, atol=1e-6)


@pytest.mark.slow  # one that did not run would only be compiled twice
def test_the_step_that_is_compiled_ahead_is_the_one_that_runs(tmp_path, folder):
    mesh, packed = MeshConfig(2, 2).build(jax.devices()[:4]), {"pack": True}
    kinds = {
        "first": {},
        "packed": {"data": dataclasses.replace(RUN.data, **packed)},
        "lora": {"lora": Lora(2, ("query", "wo"), 6.0), "start": start.FromRun("first", "last")},
        "taught": {"teacher": RUN.model, "teacher_run": "first", "loss": CATDist()},
    }
    for number, (name, changes) in enumerate(kinds.items(), start=1):
        changes = {"eval_split": None} | changes
        train_one(dataclasses.replace(RUN, name=name, **changes), tmp_path, mesh)
        assert names(folder).count("jit_train_step") == number, name


def test_an_error_of_compiling_ahead_ends_its_thread():
    made = programs.Programs(RUN, MeshConfig(1).build(jax.devices()[:1]))
    wait = made.compile_ahead("no key")
    wait()
    assert not [each for each in threading.enumerate() if each.name == "compile the step"]
