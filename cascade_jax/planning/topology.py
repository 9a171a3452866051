"""TPU slices by name, as devices to compile for. No TPU is needed."""

import dataclasses
import importlib.util
import math
import os
import re

import jax

from cascade_jax.chips import CHIPS, Chip
from cascade_jax.names import did_you_mean

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
SHAPES = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}
_CORES = {"v4": 2, "v5p": 2}  # v4-8 counts cores: it has 4 chips
# What the compiler asks a TPU host for otherwise.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class TopologyError(ValueError):
    """The slice does not exist, or there is no compiler for it."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: "v5e:4x8" (also spelt "v5e-32"), "v4:2x2x1" ("v4-8"), or "cpu:8"."""

    kind: str  # one of CHIPS
    shape: tuple[int, ...]  # chips along each side

    def __str__(self):
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def num_chips(self) -> int:
        """Chips of one slice."""
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip:
        """Memory and rates of a chip."""
        return CHIPS[self.kind]

    def devices(self, num_slices: int = 1) -> list[jax.Device]:
        """Devices to build a mesh on; those of a TPU can be compiled for, but not run on.

        Raises:
          TopologyError: libtpu is not installed, or this process has too few CPU devices.
        """
        if self.kind == "cpu":
            return _cpu_devices(self.num_chips * num_slices)
        if not importlib.util.find_spec("libtpu"):
            raise TopologyError(
                f"{self} needs the TPU compiler, which is not installed: "
                "pip install -c constraints.txt 'cascade-jax[tpu]' (a TPU is not needed); "
                "--topology=cpu:8 does without"
            )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from jax.experimental import topologies

        # Both cores of a chip as one device, which is how a v4 is run.
        settings = {"chip_config_name": "megacore"} if self.kind == "v4" else {}
        if self.num_chips == 1:
            settings["chips_per_host_bounds"] = (1, 1, 1)
        if num_slices > 1:
            settings["num_slices"] = num_slices
        try:
            return list(topologies.get_topology_desc(str(self), "tpu", **settings).devices)
        except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
            line = str(error).strip().partition("\n")[0]
            raise TopologyError(f"the TPU compiler does not take {self}: {line}") from error


def _cpu_devices(count: int) -> list[jax.Device]:
    """The process's first CPU devices; it gets them if it has none yet."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # they are there already
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise TopologyError(
            f"cpu:{count} needs {count} CPU devices and this process has {len(devices)}; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return devices[:count]


def parse(name: str) -> Topology:
    """The topology of a name; raises TopologyError with those that there are."""
    if match := re.fullmatch(r"cpu[:-](0*[1-9]\d*)", name):
        return Topology("cpu", (int(match[1]),))
    known: dict[str, Topology] = {}
    for kind, shapes in SHAPES.items():
        for text in shapes:
            shape = tuple(map(int, text.split("x")))
            known[f"{kind}:{text}"] = Topology(kind, shape)
            count = math.prod(shape) * _CORES.get(kind, 1)
            known.setdefault(f"{kind}-{count}", Topology(kind, shape))
    if name not in known:
        hint = did_you_mean(name, list(known))
        listed = "; ".join(f"{kind}: {', '.join(shapes)}" for kind, shapes in SHAPES.items())
        raise TopologyError(
            f"topology {name!r} is not known{hint} (there are cpu:N and, as KIND:SIDES, {listed})"
        )
    return known[name]
