"""The arrays in a chip's large memory at the moment when a compiled program holds the most.

The instructions of a scheduled program stand in the order in which they run, so an array lives from
the line that makes it to the last that reads it. What shares the memory of another array (views,
loop-carried values, slices written in place) counts once; parameters and results of the program
count nothing here. The compiler packs arrays its own way and pads them to its tiles: the sum stays
below its temporaries.
"""

import collections
import dataclasses
import functools
import re

from cascade_jax.losses.fused import LOOP_LIMIT
from cascade_jax.planning.hlo_text import Computation, Instruction, Program, Shape

_SAME = ("bitcast", "opt-barrier", "while", "tuple", "get-tuple-element")
_NOTHING = ("parameter", "constant", "partition-id", "replica-id", "after-all")
_UNNAMED = ("copy", "copy-start", "copy-done", "bitcast", "get-tuple-element")
# What stands in JAX's names but says nothing of the model.
_NOISE = re.compile(
    r"(jit|jvp|transpose|vmap)\(.*\)|while|body|cond|closed_call|checkpoint|shard_map|remat\w*"
    rf"|{LOOP_LIMIT}\d+"
)


@dataclasses.dataclass(frozen=True)
class Held:
    """Arrays of one shape that are held at once, of one part of the model."""

    bytes: float  # of all of them
    count: int
    array: str  # e.g. "bf16[16,512,1024]"
    made_by: str  # the part of the model, from JAX's names


@dataclasses.dataclass(frozen=True, eq=False)
class _Buffer:
    """Memory of one array; `eq` is identity."""

    shape: Shape
    maker: Instruction
    home: Computation


def most_held(program: Program) -> tuple[Held, ...]:
    """The arrays of the moment at which their sum is the largest, the largest first."""
    buffers = collections.defaultdict(list)
    for buffer in _peak(program, program.entry)[1]:
        dims = ",".join(map(str, buffer.shape.dims))
        buffers[f"{buffer.shape.dtype}[{dims}]", _part(buffer)].append(buffer)
    held = [
        Held(sum(each.shape.bytes for each in same), len(same), array, part)
        for (array, part), same in buffers.items()
    ]
    return tuple(sorted(held, key=lambda each: (-each.bytes, each.array, each.made_by)))


def _part(buffer: _Buffer) -> str:
    """E.g. "encoder/layers/mlp/dot" of "jit(f)/jvp(T5)/encoder/while/body/layers/mlp/dot".

    What has no name, a copy say, has that of what it was made from, or else of its first reader.
    """
    each, home = buffer.maker, buffer.home
    while not each.op_name and each.opcode in _UNNAMED and each.operands:
        each = home.instructions[each.operands[0]]
    readers = [each, *home.users(buffer.maker.name)]
    name = next((reader.op_name for reader in readers if reader.op_name), "")
    parts = [part for part in name.split("/") if part and not _NOISE.fullmatch(part)]
    return "/".join(parts) or re.sub(r"[.\d]+$", "", buffer.maker.name)


def _peak(program: Program, name: str) -> tuple[float, list[_Buffer]]:
    """The most bytes that a computation holds beside its parameters and results, and of what."""
    computation = program.computations[name]
    holds = _holdings(program, computation)
    order = list(computation)
    last = {}
    for place, each in enumerate(order):
        for operand in each.operands:
            for buffer in holds[operand]:
                last[buffer] = place
    results = set(holds[computation.root])
    alive, total, best = {}, 0.0, (0.0, [])
    for place, each in enumerate(order):
        if _can_reuse(each):
            total -= _leave(alive, last, place)
        for buffer in holds[each.name]:
            if buffer is None or buffer in results or buffer.shape.memory:
                continue
            if buffer.maker is each:
                alive[buffer] = buffer.shape.bytes
                total += buffer.shape.bytes
        peaks = [_peak(program, called) for called in _called(each)]
        inner = max(peaks, key=lambda peak: peak[0], default=(0.0, []))
        if total + inner[0] > best[0]:
            best = total + inner[0], [*alive, *inner[1]]
        total -= _leave(alive, last, place)
    return best


def _leave(alive: dict[_Buffer, float], last: dict[_Buffer, int], place: int) -> float:
    """Removes the buffers that are not read after this place; returns their bytes."""
    leaving = [buffer for buffer in alive if last.get(buffer, place) <= place]
    return sum(alive.pop(buffer) for buffer in leaving)


def _can_reuse(each: Instruction) -> bool:
    """Whether its result may take the place of an operand that nothing else reads."""
    return each.opcode == "fusion" and "kind=kLoop" in each.attributes


def _called(each: Instruction) -> list[str]:
    """Computations that run inside an instruction and have arrays of their own."""
    if each.opcode == "while":
        return [each.called("body")]
    if each.opcode in ("call", "async-start"):
        return [each.called("to_apply") or each.called("calls")]
    if each.opcode == "conditional":
        return each.branches
    return []


def _holdings(program: Program, computation: Computation) -> dict[str, list[_Buffer | None]]:
    """By instruction, the buffers of the arrays in its result; None for one that counts nothing."""
    holds: dict[str, list[_Buffer | None]] = {}
    for each in computation:
        inputs = [buffer for name in each.operands for buffer in holds[name]]
        fresh = functools.partial(_Buffer, maker=each, home=computation)
        if each.opcode in _NOTHING:
            outputs = [None] * len(each.shapes)
        elif each.opcode == "get-tuple-element":
            place = int(re.search(r"index=(\d+)", each.attributes)[1])
            whole = computation.instructions[each.operands[0]]
            is_flat = len(inputs) == len(whole.shapes)
            outputs = inputs[place : place + 1] if is_flat and len(each.shapes) == 1 else inputs
        elif each.opcode in _SAME:
            outputs = inputs
        elif each.opcode in ("dynamic-update-slice", "send"):
            outputs = holds[each.operands[0]]
        elif each.opcode.endswith("-done") or each.name.startswith("async-collective-done"):
            inputs = [buffer for buffer in inputs if buffer is not None]
            outputs = [buffer for buffer in inputs if buffer.shape.dims == each.shapes[0].dims]
            started = [buffer for buffer in outputs if "-start" in buffer.maker.name]
            outputs = (started or outputs)[:1]
        elif each.opcode.endswith("-start"):
            sizes = [computation.instructions[name].shapes for name in each.operands]
            known = [shape for shapes in sizes for shape in shapes]
            made = [fresh(s) for s in each.shapes if s not in known and s.bytes > 8]
            outputs = [*inputs, *made]
        elif each.opcode == "fusion":
            outputs = [
                holds[name] if name is not None else [fresh(shape)]
                for name, shape in zip(_updated(program, each), each.shapes, strict=True)
            ]
            outputs = [buffer for buffers in outputs for buffer in buffers]
        else:
            outputs = [fresh(shape) for shape in each.shapes]
        holds[each.name] = outputs
    return holds


def _updated(program: Program, fusion: Instruction) -> list[str | None]:
    """By array of a fusion's result, the operand that it changes in place, or None."""
    body = program.computations[fusion.called("calls")]
    root = body.instructions[body.root]
    parts = (
        [body.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    )
    changed: list[str | None] = [None] * len(fusion.shapes)
    for place, part in enumerate(parts if len(parts) == len(changed) else ()):
        update = _behind_views(body, part)
        if update.opcode == "dynamic-update-slice":
            old = _behind_views(body, body.instructions[update.operands[0]])
            if old.opcode == "parameter":
                changed[place] = fusion.operands[int(old.literal)]
    for place, operand in fusion.aliases.items():
        changed[place] = fusion.operands[operand]
    return changed


def _behind_views(body: Computation, each: Instruction) -> Instruction:
    while each.opcode in ("bitcast", "copy") and each.operands:
        each = body.instructions[each.operands[0]]
    return each
