"""Schedules against formulas in plain NumPy, and what an update makes of them."""

import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cascade_jax.training.optimizers import SCHEDULES, Adafactor

PEAK = 0.02
DECAY_STEPS = 20
# With warm-up and without; inverse_square_root is defined by its warm-up.
CASES = [(s, w) for s in SCHEDULES for w in (0, 1, 2, 5) if w or s != "inverse_square_root"]


def adafactor(schedule, warmup, **changes):
    decay_steps = DECAY_STEPS if schedule in ("linear", "cosine") else None
    return Adafactor(PEAK, warmup, schedule, decay_steps, **changes)


def rate(schedule, warmup, done):
    """The learning rate of the update after `done` updates."""
    if done < warmup:
        return PEAK * (done + 1) / warmup
    part = min((done - warmup) / (DECAY_STEPS - warmup), 1.0)
    return {
        "constant": PEAK,
        "linear": PEAK * (1.0 - part),
        "cosine": PEAK * (1.0 + math.cos(math.pi * part)) / 2.0,
        "inverse_square_root": PEAK * math.sqrt(warmup / done) if done else PEAK,
    }[schedule]


@pytest.mark.parametrize(("schedule", "warmup"), CASES)
def test_the_schedule_is_its_formula_at_every_update(schedule, warmup):
    actual = adafactor(schedule, warmup).learning_rate_schedule()
    expected = [rate(schedule, warmup, done) for done in range(DECAY_STEPS + 5)]
    ours = [float(actual(jnp.asarray(done))) for done in range(DECAY_STEPS + 5)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7 * PEAK)


def test_the_first_updates_of_a_warm_up_in_figures():
    result = adafactor("inverse_square_root", 4).learning_rate_schedule()
    ours = [float(result(jnp.asarray(done))) for done in (0, 1, 2, 3, 4, 16)]
    np.testing.assert_allclose(ours, [0.005, 0.01, 0.015, 0.02, 0.02, 0.01], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_decay_ends_at_nothing_and_stays_there(schedule):
    result = adafactor(schedule, 5).learning_rate_schedule()
    after = [float(result(step)) for step in (DECAY_STEPS, DECAY_STEPS + 1, 10 * DECAY_STEPS)]
    np.testing.assert_allclose(after, 0.0, atol=1e-9)
    assert float(result(DECAY_STEPS - 1)) > 1e-5


def steps(optimizer, count=8, size=6):
    """The parameter after each update with gradients that change sign and size."""
    rng = np.random.default_rng(3)
    weights = {"w": jnp.asarray(rng.normal(size=(size, size)), jnp.float32)}
    state = optimizer.init(weights)
    result = []
    for _ in range(count):
        gradient = {"w": jnp.asarray(rng.normal(size=(size, size)), jnp.float32)}
        updates, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        result.append(np.asarray(weights["w"]))
    return result


@pytest.mark.parametrize(("schedule", "warmup"), [c for c in CASES if c[1] in (0, 5)])
def test_updates_are_those_of_adafactor_given_the_formulas_values(schedule, warmup):
    values = jnp.asarray([rate(schedule, warmup, done) for done in range(DECAY_STEPS)])
    peer = optax.adafactor(lambda done: values[done], min_dim_size_to_factor=128)
    for ours, theirs in zip(steps(adafactor(schedule, warmup).build()), steps(peer), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_first_update_is_the_rate_times_the_size_of_the_parameter():
    """With one gradient seen, Adafactor's direction is its sign: |update| = rate * RMS(w)."""
    weights = {"w": jnp.asarray([3.0, -4.0])}
    optimizer = adafactor("constant", 5).build()
    gradient = {"w": jnp.asarray([0.5, -70.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    size = PEAK / 5 * math.sqrt((9 + 16) / 2)
    np.testing.assert_allclose(np.asarray(updates["w"]), [-size, size], rtol=1e-5)


def test_weight_decay_shrinks_by_itself_whatever_the_rate():
    weights = {"w": jnp.asarray([3.0, -4.0])}
    optimizer = adafactor("linear", 5, weight_decay=0.1).build()
    gradient = {"w": jnp.zeros(2)}
    updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
    np.testing.assert_allclose(np.asarray(updates["w"]), [-0.3, 0.4], rtol=1e-5)


def second_moments(least):
    """Names of the second moments that are not one number, of a 6 x 6 matrix."""
    optimizer = Adafactor(PEAK, min_dim_size_to_factor=least).build()
    state = optimizer.init({"w": jnp.ones((6, 6))})
    (factored,) = [part for part in state if hasattr(part, "v_row")]
    fields = ("v", "v_row", "v_col")
    return {name: getattr(factored, name)["w"].shape for name in fields}


def test_a_matrix_is_factored_from_the_stated_size_on():
    assert second_moments(6)["v_row"] == second_moments(6)["v_col"] == (6,)
    assert second_moments(7)["v"] == (6, 6)


def test_the_decay_rate_is_handed_on():
    slow, fast = (steps(Adafactor(PEAK, decay_rate=rate).build()) for rate in (0.5, 0.99))
    np.testing.assert_array_equal(slow[0], fast[0])  # the first moment estimate is the gradient's
    assert np.abs(slow[-1] - fast[-1]).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0}, "learning_rate is 0; must be a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan; must be a number above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1'"),
        (
            {"learning_rate": 1e30},
            "learning_rate is 1e+30; must be a number above 0 and at",
        ),
        ({"learning_rate": True}, "learning_rate is True"),
        ({"weight_decay": math.nan}, "weight_decay is nan; must be a number from 0 to 1, or None"),
        ({"weight_decay": True}, "weight_decay is True"),
        ({"decay_rate": 1.5}, "decay_rate is 1.5; must be a number above 0 and at most 1"),
        ({"min_dim_size_to_factor": 0}, "min_dim_size_to_factor is 0; must be an integer"),
        (
            {"multiply_by_parameter_scale": "False"},
            "parameter_scale is 'False'; must be True or",
        ),
        ({"warmup_steps": True}, "warmup_steps is True"),
        ({"warmup_steps": 10**12}, "warmup_steps is 1000000000000; must be an integer"),
        ({"warmup_steps": -1}, "warmup_steps is -1; must be an integer of at least 0"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5"),
        ({"decay_steps": 10.0}, "decay_steps is 10.0; must be an integer of at least 1, or None"),
        ({"schedule": "cosin"}, f"schedule is 'cosin'; must be one of {', '.join(SCHEDULES)}"),
        ({"schedule": "linear"}, "'linear' needs decay_steps above warmup_steps (0)"),
        (
            {"schedule": "cosine", "warmup_steps": 9, "decay_steps": 9},
            "'cosine' needs decay_steps above warmup_steps (9); decay_steps is 9",
        ),
        ({"schedule": "inverse_square_root"}, "needs warmup_steps of at least 1"),
    ],
)
def test_what_is_not_allowed_is_named(change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        dataclasses.replace(Adafactor(PEAK), **change)


@pytest.mark.parametrize(("relative", "size"), [(True, 1e-3 * PEAK), (False, PEAK)])
def test_a_parameter_of_zeros_moves_by_the_rate_only_if_updates_are_absolute(relative, size):
    optimizer = Adafactor(PEAK, multiply_by_parameter_scale=relative).build()
    params, gradient = jnp.zeros((4, 4)), jnp.full((4, 4), -3.0)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(update, size, rtol=1e-4)
