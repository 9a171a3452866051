"""The largest of many logits, and the mass of the rest, against sorts and sums in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_jax import numerics
from cascade_jax.inference import largest

top_and_rest = jax.jit(largest.top_and_rest, static_argnums=1)
top_k = jax.jit(largest.top_k, static_argnums=1)


def by_sorting(logits, k):
    """Values, ids, the largest, and the logs of the sum and of the rest, in float64."""
    logits = logits.astype(np.float64)
    order = np.argsort(-logits, axis=-1, kind="stable")
    values = np.take_along_axis(logits, order, axis=-1)
    best = values[..., 0]
    shares = np.exp(values - best[..., None])
    with np.errstate(divide="ignore"):
        rest = np.log(shares[..., k:].sum(-1))
    return values[..., :k], order[..., :k], best, np.log(shares.sum(-1)), rest


@pytest.mark.parametrize("size, k", [(1, 1), (5, 5), (128, 3), (129, 8), (700, 16), (49152, 16)])
def test_random_logits(size, k):
    logits = np.random.default_rng(0).normal(size=(2, 3, size), scale=4).astype(np.float32)
    top, expected = top_and_rest(logits, k), by_sorting(logits, k)
    np.testing.assert_array_equal(top.ids, expected[1])
    np.testing.assert_array_equal(top.values, expected[0].astype(np.float32))
    np.testing.assert_array_equal(top.best, expected[2].astype(np.float32))
    np.testing.assert_allclose(top.log_total, expected[3], rtol=1e-5, atol=1e-6)
    if k < size:
        np.testing.assert_allclose(top.log_rest, expected[4], rtol=1e-5, atol=1e-5)
    else:
        assert np.all(top.log_rest <= numerics.LOWEST / 2)


@given(
    size=st.integers(1, 400),
    values=st.lists(st.sampled_from([-np.inf, -3.0, 0.0, 0.5, 2.0]), min_size=1, max_size=5),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_equal_logits_come_in_their_order(size, values, k, seed):
    logits = np.random.default_rng(seed).choice(values, size=(2, size)).astype(np.float32)
    k = min(k, size)
    expected = jax.lax.top_k(logits, k)
    for actual, wanted in zip(top_k(logits, k), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_the_rest_is_exact_where_it_is_next_to_nothing():
    logits = np.full((1, 300), -60.0, np.float32)
    logits[0, [7, 250]] = 20.0, 19.0
    top = top_and_rest(logits, 2)
    np.testing.assert_allclose(top.log_rest, [np.log(298) - 80.0], rtol=1e-6)


def test_masked_blocks_have_no_mass():
    logits = np.full((1, 512), -np.inf, np.float32)
    logits[0, :3] = 1.0, 2.0, 3.0
    top = top_and_rest(logits, 2)
    np.testing.assert_array_equal(top.ids, [[2, 1]])
    np.testing.assert_allclose(top.log_rest, [-2.0], rtol=1e-6)
    assert np.isfinite(top.log_total).all()


def test_a_nan_is_not_hidden():
    logits = np.zeros((2, 300), np.float32)
    logits[1, 200] = np.nan
    top = top_and_rest(jnp.asarray(logits), 2)
    assert np.isfinite(top.best[0]) and np.isfinite(top.log_total[0])
    assert np.isnan(top.best[1]) and np.isnan(top.log_total[1])
