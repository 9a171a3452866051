"""Exchanges between TPU slices, which the compiler writes as transfers to the runtime of the hosts.

A collective over `dcn_data` and other axes is taken apart: what stays inside a slice is a
collective, and the rest a `send` and a `recv` whose attributes say what the hosts make of them.
"""

import re

from cascade_jax.planning.hlo_text import Instruction

_PERMUTE = "ONE_TO_ONE"


def exchange(each: Instruction, operand: float, slices: int) -> tuple[str, float] | None:
    """The kind of collective that a transfer is part of, and the bytes that a chip sends for it.

    None for any other instruction; of each pair the `send` counts, an array of `operand` bytes.
    """
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', each.attributes)
    if each.opcode != "send" or not transfer:
        return None
    name = transfer[1]
    kind = "collective-permute" if name == _PERMUTE else name.lower().replace("_", "-")
    others = slices - 1
    part = {"all-reduce": 2 * others / slices, "all-gather": others, "collective-permute": 1}
    return kind, operand * part.get(kind, others / slices)
