"""The text of a compiled program (optimised HLO), read into instructions."""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
    "f8e4m3fn": 8, "f8e5m2": 8,
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's type; of memory spaces 0 is the chip's large memory (HBM), 1 is on the core."""

    dtype: str
    dims: tuple[int, ...]
    memory: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Without a layout's padding; 0 for tokens and what else holds no numbers."""
        return self.elements * _BITS.get(self.dtype, 0) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str  # without %
    opcode: str
    shapes: tuple[Shape, ...]  # of its result, one for each array of a tuple
    operands: tuple[str, ...]  # names
    literal: str  # the text in parentheses: a constant's value, a parameter's number
    attributes: str  # the rest of the line

    def called(self, key: str) -> str | None:
        """The computation under an attribute such as "body" or "calls"."""
        match = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    @property
    def branches(self) -> list[str]:
        """The computations that a conditional chooses from."""
        names = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", self.attributes)
        if listed := re.search(r"branch_computations=\{([^}]*)\}", self.attributes):
            names += [name.strip().lstrip("%") for name in listed[1].split(",")]
        return names

    @property
    def aliases(self) -> dict[int, int]:
        """By array of the result that takes the place of an operand, the operand's number."""
        listed = re.search(r"output_to_operand_aliasing=\{(.*?)\)\}", self.attributes)
        pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}", listed[1] if listed else "")
        return {int(place or 0): int(operand) for place, operand in pairs}

    @property
    def op_name(self) -> str:
        """The path of JAX's names, "" if there is none."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def bytes(self) -> float:
        """Bytes of the result."""
        return sum(shape.bytes for shape in self.shapes)


@dataclasses.dataclass
class Computation:
    """A function of the program: its instructions in order, the last of them or ROOT its result."""

    name: str
    instructions: dict[str, Instruction]
    root: str = ""

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def users(self, name: str) -> list[Instruction]:
        """The instructions that read an instruction's result."""
        return [each for each in self if name in each.operands]

    def parameter(self, number: int) -> Instruction | None:
        """The parameter with this number."""
        for each in self:
            if each.opcode == "parameter" and each.literal == str(number):
                return each
        return None


@dataclasses.dataclass
class Program:
    """All computations, and the name of the one that starts."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Reads what `compiled.as_text()` gives; raises ValueError if it has no entry computation."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if line.endswith("{") and (opened := re.match(r"(ENTRY )?%?([\w.\-]+) ", line)):
            current = computations[opened[2]] = Computation(opened[2], {})
            entry = opened[2] if opened[1] else entry
            continue
        match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
        if not match or current is None:
            continue
        instruction = _instruction(match[2], match[3])
        current.instructions[match[2]] = instruction
        if match[1]:
            current.root = match[2]
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY")
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 2
    inside, attributes = rest[:end], rest[end + 1 :]
    return Instruction(
        name, opcode, _shapes(kind), tuple(_NAME.findall(inside)), inside.strip(), attributes
    )


def _closing(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    return len(text)


def _shapes(text: str) -> tuple[Shape, ...]:
    shapes = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        shapes.append(Shape(dtype, sizes, int(space[1]) if space else 0))
    return tuple(shapes)
