"""The fused head over several microbatches: one gradient of the output layer, exchanged once."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.losses import fused, layout
from cascade_jax.unembedding import Unembedding
from tests.benchmarks import collectives, heads
from tests.support import cases
from tests.support.loss_heads import plain_head, value_and_gradients


def by_microbatches(problem, case, where=None):
    """(loss sum, gradients for hidden states and output layer) of four microbatches of two rows."""
    (hidden, ours), (theirs, their_map, targets, weights) = problem.arrays
    state = fused.HeadState.begin(ours, their_map, where)
    total, d_hidden = 0.0, []
    for start in range(0, 8, 2):
        rows = slice(start, start + 2)

        def value(hidden, state=state, rows=rows):
            result, new = fused.microbatch_sums(
                cases.build(case), hidden, theirs[rows], targets[rows], weights[rows], state,
                chunk_tokens=5, layout=where,
            )  # fmt: skip
            return result.loss_sum, new

        (loss_sum, state), gradient = jax.value_and_grad(value, has_aux=True)(hidden[rows])
        total += loss_sum
        d_hidden.append(gradient)
    return total, jnp.concatenate(d_hidden), state.gradient.total(ours)


@pytest.mark.medium
@pytest.mark.parametrize("shape", [None, (2, 2)], ids=["one device", "2 x 2"])
def test_the_sums_are_those_of_one_batch_with_the_plain_head(shape):
    problem = cases.Problem.draw(seed=11)
    problem.weights = problem.weights.at[3].set(0).at[1, 2:].set(0)  # unequal parts
    (hidden, ours), (theirs, their_map, targets, weights) = problem.arrays
    facts = fused.teachers.TeacherHidden(theirs, their_map)
    sums, (d_hidden, d_head) = value_and_gradients(
        plain_head, "cat_dist_kept", (hidden, ours), facts, targets, weights
    )
    where = None
    if shape is not None:
        where = fused.Layout(
            Mesh(np.array(jax.devices()[:4]).reshape(shape), ("data", "tensor")), "data"
        )
    run = jax.jit(lambda: by_microbatches(problem, "cat_dist_kept", where))
    loss_sum, *gradients = run()
    np.testing.assert_allclose(loss_sum, sums.loss_sum, rtol=1e-6)
    assert jax.tree.structure(gradients[1]) == jax.tree.structure(d_head)
    for actual, expected in zip(
        jax.tree.leaves(gradients), jax.tree.leaves([d_hidden, d_head]), strict=True
    ):
        largest = np.abs(expected).max()
        assert largest > 0
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.medium
@pytest.mark.parametrize("data, model", [(8, 1), (4, 2)])
def test_devices_exchange_the_gradient_once_after_all_microbatches(data, model):
    mesh = Mesh(np.array(jax.devices()).reshape(data, model), ("data", "tensor"))
    sizes = heads.Sizes(256, 128, 64, 2048, chunk_tokens=8, microbatches=4)
    loss = cases.build("cat_dist")

    def place(array, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    trained, fixed = heads.shapes(sizes, loss, heads.FUSED)
    trained = place(trained[0], "data"), place(trained[1], None, "tensor")
    fixed = (
        place(fixed[0], "data"), place(fixed[1], None, "tensor"),
        *(place(array, "data") for array in fixed[2:]),
    )  # fmt: skip
    step = jax.jit(heads.in_microbatches(heads.FUSED, sizes, loss, mesh))
    hlo = step.lower(trained, fixed).compile().as_text()
    matrix = sizes.features * sizes.vocab // model
    outside, inside = collectives.kernel_reductions(hlo, matrix)
    assert outside == [collectives.Reduction("f32", matrix, is_in_loop=False)]
    assert not inside


def test_a_tpu_gets_a_kernel_the_way_that_fills_its_tiles():
    device = types.SimpleNamespace(platform="tpu")
    mesh = types.SimpleNamespace(devices=np.array([device]))
    where = types.SimpleNamespace(mesh=mesh, shards=lambda: (4, 2))

    def laid(features, columns, **settings):
        kernel = jax.ShapeDtypeStruct((features, columns), jnp.float32)
        head = Unembedding(kernel, scale=0.5, **settings)
        return jax.eval_shape(lambda head: layout._filling_tiles(head, where), head)

    assert laid(256, 200).kernel.shape == (200, 256)  # 100 columns a device
    assert laid(256, 200).tied and laid(256, 200).scale == 0.5
    for features, columns in ((256, 512), (200, 200), (100, 512)):
        assert laid(features, columns).kernel.shape == (features, columns)
    assert laid(200, 256, tied=True).kernel.shape == (200, 256)
