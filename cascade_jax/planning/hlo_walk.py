"""FLOPs, bytes and collectives of one run of a compiled program, with loops counted in full.

XLA's own cost analysis counts a loop's body once. Here a body counts as often as it runs: that is
known from the loop's condition (a counter against a constant), or, where the number depends on the
data, from the name of a scope around the loop, which gives its limit (`losses.fused.LOOP_LIMIT`).
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

from cascade_jax.losses.fused import LOOP_LIMIT
from cascade_jax.parallel.mesh import DCN_DATA
from cascade_jax.planning import between_slices, matmuls, replica_groups
from cascade_jax.planning.hlo_text import Computation, Instruction, Program, Shape

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "ragged-all-to-all", "collective-broadcast",
)  # fmt: skip
# Nothing is read or written for these, or what they call is counted in their place.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "domain",
    "async-start", "async-update", "async-done",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
    """Exchanges of one kind over the same mesh axes.

    Attributes:
      bytes: that a chip sends, all of them together, when the axes are rings: (n - 1) / n of the
        whole array for a gather or scatter among n, twice that for an all-reduce.
    """

    kind: str  # "all-gather" and so on
    axes: tuple[str, ...]  # of the mesh, e.g. ("fsdp",)
    count: float  # in a run
    bytes: float


@dataclasses.dataclass
class Totals:
    """The work of one device in one run of the program.

    Attributes:
      collectives: (kind, axes) -> [count, bytes].
      unknown_loops: names of loops whose number of runs can not be known, counted once.
    """

    flops: float = 0.0  # of matmuls, convolutions and kernels; a multiply and an add are two
    bytes: float = 0.0  # read from and written to the chip's large memory by all operations
    collectives: dict[tuple[str, tuple[str, ...]], list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(lambda: [0.0, 0.0])
    )
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    def exchanges(self) -> list[Collective]:
        """The collectives, the largest first."""
        collectives = [Collective(*key, *values) for key, values in self.collectives.items()]
        return sorted(collectives, key=lambda each: -each.bytes)


def walk(program: Program, mesh: Mapping[str, int], longest_loop: int | None = None) -> Totals:
    """Adds up the work of a program.

    Args:
      program: from `hlo_text.parse`.
      mesh: sizes of the axes that its devices are numbered by, the last varying fastest.
      longest_loop: how often a loop runs that says nothing of it; None counts it once and lists it
        in `unknown_loops`.
    """
    totals = Totals()
    _Walk(program, mesh, longest_loop, totals).computation(program.entry, 1, set())
    return totals


@dataclasses.dataclass
class _Walk:
    program: Program
    mesh: Mapping[str, int]
    longest_loop: int | None
    totals: Totals

    def computation(self, name: str, times: float, steps: set, inside: bool = False) -> None:
        """Adds a computation that runs `times` times.

        Args:
          name, times: the computation.
          steps: collectives of the loop body that this belongs to, which are counted; one that is
            spread over several fusions, so that it goes on beside them, stands in each of these.
          inside: of a fusion, where only matmuls and collectives count.
        """
        computation = self.program.computations[name]
        for each in computation:
            kind = each.opcode.removesuffix("-start")
            if each.opcode == "while":
                count = self._trips(each, computation)
                self.computation(each.called("body"), times * count, set())
            elif each.opcode == "conditional":
                self._branches(each, times, steps)
            elif each.opcode == "fusion":
                self.computation(each.called("calls"), times, steps, inside=True)
            elif each.opcode in ("call", "async-start"):
                called = each.called("to_apply") or each.called("calls")
                self.computation(called, times, steps, inside)
            elif each.opcode in ("dot", "convolution"):
                self.totals.flops += times * matmuls.flops(each, computation)
            elif each.opcode == "custom-call":
                self.totals.flops += times * matmuls.kernel_flops(each)
            elif kind in COLLECTIVES:
                self._collective(kind, each, computation, times, steps if inside else None)
            elif each.opcode == "send":
                self._between_slices(each, computation, times)
            if not inside and each.opcode not in _FREE and not each.opcode.endswith("-done"):
                self.totals.bytes += times * self._moved(each, computation)

    def _branches(self, each: Instruction, times: float, steps: set[str]) -> None:
        """The costliest branch."""
        costs = []
        for name in each.branches:
            walked = _Walk(self.program, self.mesh, self.longest_loop, Totals())
            walked.computation(name, 1, set(steps))
            costs.append((walked.totals.flops, walked.totals.bytes, name))
        if costs:
            self.computation(max(costs)[2], times, steps)

    def _collective(self, kind, each, computation, times, steps) -> None:
        if steps is not None:
            channel = re.search(r"channel_id=\d+", each.attributes)
            dims = tuple(shape.dims for shape in each.shapes)
            step = kind, channel and channel[0], dims, each.op_name
            if step in steps:
                return
            steps.add(step)
        devices = replica_groups.group(each.attributes)
        axes = replica_groups.axes_of(devices, self.mesh)
        operands = sum(computation.instructions[name].bytes for name in each.operands)
        size = 2 if devices is None else len(devices)
        if devices is None:
            size = math.prod(self.mesh[axis] for axis in axes)
        whole = max((shape.bytes for shape in each.shapes), default=0.0)
        if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        sent = {
            "all-gather": whole * (size - 1) / size,
            "all-reduce": 2 * operands * (size - 1) / size,
            "collective-permute": operands,
            "collective-broadcast": operands,
        }.get(kind, operands * (size - 1) / size)
        if size > 1 and sent:
            total = self.totals.collectives[kind, axes]
            total[0] += times
            total[1] += times * sent

    def _between_slices(self, each: Instruction, computation: Computation, times: float) -> None:
        operand = computation.instructions[each.operands[0]].bytes
        exchange = between_slices.exchange(each, operand, self.mesh[DCN_DATA])
        if exchange is not None:
            total = self.totals.collectives[exchange[0], (DCN_DATA,)]
            total[0] += times
            total[1] += times * exchange[1]

    def _moved(self, each: Instruction, computation: Computation) -> float:
        """Bytes that an instruction reads and writes in the large memory."""
        sources = [computation.instructions[name] for name in each.operands]
        if each.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * _large(each.shapes)
        if each.opcode in ("dynamic-update-slice", "scatter"):
            return 2 * _large(sources[-1 if each.opcode == "scatter" else 1].shapes)
        if each.opcode == "fusion":
            body = self.program.computations[each.called("calls")]
            passed = each.aliases if _is_exchange_step(each) else {}
            return _written(body, each, set(passed)) + sum(
                _read(body, place, source)
                for place, source in enumerate(sources)
                if place not in passed.values()
            )
        if each.opcode == "custom-call" and 'target="AllocateBuffer"' in each.attributes:
            return 0.0
        if each.opcode == "copy-start":  # (result, operand, context)
            return _large(each.shapes[:2])
        if each.opcode == "slice-start":  # ((operand), result, context)
            is_large = bool(_large(sources[0].shapes))
            return is_large * each.shapes[1].bytes + _large(each.shapes[1:2])
        if each.opcode in ("send", "recv"):  # one array, which a send leaves where it is
            return _large(each.shapes[:1])
        result = each.shapes
        if each.opcode.endswith("-start"):  # (operand, result, flags)
            result = each.shapes[1:2] if len(each.shapes) > 1 else each.shapes
        return sum(_large(source.shapes) for source in sources) + _large(result)

    def _trips(self, loop: Instruction, computation: Computation) -> float:
        """How often a loop runs."""
        known = re.search(r'known_trip_count"?:?\s*=?\{"n":"(\d+)"\}', loop.attributes)
        if known:
            return int(known[1])
        count = _counted(self.program, loop, computation)
        if count is not None:
            return count
        if limits := re.findall(rf"{LOOP_LIMIT}(\d+)", loop.op_name):
            return int(limits[-1])
        if self.longest_loop is None:
            self.totals.unknown_loops.append(loop.op_name or loop.name)
            return 1
        return self.longest_loop


def _is_exchange_step(fusion: Instruction) -> bool:
    """Whether a fusion begins, moves on or ends an exchange between chips, maybe beside its work.

    The arrays of the exchange pass through it. Where they are made, at the start, they count.
    """
    names = fusion.name, fusion.called("calls")
    return any(re.match(r"async[-_]collective[-_](start|done|fusion)", name) for name in names)


def _large(shapes: tuple[Shape, ...]) -> float:
    return sum(shape.bytes for shape in shapes if shape.memory == 0)


def _read(body: Computation, place: int, source: Instruction) -> float:
    """Of one operand of a fusion: the slices, where it takes no more, else all of it.

    What is changed in place is not read for that.
    """
    parameter = body.parameter(place)
    if parameter is None:
        return 0.0
    whole = _large(source.shapes)
    users = [user for user in _users(body, parameter) if not _is_updated(*user)]
    if all(user.opcode in ("dynamic-slice", "gather", "slice") for user, _ in users):
        return min(whole, sum(user.bytes for user, _ in users))
    return whole


def _users(body: Computation, each: Instruction) -> list[tuple[Instruction, str]]:
    """Who reads a result, directly or through views of it; each with the name that it reads."""
    readers = []
    for user in body.users(each.name):
        readers += _users(body, user) if user.opcode == "bitcast" else [(user, each.name)]
    return readers


def _is_updated(user: Instruction, name: str) -> bool:
    return user.opcode == "dynamic-update-slice" and user.operands[0] == name


def _written(body: Computation, fusion: Instruction, passed: set[int]) -> float:
    """The result of a fusion without arrays that pass through it.

    Of an array that it changes in place, the changed part.
    """
    root = body.instructions.get(body.root)
    while root is not None and root.opcode in ("bitcast", "copy") and root.operands:
        root = body.instructions.get(root.operands[0])
    parts = [root]
    if root is not None and root.opcode == "tuple":
        parts = [body.instructions.get(name) for name in root.operands]
    if len(parts) != len(fusion.shapes):
        parts = [None] * len(fusion.shapes)
    total = 0.0
    for place, (part, shape) in enumerate(zip(parts, fusion.shapes, strict=True)):
        if place in passed:
            continue
        if part is not None and part.opcode == "dynamic-update-slice" and shape.memory == 0:
            total += body.instructions[part.operands[1]].bytes
        else:
            total += _large((shape,))
    return total


def _counted(program: Program, loop: Instruction, computation: Computation) -> float | None:
    """Runs of `for (i = start; i < end; i += step)` with constants, or None."""
    condition = program.computations[loop.called("condition")]
    body = program.computations[loop.called("body")]
    test = condition.instructions.get(condition.root)
    if test is not None and test.opcode == "fusion":
        inner = program.computations[test.called("calls")]
        arguments = [condition.instructions[name] for name in test.operands]
        test = inner.instructions[inner.root]
        sides = []
        for name in test.operands if test.opcode == "compare" else ():
            side = inner.instructions[name]
            sides.append(arguments[int(side.literal)] if side.opcode == "parameter" else side)
    elif test is not None and test.opcode == "compare":
        sides = [condition.instructions[name] for name in test.operands]
    else:
        return None
    if len(sides) != 2 or "direction=LT" not in test.attributes:
        return None
    index = _index(sides[0])
    if index is None:
        return None
    end = _value(sides[1], condition, loop, computation, program)
    start = _initial(index, loop, computation)
    step = _step(index, body, program)
    if None in (end, start, step) or step < 1:
        return None
    return max(0, math.ceil((end - start) / step))


def _index(side: Instruction) -> int | None:
    match = re.search(r"index=(\d+)", side.attributes)
    return int(match[1]) if side.opcode == "get-tuple-element" and match else None


def _value(side, condition, loop, computation, program) -> int | None:
    """A constant, also one that stands in the loop's tuple and that the body leaves alone."""
    if side.opcode == "constant":
        return _number(side)
    index = _index(side)
    if index is None:
        return None
    body = program.computations[loop.called("body")]
    result = body.instructions[body.root]
    if result.opcode != "tuple":
        return None
    kept = body.instructions[result.operands[index]]
    return _initial(index, loop, computation) if _index(kept) == index else None


def _initial(index: int, loop: Instruction, computation: Computation) -> int | None:
    start = computation.instructions[loop.operands[0]]
    if start.opcode != "tuple":
        return None
    value = computation.instructions[start.operands[index]]
    while value.opcode in ("copy", "bitcast", "convert") and value.operands:
        value = computation.instructions[value.operands[0]]
    return _number(value)


def _number(value: Instruction) -> int | None:
    is_whole = value.opcode == "constant" and re.fullmatch(r"-?\d+", value.literal)
    return int(value.literal) if is_whole else None


def _step(index: int, body: Computation, program: Program) -> int | None:
    """What the body adds to the counter."""
    result = body.instructions[body.root]
    if result.opcode != "tuple":
        return None
    new, inside = body.instructions[result.operands[index]], body
    while new.opcode in ("copy", "bitcast") and new.operands:
        new = inside.instructions[new.operands[0]]
    if new.opcode == "fusion":
        inside = program.computations[new.called("calls")]
        new = inside.instructions[inside.root]
    if new.opcode == "get-tuple-element" and inside is body and new.operands:
        made = body.instructions[new.operands[0]]
        place = _index(new)
        if made.opcode != "fusion":
            return None
        inside = program.computations[made.called("calls")]
        root = inside.instructions[inside.root]
        new = inside.instructions[root.operands[place]] if root.opcode == "tuple" else root
    if new.opcode != "add":
        return None
    numbers = [_number(inside.instructions[name]) for name in new.operands]
    return next((number for number in numbers if number is not None), None)
