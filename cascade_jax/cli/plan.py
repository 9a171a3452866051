"""`cascade-jax plan`: whether a run fits a TPU slice, and how fast it can be."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from cascade_jax.cli import gin_config
from cascade_jax.cli.flags import Flags, UsageError, at_least, choice, flag

HELP = """\
Says before a TPU is booked whether a run fits and how fast it can be: compiles its real step with
the real TPU compiler (extra `tpu`; no TPU is needed) and prints memory, FLOPs, bytes and exchanges
of each chip and the least time by data-sheet rates. Reads no data, vocabulary or checkpoint.

example:
  cascade-jax plan --gin_file=gin/experiments/flan2021.gin --topology=v5e:4x4
  cascade-jax plan --gin_file=gin/experiments/flan2021.gin --gin_file=gin/meshes/v5e_32.gin --sweep
  cascade-jax plan --gin_file=gin/experiments/demo.gin --topology=cpu:8 --step=collect

exit status: 0 if it fits, 3 if not, 2 for bad usage.
"""


class NotFittingError(ValueError):
    """The run does not fit its chips."""

    exit_status = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """The config of train, that of collect if its step is planned, and the command's own flags."""

    config: Any
    collect: Any
    topology: str | None = flag(
        "v5e:4x8",
        "the slice (or v5e-32); without it what the mesh's gin file names. cpu:8 for tests",
        None,
    )
    run: str | None = flag("NAME", "of several runs this one; else the last with a teacher", None)
    step: str = choice("collect: decoding by that run's student and teacher", "train", "collect")
    sweep: bool = flag(None, "tries meshes, microbatches and remat, and ranks what fits")
    sweep_limit: int | None = flag("N", "the most of them to try", None, type=at_least(1))
    json: str | None = flag("FILE", "writes the figures there too", None)


def flags() -> Flags:
    """The flags of the command, gin's among them."""
    return Flags(HELP).add(gin_config.GinFlags).add(PlanCommand)


def parse(argv: list[str]) -> PlanCommand:
    """The flags of the command, and the configs of train and collect; raises UsageError."""
    from cascade_jax.cli import collect, train

    values = flags().parse(gin_config.with_bindings(argv))
    if values.step == "collect" and values.sweep:
        raise UsageError("--sweep is for --step=train")
    decoding = None
    if values.step == "collect":
        decoding = gin_config.build(collect.CONFIG, values, needs_tasks=False)
    config = gin_config.build(train.CONFIG, values, needs_tasks=False)
    own = [field.name for field in dataclasses.fields(PlanCommand) if field.metadata]
    own = {name: getattr(values, name) for name in own}
    return PlanCommand(config=config, collect=decoding, **own)


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
    chosen = planner.chosen_run(command.config, command.run)
    if command.step == "collect":
        plans = planner.plan_collect(command.collect, chosen, where)
    else:
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

    likely = sweep.likely(chosen, mesh, where, plan)
    if likely is None:
        return ", none of which would take much less here"
    split, size = likely
    return f"; {split} would take about {tables.size_of(size)}"


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
