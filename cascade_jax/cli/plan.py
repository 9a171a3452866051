"""`cascade-jax plan`."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

HELP = """\
Says before a TPU is booked whether a run fits and how fast it can be: compiles its real step with
the real TPU compiler (extra `tpu`; no TPU is needed) and prints memory, FLOPs, bytes and exchanges
of each chip and the least time by data-sheet rates. Reads no data, vocabulary or checkpoint.

example:
  cascade-jax plan --gin_file=gin/experiments/flan2021.gin --topology=v5e:4x4
  cascade-jax plan --gin_file=gin/experiments/flan2021.gin --gin_file=gin/meshes/v5e_32.gin --sweep
  cascade-jax plan --gin_file=gin/experiments/demo.gin --topology=cpu:8 --step=collect
"""
FLAG_HELP = """\
exit status: 0 if it fits, 3 if not, 2 for bad usage.

flags:
  --gin_file=FILE, --gin.MACRO=VALUE  as for train and collect
  --topology=v5e:4x8     the slice (or v5e-32); else what the mesh's gin file names. cpu:8 for tests
  --run=NAME             of several runs this one; else the last with a teacher
  --step=train           or collect: decoding by student and teacher
  --sweep                tries meshes, microbatches and remat, and ranks what fits
  --sweep_limit=N        at most so many of them
  --json=FILE            writes the figures there too
  --traceback            shows where an error arose instead of one line
"""
_FLAGS = {"topology": None, "run": None, "step": "train", "sweep_limit": None, "json": None}
_STEPS = ("train", "collect")


class NotFittingError(ValueError):
    """The run does not fit its chips."""

    exit_status = 3


@dataclasses.dataclass(frozen=True)
class PlanCommand:
    """The parsed command."""

    config: Any
    topology: str | None
    run: str | None
    step: str
    sweep: bool
    sweep_limit: int | None
    json: str | None


def parse(argv: list[str]) -> PlanCommand:
    """Takes our own flags out; the rest configures train or collect."""
    from cascade_jax.cli import collect, gin_config, train

    flags, rest, sweep = dict(_FLAGS), [], False
    for arg in argv:
        key, equals, value = arg.removeprefix("--").partition("=")
        if arg == "--sweep":
            sweep = True
        elif arg.startswith("--") and equals and key in flags:
            flags[key] = value
        else:
            rest.append(arg)
    if flags["step"] not in _STEPS:
        raise gin_config.UsageError(f"--step={flags['step']}: must be one of {', '.join(_STEPS)}")
    if sweep and flags["step"] == "collect":
        raise gin_config.UsageError("--sweep is for --step=train")
    if flags["run"] is not None and flags["step"] == "collect":
        raise gin_config.UsageError("--run is for --step=train: collect plans both models")
    limit = flags["sweep_limit"]
    if limit is not None and not (limit.isdecimal() and int(limit)):
        raise gin_config.UsageError(f"--sweep_limit={limit}: must be a number of at least 1")
    flags["sweep_limit"] = int(limit) if limit else None
    command = collect if flags["step"] == "collect" else train
    return PlanCommand(config=gin_config.parse(command.CONFIG, rest), sweep=sweep, **flags)


def run(command: PlanCommand) -> None:
    """Prints the plan; raises NotFittingError at the end if it does not fit."""
    import jax

    from cascade_jax.planning import planner, tables, topology

    jax.config.update("jax_platforms", "cpu")  # compiles for TPUs and runs on none
    mesh = command.config.mesh
    name = command.topology or mesh.topology
    if name is None:
        raise topology.TopologyError(
            "which TPU slice? Give --topology, e.g. --topology=v5e:4x8, or a mesh file that names "
            "one, e.g. --gin_file=gin/meshes/v5e_32.gin"
        )
    where = topology.parse(name)
    if command.sweep:
        _sweep(command, where)
        return
    if command.step == "collect":
        plans = planner.plan_collect(command.config, where)
    else:
        chosen = planner.chosen_run(command.config, command.run)
        plans = [planner.plan_train(chosen, mesh, where)]
    print("\n".join(map(tables.table, plans)), end="")
    _write(command.json, [plan.as_json() for plan in plans])
    for plan in plans:
        if not plan.fits:
            advice = planner.advice(plan)
            if command.step == "train":
                advice += _likely(chosen, mesh, where, plan)
            raise NotFittingError(f"{plan.step} does not fit: {advice}")


def _likely(chosen, mesh, where, plan) -> str:
    from cascade_jax.planning import sweep, tables

    found = sweep.likely(chosen, mesh, where, plan)
    if found is None:
        return ", none of which leaves much less here"
    return f"; {found[0]} would take about {tables.size_of(found[1])}"


def _sweep(command: PlanCommand, where) -> None:
    from cascade_jax.planning import planner, tables
    from cascade_jax.planning.sweep import sweep

    chosen = planner.chosen_run(command.config, command.run)
    plans, failures = sweep(
        chosen, command.config.mesh, where, command.sweep_limit,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(tables.ranking(plans, failures), end="")
    if plans and plans[0].fits:
        print("\nthe best of them:\n\n" + tables.table(plans[0]), end="")
    _write(command.json, [plan.as_json() for plan in plans])
    if not plans or not plans[0].fits:
        raise NotFittingError(f"no split of run {chosen.name!r} that was tried fits {where}")


def _write(file: str | None, plans: list[dict]) -> None:
    if file is not None:
        from cascade_jax.files import write_text

        write_text(Path(file), json.dumps(plans, indent=2) + "\n")
