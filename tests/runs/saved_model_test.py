"""Models that read their own config and sharding rules; which runs, data and mesh fit together."""

import dataclasses
import json
import shutil

import jax
import pytest

import tasks.demo  # noqa: F401
from cascade_jax.data import pipeline
from cascade_jax.models import families
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, parameters, run_folder, start
from cascade_jax.runs.saved_model import CascadeRuns, SavedModel
from tests.support import fakes

DATA = pipeline.DataConfig("demo_last_v1", input_length=12, target_length=6, batch_size=8)
SMALL = fakes.t5_config(vocab_size=384)
OWN_RULES = {
    "small": "replicated",
    "large": [["batch", ["data"]], ["mlp", "tensor"]],
    "plain": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs with rules of their own (a name, a table, none), and one with more ids."""
    folder = tmp_path_factory.mktemp("runs")
    fingerprint = pipeline.open_mixture(DATA).fingerprint
    configs = {"small": SMALL, "large": dataclasses.replace(SMALL, mlp_dim=64), "plain": SMALL}
    configs["wide"] = dataclasses.replace(SMALL, vocab_size=400)
    for name, model in configs.items():
        written = run_folder.write_imported(folder / name, model, fingerprint, {"from": "test"})
        params = fakes.initialize(families.build(model))
        checkpoints.save_parameters(folder / name, params, written)
        if OWN_RULES.get(name) is not None:
            config = json.dumps(written | {"rules": OWN_RULES[name]})
            (folder / name / "config.json").write_text(config)
    return folder


def runs(folder, **changes) -> CascadeRuns:
    settings = {"experiment_dir": str(folder), "students": ["small"], "teachers": ["large"]}
    mesh = MeshConfig(data=2, tensor=4)
    return CascadeRuns(**(settings | {"data": DATA, "mesh": mesh} | changes))


@pytest.mark.medium
def test_config_and_rules_are_those_of_the_run(folder):
    cascades, mixture, mesh = runs(folder, students=["small", f"{folder}/plain"]).open()
    assert [[model.name for model in models] for models in cascades] == [
        ["small", "large"], ["plain", "large"],
    ]  # fmt: skip
    (small, large), (plain, _) = cascades
    assert small.config == plain.config == SMALL and large.config.mlp_dim == 64
    assert small.rules == rules.TABLES["replicated"] and plain.rules == rules.RULES
    assert large.rules == (("batch", ("data",)), ("mlp", ("tensor",)))
    assert mixture.name == "demo_last_v1"
    axes = [_mesh_axes(model.load(mesh).params) for model in (small, large, plain)]
    assert axes == [set(), {"tensor"}, {"fsdp", "tensor"}]


def _mesh_axes(params) -> set[str]:
    specs = [leaf.sharding.spec for leaf in jax.tree.leaves(params)]
    return {axis for spec in specs for axis in spec if axis is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"students": ["smal"]}, "did you mean 'small'"),
        ({"students": ["wide"]}, "must share one vocabulary: .*400.*384"),
        ({"data": dataclasses.replace(DATA, batch_size=4)},  # "replicated" splits over all axes
         "batch_size 4 does not divide by the 8 shards of the mesh"),
        ({"data": dataclasses.replace(DATA, vocabulary="byte+100")}, "vocabularies differ"),
    ],
)  # fmt: skip
def test_runs_that_do_not_fit_are_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        runs(folder, **changes).open()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"experiment_dir": None}, "experiment_dir is None; must be the path of a folder"),
        ({"students": []}, r"students is \[\]; must be a list of names or folders of runs"),
        ({"students": "small"}, "students is 'small'; must be a list"),
        ({"teachers": [None]}, r"teachers is \[None\]; must be a list"),
        ({"teachers": ["a", "b"]}, r"teachers is \['a', 'b'\]; must be one run"),
        ({"checkpoint": "bets"}, "checkpoint is 'bets'; must be one of best, last"),
    ],
)
def test_what_names_no_runs_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        runs(folder, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"type": "T5Confg"}, "plain/config.json: .* is 'T5Confg'; must be .*; did you mean 'T5C"),
        ({"mlp_dimension": 3}, "plain/config.json: the model can't be built .*'mlp_dimension'"),
        ({"num_heads": 0}, "plain/config.json: num_heads is 0; must be"),
    ],
)
def test_a_model_of_another_version_is_refused(folder, tmp_path, changes, message):
    shutil.copytree(folder / "plain", tmp_path / "plain")
    file = tmp_path / "plain/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"model": config["model"] | changes}))
    with pytest.raises(ValueError, match=message):
        SavedModel(tmp_path, "plain")


def test_a_checkpoint_is_identified_wherever_its_folder_is(folder):
    identity = SavedModel(str(folder), "small").identity
    assert identity == SavedModel("elsewhere", f"{folder}/small", "last").identity
    assert identity != SavedModel(str(folder), "plain").identity


def test_a_checkpoint_is_checked_by_the_rules_that_it_is_read_with(tmp_path):
    """A size that the default rules can not split is no fault under rules that do not split it."""
    model = dataclasses.replace(SMALL, mlp_dim=36)
    fingerprint = pipeline.open_mixture(DATA).fingerprint
    written = run_folder.write_imported(tmp_path / "odd", model, fingerprint, {"from": "test"})
    params = fakes.initialize(families.build(model))
    checkpoints.save_parameters(tmp_path / "odd", params, written)
    mesh = MeshConfig(data=1, tensor=8).build()

    def as_teacher(table):
        settings = families.build(model), tmp_path / "odd", "last", mesh, fingerprint, table
        return parameters.load_teacher("run", *settings)

    def as_start(table):
        settings = "run", model, tmp_path, mesh, fingerprint, table
        return parameters.first_parameters(start.FromRun("odd"), *settings)

    for read in (as_teacher, as_start):
        assert jax.tree.structure(read("replicated")) == jax.tree.structure(params)
        with pytest.raises(ValueError, match="size 36 does not divide by the 8 shards"):
            read(rules.DEFAULT)


def test_a_run_that_is_not_finished_is_said(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "runs")
    file = tmp_path / "runs" / "small" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 500}))
    runs(tmp_path / "runs").open()
    line = "small is not finished: its last checkpoint is of step 0 of 500"
    assert capsys.readouterr().out.splitlines() == [line]
    runs(folder).open()
    assert capsys.readouterr().out == ""
