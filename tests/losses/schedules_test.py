"""Weights that change over the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax.losses import schedules, variants
from tests.support import cases, oracle

RISE = schedules.PiecewiseLinear((0, 10, 30), (0.0, 1.0, 0.5))


def test_worked_example_and_both_ends():
    schedule = schedules.PiecewiseLinear(steps=(0, 1000), values=(1.0, 0.5))
    assert schedule(jnp.asarray(500)) == 0.75
    assert [float(RISE(jnp.asarray(step))) for step in (-5, 0, 5, 10, 20, 30, 10**6)] == [
        0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.5,
    ]  # fmt: skip


@given(
    points=st.dictionaries(st.integers(0, 1000), st.floats(0, 4, width=16), min_size=1, max_size=5),
    step=st.integers(0, 1200),
)
def test_it_is_numpys_interpolation_also_under_jit(points, step):
    steps = sorted(points)
    schedule = schedules.PiecewiseLinear(steps, [points[s] for s in steps])
    actual = jax.jit(lambda step: schedule(step))(step)
    expected = np.interp(step, steps, [points[s] for s in steps])
    assert actual.dtype == jnp.float32 and actual == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "steps, values, message",
    [
        ((), (), "one value for each of at least one step"),
        ((0, 1), (1.0,), r"steps \(0, 1\) and values \(1.0,\)"),
        ((0, 0), (1.0, 1.0), r"steps \(0, 0\) of PiecewiseLinear must increase"),
        ((5, 3), (1.0, 1.0), "must increase"),
    ],
)
def test_points_that_do_not_fit_are_refused(steps, values, message):
    with pytest.raises(ValueError, match=message):
        schedules.PiecewiseLinear(steps, values)


def test_a_list_from_a_config_file_can_be_hashed():
    listed = schedules.PiecewiseLinear([0, 10], [1, 0.5])
    assert hash(variants.Dist(label_weight=listed)) == hash(
        variants.Dist(label_weight=schedules.PiecewiseLinear((0, 10), (1.0, 0.5)))
    )


@pytest.mark.parametrize("step", [0, 5, 17, 99])
@pytest.mark.parametrize("name", ["CATDist", "Gatekeeper"])
def test_a_loss_with_schedules_is_the_loss_with_their_values_at_the_step(name, step):
    rng = np.random.default_rng(step)
    student, teacher = rng.normal(size=(2, 8, 6)).astype(np.float32)
    targets = cases.labels_often_right(rng, student, teacher)
    hot = schedules.PiecewiseLinear((0, 20), (1.0, 3.0))
    scheduled = (
        dict(label_weight=RISE, temperature=hot) if name == "CATDist" else dict(correct_weight=RISE)
    )
    loss = getattr(variants, name)(**scheduled)
    ones = jnp.ones(8)

    @jax.jit  # the step is an argument: no new program for each of them
    def run(step):
        def value(student):
            return loss(student, jnp.asarray(teacher), jnp.asarray(targets), ones, step=step)

        return jax.value_and_grad(lambda x: value(x).loss_sum)(jnp.asarray(student))

    loss_sum, gradient = run(jnp.asarray(step))
    fixed = {
        key: float(np.interp(step, each.steps, each.values)) for key, each in scheduled.items()
    }
    expected = oracle.sums(name, fixed, student, oracle.Logits(teacher), targets, np.ones(8))
    assert loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
    np.testing.assert_allclose(gradient, expected.gradient, atol=2e-6)


@pytest.mark.parametrize(
    "loss",
    [
        variants.Dist(label_weight=RISE),
        variants.CATDist(temperature=schedules.PiecewiseLinear((0,), (2.0,))),
        variants.Gatekeeper(correct_weight=RISE),
    ],
)
def test_a_schedule_without_a_step_is_refused(loss):
    zeros = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="needs the training step, and got None"):
        loss(zeros, zeros, jnp.zeros(2, jnp.int32), jnp.ones(2))
