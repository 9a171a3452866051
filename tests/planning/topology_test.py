"""Names of TPU slices, the mesh files made for them, and one compile by the real TPU compiler."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import gin
import jax
import pytest

from cascade_jax.cli import gin_config
from cascade_jax.planning import topology

ROOT = Path(__file__).parents[2]
MESH_FILES = sorted(path.stem for path in (ROOT / "gin" / "meshes").glob("*.gin"))


@pytest.mark.parametrize(
    "name, same, chips",
    [("v5e-32", "v5e:4x8", 32), ("v4-8", "v4:2x2x1", 4), ("v5p-128", "v5p:4x4x4", 64),
     ("v6e-8", "v6e:2x4", 8), ("cpu-8", "cpu:8", 8)],
)  # fmt: skip
def test_a_slice_has_two_names(name, same, chips):
    actual = topology.parse(name)
    assert actual == topology.parse(same) and str(actual) == same and actual.num_chips == chips


@pytest.mark.parametrize("name", ["v5e", "v5e:3x3", "v7:2x2", "cpu:0", "", "v4-12"])
def test_other_names_are_refused_with_a_list(name):
    with pytest.raises(topology.TopologyError, match="v4: 2x2x1, .* v6e: 1x1"):
        topology.parse(name)


def test_too_few_cpu_devices_are_refused():
    assert len(jax.devices()) == 8  # a process that has not asked yet would get as many as it wants
    with pytest.raises(ValueError, match="cpu:64 needs 64 CPU devices and this process has 8"):
        topology.parse("cpu:64").devices()


def test_without_the_compiler_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(topology.TopologyError, match=r"pip install .*cascade-jax\[tpu\]"):
        topology.parse("v5e:4x8").devices()


@pytest.mark.parametrize("name", MESH_FILES)
def test_every_mesh_file_fits_the_slice_that_it_names(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    gin_config.load([f"gin/meshes/{name}.gin"])
    try:
        config = gin.query_parameter("MESH/gin.macro.value").scoped_configurable_fn()
    finally:
        gin.clear_config(clear_constants=True)
    if name == "data_parallel":
        assert config.topology is None and config.data == -1
        return
    slice_, _, slices = name.partition("_slices_")
    kind, size = slice_.split("_")
    actual = topology.parse(config.topology)
    assert topology.parse(f"{kind}-{size}") == actual
    assert config.dcn_data == int(slices or 1)
    chips = actual.num_chips * config.dcn_data
    assert math.prod(config.shape(chips)) == chips


COMPILE = """\
import jax
jax.config.update("jax_platforms", "cpu")
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.planning import planner, topology
from tests.support import tiny_runs
import dataclasses
run = tiny_runs.run()
data = dataclasses.replace(run.data, input_length=128, target_length=64)
models = {
    name: dataclasses.replace(
        getattr(run, name), embed_dim=width, mlp_dim=2 * width, head_dim=64, dtype="bfloat16"
    )
    for name, width in (("model", 256), ("teacher", 512))
}
run = dataclasses.replace(run, data=data, **models)
found = planner.plan_train(run, MeshConfig(1, 4, 2), topology.parse("v5e:2x4"))
assert found.fits and not found.unknown_loops, found
assert abs(found.flops / found.expected_flops - 1) < 0.03, (found.flops, found.expected_flops)
assert {"fsdp", "tensor"} <= {axis for each in found.collectives for axis in each.axes}
# Two slices exchange the sum of each chip's part of the gradients, in bfloat16, and little more.
found = planner.plan_train(run, MeshConfig(1, 4, dcn_data=2), topology.parse("v5e:2x2"))
between = sum(each.bytes for each in found.collectives if each.axes == ("dcn_data",))
assert 0.5 <= between / found.parts["student"] < 0.6, (between, found.parts)
assert found.roofline["network"] > 0
print("planned")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs the TPU compiler: the extra tpu"
)
def test_the_tpu_compiler_gives_the_flops_of_the_closed_forms():
    # In a process of its own: its JAX settings are others, and the compiler may end it.
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0 and "planned" in done.stdout, done.stderr[-2000:]
