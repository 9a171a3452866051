"""Which sums between devices a compiled program makes, from the text of its optimised HLO."""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Reduction:
    """An array that an all-reduce or reduce-scatter of a compiled program adds up (or the like).

    Attributes:
      dtype: as HLO names it, e.g. "f32".
      elements: how many numbers each device puts in.
      is_in_loop: whether a while loop runs it.
    """

    dtype: str
    elements: int
    is_in_loop: bool


def reductions(hlo: str) -> list[Reduction]:
    """What devices reduce together, from the text of an optimised program."""
    types, bodies, calls, result, computation = {}, set(), {}, [], None
    for line in hlo.splitlines():
        if line.endswith("{") and (opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) ", line)):
            computation = opened[1]
        made = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", line)
        if not made:
            continue
        name, types[name], operation, rest = made[1], made[2], made[3], made[4]
        called = re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", rest)
        for group in re.findall(r"(?:branch_computations|called_computations)={(.*?)}", rest):
            called += re.findall(r"[\w.\-]+", group)
        calls.setdefault(computation, set()).update(called)
        if operation == "while":
            bodies.update(called)
        if operation in ("all-reduce", "all-reduce-start", "reduce-scatter"):
            operands = re.findall(r"%([\w.\-]+)", re.split(r"\), ", rest)[0])
            result.append((computation, operands))
    while more := {name for body in bodies for name in calls.get(body, ())} - bodies:
        bodies |= more
    return [
        Reduction(dtype, math.prod(int(n) for n in dims.split(",") if n), where in bodies)
        for where, operands in result
        for name in operands
        for dtype, dims in re.findall(r"([a-z]+[0-9]*\w*)\[([\d,]*)\]", types[name])
    ]


def kernel_reductions(hlo: str, elements: int) -> tuple[list[Reduction], list[Reduction]]:
    """(outside, inside) of a loop: reductions of an output matrix's gradient over the data axis.

    Args:
      hlo: text of the optimised program.
      elements: of the matrix on one device. A reduction of at least half as many counts.
    """
    large = [result for result in reductions(hlo) if 2 * result.elements >= elements]
    return [r for r in large if not r.is_in_loop], [r for r in large if r.is_in_loop]
