"""The memory and time that a run needs on each chip, and whether it fits."""

import dataclasses
from typing import Any

from cascade_jax.collection.collect import CollectConfig
from cascade_jax.names import check_choice
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.planning import compiled as compiled_lib
from cascade_jax.planning import hlo_text, hlo_walk, liveness, roofline
from cascade_jax.planning.topology import Topology
from cascade_jax.training import utilisation
from cascade_jax.training.experiment import TrainConfig, TrainRun

SCHEMA = 2
_MOST_HELD = 12  # kinds of arrays that a plan names


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of one step; bytes, FLOPs and seconds are per chip unless noted otherwise."""

    step: str  # e.g. "train cat_dist"
    topology: str
    chips: int
    mesh: dict[str, int]  # names and sizes of the axes
    split: dict[str, Any]  # rules, microbatches and rematerialisation, as configured
    parts: dict[str, float]  # bytes that stay in memory: student, optimizer, teacher, batch
    memory: float  # bytes of a chip
    fits: bool  # whether peak is at most memory, and the compiler took it
    reason: str = ""  # why it does not fit
    temporaries: float | None = None  # most bytes of activations, gradients and gathered weights
    program: float | None = None  # bytes of the program itself
    peak: float | None = None  # bytes taken at once
    held: tuple[liveness.Held, ...] = ()  # the largest arrays when temporaries are at their most
    flops: float | None = None  # counted in the compiled program
    expected_flops: float | None = None  # in closed form
    model_flops: float | None = None  # the same without recomputation; of training only
    moved: float | None = None  # bytes read from and written to HBM
    collectives: tuple[hlo_walk.Collective, ...] = ()
    unknown_loops: tuple[str, ...] = ()  # counted once: nothing says how often they run
    roofline: dict[str, Any] = dataclasses.field(default_factory=dict)  # seconds by resource
    tokens_per_second: float | None = None  # inputs and targets of all chips at the roofline
    hours: float | None = None  # of all steps of the run at the roofline
    compile_seconds: float | None = None  # here

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {"schema": SCHEMA} | dataclasses.asdict(self)

    @property
    def seconds(self) -> float | None:
        """The least that a step can take."""
        return self.roofline.get("seconds")


def chosen_run(config: TrainConfig, name: str | None = None) -> TrainRun:
    """The run to plan: the one of this name, or the last that has a teacher, or the last.

    Raises:
      ValueError: there is no run of this name.
    """
    runs = {run.name: run for run in config.selected()}
    if name is not None:
        check_choice("run", name, runs)
        return runs[name]
    return ([run for run in runs.values() if run.teacher is not None] or list(runs.values()))[-1]


def plan_train(run: TrainRun, mesh_config: MeshConfig, topology: Topology) -> Plan:
    """Compiles the training step of a run.

    Raises:
      ValueError: mesh, topology, batch and parameters do not fit each other; says which.
    """
    mesh = _mesh(mesh_config, topology)
    step = compiled_lib.train_step(run, mesh)
    split = {
        "rules": _shown(run.rules),
        "teacher_rules": _shown(run.teacher_rules) if run.live_teacher is not None else None,
        "microbatches": run.microbatches,
        "remat": run.model.remat,
    }
    model = utilisation.step_flops(run)
    expected = {
        "model_flops": model / mesh.size,
        "expected_flops": (model + roofline.recomputed_flops(run)) / mesh.size,
    }
    tokens = run.data.batch_size * (run.data.input_length + run.data.target_length)
    return _plan(step, topology, split, tokens, run.steps, None, expected)


def plan_collect(config: CollectConfig, run: TrainRun, topology: Topology) -> list[Plan]:
    """Compiles the decoding of one batch by a run's student, trained or not, and its teacher.

    Raises:
      ValueError: as `plan_train`.
    """
    if run.teacher is None:
        raise ValueError(f"run {run.name!r} has no teacher; choose a student's run (--run)")
    mesh = _mesh(config.cascade.mesh, topology)
    data = config.data
    plans = []
    for name, model, table, top_k in (
        ("student", run.model, run.rules, config.top_k),
        ("teacher", run.teacher, run.teacher_rules, 0),
    ):
        step = compiled_lib.decode_step(name, model, table, top_k, data, mesh)
        answer = roofline.answer_flops(model, data.input_length, data.target_length)
        expected = {"expected_flops": data.batch_size * answer / mesh.size}
        tokens = data.batch_size * (data.input_length + data.target_length)
        split = {"rules": _shown(table), "top_k": top_k}
        plans.append(_plan(step, topology, split, tokens, None, data.target_length, expected))
    return plans


def _shown(table: Any) -> Any:
    return table if isinstance(table, str) else [list(pair) for pair in table]


def _mesh(config: MeshConfig, topology: Topology):
    """The mesh on the topology's devices; raises ValueError if they do not match."""
    devices = topology.devices(config.dcn_data)
    try:
        return config.build(devices)
    except ValueError as error:
        slices = f"{config.dcn_data} slices of " if config.dcn_data > 1 else ""
        raise ValueError(
            f"the mesh does not match {slices}{topology} ({len(devices)} chips): {error}"
        ) from error


def _plan(step, topology, split, tokens, steps, longest_loop, expected) -> Plan:
    chip, mesh = topology.chip, dict(step.mesh.shape)
    common = {
        "step": step.name,
        "topology": str(topology),
        "chips": step.mesh.size,
        "mesh": mesh,
        "split": split,
        "parts": step.part_bytes(),
        "memory": chip.memory,
        **expected,
    }
    try:
        compiled = step.compile()
    except compiled_lib.DoesNotFitError as error:
        return Plan(**common, fits=False, peak=error.peak, reason=str(error))
    program = hlo_text.parse(compiled.text)
    totals = hlo_walk.walk(program, mesh, longest_loop)
    exchanges = tuple(totals.exchanges())
    bound = roofline.roofline(totals.flops, totals.bytes, exchanges, chip)
    fits = compiled.peak <= chip.memory
    reason = f"it takes {compiled.peak / 1e9:.2f} GB of {chip.memory / 1e9:.1f} GB a chip"
    return Plan(
        **common,
        fits=fits,
        reason="" if fits else reason,
        temporaries=compiled.temporaries,
        program=compiled.program,
        peak=compiled.peak,
        held=liveness.most_held(program)[:_MOST_HELD],
        flops=totals.flops,
        moved=totals.bytes,
        collectives=exchanges,
        unknown_loops=tuple(totals.unknown_loops),
        roofline=dataclasses.asdict(bound) | {"seconds": bound.seconds, "bound": bound.bound},
        tokens_per_second=tokens / bound.seconds,
        hours=None if steps is None else steps * bound.seconds / 3600,
        compile_seconds=compiled.seconds,
    )


def advice(plan: Plan) -> str:
    """Which part of a plan that does not fit is the largest, and what to try first."""
    sizes = {name: size for name, size in plan.parts.items() if name != "batch"}
    if plan.peak is not None:
        sizes["activations"] = max(0.0, plan.peak - sum(plan.parts.values()))
    largest = max(sizes, key=lambda name: sizes[name])
    if largest == "activations":
        tip = "more microbatches (--gin.MICROBATCHES), remat 'full', or a larger "
        tip += "data, fsdp or tensor axis"
    else:
        rules = "teacher_rules" if largest == "teacher" else "rules"
        mesh = f"fsdp={plan.mesh['fsdp']}, tensor={plan.mesh['tensor']}"
        tip = f"split it: {rules.upper()} is {plan.split.get(rules)!r} on {mesh}"
    return (
        f"{plan.reason}. The largest part is {largest}, {sizes[largest] / 1e9:.2f} GB a chip; "
        f"{tip}. --sweep tries meshes, microbatches and remat"
    )
