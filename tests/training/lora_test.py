"""LoRA runs: adapters alone are trained and saved; whoever reads the run gets them merged."""

import dataclasses
import functools
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore
from flax.traverse_util import flatten_dict

import tasks.demo  # noqa: F401
from cascade_jax import records
from cascade_jax.cli import main
from cascade_jax.collection import collect
from cascade_jax.data import pipeline
from cascade_jax.interop import hf
from cascade_jax.losses import variants
from cascade_jax.models import families
from cascade_jax.models.config import DecoderConfig, T5Config
from cascade_jax.models.lora import Lora
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, run_folder, start
from cascade_jax.runs import parameters as saved
from cascade_jax.runs import state as state_lib
from cascade_jax.runs.saved_model import CascadeRuns
from cascade_jax.training import experiment, programs
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.run import train_one
from tests.support import fakes

pytestmark = pytest.mark.medium

DATA = pipeline.DataConfig("demo_reverse_v1", input_length=20, target_length=8, batch_size=8)
MESH = MeshConfig(data=4, tensor=2)
T5 = T5Config(264, 8, 2, 4, 12, 1, 1, tied_logits=True, dropout_rate=0.1)
DECODER = DecoderConfig(264, 8, 2, 2, 2, 4, 12, scan_layers=True)
MODELS = {"t5": T5, "decoder": DECODER}
LORA = Lora(rank=2, targets=("query", "value", "wo"), alpha=6.0)
# Of rank 2 for kernels [8, 8] and [12, 8]: a T5 of one layer each has three blocks of attention and
# two of MLP, a decoder of two layers two of each.
PARAMETERS = {
    "t5": 6 * 2 * (8 + 8) + 2 * 2 * (12 + 8),
    "decoder": 4 * 2 * (8 + 8) + 2 * 2 * (12 + 8),
}
OPTIMIZER = Adafactor(learning_rate=0.01, warmup_steps=2, multiply_by_parameter_scale=False)


def _run(name, model, **changes):
    settings = dict(
        data=DATA,
        loss=variants.CATDist(),
        optimizer=OPTIMIZER,
        steps=4,
        teacher=model,
        teacher_run="base",
        start=start.FromRun("base"),
        lora=LORA,
        eval_batches=1,
        checkpoint_every=2,
        log_every=1,
    )
    return experiment.TrainRun(name=name, model=model, **settings | changes)


def _make_base(folder, model, seed=0):
    """A run folder of parameters that come from elsewhere."""
    params = fakes.initialize(families.build(model), seed)
    fingerprint = pipeline.open_mixture(DATA).fingerprint
    written = run_folder.write_imported(folder, model, fingerprint, {"from": "test", "pad_id": 0})
    checkpoints.save_parameters(folder, params, written)
    return jax.device_get(params)


@functools.cache
def _mesh():
    return MESH.build()


@dataclasses.dataclass
class Trained:
    """An experiment with a base, and a LoRA run on it that has it as its teacher, too."""

    folder: Path
    model: T5Config | DecoderConfig
    base: dict
    parameters: int


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("runs"), MODELS[request.param]
    base = _make_base(folder / "base", model)
    train_one(_run("lora", model), folder, _mesh())
    return Trained(folder, model, base, PARAMETERS[request.param])


def _arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, read without our code."""
    base = f"file://{checkpoint}/state/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = [key.decode() for key in store.list().result()]
    actual = {}
    for name in sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")):
        kvstore = {"driver": "ocdbt", "base": base, "path": name + "/"}
        array = tensorstore.open({"driver": "zarr", "kvstore": kvstore}).result()
        actual[name] = array.read().result()
    return actual


def _merged(trained, run="lora", step=4) -> dict[tuple, np.ndarray]:
    """What the run's model is, in NumPy, from the arrays in its checkpoint and the base's."""
    arrays = _arrays(trained.folder / run / "checkpoints" / str(step))
    merged = {
        path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(trained.base).items()
    }
    for name, a in arrays.items():
        if name.startswith("params.") and name.endswith(".lora_a"):
            b = arrays[name.removesuffix("a") + "b"]
            path = (*name.split(".")[1:-1], "kernel")
            merged[path] = merged[path] + 3.0 * np.matmul(a.astype(np.float64), b)
    return merged


def _assert_params(actual, expected):
    actual = flatten_dict(jax.device_get(actual))
    assert actual.keys() == expected.keys()
    for path, leaf in actual.items():
        np.testing.assert_allclose(
            leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg="/".join(path)
        )


def test_a_checkpoint_holds_the_adapters_and_nothing_of_the_base(trained):
    arrays = _arrays(trained.folder / "lora" / "checkpoints" / "4")
    params = {name: array for name, array in arrays.items() if name.startswith("params.")}
    assert {name.rpartition(".")[2] for name in params} == {"lora_a", "lora_b"}
    assert sum(array.size for array in params.values()) == trained.parameters
    # The optimizer's statistics are of the adapters alone: in all as many again, and some scalars.
    rest = [array for name, array in arrays.items() if name not in params]
    assert sum(array.size for array in rest if array.size > 1) == trained.parameters
    kernels = [leaf for path, leaf in flatten_dict(trained.base).items() if path[-1] == "kernel"]
    assert all(array.shape not in {leaf.shape for leaf in kernels} for array in arrays.values())
    # All of them have been trained.
    assert all(np.abs(array).max() > 1e-4 for array in params.values())
    losses = (trained.folder / "lora" / "metrics.jsonl").read_text().count('"split": "train"')
    assert losses == 4


def test_the_base_stays_as_it_is_and_the_run_is_read_merged(trained):
    base = saved.load(trained.folder / "base", 0, trained.model, _mesh())
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(base), trained.base)
    expected = _merged(trained)
    actual = saved.load(trained.folder / "lora", 4, trained.model, _mesh())
    _assert_params(actual, expected)
    assert jax.tree.map(lambda leaf: leaf.sharding, actual) == jax.tree.map(
        lambda leaf: leaf.sharding, base
    )
    moved = {p for p, leaf in flatten_dict(trained.base).items() if (leaf != expected[p]).any()}
    assert {path[-2:] for path in moved} == {(name, "kernel") for name in LORA.targets}


def test_a_run_that_was_interrupted_ends_bitwise_the_same(trained, tmp_path):
    # All of it elsewhere: what is named and not a path is found beside the run.
    shutil.copytree(trained.folder, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "lora" / "checkpoints" / "4")
    train_one(_run("lora", trained.model), tmp_path / "moved", _mesh())
    actual = _arrays(tmp_path / "moved" / "lora" / "checkpoints" / "4")
    expected = _arrays(trained.folder / "lora" / "checkpoints" / "4")
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_its_answers_are_those_of_the_merged_model(trained):
    cascade = CascadeRuns(str(trained.folder), ["lora"], ["base"], DATA, "last", MESH)
    config = collect.CollectConfig(cascade, limit=8)
    (file,) = collect.collect(config)
    table = records.read(file)
    examples = list(pipeline.decode_examples(DATA, "demo_reverse_v1", "validation", limit=8))
    inputs = np.stack([example.inputs for example in examples])
    tokens = np.zeros((8, DATA.target_length), np.int32)
    for row in range(8):
        answer = table.student_tokens[table.student_offsets[row] : table.student_offsets[row + 1]]
        tokens[row, : len(answer)] = answer
    shifted = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    batch = fakes.Batch(inputs, shifted, tokens, np.ones(tokens.shape, np.float32))
    params = {path: leaf.astype(np.float32) for path, leaf in _merged(trained).items()}
    params = jax.tree.unflatten(
        jax.tree.structure(trained.base),
        [params[tuple(k.key for k in path)] for path, _ in jax.tree.leaves_with_path(trained.base)],
    )
    module = families.build(trained.model)
    log_p = np.asarray(jax.nn.log_softmax(fakes.logits(module, params, batch)))
    of_base = np.asarray(jax.nn.log_softmax(fakes.logits(module, trained.base, batch)))
    assert np.abs(log_p - of_base).max() > 0.01
    for row in range(8):
        span = slice(table.student_offsets[row], table.student_offsets[row + 1])
        expected = np.take_along_axis(log_p[row], tokens[row][:, None], -1)[:, 0]
        actual = table.student_log_probs[span]
        np.testing.assert_allclose(actual, expected[: len(actual)], rtol=1e-3, atol=1e-4)


def test_it_is_exported_merged(trained, tmp_path, capsys):
    flags = [f"--run={trained.folder}/lora", "--checkpoint=last", f"--out={tmp_path}/served"]
    assert main.main(["export", "--to=hf", *flags]) == 0, capsys.readouterr().err
    config, params = hf.load(tmp_path / "served", scan_layers=trained.model.scan_layers)
    assert config.embed_dim == trained.model.embed_dim
    _assert_params(params, _merged(trained))


@pytest.mark.parametrize("trained", ["decoder"], indirect=True)
def test_runs_go_on_from_a_lora_run(trained):
    """All parameters are trained from the merged ones, or adapters are put on adapters."""
    where = trained.folder, _mesh(), pipeline.open_mixture(DATA).fingerprint
    actual = saved.first_parameters(
        start.FromRun("lora", checkpoint="last"), "more", trained.model, *where
    )
    expected = _merged(trained)
    _assert_params(actual, expected)
    more = _run("more", trained.model, start=start.FromRun("lora", checkpoint="last"),
                lora=Lora(rank=1, targets=("query",), alpha=3.0), steps=1, eval_split=None,
                teacher_run="lora")  # fmt: skip
    train_one(more, trained.folder, _mesh())
    arrays = _arrays(trained.folder / "more" / "checkpoints" / "1")
    for name, a in arrays.items():
        if name.startswith("params.") and name.endswith(".lora_a"):
            b, path = arrays[name.removesuffix("a") + "b"], (*name.split(".")[1:-1], "kernel")
            expected[path] = expected[path] + 3.0 * np.matmul(a, b)
    _assert_params(saved.load(trained.folder / "more", 1, trained.model, _mesh()), expected)


def test_a_base_made_of_a_deeper_models_layers(tmp_path):
    of = dataclasses.replace(T5, num_encoder_layers=2, num_decoder_layers=2)
    deep, model = _make_base(tmp_path / "base", of), T5
    begin = start.FromLayers("base", of, layers=[1], encoder_layers=[1])
    run = _run("lora", model, start=begin, teacher=None, teacher_run=None, loss=variants.Xent(),
               steps=1, eval_split=None)  # fmt: skip
    train_one(run, tmp_path, _mesh())
    base = {
        **deep,
        "encoder": {k.replace("layers_1", "layers_0"): v for k, v in deep["encoder"].items()
                    if k != "layers_0"},
        "decoder": {k.replace("layers_1", "layers_0"): v for k, v in deep["decoder"].items()
                    if k != "layers_0"},
    }  # fmt: skip
    expected = _merged(Trained(tmp_path, model, base, 0), step=1)
    _assert_params(saved.load(tmp_path / "lora", 1, model, _mesh()), expected)


def _copy(trained, folder) -> Trained:
    for name in ("base", "lora"):
        shutil.copytree(trained.folder / name, folder / name)
    # As if it had been trained here.
    config = folder / "lora" / "config.json"
    config.write_text(config.read_text().replace(str(trained.folder), str(folder)))
    return dataclasses.replace(trained, folder=folder)


@pytest.mark.parametrize("trained", ["decoder"], indirect=True)
@pytest.mark.parametrize("change", ["gone", "trained anew", "another checkpoint"])
def test_a_base_that_is_not_what_it_was_is_refused(trained, change, tmp_path, capsys):
    copy = _copy(trained, tmp_path)
    base, lora = copy.folder / "base", copy.folder / "lora"
    if change == "another checkpoint":
        (base / "checkpoints" / "0").rename(base / "checkpoints" / "1")
    else:
        shutil.rmtree(base)
    if change == "trained anew":
        _make_base(base, copy.model, seed=1)
    message = {
        "gone": rf"lora holds LoRA adapters only, and their base is gone: no run in {base}\. Put",
        "trained anew": rf"base is not that of {base} any more: its checkpoint of step 0 is gone",
        "another checkpoint": r"its checkpoint of step 0 is gone or was written anew",
    }[change]
    with pytest.raises(checkpoints.CheckpointError, match=message):
        saved.check("x", lora, 4, copy.model, _mesh())
    with pytest.raises(checkpoints.CheckpointError, match=message):
        saved.load(lora, 4, copy.model, _mesh())
    shutil.rmtree(lora / "checkpoints" / "4")  # it would go on
    with pytest.raises(checkpoints.CheckpointError, match=message):
        train_one(_run("lora", copy.model), copy.folder, _mesh())
    flags = [f"--run={lora}", f"--out={tmp_path}/served"]
    assert main.main(["export", "--to=hf", *flags]) == 2
    assert "holds LoRA adapters only" in capsys.readouterr().err


@pytest.mark.parametrize("trained", ["decoder"], indirect=True)
def test_a_base_is_found_where_it_was_when_the_run_has_gone_elsewhere(trained, tmp_path):
    shutil.copytree(trained.folder / "lora", tmp_path / "lora")
    _assert_params(saved.load(tmp_path / "lora", 4, trained.model, _mesh()), _merged(trained))


def test_runs_that_can_not_be_are_refused_when_made(tmp_path):
    with pytest.raises(ValueError, match="'x': LoRA adds to parameters that are there already"):
        _run("x", T5, start=None)
    with pytest.raises(ValueError, match=r"'querry' is not in the model; did you mean 'query'"):
        _run("x", T5, lora=Lora(rank=1, targets=("querry",)))
    with pytest.raises(ValueError, match="rank 9 is larger than the smaller side of"):
        _run("x", DECODER, lora=Lora(rank=9))


def test_a_base_that_is_still_in_training_is_refused(tmp_path):
    _make_base(tmp_path / "base", T5)
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"steps": 0', '"steps": 9'))
    run = _run("lora", T5, teacher=None, teacher_run=None, loss=variants.Xent())
    with pytest.raises(checkpoints.CheckpointError, match="its base in .*base is at step 0 of 9"):
        train_one(run, tmp_path, _mesh())
    assert not (tmp_path / "lora" / "config.json").exists()


def _update(shape, microbatches=1):
    """Adapters after two steps of CAT-Dist on a mesh, and what the second step reported."""
    model = fakes.t5_config(scan_layers=True)
    mesh = MeshConfig(*shape).build(jax.devices()[: math.prod(shape)])
    student, optimizer = families.build(model), OPTIMIZER.build()
    abstract = state_lib.abstract_state(student, optimizer, mesh, LORA)
    state = state_lib.initialize(student, optimizer, jax.random.key(0), abstract, LORA)
    abstract_model = state_lib.abstract_state(student, optimizer, mesh)
    base, teacher = (
        state_lib.initialize(student, optimizer, jax.random.key(seed), abstract_model).params
        for seed in (1, 2)
    )
    loss_fn = step_lib.make_loss_fn(student, student, variants.Dist(), mesh=mesh)
    train_step = step_lib.make_train_step(
        programs.reading_frozen(loss_fn, LORA),
        optimizer,
        OPTIMIZER.learning_rate_schedule(),
        jax.tree.map(lambda leaf: leaf.sharding, abstract),
        mesh,
        microbatches,
    )
    before = jax.device_get(state.params)
    batch = jax.device_put(fakes.ragged_batch(16), rules.batch_sharding(mesh))
    for _ in range(2):
        state, report = train_step(state, state_lib.Frozen(base, teacher), batch, jax.random.key(2))
    return before, jax.device_get(state.params), {k: float(r.value()) for k, r in report.items()}


@pytest.mark.slow  # meshes of whole models are in step_test.py
def test_a_mesh_with_microbatches_gives_the_update_of_one_device():
    start, expected, report = _update((1, 1, 1))
    start_here, actual, report_here = _update((2, 2, 2), microbatches=4)
    jax.tree.map(np.testing.assert_array_equal, start_here, start)
    assert report_here == pytest.approx(report, rel=1e-5)

    def close(path, ours, theirs, before):
        moved = np.abs(theirs - before).max()
        assert moved > 1e-3, path
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * moved, err_msg=str(path))

    jax.tree_util.tree_map_with_path(close, actual, expected, start)
