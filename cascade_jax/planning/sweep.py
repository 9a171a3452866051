"""Other splits of the same run: meshes, microbatches and rematerialisation, the best first."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

from cascade_jax import axes
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.planning import compiled, planner
from cascade_jax.planning.separate_process import apart
from cascade_jax.planning.topology import Topology
from cascade_jax.training.experiment import TrainRun

MICROBATCHES = (1, 2, 4)
REMATS = ("none", "full")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to split a run."""

    mesh: MeshConfig
    microbatches: int
    remat: str

    def __str__(self):
        return f"{self.mesh}, microbatches {self.microbatches}, remat {self.remat}"

    def applied_to(self, run: TrainRun) -> TrainRun:
        """The run, split in this way."""
        model = dataclasses.replace(run.model, remat=self.remat)
        return dataclasses.replace(run, model=model, microbatches=self.microbatches)


def meshes(num_chips: int, dcn_data: int = 1, most_tensor: int = 8) -> list[MeshConfig]:
    """Meshes of a slice in powers of two: all on one axis, and both ways to share two."""
    powers = [1 << i for i in range(num_chips.bit_length()) if num_chips % (1 << i) == 0]
    shapes = {
        MeshConfig(data, num_chips // tensor // data, tensor, dcn_data)
        for tensor in powers
        for data in (1, num_chips // tensor)
        if tensor <= most_tensor
    }
    return sorted(shapes, key=lambda mesh: (mesh.tensor, mesh.data))


def candidates(
    run: TrainRun, mesh: MeshConfig, topology: Topology, limit: int | None = None
) -> Iterator[Candidate]:
    """The splits that a sweep tries: every mesh with the run's own settings, then other settings.

    The number of slices stays that of the configured mesh.
    """
    own = (run.microbatches, run.model.remat)
    others = [pair for pair in itertools.product(MICROBATCHES, REMATS) if pair != own]
    all_meshes = meshes(topology.num_chips, mesh.dcn_data)
    pairs = itertools.product([own, *others], all_meshes)
    for (microbatches, remat), each in itertools.islice(pairs, limit):
        yield Candidate(each, microbatches, remat)


def likely(
    run: TrainRun, mesh: MeshConfig, topology: Topology, plan: planner.Plan
) -> tuple[Candidate, float] | None:
    """A split that is likely to fit a run that does not, without compiling anything.

    Parameters and optimizer of the other meshes are known exactly. What else the plan's peak holds
    is taken to grow with the rows that a chip computes at once.

    Returns:
      The first candidate that fits by this estimate, or the smallest, and its bytes; None if it is
      no smaller than the plan.
    """
    peak = plan.memory if plan.peak is None else plan.peak
    rest = max(0.0, peak - sum(plan.parts.values()))
    devices, best = topology.devices(mesh.dcn_data), None
    own = _rows(run, mesh.build(devices).shape, run.microbatches)
    for each in meshes(topology.num_chips, mesh.dcn_data):
        built = each.build(devices)
        try:
            parts = sum(compiled.train_step(run, built).part_bytes().values())
        except ValueError:  # does not divide
            continue
        for microbatches in MICROBATCHES:
            rows = _rows(run, built.shape, microbatches)
            if rows != int(rows):
                continue
            candidate = Candidate(each, microbatches, run.model.remat), parts + rest * rows / own
            if candidate[1] <= plan.memory:
                return candidate
            if best is None or candidate[1] < best[1]:
                best = candidate
    return best if best is not None and best[1] < peak else None


def _rows(run: TrainRun, shape, microbatches: int) -> float:
    """Rows that a chip computes at once, for the model that has more of them."""
    over = [dict(rules.table(each)).get(axes.BATCH) or () for each in run.rule_tables]
    shards = [math.prod(shape[axis] for axis in each) for each in over]
    return run.data.batch_size / microbatches / min(shards)


def sweep(
    run: TrainRun,
    mesh: MeshConfig,
    topology: Topology,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[list[planner.Plan], list[tuple[str, str]]]:
    """Plans of all candidates, those that fit first, the fastest bound first.

    For TPUs each is compiled in a process of its own: the compiler may end its process.

    Returns:
      The plans, and (candidate, reason) of what does not divide or could not be compiled.
    """
    plans, failures = [], []
    for candidate in candidates(run, mesh, topology, limit):
        say(f"compiling {candidate}")
        try:
            if run.data.batch_size % candidate.microbatches:
                raise ValueError(f"batch_size {run.data.batch_size} does not divide")
            arguments = candidate.applied_to(run), candidate.mesh, topology
            if topology.kind == "cpu":
                plans.append(planner.plan_train(*arguments))
            else:
                plans.append(apart(planner.plan_train, *arguments))
        except ValueError as error:
            failures.append((str(candidate), str(error)))
    return sorted(plans, key=_rank), failures


def _rank(plan: planner.Plan) -> tuple:
    return not plan.fits, plan.seconds or float("inf"), plan.peak or float("inf")
