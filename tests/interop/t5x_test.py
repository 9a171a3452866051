"""With T5X itself: it trains with our losses, reads what we write, and agrees with our figures.

Skipped where T5X can't be imported; docs/t5x.md says how to get it. T5X runs in processes of its
own, with one device, since it wants other settings of JAX than these tests.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cascade_jax import batch as batch_lib
from cascade_jax import metrics
from cascade_jax.interop import t5x_adafactor, t5x_checkpoints, t5x_storage
from cascade_jax.losses import variants
from cascade_jax.models import t5
from cascade_jax.models.config import T5Config
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import state as state_lib
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from tests.support import t5x_files, t5x_peer
from tests.support.t5x_peer import run

pytestmark = [pytest.mark.medium, t5x_peer.needed]
# As in gin/t5x.
STEPS, TEACHER_STEPS, BATCH_SIZE, LEARNING_RATE = 20, 100, 32, 0.02
STUDENT = T5Config(384, 32, 2, 16, 64, 1, 1, dropout_rate=0.0)
TEACHER = T5Config(384, 64, 2, 16, 128, 1, 1, dropout_rate=0.0)


def train(folder, gin_file, *arguments, **environment):
    """`python -m t5x.train` with a file of gin/t5x; the folder of its checkpoints."""
    model_dir = f"--gin.MODEL_DIR='{folder}'"
    run("-m", "t5x.train", f"--gin_file=gin/t5x/{gin_file}", model_dir, *arguments, **environment)
    return folder


def reported(folder, name=metrics.LOSS, kind="train"):
    """{step: value} of one of T5X's metrics."""
    import tensorflow as tf

    result = {}
    for file in (folder / kind).glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == name:
                    result[event.step] = float(tf.make_ndarray(value.tensor))
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("t5x")


@pytest.fixture(scope="module")
def teacher(runs):
    """Checkpoint of a teacher that T5X alone has trained."""
    return train(runs / "teacher", "teacher_tiny.gin") / f"checkpoint_{TEACHER_STEPS}"


@pytest.fixture(scope="module")
def student(runs, teacher):
    """Folder of T5X's run of CAT-Dist."""
    return train(runs / "student", "cat_dist_tiny.gin", f"--gin.TEACHER_CHECKPOINT='{teacher}'")


def read_batches(split, count):
    """The first batches of the runs in their order."""
    import seqio

    import tasks.demo  # noqa: F401

    rows = seqio.get_dataset(
        "demo_last_v1", {"inputs": 16, "targets": 8}, dataset_split=split,
        shuffle=split == "train", num_epochs=None, seed=0, batch_size=BATCH_SIZE,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
    )  # fmt: skip
    return [batch_lib.from_seqio(rows) for rows in rows.take(count).as_numpy_iterator()]


@pytest.fixture(scope="module")
def batches():
    return read_batches("train", STEPS)


@pytest.fixture(scope="module")
def ours(student, teacher, batches):
    """Losses and last state of our own trainer, from T5X's initial parameters, on 8 devices."""
    mesh = MeshConfig(data=8).build()
    models = t5.T5(STUDENT), t5.T5(TEACHER)
    settings = Adafactor(learning_rate=LEARNING_RATE)
    optimizer = settings.build()
    abstract = state_lib.abstract_state(models[0], optimizer, mesh)
    start = t5x_checkpoints.load(student / "checkpoint_0", STUDENT).params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    state = state_lib.TrainState(jnp.zeros((), jnp.int32), start, optimizer.init(start))
    state = jax.device_put(state, shardings)
    teacher_params = t5x_checkpoints.load(teacher, TEACHER).params
    loss_fn = step_lib.make_loss_fn(*models, variants.CATDist(), head="fused", mesh=mesh)
    step = step_lib.make_train_step(
        loss_fn, optimizer, settings.learning_rate_schedule(), shardings, mesh
    )
    result = []
    for batch in batches:
        state, report = step(state, teacher_params, batch, jax.random.key(0))
        result.append({name: float(ratio.value()) for name, ratio in report.items()})
    return result, jax.device_get(state)


def test_t5x_trains_with_cat_dist_and_the_loss_falls(student):
    losses = reported(student)
    assert sorted(losses) == list(range(1, STEPS + 1))
    values = [losses[i] for i in sorted(losses)]
    assert all(np.isfinite(values))
    assert np.mean(values[-5:]) < 0.35 * np.mean(values[:2])
    kept = reported(student, metrics.KEPT)
    assert any(0 < value < 1 for value in kept.values())  # so that alpha has a say


def test_our_trainer_gives_the_same_losses_and_metrics(student, ours):
    names = set(ours[0][0]) - {metrics.GRADIENT_NORM, metrics.TARGET_TOKENS}
    assert {metrics.LOSS, metrics.KEPT, metrics.TEACHER_ACCURACY, metrics.ENTROPY_WRONG} < names
    for name in sorted(names):
        theirs = reported(student, name)
        np.testing.assert_allclose(
            [report[name] for report in ours[0]],
            [theirs[i] for i in sorted(theirs)],
            atol=1e-4, rtol=0, err_msg=name,
        )  # fmt: skip


def test_our_trainer_ends_with_the_same_parameters_and_statistics(student, ours):
    end = t5x_checkpoints.load(student / f"checkpoint_{STEPS}", STUDENT, optimizer=True)
    assert end.step == STEPS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0),
        ours[1].params, end.params,
    )  # fmt: skip
    statistics, step = t5x_adafactor.from_optax(ours[1].opt_state)
    assert step == STEPS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-30, rtol=0),
        statistics, end.statistics,
    )  # fmt: skip


def test_t5xs_evaluation_has_our_metrics(student, teacher):
    end = t5x_checkpoints.load(student / f"checkpoint_{STEPS}", STUDENT).params
    teacher_params = t5x_checkpoints.load(teacher, TEACHER).params
    loss_fn = step_lib.make_loss_fn(t5.T5(STUDENT), t5.T5(TEACHER), variants.CATDist())
    first, second = (
        loss_fn(end, teacher_params, batch, every_metric=True).metrics
        for batch in read_batches("validation", 2)
    )
    assert metrics.TEACHER_KL in first
    for name, ratio in first.items():
        theirs = reported(student, name, "training_eval/demo_last_v1")
        assert list(theirs) == [STEPS]
        ours = float(ratio.merge(second[name]).value())
        np.testing.assert_allclose(theirs[STEPS], ours, atol=1e-4, rtol=0, err_msg=name)


def test_the_teacher_is_in_no_checkpoint(student):
    shapes = flatten_dict(t5x_checkpoints.load(student / "checkpoint_0", STUDENT).params)
    stored = t5x_storage.open_checkpoint(student / f"checkpoint_{STEPS}")
    target = {name[1:] for name in stored if name[0] == "target"}
    assert target == set(shapes)
    assert {name[2:-1] for name in stored if name[:2] == ("state", "param_states")} == target
    assert {name[0] for name in stored} == {"target", "state"}


def test_microbatches_and_a_mesh_give_the_same_losses(runs, teacher, student):
    """Two devices split the heads; the two halves of a batch count different tokens."""
    folder = train(
        runs / "microbatches", "cat_dist_tiny.gin", f"--gin.TEACHER_CHECKPOINT='{teacher}'",
        "--gin.cascade.Trainer.num_microbatches=4", "--gin.TRAIN_STEPS=6",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )  # fmt: skip
    actual, expected = reported(folder), reported(student)
    assert sorted(actual) == list(range(1, 7))
    np.testing.assert_allclose(
        [actual[i] for i in range(1, 7)], [expected[i] for i in range(1, 7)], atol=1e-4, rtol=0
    )


def test_t5x_goes_on_training_from_our_export(runs, teacher, ours, batches):
    """Parameters and Adafactor's statistics of our trainer; T5X's next losses are ours."""
    statistics, step = t5x_adafactor.from_optax(ours[1].opt_state)
    export = t5x_checkpoints.save(
        runs / "export", STUDENT, ours[1].params, step, statistics=statistics
    )
    exported_teacher = t5x_checkpoints.save(
        runs / "export_teacher", TEACHER, t5x_checkpoints.load(teacher, TEACHER).params
    )
    folder = train(
        runs / "resumed", "cat_dist_tiny.gin", f"--gin.TEACHER_CHECKPOINT='{exported_teacher}'",
        f"--gin.INITIAL_CHECKPOINT='{export}'",
        f"--gin.TRAIN_STEPS={STEPS + 3}",
    )  # fmt: skip
    result = reported(folder)
    assert sorted(result) == [STEPS + 1, STEPS + 2, STEPS + 3]
    # The data starts again: batches 0, 1, 2.
    optimizer = Adafactor(learning_rate=LEARNING_RATE).build()
    params = t5x_checkpoints.load(export, STUDENT).params
    opt_state = t5x_adafactor.to_optax(statistics, step, optimizer.init(params))
    loss_fn = step_lib.make_loss_fn(
        t5.T5(STUDENT), t5.T5(TEACHER), variants.CATDist(), head="plain"
    )
    teacher_params = t5x_checkpoints.load(teacher, TEACHER).params

    @jax.jit
    def update(params, opt_state, batch):
        def mean(params):
            sums = loss_fn(params, teacher_params, batch)
            return sums.loss_sum / sums.count

        loss, gradients = jax.value_and_grad(mean)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state, loss

    for batch in batches[:3]:
        params, opt_state, loss = update(params, opt_state, batch)
        step += 1
        np.testing.assert_allclose(loss, result[step], atol=1e-4, rtol=0)


CONFIG = T5Config(64, 16, 2, 8, 24, 2, 3, dropout_rate=0.0)
READ = """
import sys
import numpy as np
from flax.traverse_util import flatten_dict
from t5x import checkpoints
found = checkpoints.load_t5x_checkpoint(sys.argv[1])
np.savez(sys.argv[2], **{"/".join(k): np.asarray(v) for k, v in flatten_dict(found).items()})
"""


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
def test_t5x_reads_what_we_export(tmp_path, layout):
    params = t5x_files.random_parameters(CONFIG)
    export = t5x_checkpoints.save(tmp_path, CONFIG, params, 7, layout=layout)
    run("-c", READ, export, tmp_path / "read.npz")
    read = np.load(tmp_path / "read.npz")
    stored = t5x_storage.open_checkpoint(export)
    ours = dict(t5x_storage.read_all(export, stored))
    assert set(read) == {"/".join(name) for name in ours}
    for name, array in ours.items():
        np.testing.assert_array_equal(read["/".join(name)], array)
    assert read["state/step"] == 7


REFUSALS = """
import jax
import optax
from t5x import adafactor, models, partitioning
from t5x.examples.t5 import network
import seqio
from cascade_jax.interop import t5x
from cascade_jax.losses import variants
module = network.Transformer(network.T5Config(vocab_size=384))
words = seqio.ByteVocabulary()

def refused(make):
    try:
        make()
    except ValueError as error:
        print(error)

refused(lambda: t5x.CascadeModel(module, words, words, None, variants.CATDist()))
with_teacher = t5x.CascadeModel(module, words, words, None, variants.CATDist(), module)
rest = dict(train_state=None, partitioner=None, eval_names=(), summary_dir=None,
            train_state_axes=None, rng=None, learning_rate_fn=None)
refused(lambda: t5x.Trainer(with_teacher, **rest))
refused(lambda: with_teacher.loss_fn({}, {}, None))
without = t5x.CascadeModel(module, words, words, None, variants.Xent())
refused(lambda: t5x.Trainer(without, **rest, teacher_checkpoint="x"))
"""


def test_what_the_adapter_refuses():
    lines = run("-c", REFUSALS).splitlines()
    assert lines == [
        "CATDist needs a teacher: give teacher_module",
        "the model has a teacher_module, and teacher_checkpoint=None",
        "the teacher has no parameters here: a model with a teacher is trained by "
        "cascade_jax.interop.t5x.Trainer (in gin: train.trainer_cls)",
        "the model has no teacher_module, and teacher_checkpoint=x",
    ]


def test_a_teacher_of_another_size_is_refused(tmp_path, teacher):
    arguments = [
        "-m", "t5x.train", "--gin_file=gin/t5x/cat_dist_tiny.gin",
        f"--gin.MODEL_DIR='{tmp_path}'", f"--gin.TEACHER_CHECKPOINT='{teacher}'",
        "--gin.teacher/network.T5Config.mlp_dim=100",
    ]  # fmt: skip
    with pytest.raises(AssertionError) as caught:
        run(*arguments)
    assert "6 of another shape" in str(caught.value)


BUILD = """
import json
import os
import sys
import gin
import t5x

@gin.configurable
def train(model, trainer_cls, **settings):
    sizes = [network.config.emb_dim for network in (model.module, model.teacher.module)]
    print(type(model.loss).__name__, *sizes, trainer_cls.__name__)

gin.add_config_file_search_path(".")
gin.add_config_file_search_path(os.path.dirname(t5x.__path__[0]))
for files, bindings in json.loads(sys.argv[1]):
    gin.clear_config(clear_constants=True)
    gin.parse_config_files_and_bindings(files, ["MODEL_DIR = 'x'", *bindings])
    train()
"""
TEACHER_IS = "TEACHER_CHECKPOINT = 'x'"
TASK_IS = [f"{n} = 'x'" for n in ("MIXTURE_OR_TASK_NAME", "MIXTURE_OR_TASK_MODULE")]
TASK_IS += ["TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}"]


def built(*files_and_bindings):
    """Loss, width of the student and the teacher, and trainer of each; no data is read."""
    return run("-c", BUILD, json.dumps(files_and_bindings)).splitlines()


def test_gin_files_build_and_every_loss_file_fits():
    names = sorted(path.stem for path in (t5x_peer.ROOT / "gin/losses").glob("*.gin"))
    tiny = [["gin/t5x/cat_dist_tiny.gin", f"gin/losses/{name}.gin"] for name in names]
    lines = built(
        *([files, [TEACHER_IS]] for files in tiny),
        [["gin/t5x/flan_t5_small_large.gin"], TASK_IS],
    )
    expected = [f"{name.replace('_', '')} 32 64 trainer" for name in names]
    assert [line.lower() for line in lines] == [*expected, "catdist 512 1024 trainer"]


def test_t5xs_own_run_file_takes_ours_after_it():
    files = [
        "t5x/examples/t5/t5_1_1/large.gin",
        "t5x/configs/runs/finetune.gin",
        "gin/t5x/cascade.gin",
    ]
    own = ["student/network.T5Config.emb_dim = 64", "INITIAL_CHECKPOINT_PATH = 'x'"]
    own += ["TRAIN_STEPS = 1", TEACHER_IS]
    assert built([files, own + TASK_IS]) == ["CATDist 64 1024 Trainer"]
