"""A T5 whose layers have relative position biases of their own; T5X's logits: tests/interop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models.ragged import Ragged
from cascade_jax.models.t5 import T5
from tests.support.layers import stack_layers, unstack_layers
from tests.support.tiny_t5 import CONFIG, DECODER_INPUTS, INPUTS, logits_of, params_of

pytestmark = pytest.mark.medium

PER_LAYER = dataclasses.replace(CONFIG, relative_bias_per_layer=True)


def test_scan_and_remat_change_neither_logits_nor_gradients():
    params = params_of(PER_LAYER)
    direction = np.random.default_rng(0).normal(size=(2, 5, 19)).astype(np.float32)

    def both(config, params):
        def loss(params):
            logits = T5(config).apply({"params": params}, INPUTS, DECODER_INPUTS)
            return jnp.sum(logits * direction)

        return jax.jit(jax.value_and_grad(loss))(params)

    loss, gradients = both(PER_LAYER, params)
    changed = dataclasses.replace(PER_LAYER, remat="dots", scan_layers=True)
    new_loss, new_gradients = both(changed, stack_layers(params))
    np.testing.assert_allclose(new_loss, loss, rtol=1e-5)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, unstack_layers(new_gradients), gradients)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def _repeated(params):
    """One bias of a stack, in every layer of it."""
    params = jax.tree.map(lambda leaf: leaf, params)
    for stack in ("encoder", "decoder"):
        bias = params[stack].pop("relpos_bias")
        for name in params[stack]:
            if name.startswith("layers_"):
                params[stack][name]["relpos_bias"] = bias
    return params


def test_equal_biases_of_layers_are_one_for_a_stack():
    params = params_of(CONFIG)
    expected = logits_of(CONFIG, params, INPUTS, DECODER_INPUTS)
    actual = logits_of(PER_LAYER, _repeated(params), INPUTS, DECODER_INPUTS)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    other = logits_of(PER_LAYER, params_of(PER_LAYER), INPUTS, DECODER_INPUTS)
    assert np.abs(other - expected).max() > 0.1


@pytest.mark.parametrize("scan_layers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_cache_changes_no_logits_with_a_bias_per_layer(scan_layers):
    """Token by token, and some more of every row at once, as in a cascade."""
    config = dataclasses.replace(PER_LAYER, scan_layers=scan_layers)
    params = params_of(PER_LAYER)
    expected = logits_of(PER_LAYER, params, INPUTS, DECODER_INPUTS)
    variables = {"params": stack_layers(params) if scan_layers else params}
    model, length = T5(config), DECODER_INPUTS.shape[1]
    start = functools.partial(model.apply, method="start_decoding", mutable=["cache"])
    _, created = jax.jit(start, static_argnums=2)(variables, INPUTS, length)
    step = jax.jit(functools.partial(model.apply, method="decode_step", mutable=["cache"]))
    cache = created
    for place in range(length):
        tokens = DECODER_INPUTS[:, place : place + 1]
        logits, cache = step(variables | cache, tokens, INPUTS)
        is_token = np.array([True, place < 3])  # the second row is padded from there on
        np.testing.assert_allclose(
            logits[is_token, 0], expected[is_token, place], rtol=1e-4, atol=1e-5
        )
    # The rows stand at different places: 5 and 3 tokens, read in two calls.
    read = jax.jit(functools.partial(model.apply, method="decode_ragged", mutable=["cache"]))
    cache = created
    for starts, counts in (([0, 0], [2, 1]), ([2, 1], [3, 2])):
        width = max(counts)
        where = Ragged.padded(jnp.array(starts), jnp.array(counts), width=width, length=length)
        tokens = np.zeros((2, width), int)
        for row in range(2):
            first = starts[row]
            tokens[row, : counts[row]] = DECODER_INPUTS[row, first : first + counts[row]]
        last = jnp.arange(2) * width + jnp.array(counts) - 1
        logits, cache = read(variables | cache, tokens, INPUTS, where, last)
        for row in range(2):
            np.testing.assert_allclose(
                logits[row], expected[row, starts[row] + counts[row] - 1], rtol=1e-4, atol=1e-5
            )
