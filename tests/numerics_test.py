"""Arrays that are not finite, by name; what the losses use is tested with them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cascade_jax import numerics
from cascade_jax.parallel.mesh import MeshConfig


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_bad_number_names_its_array(dtype, make, bad):
    array = np.ones((3, 4), dtype)
    array[2, 3] = bad
    tree = {"a": {"kernel": make(array), "bias": make(np.ones(3, dtype))}, "b": [make(array)]}
    assert numerics.not_finite(tree) == ["a/kernel", "b/0"]


def test_what_is_finite_names_nothing():
    largest = np.finfo(np.float32).max
    tree = [np.full(9, largest, np.float32), np.zeros((0, 2), np.float32), np.arange(3)]
    tree += [jnp.asarray(tree[0]), jnp.zeros((0, 2)), jnp.asarray([True])]
    assert numerics.not_finite(tree) == []


def test_an_array_that_lies_on_several_devices():
    mesh = MeshConfig(data=8).build()
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
    array = np.zeros(16, np.float32)
    assert numerics.not_finite({"x": jax.device_put(array, sharding)}) == []
    array[13] = np.nan
    assert numerics.not_finite({"x": jax.device_put(array, sharding)}) == ["x"]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_argmax_is_numpys_with_ties_and_what_is_no_number(dtype):
    rng = np.random.default_rng(0)
    values = rng.integers(-3, 3, (50, 2, 7)).astype(dtype)
    values[rng.random(values.shape) < 0.1] = -np.inf
    values[rng.random(values.shape) < 0.05] = np.inf
    values[rng.random(values.shape) < 0.05] = np.nan
    values[0], values[1], values[2] = -np.inf, np.nan, 0
    actual = jax.jit(numerics.argmax)(values)
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, np.argmax(values.astype(np.float64), axis=-1))
