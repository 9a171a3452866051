"""Plans of tiny runs on CPU devices, against closed forms and the arrays of started runs."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest

from cascade_jax.cli import main
from cascade_jax.collection.collect import CollectConfig
from cascade_jax.losses import variants
from cascade_jax.models import families, flops
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.planning import compiled, hlo_text, planner, roofline, sweep, tables, topology
from cascade_jax.runs import state as state_lib
from cascade_jax.runs.saved_model import CascadeRuns
from cascade_jax.training.experiment import TrainConfig
from tests.support import tiny_runs

pytestmark = pytest.mark.medium

CPU = topology.parse("cpu:8")
MESHES = {
    "slices": MeshConfig(4, dcn_data=2),
    "all": MeshConfig(2, 2, 2),
    "fsdp": MeshConfig(1, 8),
}
COMPILED = {}
compile_step = compiled.Step.compile


@pytest.fixture(scope="module", autouse=True)
def each_step_is_compiled_once():
    """By name, mesh and shapes."""

    def compile_once(step):
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(step.arguments)]
        key = f"{step.name} {step.mesh} {shapes}"
        if key not in COMPILED:
            COMPILED[key] = compile_step(step)
        return COMPILED[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.Step, "compile", compile_once)
        yield


@functools.cache
def plan(mesh):
    """Of the tiny run; over slices in two microbatches, which change no FLOPs."""
    config = MESHES[mesh]
    where = topology.parse(f"cpu:{8 // config.dcn_data}")
    run = tiny_runs.run(microbatches=config.dcn_data)
    return planner.plan_train(run, config, where)


@pytest.mark.parametrize("mesh", ["slices", "all", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_flops_are_those_of_the_closed_forms(mesh):
    actual = plan(mesh)
    assert actual.flops == pytest.approx(actual.expected_flops, rel=0.03)
    assert actual.expected_flops > 1.1 * actual.model_flops  # remat is seen
    assert not actual.unknown_loops


@pytest.mark.parametrize(
    "mesh, table",
    [
        ("slices", "replicated"),
        ("all", "fsdp_tensor"),
        pytest.param("fsdp", "fsdp", marks=pytest.mark.slow),  # compiles a mesh for this alone
    ],
)
def test_parameter_and_optimizer_bytes_are_those_of_real_arrays(mesh, table):
    run = tiny_runs.run(rules=table, teacher_rules="fsdp_tensor")
    run = dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, dtype="bfloat16"))
    built = MESHES[mesh].build()
    actual = compiled.train_step(run, built).part_bytes()
    # What a run starts with (training/run.py); the teacher's figures are of no matter.
    student, optimizer = families.build(run.model), run.optimizer.build()
    abstract = state_lib.abstract_state(student, optimizer, built, None, run.rules)
    state = state_lib.initialize(student, optimizer, jax.random.key(0), abstract)
    teacher = families.build(run.teacher)
    shapes = state_lib.abstract_parameters(teacher, built, table=run.teacher_rules)
    loaded = jax.tree.map(
        lambda each: jnp.zeros(each.shape, each.dtype, device=each.sharding), shapes
    )
    frozen = state_lib.in_compute_dtype(teacher, loaded)

    def on_device(tree, device):
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == device
        )

    for device in jax.devices():
        assert actual["student"] == on_device(state.params, device)
        assert actual["optimizer"] == on_device(state.opt_state, device)
        assert actual["teacher"] == on_device(frozen, device)
    assert actual["teacher"] < 0.6 * on_device(loaded, jax.devices()[0])  # it is kept in bfloat16


def test_a_run_from_a_teacher_cache_holds_and_computes_no_teacher(tmp_path):
    where = MESHES["all"], topology.parse("cpu:8")
    run = tiny_runs.run(loss=variants.CATXent(), teacher_cache=str(tmp_path / "cache"))
    actual = planner.plan_train(run, *where)
    live = planner.plan_train(dataclasses.replace(run, teacher_cache=None), *where)
    assert set(live.parts) - set(actual.parts) == {"teacher"}
    teacher = flops.forward_flops(run.teacher, 32, 16) * run.data.batch_size / 8
    assert live.model_flops - actual.model_flops == teacher
    # Recomputing leaves out the last product of each layer, which weighs more without a teacher.
    assert 0.95 * actual.expected_flops < actual.flops < actual.expected_flops
    # A bit for each token comes with the batch, which is split over the batch axes (2 and 2).
    assert actual.parts["batch"] - live.parts["batch"] == run.data.batch_size / 4 * 16
    with pytest.raises(ValueError, match="no teacher cache in .*cascade-jax cache-teacher"):
        planner.plan_train(dataclasses.replace(run, loss=variants.CATDist()), *where)


def test_the_peak_holds_the_parts_and_the_compilers_sum_of_arguments():
    actual = plan("all")
    made = compiled.train_step(tiny_runs.run(), MESHES["all"].build()).compile()
    # A key and a counter more; placeholders of the optimizer that no step reads less.
    assert made.arguments == pytest.approx(sum(actual.parts.values()), rel=0.01)
    assert actual.peak == made.peak > made.arguments
    assert sum(each.bytes for each in actual.held) <= actual.temporaries


def gathers(result):
    return {each.axes: each for each in result.collectives if each.kind == "all-gather"}


def test_under_fsdp_layers_are_gathered_in_their_loop_and_not_as_a_stack():
    """No gather brings more than the embedding, and a stack of any kernel is larger than that."""
    run = tiny_runs.run()
    made = compiled.train_step(run, MESHES["fsdp"].build()).compile()
    embedding = 256 * run.teacher.embed_dim * 4
    for model in (run.model, run.teacher):
        kernel = model.embed_dim * model.num_heads * model.head_dim * 4  # the smallest there is
        assert tiny_runs.LAYERS * kernel > embedding
    program = hlo_text.parse(made.text)
    gathered = [
        shape.bytes for part in program.computations.values() for each in part
        if each.opcode.startswith("all-gather") for shape in each.shapes
    ]  # fmt: skip
    assert gathered and max(gathered) <= embedding
    # Seven matrices of the teacher's encoder layers, eleven of its decoder's, in every layer.
    (over,) = [each for each in plan("fsdp").collectives if each.kind == "all-gather"]
    assert over.count > tiny_runs.LAYERS * (7 + 11)


def test_exchanges_stand_under_their_axes():
    assert {axes for axes in gathers(plan("fsdp"))} == {("fsdp",)}
    slices = plan("slices")
    assert {each.axes for each in slices.collectives} == {("dcn_data", "data")}
    assert slices.chips == 8 and slices.roofline["network"] > 0 == plan("all").roofline["network"]


def test_the_roofline_is_the_slowest_rate():
    actual = plan("all")
    times = [actual.roofline[key] for key in ("compute", "memory", "interconnect", "network")]
    assert actual.seconds == max(times) == actual.roofline[actual.roofline["bound"]]
    assert actual.roofline["compute"] == actual.flops / CPU.chip.flops
    assert actual.hours == pytest.approx(1000 * actual.seconds / 3600)
    assert actual.tokens_per_second == pytest.approx(32 * 48 / actual.seconds)


def test_the_table_and_the_json_hold_the_same_figures():
    result = plan("all")
    text, values = tables.table(result), json.loads(json.dumps(result.as_json()))
    assert tables.size_of(values["peak"]) in text and f"{values['flops'] / 1e6:.4g} MFLOP" in text
    assert {each["kind"] for each in values["collectives"]} <= set(text.replace("\n", " ").split())
    assert values["fits"] and "fits" in text


def test_a_run_that_is_too_large_says_which_part_is():
    short = dataclasses.replace(plan("all"), fits=False, reason="it takes 2 GB of 1 GB a chip")
    advice = planner.advice(short)
    assert "The largest part is activations" in advice and "--sweep" in advice
    heavy = dataclasses.replace(short, parts=short.parts | {"teacher": 1e9}, peak=1.1e9)
    assert "The largest part is teacher, 1.00 GB a chip; split it" in planner.advice(heavy)


@pytest.mark.parametrize(
    "mesh, changes, message",
    [
        (MeshConfig(3), {}, r"the mesh does not match cpu:8 \(8 chips\).*data=3"),
        (
            MeshConfig(8),
            dict(microbatches=8),
            "batch_size / microbatches 4 does not divide by .* 8",
        ),
        (MeshConfig(1, 1, 8), dict(model=None), "parameter .*'mlp' of size 12 .* 'tensor'"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(mesh, changes, message):
    if "model" in changes:
        changes = dict(model=dataclasses.replace(tiny_runs.run().model, mlp_dim=12))
    with pytest.raises(ValueError, match=message):
        planner.plan_train(tiny_runs.run(**changes), mesh, CPU)


def test_the_last_run_with_a_teacher_is_planned_unless_one_is_named():
    alone = dict(teacher=None, teacher_run=None, loss=variants.Xent())
    runs = [tiny_runs.run(name="a"), tiny_runs.run(name="b"), tiny_runs.run(name="c", **alone)]
    config = TrainConfig(runs, "runs/x")
    assert planner.chosen_run(config).name == "b"
    assert planner.chosen_run(config, "c").name == "c"
    with pytest.raises(ValueError, match="run is 'd'; must be one of a, b, c"):
        planner.chosen_run(config, "d")


def test_decoding_is_planned_for_both_models():
    run = tiny_runs.run()
    cascade = CascadeRuns("runs/x", ["cat_dist"], ["teacher"], run.data, mesh=MESHES["all"])
    config = CollectConfig(cascade, top_k=4)
    student, teacher = planner.plan_collect(config, run, CPU)
    assert (student.step, teacher.step) == ("decode student", "decode teacher")
    for actual, model in ((student, run.model), (teacher, run.teacher)):
        # The cache has room for all answer tokens at each of them.
        whole = flops.prefill_flops(model, 32) + 16 * flops.decode_flops(model, 32, 15)
        assert actual.flops * 8 == pytest.approx(32 * whole, rel=0.15)
        assert actual.expected_flops * 8 == 32 * whole
        assert not actual.unknown_loops and actual.hours is None


def test_a_sweep_ranks_what_fits_and_names_what_does_not_divide(monkeypatch):
    known = plan("all")  # before the function that makes it is replaced

    def planned(run, mesh, where):
        if mesh.tensor > 1:
            raise ValueError("12 does not divide by the 8 shards")
        seconds = {1: 3.0, 2: 1.0, 4: 2.0}[run.microbatches] + mesh.data
        roof = {"seconds": seconds, "bound": "memory"}
        return dataclasses.replace(
            known, mesh={"data": mesh.data}, split={"microbatches": run.microbatches},
            fits=seconds > 3, roofline=roof,
        )  # fmt: skip

    monkeypatch.setattr(planner, "plan_train", planned)
    said = []
    plans, failures = sweep.sweep(tiny_runs.run(), MeshConfig(), CPU, say=said.append)
    tried = len(plans) + len(failures)
    assert tried == len(said) == len(sweep.meshes(8)) * 6
    assert sum("remat none" in line for line in said) == tried / 2
    fitting = [each.seconds for each in plans if each.fits]
    assert fitting == sorted(fitting) and len(fitting) < len(plans)
    assert all(each.fits for each in plans[: len(fitting)])
    text = tables.ranking(plans, failures)
    assert text.count("yes") == len(fitting)
    assert "tensor=8), microbatches 1, remat full: 12 does not divide by the 8 shards" in text


def test_what_a_sweep_would_suggest_is_known_without_compiling():
    result = plan("all")
    # A chip with room for less than this mesh takes: less of the student and teacher on each, or
    # fewer rows at once.
    less = dataclasses.replace(result, memory=result.peak * 0.7)
    candidate, size = sweep.likely(tiny_runs.run(), MESHES["all"], CPU, less)
    assert size <= less.memory and str(candidate.mesh) != "mesh (data=2, fsdp=2, tensor=2)"
    built = candidate.mesh.build()
    parts = compiled.train_step(candidate.applied_to(tiny_runs.run()), built).part_bytes()
    assert size > sum(parts.values())
    none = dataclasses.replace(result, memory=1.0, peak=1.0, parts={})
    assert sweep.likely(tiny_runs.run(), MESHES["all"], CPU, none) is None


def test_a_sweep_tries_every_mesh_of_powers_of_two_first():
    tried = list(sweep.candidates(tiny_runs.run(), MeshConfig(), CPU))
    first = [each.mesh for each in tried[: len(sweep.meshes(8))]]
    assert {(m.data, m.fsdp, m.tensor) for m in first} >= {(8, 1, 1), (1, 8, 1), (1, 1, 8)}
    assert all(m.data * m.fsdp * m.tensor == 8 for m in first)
    assert len({str(each) for each in tried}) == len(tried)


def test_a_bound_by_hand():
    exchange = roofline.Collective
    actual = roofline.roofline(
        2e12, 1e9, [exchange("all-gather", ("fsdp",), 1, 5e10),
                    exchange("all-reduce", ("dcn_data",), 1, 1e8)], CPU.chip,
    )  # fmt: skip
    assert (actual.compute, actual.memory, actual.interconnect, actual.network) == (2, 0.01, 5, 0.1)
    assert (actual.bound, actual.seconds) == ("interconnect", 5)


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["plan", "--gin_file=gin/experiments/demo.gin", "--gin_file=gin/meshes/cpu_8.gin"]
    argv += ["--run=xent", f"--json={tmp_path / 'plan.json'}"]
    assert main.main(argv) == 0
    (actual,) = json.loads((tmp_path / "plan.json").read_text())
    assert actual["step"] == "train xent" and actual["topology"] == "cpu:8"
    assert "student" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Ran out of memory in memory space hbm. Used 17.00G of 15.75G hbm.", 17 * 2**30),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (17.00G) "
            "exceeds available HBM (15.75G).",
            17 * 2**30 + 8 * 4,
        ),
        ("Ran out of something.", None),
    ],
)
def test_what_the_compiler_refuses_does_not_fit(text, expected):
    class Refusing:
        def lower(self, *arguments):
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {text}\n\nand more")

    mesh = MESHES["fsdp"].build()
    parts = {"student": jnp.zeros(8, device=rules.replicated(mesh))}
    step = compiled.Step("train", Refusing(), (), parts, mesh)
    with pytest.raises(compiled.DoesNotFitError) as refused:
        compile_step(step)
    assert refused.value.peak == expected and "\n" not in str(refused.value)
    assert expected is None or "wants 18.3 GB of 15.75GiB a chip" in str(refused.value)


def test_a_run_that_does_not_fit_has_a_status_of_its_own(monkeypatch, capsys):
    tiny = dataclasses.replace(CPU.chip, memory=1e5)
    monkeypatch.setitem(topology.CHIPS, "cpu", tiny)
    argv = ["plan", "--gin_file=gin/experiments/demo.gin", "--gin_file=gin/meshes/cpu_8.gin"]
    assert main.main([*argv, "--run=xent"]) == 3
    printed = capsys.readouterr()
    assert "does not fit" in printed.err and "The largest part is" in printed.err
    assert "NO: it takes" in printed.out and "remat" in printed.err.split("--sweep")[1]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--topology=v5e:4x9", "topology 'v5e:4x9' is not known; did you mean 'v5e:4x8'"),
        ("--step=tarin", "--step: 'tarin' is not one of train, collect; did you mean 'train'"),
        ("--sweep_limit=x", "--sweep_limit: 'x' is not an integer of at least 1"),
        ("--run=tecaher", "did you mean 'teacher'"),
        ("--topologie=cpu:8", "topologie"),
        (None, "which TPU slice? Give --topology"),
    ],
)
def test_bad_flags_are_refused_in_a_line(flag, message, capsys):
    argv = ["plan", "--gin_file=gin/experiments/demo.gin"]
    if flag is not None:
        argv += ["--topology=cpu:8"] * ("topology" not in flag) + [flag]
    assert main.main(argv) == 2
    line = capsys.readouterr().err
    assert message in line and line.count("\n") == 1
