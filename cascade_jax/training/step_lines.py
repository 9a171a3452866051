"""Files of JSON lines in a run's folder, each line with a step."""

from pathlib import Path

from cascade_jax import json_text
from cascade_jax.names import listed
from cascade_jax.parallel import hosts


def read(file: Path) -> list[dict]:
    """The objects with a step in a file of JSON lines; says how many other lines were left out."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    values = list(map(_with_step, lines))
    bad = [number for number, value in enumerate(values, 1) if value is None]
    # The last line may be the one that was being written when the run was killed.
    if bad and bad != [len(lines)]:
        numbers = listed(list(map(str, bad)))
        hosts.print_once(f"{file}: dropped what can't be read as a JSON object: line {numbers}")
    return [value for value in values if value is not None]


def _with_step(line: bytes) -> dict | None:
    try:
        value = json_text.parse(line, allow_nan=True)
    except ValueError:
        return None
    is_line = isinstance(value, dict) and type(value.get("step")) is int and value["step"] >= 0
    return value if is_line else None
