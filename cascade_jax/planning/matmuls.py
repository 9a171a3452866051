"""FLOPs of one matmul, convolution or custom kernel of a compiled program."""

import math
import re
from collections.abc import Mapping

from cascade_jax.planning.hlo_text import Computation, Instruction


def flops(each: Instruction, computation: Computation) -> float:
    """FLOPs of a matmul or a convolution.

    A TPU's matmuls are convolutions, their batch axes written as windows that fit in one place
    only: positions of a window over padding, or between the numbers of a spread input, count for
    nothing.
    """
    left = computation.instructions[each.operands[0]].shapes[0].dims
    if each.opcode == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
        summed = [int(axis) for axis in match[1].split(",") if axis] if match else []
        return 2.0 * each.shapes[0].elements * math.prod(left[axis] for axis in summed)
    right = computation.instructions[each.operands[1]].shapes[0].dims
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    window = re.search(r"window=\{([^}]*)\}", each.attributes)
    fields = dict(re.findall(r"(\w+)=([\dx_\-]+)", window[1])) if window else {}
    groups = {
        name: int(size) for name, size in re.findall(r"(\w+)_group_count=(\d+)", each.attributes)
    }
    out = each.shapes[0].dims
    places = 1
    for axis in sorted(set(labels[1]) - set("bf")):
        at = int(axis)
        sizes = left[labels[1].index(axis)], right[labels[2].index(axis)]
        places *= _valid(*sizes, out[labels[3].index(axis)], fields, at)
    inputs = left[labels[1].index("f")] // groups.get("feature", 1)
    batch = left[labels[1].index("b")] // groups.get("batch", 1)
    return 2.0 * places * inputs * batch * right[labels[2].index("o")]


def kernel_flops(each: Instruction) -> float:
    """FLOPs of a custom kernel by the cost estimate that it brings; 0 of one that has none."""
    match = re.search(r'"cost_estimate":\{"flops":"(\d+)"', each.attributes)
    return float(match[1]) if match else 0.0


def _valid(size: int, kernel: int, out: int, fields: Mapping[str, str], axis: int) -> int:
    """(output, window) positions of one axis that fall on a number of the input."""

    def field(name: str, default: str) -> str:
        return fields[name].split("x")[axis] if name in fields else default

    low = int(field("pad", "0_0").split("_")[0])
    stride, spread = int(field("stride", "1")), int(field("lhs_dilate", "1"))
    reach = int(field("rhs_dilate", "1"))
    common = math.gcd(stride, spread)
    period = spread // common
    inverse = pow(stride // common, -1, period)
    count = 0
    for k in range(kernel):
        # Outputs o with o * stride = start + n * spread, where 0 <= n < size: one in a period.
        start = low - k * reach
        if start % common:
            continue
        place = start // common * inverse % period
        first = max(0, _up(start, stride))
        end = min(out, _up(start + size * spread, stride))
        count += max(0, _up(end - place, period) - _up(first - place, period))
    return count


def _up(number: int, by: int) -> int:
    """A quotient, rounded up."""
    return -(-number // by)
