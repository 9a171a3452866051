"""One update: the same on every mesh and split, with a teacher that nothing flows into."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cascade_jax.losses import variants
from cascade_jax.models import t5
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import state as state_lib
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from tests.support import fakes

pytestmark = pytest.mark.medium

STUDENT = fakes.t5_config(16)
TEACHER = fakes.t5_config(32)
OPTIMIZER = Adafactor(learning_rate=1e-2)


@dataclasses.dataclass
class Update:
    """What one step on a mesh gave."""

    params: dict
    metrics: dict
    params_before: dict
    teacher_before: dict
    teacher_after: dict


def initial_params(model, mesh, seed, table=rules.DEFAULT):
    abstract = state_lib.abstract_state(model, OPTIMIZER.build(), mesh, table=table)
    return state_lib.initialize(model, OPTIMIZER.build(), jax.random.key(seed), abstract).params


def with_some_right(batch):
    """The batch with the fresh student's own argmax as the label of every third token."""
    model = t5.T5(STUDENT)
    params = initial_params(model, MeshConfig(1).build(jax.devices()[:1]), 0)
    guess = np.asarray(fakes.logits(model, params, batch)).argmax(-1)
    right = np.arange(guess.size).reshape(guess.shape) % 3 == 0
    return dataclasses.replace(batch, targets=np.where(right, guess, batch.targets))


@functools.cache
def usual_batch():
    """Rows with 0 to 8 targets, a third of which the fresh student has right."""
    return with_some_right(fakes.ragged_batch(16))


def update(
    mesh_config=None,
    microbatches=1,
    loss=None,
    batch=None,
    student=STUDENT,
    steps=1,
    head="fused",
    chunk_tokens=None,
    tables=(rules.DEFAULT, rules.DEFAULT),
):
    """Does steps on a mesh with a fresh student and teacher."""
    mesh_config = mesh_config or MeshConfig(1)
    mesh = mesh_config.build(
        jax.devices()[: mesh_config.data * mesh_config.fsdp * mesh_config.tensor]
    )
    models = t5.T5(student), t5.T5(TEACHER)
    optimizer = OPTIMIZER.build()
    abstract = state_lib.abstract_state(models[0], optimizer, mesh, table=tables[0])
    state = state_lib.initialize(models[0], optimizer, jax.random.key(0), abstract)
    before = jax.device_get(state.params)
    teacher = initial_params(models[1], mesh, 1, tables[1])
    teacher_before = jax.device_get(teacher)
    loss_fn = step_lib.make_loss_fn(
        *models, loss or variants.CATDist(), head=head, mesh=mesh, chunk_tokens=chunk_tokens,
        student_rules=tables[0], teacher_rules=tables[1],
    )  # fmt: skip
    train_step = step_lib.make_train_step(
        loss_fn,
        optimizer,
        OPTIMIZER.learning_rate_schedule(),
        jax.tree.map(lambda leaf: leaf.sharding, abstract),
        mesh,
        microbatches,
    )
    batch = jax.device_put(batch or usual_batch(), rules.batch_sharding(mesh))
    for _ in range(steps):
        state, result = train_step(state, teacher, batch, jax.random.key(2))
    return Update(
        jax.device_get(state.params),
        {name: float(ratio.value()) for name, ratio in result.items()},
        before,
        teacher_before,
        jax.device_get(teacher),
    )


def assert_same_update(actual: Update, expected: Update):
    assert actual.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        assert actual.metrics[name] == pytest.approx(value, rel=2e-6), name

    def close(path, ours, theirs, start):
        # Relative to how far the parameters moved, not only to their size.
        moved = np.abs(theirs - start).max()
        np.testing.assert_allclose(ours, theirs, atol=max(1e-4 * moved, 1e-8), err_msg=str(path))

    jax.tree_util.tree_map_with_path(close, actual.params, expected.params, expected.params_before)


@pytest.fixture(scope="module")
def one_device():
    result = update()
    assert 0.2 < result.metrics["kept"] < 0.5  # alpha has a say: some tokens count, others do not
    return result


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# (8, 1, 1) is what the tests of commands train on, (4, 1, 2) stands below, and (2, 2, 2) has all
# axes.
@pytest.mark.parametrize(
    "shape", [(2, 2, 2), slow((1, 8, 1)), slow((8, 1, 1)), slow((4, 1, 2)), slow((1, 1, 8))]
)
def test_every_mesh_gives_the_update_of_one_device(shape, one_device):
    assert_same_update(update(MeshConfig(*shape)), one_device)


@pytest.mark.parametrize(
    "tables",
    [("replicated", "fsdp_tensor_length"), slow(("fsdp", "tensor")), slow(("fsdp_tensor",) * 2)],
    ids=str,
)
def test_models_that_are_split_in_different_ways_give_the_update_of_one_device(tables, one_device):
    assert_same_update(update(MeshConfig(2, 2, 2), tables=tables), one_device)


@pytest.mark.parametrize("tied_logits", [False, slow(True)])
def test_the_fused_head_gives_the_update_of_the_plain_head(tied_logits):
    student = dataclasses.replace(STUDENT, tied_logits=tied_logits)
    # The teacher's KL is a metric that the plain head has at no cost, so both have it here.
    settings = dict(student=student, loss=variants.CATDist())
    plain = update(head="plain", **settings)
    # On one device: `test_fused_and_plain_heads_agree_for_every_kind_of_pair` in families_test.py.
    assert_same_update(update(MeshConfig(4, 1, 2), chunk_tokens=7, **settings), plain)


def test_microbatches_of_unequal_target_counts_equal_one_batch(one_device):
    batch = fakes.ragged_batch(16)
    counts = np.asarray(batch.weights).reshape(4, 4, -1).sum((0, 2))  # row i is in part i mod 4
    assert len(set(counts.tolist())) == 4
    assert_same_update(update(microbatches=4), one_device)


def test_microbatches_on_a_mesh_equal_one_batch_with_the_kept_normalizer():
    loss = variants.CATXent(normalizer="kept")
    batch = with_some_right(fakes.ragged_batch(32, seed=4))
    actual = update(MeshConfig(4, 1, 2), microbatches=4, loss=loss, batch=batch)
    assert 0.2 < actual.metrics["kept"] < 0.5
    assert_same_update(actual, update(loss=loss, batch=batch))


def test_the_teacher_stays_bitwise_and_its_gradient_is_exactly_zero(one_device):
    jax.tree.map(np.testing.assert_array_equal, one_device.teacher_before, one_device.teacher_after)
    models = t5.T5(STUDENT), t5.T5(TEACHER)
    loss_fn = step_lib.make_loss_fn(*models, variants.Dist())
    batch = jax.tree.map(jnp.asarray, fakes.ragged_batch(4))
    mesh = MeshConfig(1).build(jax.devices()[:1])
    params = [initial_params(model, mesh, seed) for seed, model in enumerate(models)]

    def value(student, teacher):
        return loss_fn(student, teacher, batch).loss_sum

    student_gradient, teacher_gradient = jax.jit(jax.grad(value, argnums=(0, 1)))(*params)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(teacher_gradient))
    assert all(np.asarray(g).any() for g in jax.tree.leaves(student_gradient))


def test_a_batch_without_targets_changes_no_parameter_and_no_figure_is_nan():
    batch = fakes.ragged_batch(16)
    empty = dataclasses.replace(batch, weights=np.zeros_like(batch.weights))
    actual = update(batch=empty)
    jax.tree.map(np.testing.assert_array_equal, actual.params, actual.params_before)
    assert actual.metrics["target_tokens"] == 0
    assert actual.metrics["gradient_norm"] == 0 and actual.metrics["loss"] == 0


def test_dropout_depends_on_the_step_alone():
    student = dataclasses.replace(STUDENT, dropout_rate=0.3)
    loss = variants.Xent()
    first, again = (update(student=student, loss=loss, steps=2) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert first.metrics["loss"] != update(loss=loss, steps=2).metrics["loss"]


def test_training_lowers_the_loss():
    loss = variants.Xent()
    few, many = update(loss=loss, steps=1), update(loss=loss, steps=30)
    assert many.metrics["loss"] < 0.8 * few.metrics["loss"]
