"""The fused head on meshes of 8 devices, tokens and vocabulary split, against the plain head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cascade_jax.losses import fused, teachers
from cascade_jax.parallel.mesh import MeshConfig
from tests.support import cases
from tests.support.loss_heads import compare, plain_head, value_and_gradients

pytestmark = pytest.mark.medium

# Each axis alone is slow; the two others have all of them.
MESHES = [
    (2, 2, 2),
    (2, 1, 4),
    *(
        pytest.param(mesh, marks=pytest.mark.slow, id=str(mesh))
        for mesh in ((8, 1, 1), (1, 8, 1), (1, 1, 8))
    ),
]
HIDDEN_CASES = ("xent_smoothing_z", "cat_dist_kept", "dist_reverse_t2", "dist_jsd_t1.5",
                "cat_xent_kept_z", "gatekeeper", "gatekeeper_from_teacher",
                "cat_xent_l", "cat_xent_s", "cat_dist_l", "cat_dist_s")  # fmt: skip
FACTS_CASES = (("dist_w.3_t.5_all", "top_k"), ("gatekeeper_teacher", "top_k"),
               ("cat_xent", "argmax"))  # fmt: skip


def run_all(head, trained, rest, top, right):
    theirs, their_map, targets, weights = rest
    kinds = {"hidden": teachers.TeacherHidden(theirs, their_map), "top_k": top, "argmax": right}
    pairs = [(case, "hidden") for case in HIDDEN_CASES]
    return {
        (case, kind): value_and_gradients(head, case, trained, kinds[kind], targets, weights)
        for case, kind in (*pairs, *FACTS_CASES)
    }


plain = jax.jit(functools.partial(run_all, plain_head))


@functools.lru_cache
def program(shape):
    """(mesh, `run_all` by the fused head on it)."""
    mesh = MeshConfig(*shape).build()
    layout = fused.Layout(mesh)

    def split(case, hidden, ours, facts, targets, weights):
        return fused.loss_sums(
            cases.build(case), hidden, ours, facts, targets, weights, chunk_tokens=4, layout=layout
        )

    return mesh, jax.jit(functools.partial(run_all, split))


def place(mesh, problem, top, right):
    """Arguments of the program, split as the arrays of a training step are."""
    rows, columns = PartitionSpec(("data", "fsdp")), PartitionSpec("tensor")

    def put(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, spec))

    ours = problem.ours.replace(
        kernel=put(problem.ours.kernel, PartitionSpec(None, "tensor")),
        bias=put(problem.ours.bias, columns),
    )
    their_map = problem.their_map.replace(kernel=put(problem.their_map.kernel, columns))
    hidden, theirs, targets, weights, top, right = put(
        (problem.hidden, problem.theirs, problem.targets, problem.weights, top, right), rows,
    )  # fmt: skip
    return (hidden, ours), (theirs, their_map, targets, weights), top, right


def facts_of(problem):
    return problem.top_k(), problem.argmax()


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_every_mesh_gives_what_one_device_gives_by_the_plain_head(shape):
    mesh, run = program(shape)
    problem = cases.Problem.draw(seed=11)
    facts = facts_of(problem)
    actual = run(*place(mesh, problem, *facts))
    expected = plain(*problem.arrays, *facts)
    for key in expected:
        compare(actual[key], expected[key], f"{key} on {shape}")


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_shards_without_a_counted_token_take_part_all_the_same(shape):
    # Devices of the data axis have unequal numbers of chunks, some none at all.
    mesh, run = program(shape)
    problem = cases.Problem.draw(seed=12)
    problem.weights = problem.weights.at[jnp.array([0, 1, 2, 3, 4, 6])].set(0)
    problem.weights = problem.weights.at[5, 1:].set(0)
    facts = facts_of(problem)
    actual = run(*place(mesh, problem, *facts))
    expected = plain(*problem.arrays, *facts)
    for key in expected:  # the few tokens left may all be dropped by the teacher's mask
        compare(actual[key], expected[key], f"{key} on {shape}", may_vanish="_l" in key[0])


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_padding_of_tokens_and_of_both_vocabularies_changes_nothing(shape):
    mesh, run = program(shape)
    problem = cases.Problem.draw(seed=13)
    facts = facts_of(problem)
    clean = run(*place(mesh, problem, *facts))
    padding, size = np.asarray(problem.weights) == 0, cases.Problem.VOCAB
    kernel, their_kernel = problem.ours.kernel, problem.their_map.kernel
    spoilt = cases.Problem(
        jnp.where(padding[..., None], jnp.nan, problem.hidden),
        problem.ours.replace(
            kernel=kernel.at[:, size:].set(90), bias=problem.ours.bias.at[size:].set(1e6)
        ),
        jnp.where(padding[..., None], jnp.inf, problem.theirs),
        problem.their_map.replace(kernel=their_kernel.at[size:].set(-90)),
        problem.targets,
        problem.weights,
    )
    result = run(*place(mesh, spoilt, *facts))
    for key, (sums, (d_hidden, d_head)) in result.items():
        jax.tree.map(np.testing.assert_array_equal, (sums, (d_hidden, d_head)), clean[key])
        assert not np.asarray(d_hidden)[padding].any(), key
        assert not np.asarray(d_head.kernel)[:, size:].any(), key
        assert not np.asarray(d_head.bias)[size:].any(), key


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_a_batch_of_padding_gives_zeros(shape):
    mesh, run = program(shape)
    problem = cases.Problem.draw(seed=14)
    problem.weights = problem.weights * 0
    for key, result in run(*place(mesh, problem, *facts_of(problem))).items():
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(result)), key


def test_ties_between_columns_of_different_devices():
    # One row of logits, 3 2 ... 2 3: the first and the last column lie on different devices.
    mesh, _ = program((1, 8))
    width = 8
    kernel = jnp.full((1, width), 2.0).at[0, jnp.array([0, 7])].set(3)
    theirs = jnp.full((1, width), 2.0).at[0, jnp.array([2, 5])].set(4)
    head = cases.Unembedding(kernel)
    facts = teachers.TeacherHidden(jnp.ones((8, 1)), cases.Unembedding(theirs))
    targets = jnp.arange(8)
    layout = fused.Layout(mesh)

    @functools.partial(jax.jit, static_argnums=0)
    def run(case):
        return fused.loss_sums(
            cases.build(case), jnp.ones((8, 1)), head, facts, targets, jnp.ones(8), layout=layout
        )

    actual = run("cat_xent").metrics
    assert actual["right_student_only"].numerator == 2 == actual["right_teacher_only"].numerator
    assert actual["right_both"].numerator == 0
    # The Gatekeeper's label is the teacher's smallest id, 2, which the student gets wrong.
    log_p = np.array([3.0] + [2.0] * 6 + [3.0]) - np.log(2 * np.exp(3) + 6 * np.exp(2))
    from_uniform = -np.log(8) - log_p.mean()
    assert run("gatekeeper_from_teacher").loss_sum == pytest.approx(
        8 * 0.9 * from_uniform, rel=1e-5
    )


def test_a_frozen_output_matrix_on_a_mesh():
    mesh, _ = program((4, 2))
    problem = cases.Problem.draw(seed=15)
    facts = teachers.TeacherHidden(problem.theirs, problem.their_map)

    def loss_sum(hidden, ours, theirs, layout):
        return fused.loss_sums(
            cases.build("cat_dist"), hidden, ours, facts.replace(hidden=theirs), problem.targets,
            problem.weights, layout=layout,
        ).loss_sum  # fmt: skip

    arguments = problem.hidden, problem.ours, problem.theirs
    expected = jax.jit(jax.grad(loss_sum), static_argnums=3)(*arguments, None)
    actual, d_theirs = jax.jit(jax.grad(loss_sum, (0, 2)), static_argnums=3)(
        *arguments, fused.Layout(mesh)
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not np.asarray(d_theirs).any()


def test_in_bfloat16_a_mesh_gives_what_one_device_gives():
    mesh, _ = program((4, 2))
    size = dict(vocab_size=cases.Problem.VOCAB, dtype="bfloat16")
    problem = cases.Problem.draw(16, dict(bias=True) | size, dict(tied=True) | size, "bfloat16")
    trained, rest, *_ = place(mesh, problem, *facts_of(problem))

    @functools.partial(jax.jit, static_argnames="layout")
    def run(trained, rest, layout=None):
        facts = teachers.TeacherHidden(*rest[:2])

        def loss_sum(trained):
            sums = fused.loss_sums(
                cases.build("cat_dist"), *trained, facts, *rest[2:], chunk_tokens=4, layout=layout
            )
            return sums.loss_sum

        return jax.value_and_grad(loss_sum)(trained)

    loss, actual = run(trained, rest, fused.Layout(mesh))
    expected_loss, expected = run(*problem.arrays)
    # Products of bfloat16 numbers are exact in float32, in whatever order they are added.
    assert loss == pytest.approx(float(expected_loss), rel=1e-6)
    assert actual[0].dtype == jnp.bfloat16 and actual[1].kernel.dtype == jnp.float32
    np.testing.assert_allclose(
        actual[1].bias, expected[1].bias, rtol=0, atol=1e-5 * np.abs(expected[1].bias).max()
    )
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        # Now and then the last bit of bfloat16 falls the other way.
        assert 0 < np.linalg.norm(b) and np.linalg.norm(a - b) <= 2.0**-8 * np.linalg.norm(b)
