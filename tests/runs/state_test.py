"""Frozen parameters: smaller, and the same model bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import state as state_lib
from tests.support import fakes

pytestmark = pytest.mark.medium

DECODER = DecoderConfig(
    vocab_size=64, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=32
)  # fmt: skip


def config_of(family, **changes):
    if family == "t5":
        return fakes.t5_config(16, scan_layers=True, **changes)
    return DecoderConfig(**(vars(DECODER) | changes))


@pytest.mark.parametrize(
    "family, tied_logits",
    [
        ("t5", True),
        ("decoder", False),
        pytest.param("t5", False, marks=pytest.mark.slow),  # as the two above
        pytest.param("decoder", True, marks=pytest.mark.slow),
    ],
)
def test_a_frozen_model_gives_the_same_logits(family, tied_logits):
    model = families.build(config_of(family, dtype="bfloat16", tied_logits=tied_logits))
    params = fakes.initialize(model)
    frozen = state_lib.in_compute_dtype(model, params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(frozen))
    assert size < 0.8 * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    batch = fakes.ragged_batch(4)
    run = jax.jit(lambda params: families.logits(model, params, batch))
    # Two programs: what the one casts was cast before. Within a rounding of bfloat16.
    expected = np.asarray(run(params), np.float32)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        np.asarray(run(frozen), np.float32), expected, rtol=0, atol=2**-7 * scale
    )


@pytest.mark.parametrize("family", ["t5", "decoder"])
def test_a_model_that_computes_in_float32_stays_as_it_is(family):
    model = families.build(config_of(family))
    params = fakes.initialize(model)
    frozen = state_lib.in_compute_dtype(model, params)
    jax.tree.map(np.testing.assert_array_equal, frozen, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("float32")}


def test_shapes_are_frozen_as_arrays_are():
    model = families.build(config_of("t5", dtype="bfloat16"))
    mesh = MeshConfig(2, 2, 2).build()
    abstract = state_lib.abstract_parameters(model, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    params = jax.device_put(fakes.initialize(model), shardings)

    def same(shape, array):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)

    shapes = state_lib.in_compute_dtype(model, abstract)
    jax.tree.map(same, shapes, state_lib.in_compute_dtype(model, params))
