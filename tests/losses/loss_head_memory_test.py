"""Memory, time and collectives of the fused head; most by `tests/benchmarks/loss_head.py`."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.losses import variants
from tests.benchmarks import collectives, heads

pytestmark = pytest.mark.medium

CAT_DIST = variants.CATDist()


@pytest.fixture(autouse=True)
def no_compilation_cache():
    """A program out of the cache may not know its memory."""
    old = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", old)


def benchmark(repository, *flags):
    """Rows of the command, run in a process of its own."""
    command = [sys.executable, "tests/benchmarks/loss_head.py", "--json", *flags]
    environment = os.environ | {"PYTHONPATH": str(repository), "PYTHONWARNINGS": "ignore"}
    actual = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert actual.returncode == 0, actual.stderr
    return {row["head"]: row for row in json.loads(actual.stdout)["rows"]}


@pytest.mark.parametrize("name", ["Xent", "CATXent", "CATDist"])
def test_the_fused_head_takes_a_tenth_of_the_plain_ones_memory(name):
    loss, sizes = getattr(variants, name)(), heads.Sizes(metrics="none")
    plain, fused = (
        heads.compile_step(head, sizes, loss).memory_analysis().temp_size_in_bytes
        for head in (heads.PLAIN, heads.FUSED)
    )
    logits = sizes.tokens * sizes.vocab * 4
    assert plain > 2 * logits  # the figures mean what they should: whole logits and their gradient
    assert fused <= plain / 10


def test_with_its_metrics_it_takes_a_tenth_of_what_one_would_write_by_hand():
    by_hand, fused = (
        heads.compile_step(head, heads.Sizes(), CAT_DIST).memory_analysis().temp_size_in_bytes
        for head in (heads.BY_HAND, heads.FUSED)
    )
    assert fused <= by_hand / 10


def test_memory_does_not_grow_with_the_number_of_tokens_but_by_their_hidden_states():
    def temporary(tokens):
        sizes = heads.Sizes(tokens, 64, 64, 8192, chunk_tokens=64)
        compiled = heads.compile_step(heads.FUSED, sizes, CAT_DIST)
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = 256, 2048
    hidden_states = (many - few) * 64 * 4
    assert temporary(many) - temporary(few) <= 4 * hidden_states


def compile_on_mesh(head, sizes, mesh):
    def place(array, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    trained, fixed = heads.shapes(sizes, CAT_DIST, head)
    placed = [
        (place(hidden, "data"), place(kernel, None, "tensor"))
        for hidden, kernel in (trained, fixed[:2])
    ]
    labels = tuple(place(array, "data") for array in fixed[2:])
    step = jax.jit(head.make(sizes, CAT_DIST, mesh))
    return step.lower(placed[0], (*placed[1], *labels)).compile()


@pytest.mark.parametrize("data, model", [(8, 1), (4, 2), (2, 4)])
def test_the_matrixs_gradient_is_reduced_once_and_outside_the_loop(data, model):
    mesh = Mesh(np.array(jax.devices()).reshape(data, model), ("data", "tensor"))
    sizes = heads.Sizes(256, 128, 64, 2048, chunk_tokens=8)
    hlo = compile_on_mesh(heads.FUSED, sizes, mesh).as_text()
    matrix = sizes.features * sizes.vocab // model
    outside, inside = collectives.kernel_reductions(hlo, matrix)
    assert outside == [collectives.Reduction("f32", matrix, is_in_loop=False)]
    assert not inside
    in_loop = [result for result in collectives.reductions(hlo) if result.is_in_loop]
    assert in_loop or model == 1  # figures of a token each, over the model axis
    assert all(result.elements <= sizes.chunk_tokens for result in in_loop)


def test_a_reduction_in_a_loop_is_seen_as_one():
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def added(x):
        def more(_, total):
            return total + jax.lax.psum(jnp.sin(total) * x, "data")

        return jax.lax.psum(jax.lax.fori_loop(0, x[0, 0].astype(int), more, x), "data")

    specs = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(added, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
    hlo = jax.jit(mapped).lower(jnp.ones((80, 6))).compile().as_text()
    outside, inside = collectives.kernel_reductions(hlo, 60)
    assert outside == [collectives.Reduction("f32", 60, is_in_loop=False)]
    assert inside == [collectives.Reduction("f32", 60, is_in_loop=True)]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: pip install libtpu",
)
def test_on_eight_tpu_chips_with_a_vocabulary_of_256k(repository):
    row = benchmark(repository, "--tpu", "--variants", "CAT-Dist", "--chips", "8")["fused"]
    assert "note" not in row, row["note"]
    assert row["temp_gb"] <= 3.0
    assert (row["outside"], row["inside"]) == (1, 0)
    assert row["reduced_as"] == ["f32"]
    assert row["largest_in_loop"] == 1024  # a figure for each token of a chunk


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: pip install libtpu",
)
def test_on_eight_tpu_chips_microbatches_take_no_more_memory(repository):
    flags = "--tpu", "--variants", "CAT-Dist", "--chips", "8", "--microbatches", "4"
    row = benchmark(repository, *flags)["fused"]
    assert row["temp_gb"] <= 3.0
    assert (row["outside"], row["inside"]) == (1, 0)


@pytest.mark.slow
def test_on_cpu_the_fused_head_is_faster_and_exact(repository):
    rows = benchmark(repository, "--variants", "CAT-Dist")
    assert rows["fused"]["ratio"] <= 0.9
    assert rows["fused"]["temp_mb"] <= rows["plain"]["temp_mb"] / 10
    assert rows["fused"]["loss_diff"] <= 1e-6
    assert rows["fused"]["gradient_diff"] <= 1e-5
