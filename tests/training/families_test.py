"""Runs of decoder-only models, mixed pairs, and what a run starts from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks.demo  # noqa: F401
from cascade_jax import records
from cascade_jax.collection import collect, samples
from cascade_jax.data import pipeline
from cascade_jax.losses import variants
from cascade_jax.models import families, shallow
from cascade_jax.models.config import DecoderConfig
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, parameters, start
from cascade_jax.runs import state as state_lib
from cascade_jax.runs.saved_model import CascadeRuns
from cascade_jax.training import experiment
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.run import train_one
from tests.support import fakes

pytestmark = pytest.mark.medium

LARGE = DecoderConfig(
    vocab_size=264, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8,
    mlp_dim=16, sliding_window=6, attention_kinds=("sliding", "full"), logit_soft_cap=20.0,
    tied_logits=False,
)  # fmt: skip
SMALL = dataclasses.replace(LARGE, num_layers=1, attention_kinds=("sliding",))
DATA = pipeline.DataConfig("demo_reverse_v1", input_length=20, target_length=8, batch_size=8)
MESH = MeshConfig(data=4, tensor=2)


def _run(name, model, **changes):
    settings = dict(
        data=DATA,
        loss=variants.Xent(),
        optimizer=Adafactor(learning_rate=0.01, warmup_steps=2),
        steps=3,
        eval_batches=1,
        checkpoint_every=3,
        log_every=1,
    )
    return experiment.TrainRun(name=name, model=model, **settings | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher, a student from its layers under CAT-Dist, and both run on (data 4, model 2)."""
    folder = tmp_path_factory.mktemp("runs")
    mesh = MESH.build()
    train_one(_run("teacher", LARGE), folder, mesh)
    alike = dataclasses.replace(SMALL, attention_kinds=LARGE.attention_kinds)
    student = _run(
        "student",
        alike,
        loss=variants.CATDist(),
        teacher=LARGE,
        teacher_run="teacher",
        start=start.FromLayers("teacher", LARGE, layers=[2]),
    )
    train_one(student, folder, mesh)
    return folder


def _saved(folder, run, model):
    abstract = state_lib.abstract_parameters(families.build(model), MESH.build())
    return checkpoints.load_parameters(folder / run, 3, abstract)


def test_a_decoder_pair_trains_and_its_cascade_is_collected(folder):
    alike = dataclasses.replace(SMALL, attention_kinds=LARGE.attention_kinds)
    cascade = CascadeRuns(str(folder), ["student"], ["teacher"], DATA, mesh=MESH)
    config = collect.CollectConfig(cascade, limit=10, samples=samples.SampleConfig(2))
    (file,) = collect.collect(config)
    table = records.read(file)
    assert len(table) == 10
    # The log-probs in the table are those of the saved model, teacher-forced on its own answer.
    params = _saved(folder, "student", alike)
    examples = list(pipeline.decode_examples(DATA, "demo_reverse_v1", "validation", limit=10))
    for row, example in enumerate(examples[:3]):
        span = slice(table.student_offsets[row], table.student_offsets[row + 1])
        answers = [(table.student_tokens[span], table.student_log_probs[span])]
        drawn = (table.columns.value(f"student_sample_{n}", row) for n in ("tokens", "log_probs"))
        answers += zip(*drawn, strict=True)
        assert len(answers) == 3
        for ids, log_probs in answers:
            tokens, inputs = ids[None], example.inputs[None]
            shifted = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
            batch = fakes.Batch(inputs, shifted, tokens, np.ones(tokens.shape, np.float32))
            log_p = jax.nn.log_softmax(fakes.logits(families.build(alike), params, batch))
            expected = np.take_along_axis(np.asarray(log_p), tokens[..., None], -1)[0, :, 0]
            np.testing.assert_allclose(log_probs, expected, rtol=1e-3, atol=1e-4)


def test_a_run_starts_from_layers_of_another(folder):
    mesh = MESH.build()
    alike = dataclasses.replace(SMALL, attention_kinds=LARGE.attention_kinds)
    actual = parameters.first_parameters(
        start.FromLayers("teacher", LARGE, layers=[2]),
        "student",
        alike,
        folder,
        mesh,
        pipeline.open_mixture(DATA).fingerprint,
    )
    teacher = _saved(folder, "teacher", LARGE)
    expected = shallow.choose_layers(teacher, alike, LARGE, layers=[2])
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    reference = state_lib.abstract_parameters(families.build(alike), mesh)
    assert jax.tree.map(lambda leaf: leaf.sharding, actual) == jax.tree.map(
        lambda leaf: leaf.sharding, reference
    )
    # Three small steps later it is still far nearer to them than a fresh model would be.
    trained = _saved(folder, "student", alike)
    moved = float(
        jnp.abs(trained["logits_dense"]["kernel"] - actual["logits_dense"]["kernel"]).max()
    )
    assert 0 < moved < 0.1


def test_a_run_starts_from_another_run(folder, tmp_path):
    run = _run(
        "more", LARGE, start=start.FromRun(str(folder / "teacher")), steps=1, eval_split=None
    )
    quiet = dataclasses.replace(run, optimizer=Adafactor(learning_rate=1e-9, warmup_steps=0))
    state = train_one(quiet, tmp_path, MESH.build())
    expected = _saved(folder, "teacher", LARGE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, expected
    )


@functools.cache
def _fresh(model):
    params = fakes.initialize(families.build(model), 1)
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape), params)


DECODER = dataclasses.replace(LARGE, vocab_size=fakes.VOCAB_SIZE)
PAIRS = {
    "T5 student": (fakes.t5_config(), DECODER),
    "decoder student": (DECODER, fakes.t5_config()),
    "two decoders": (dataclasses.replace(DECODER, num_layers=1), DECODER),
}


# The other pairs have no model that the first has not.
@pytest.mark.parametrize(
    "name",
    ["T5 student", *(pytest.param(name, marks=pytest.mark.slow) for name in [*PAIRS][1:])],
)
def test_fused_and_plain_heads_agree_for_every_kind_of_pair(name):
    student, teacher = PAIRS[name]
    batch, params, frozen = fakes.ragged_batch(8), _fresh(student), _fresh(teacher)
    values = {}
    for head in step_lib.HEADS:
        loss_fn = step_lib.make_loss_fn(
            families.build(student), families.build(teacher), variants.CATDist(), head=head
        )

        def value(params, loss_fn=loss_fn):
            result = loss_fn(params, frozen, batch)
            return result.loss_sum, result.count

        (loss, count), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
        assert count == batch.weights.sum()
        values[head] = loss, gradient
    np.testing.assert_allclose(values["fused"][0], values["plain"][0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        values["fused"][1],
        values["plain"][1],
    )


def test_packed_decoder_rows_train(tmp_path):
    data = dataclasses.replace(DATA, architecture="prefix_lm", pack=True)
    state = train_one(_run("packed", SMALL, data=data), tmp_path, MESH.build())
    assert int(state.step) == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (SMALL, {"pack": True}, "cannot read packed encoder-decoder rows"),
        (
            fakes.t5_config(),
            {"architecture": "prefix_lm"},
            "cannot read rows made for decoder-only",
        ),
    ],
)
def test_rows_that_the_model_cannot_read_are_refused_when_the_run_is_made(model, changes, message):
    with pytest.raises(ValueError, match=message):
        _run("x", model, data=dataclasses.replace(DATA, **changes))


def test_a_start_that_does_not_fit_is_refused_when_the_run_is_made(tmp_path):
    with pytest.raises(ValueError, match="embed_dim is 24 and not 16"):
        wide = dataclasses.replace(LARGE, embed_dim=24)
        _run("x", wide, start=start.FromLayers("teacher", LARGE))
    with pytest.raises(ValueError, match="checkpoint is 'newest'; must be one of"):
        start.FromRun("teacher", checkpoint="newest")
    missing = _run("x", SMALL, start=start.FromRun("nowhere"))
    with pytest.raises(
        checkpoints.CheckpointError, match="no checkpoint; train or import it first"
    ):
        train_one(missing, tmp_path, MESH.build())
