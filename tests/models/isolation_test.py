"""Keys and values that are not finite."""

import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models import cache, cudnn
from cascade_jax.models.isolation import isolated


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["key", "value"])
def test_they_reach_the_queries_that_may_look_there_alone(part, bad):
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 6, 2, 4)).astype(np.float32)
    mask = np.tril(np.ones((6, 6), bool)) & (np.arange(6) != 1)[:, None]
    mask = np.broadcast_to(mask, (2, 6, 6))

    def attend(key, value):
        key, value = isolated(jnp.asarray(key), jnp.asarray(value))
        key, value = cache.keys_last(key), cache.values_by_head(value)
        return np.asarray(cudnn.attend(query, key, value, mask, 0.5, implementation="xla"))

    expected = attend(key, value)
    (key if part == "key" else value)[1, 3, 1, 2] = bad
    actual, sees = attend(key, value), np.zeros((2, 6), bool)
    sees[1, 3:] = True
    np.testing.assert_array_equal(np.isnan(actual).all(axis=(2, 3)), sees)
    np.testing.assert_array_equal(actual[~sees], expected[~sees])
