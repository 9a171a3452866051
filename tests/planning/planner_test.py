"""Plans of tiny runs on CPU devices, against closed forms and the arrays of started runs."""

import dataclasses
import functools
import json

import jax
import pytest

from cascade_jax.cli import main
from cascade_jax.evaluation.collect import CollectConfig
from cascade_jax.losses import variants
from cascade_jax.models import families, flops
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.planning import compiled, hlo_text, planner, roofline, sweep, tables, topology
from cascade_jax.training import state as state_lib
from cascade_jax.training.loop import TrainConfig
from tests.planning import tiny_runs

CPU = topology.parse("cpu:8")
MESHES = {
    "data": MeshConfig(8),
    "all": MeshConfig(2, 2, 2),
    "fsdp": MeshConfig(1, 8),
    "tensor": MeshConfig(1, 1, 8),
}


@functools.cache
def plan(mesh="all", **changes):
    return planner.plan_train(tiny_runs.run(**changes), MESHES[mesh], CPU)


@pytest.mark.parametrize("mesh", ["data", "all", "fsdp"])
def test_flops_are_those_of_the_closed_forms(mesh):
    found = plan(mesh)
    assert found.flops == pytest.approx(found.expected_flops, rel=0.03)
    assert found.expected_flops > 1.1 * found.model_flops  # remat is seen
    assert not found.unknown_loops


def test_microbatches_change_no_flops():
    found = plan("all", microbatches=2)
    assert found.flops == pytest.approx(plan("all").flops, rel=0.01)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("rules", ["replicated", "fsdp_tensor"])
def test_parameter_and_optimizer_bytes_are_those_of_real_arrays(mesh, rules):
    run = tiny_runs.run(rules=rules)
    built = MESHES[mesh].build()
    found = compiled.train_step(run, built).part_bytes()
    student, optimizer = families.build(run.model), run.optimizer.build()
    abstract = state_lib.abstract_state(student, optimizer, built, None, rules)
    state = state_lib.initialize(student, optimizer, jax.random.key(0), abstract)
    teacher = state_lib.initialize(
        families.build(run.teacher), optimizer, jax.random.key(1),
        state_lib.abstract_state(families.build(run.teacher), optimizer, built),
    ).params  # fmt: skip

    def on_device(tree, device):
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == device
        )

    for device in jax.devices():
        assert found["student"] == on_device(state.params, device)
        assert found["optimizer"] == on_device(state.opt_state, device)
        assert found["teacher"] == on_device(teacher, device)


def test_the_peak_holds_the_parts_and_the_compilers_sum_of_arguments():
    found = plan("all")
    step = compiled.train_step(tiny_runs.run(), MESHES["all"].build())
    made = step.compile()
    # A key and a counter more; placeholders of the optimizer that no step reads less.
    assert made.arguments == pytest.approx(sum(found.parts.values()), rel=0.01)
    assert found.peak == made.peak > made.arguments


def gathers(found):
    return {each.axes: each for each in found.collectives if each.kind == "all-gather"}


def test_under_fsdp_layers_are_gathered_in_their_loop_and_not_as_a_stack():
    """No array of the program is as large as a stack of whole kernels of the teacher."""
    run = tiny_runs.run()
    more = dict(num_encoder_layers=16, num_decoder_layers=16)
    run = dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, **more))
    step = compiled.train_step(run, MESHES["fsdp"].build())
    made = step.compile()
    stack = 16 * 64 * 128 * 4  # of the MLP's kernels, float32
    program = hlo_text.parse(made.text)
    gathered = [
        each.bytes for part in program.computations.values() for each in part
        if each.opcode.startswith("all-gather")
    ]  # fmt: skip
    assert gathered and max(gathered) < stack


def test_exchanges_stand_under_their_axes():
    assert {axes for axes in gathers(plan("fsdp"))} == {("fsdp",)}
    assert all(each.axes == ("data",) for each in plan("data").collectives)
    slices = planner.plan_train(tiny_runs.run(), MeshConfig(dcn_data=2), topology.parse("cpu:4"))
    assert slices.chips == 8 and slices.roofline["network"] > 0 == plan("data").roofline["network"]


def test_the_roofline_is_the_slowest_rate():
    found = plan("all")
    times = [found.roofline[key] for key in ("compute", "memory", "interconnect", "network")]
    assert found.seconds == max(times) == found.roofline[found.roofline["bound"]]
    assert found.roofline["compute"] == found.flops / CPU.chip.flops
    assert found.hours == pytest.approx(1000 * found.seconds / 3600)
    assert found.tokens_per_second == pytest.approx(32 * 48 / found.seconds)


def test_the_table_and_the_json_hold_the_same_figures():
    found = plan("all")
    text, values = tables.table(found), json.loads(json.dumps(found.as_json()))
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
    with pytest.raises(ValueError, match=r"no run 'd'.*\['a', 'b', 'c'\]"):
        planner.chosen_run(config, "d")


def test_decoding_is_planned_for_both_models():
    run = tiny_runs.run()
    config = CollectConfig(
        "runs/x", ["cat_dist"], run.model, run.teacher, "teacher", run.data,
        mesh=MESHES["all"], top_k=4,
    )  # fmt: skip
    student, teacher = planner.plan_collect(config, CPU)
    assert (student.step, teacher.step) == ("decode student", "decode teacher")
    for found, model in ((student, run.model), (teacher, run.teacher)):
        # The cache has room for all answer tokens at each of them.
        whole = flops.prefill_flops(model, 32) + 16 * flops.decode_flops(model, 32, 15)
        assert found.flops * 8 == pytest.approx(32 * whole, rel=0.15)
        assert not found.unknown_loops and found.hours is None


def test_a_sweep_ranks_what_fits_and_names_what_does_not_divide():
    run = tiny_runs.run()
    plans, failures = sweep.sweep(run, MeshConfig(), CPU, limit=2, say=lambda text: None)
    assert len(plans) == 2 and not failures
    assert [each.seconds for each in plans] == sorted(each.seconds for each in plans)
    assert tables.ranking(plans).count("yes") == 2
    odd = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=12))
    plans, failures = sweep.sweep(odd, MeshConfig(), CPU, limit=2, say=lambda text: None)
    assert not plans and len(failures) == 2
    assert "12 does not divide by the 8 shards" in tables.ranking(plans, failures)


def test_a_sweep_tries_every_mesh_of_powers_of_two_first():
    tried = list(sweep.candidates(tiny_runs.run(), MeshConfig(), CPU))
    first = [each.mesh for each in tried[: len(sweep.meshes(8))]]
    assert {(m.data, m.fsdp, m.tensor) for m in first} >= {(8, 1, 1), (1, 8, 1), (1, 1, 8)}
    assert all(m.data * m.fsdp * m.tensor == 8 for m in first)
    assert len({str(each) for each in tried}) == len(tried)


def test_a_bound_by_hand():
    exchange = roofline.Collective
    found = roofline.roofline(
        2e12, 1e9, [exchange("all-gather", ("fsdp",), 1, 5e10),
                    exchange("all-reduce", ("dcn_data",), 1, 1e8)], CPU.chip,
    )  # fmt: skip
    assert (found.compute, found.memory, found.interconnect, found.network) == (2, 0.01, 5, 0.1)
    assert (found.bound, found.seconds) == ("interconnect", 5)


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["plan", "--gin_file=gin/experiments/demo.gin", "--gin_file=gin/meshes/cpu_8.gin"]
    argv += ["--run=xent", f"--json={tmp_path / 'plan.json'}"]
    assert main.main(argv) == 0
    (found,) = json.loads((tmp_path / "plan.json").read_text())
    assert found["step"] == "train xent" and found["topology"] == "cpu:8"
    assert "student" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_run_that_does_not_fit_has_a_status_of_its_own(monkeypatch, capsys):
    tiny = dataclasses.replace(CPU.chip, memory=1e5)
    monkeypatch.setitem(topology.CHIPS, "cpu", tiny)
    argv = ["plan", "--gin_file=gin/experiments/demo.gin", "--topology=cpu:8", "--run=xent"]
    assert main.main(argv) == 3
    printed = capsys.readouterr()
    assert "does not fit" in printed.err and "The largest part is" in printed.err
    assert "NO: it takes" in printed.out


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--topology=v5e:4x9", "topology 'v5e:4x9' is not known; did you mean 'v5e:4x8'"),
        ("--step=tarin", "--step=tarin: must be one of train, collect"),
        ("--sweep_limit=x", "--sweep_limit=x: must be a number"),
        ("--run=tecaher", "there is no run 'tecaher'; did you mean 'teacher'"),
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
