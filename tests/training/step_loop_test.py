"""What the loop waits for."""

import functools

import jax
import pytest
from jax._src.array import ArrayImpl

import tasks.demo  # noqa: F401
from cascade_jax.data import pipeline
from cascade_jax.losses.variants import Xent
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.training import experiment, step_loop
from cascade_jax.training import run as run_lib
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.run import train_one
from tests.support import fakes

pytestmark = pytest.mark.medium

STEPS, LOG_EVERY, AHEAD = 17, 6, 2


@pytest.fixture
def events(monkeypatch):
    """("batch", "given", "ready" or "read", step) in the order in which they happen in a run."""
    events, results, count = [], [], {"batch": 0}
    make, batches_of = step_lib.make_train_step, pipeline.train_batches
    wait, value = jax.block_until_ready, ArrayImpl._value

    class Batches:
        def __init__(self, *args):
            self._batches = batches_of(*args)

        def __next__(self):
            count["batch"] += 1
            events.append(("batch", count["batch"]))
            return next(self._batches)

        def __getattr__(self, name):
            return getattr(self._batches, name)

    def make_train_step(*args):
        train_step = make(*args)

        @functools.wraps(train_step)  # with its attribute `jitted`
        def step(*arguments):
            state, result = train_step(*arguments)
            results.append(result)
            events.append(("given", len(results)))
            return state, result

        return step

    def block_until_ready(tree):
        events.extend(("ready", n) for n, result in enumerate(results, 1) if result is tree)
        return wait(tree)

    def read(array):
        events.append(("read", len(results)))
        return value.__get__(array)

    monkeypatch.setattr(run_lib.pipeline, "train_batches", Batches)
    monkeypatch.setattr(step_lib, "make_train_step", make_train_step)
    monkeypatch.setattr(jax, "block_until_ready", block_until_ready)
    monkeypatch.setattr(ArrayImpl, "_value", property(read))
    return events


def test_the_host_waits_for_a_step_only_where_it_logs(events, tmp_path):
    data = pipeline.DataConfig("demo_last_v1", 16, 8, batch_size=8, cache_rows=0)
    run = experiment.TrainRun(
        name="run",
        model=fakes.t5_config(vocab_size=384),
        data=data,
        loss=Xent(),
        optimizer=Adafactor(0.1),
        steps=STEPS,
        eval_split=None,
        log_every=LOG_EVERY,
        checkpoint_every=STEPS,
    )
    train_one(run, tmp_path, MeshConfig().build())
    started = events[events.index(("given", 1)) :]
    # Results come to the host at the log interval and at the end, and there they do.
    assert {step for what, step in started if what == "read"} == {6, 12, 17}
    # Otherwise it waits for steps before the one that was just given to the devices, so that two
    # are in the queue while the next batch is read and sent; but for the first, which compiles.
    waits = [(step, events[:i]) for i, (what, step) in enumerate(events) if what == "ready"]
    assert len(waits) > STEPS / 2
    for step, before in waits:
        arguments = max(n for what, n in before if what == "given")
        assert arguments - step == AHEAD or arguments == step == 1
    # And no further ahead: batches would fill the devices' memory.
    for what, step in events:
        if what == "batch" and step > 4 and (step - 1) % LOG_EVERY > AHEAD:
            before = events[: events.index(("batch", step))]
            assert ("ready", step - 1 - AHEAD) in before


def test_a_first_evaluation_may_compile(tmp_path, monkeypatch):
    evaluated = []

    class Watch(step_loop.Watchdog):
        def progress(self, next_thing, may_compile=False):
            evaluated.append((next_thing, may_compile))
            super().progress(next_thing, may_compile)

    monkeypatch.setattr(step_loop, "Watchdog", Watch)
    run = experiment.TrainRun(
        name="run",
        model=fakes.t5_config(vocab_size=384),
        data=pipeline.DataConfig("demo_last_v1", 16, 8, batch_size=8, cache_rows=0),
        loss=Xent(),
        optimizer=Adafactor(0.1),
        steps=4,
        eval_batches=1,
        eval_every=2,
    )
    train_one(run, tmp_path, MeshConfig().build())
    compiles = [next_thing for next_thing, may_compile in evaluated if may_compile]
    assert compiles == ["the first step", "the evaluation after step 2"]
    assert ("the evaluation after step 4", False) in evaluated
