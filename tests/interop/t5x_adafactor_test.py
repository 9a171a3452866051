"""T5X's Adafactor statistics to optax's and back; T5X's own figures are in t5x_test.py."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from cascade_jax.interop import t5x_adafactor
from cascade_jax.models import families
from cascade_jax.models.config import T5Config

CONFIG = T5Config(11, 8, 2, 4, 12, 2, 2)


def schedule(step):
    return 0.1 / (1 + step)


OPTIMIZER = optax.adafactor(schedule, min_dim_size_to_factor=8)


def random_tree(seed, config=CONFIG):
    rng = np.random.default_rng(seed)
    shapes = nn.meta.unbox(families.parameter_shapes(config))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@jax.jit
def update(state, params, gradients):
    updates, state = OPTIMIZER.update(gradients, state, params)
    return state, optax.apply_updates(params, updates)


def after_three_steps():
    params = random_tree(0)
    state = OPTIMIZER.init(params)
    for i in range(3):
        state, params = update(state, params, random_tree(i + 1))
    return state, params


@pytest.mark.medium
def test_a_state_that_went_through_t5xs_names_goes_on_bitwise():
    state, params = after_three_steps()
    statistics, step = t5x_adafactor.from_optax(state)
    assert step == 3
    kept = {name[-1] for name in flatten_dict(statistics)}
    assert kept == {"v_row", "v_col", "v", "m"}
    again = t5x_adafactor.to_optax(statistics, step, OPTIMIZER.init(params))
    gradients = random_tree(9)
    expected = update(state, params, gradients)
    actual = update(again, params, gradients)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    # The step and the statistics matter: a fresh state gives something else.
    fresh = update(OPTIMIZER.init(params), params, gradients)[1]
    assert not np.array_equal(jax.tree.leaves(fresh)[0], jax.tree.leaves(expected[1])[0])


def test_shapes_are_t5xs():
    """The longest axis is averaged away in v_row, the second longest in v_col."""
    statistics, _ = t5x_adafactor.from_optax(OPTIMIZER.init(random_tree(0)))
    kernel = statistics["encoder"]["layers_1"]["mlp"]["wi_0"]["kernel"]  # [8, 12]
    assert {k: v.shape for k, v in kernel.items()} == {
        "v_row": (8,), "v_col": (12,), "v": (1,), "m": (1,),
    }  # fmt: skip
    scale = statistics["encoder"]["encoder_norm"]["scale"]
    assert {k: v.shape for k, v in scale.items()} == {
        "v_row": (1,), "v_col": (1,), "v": (8,), "m": (1,),
    }  # fmt: skip


def test_what_does_not_fit_is_refused():
    state, params = after_three_steps()
    statistics, step = t5x_adafactor.from_optax(state)

    def refused(match, statistics=statistics, optimizer=OPTIMIZER, params=params):
        with pytest.raises(ValueError, match=match):
            t5x_adafactor.to_optax(statistics, step, optimizer.init(params))

    refused(r"v_row differ for .*\(T5X's \(8,\), optax's \(1,\)\)", optimizer=optax.adafactor(0.1))
    refused("has 0 Adafactor states, not one", optimizer=optax.adam(0.1))
    stacked = dataclasses.replace(CONFIG, scan_layers=True)
    refused("decoder/layers/mlp/wi_0/kernel .T5X's None", params=random_tree(0, stacked))
    moving = flatten_dict(statistics)
    moving |= {name: np.ones(5) for name in moving if name[-1] == "m"}
    refused("has momentum", statistics=unflatten_dict(moving))
    refused("a/mu is none of Adafactor's statistics", statistics={"a": {"mu": np.ones(3)}})
    with pytest.raises(ValueError, match="stacked layers do not fit T5X's: decoder/layers/"):
        t5x_adafactor.from_optax(OPTIMIZER.init(random_tree(0, stacked)))
