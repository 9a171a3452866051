"""Digests of arrays, the same however an array is split: parities on a CPU, sums on other devices.

Sums are two over all elements: an element adds its bits to one and, mixed with its place, to the
other, modulo 2^32: a change of one element always changes the first, and exchanged elements the
second. No host needs more than the parts it holds, and nothing is copied. Checkpoints of earlier
versions and caches of teachers have sums whatever made them.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from cascade_jax.runs import parities

_SMALL = 1 << 16  # elements: below it NumPy needs no longer than compiling would
_AT_ONCE = 1 << 16  # elements whose sums are vectors that stay in a core's cache
_FACTOR, _SPREAD = 1_000_003, 2_654_435_761
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}

Sums = tuple[int, int, bool]  # of the bits, of bits mixed with places; whether all are finite


def by_name(
    arrays: PyTree, like: Mapping[str, object] | None = None
) -> dict[str, tuple[str, bool]]:
    """The digest of every array of a tree, and whether all of its numbers are finite.

    All hosts that hold parts of an array must call it.

    Args:
      arrays: paths such as "params/decoder/wi/kernel" name them.
      like: digests of a checkpoint that these are compared with, and so of its kind; empty if it
        has none. None = they are to be saved: numbers on a CPU are not looked at and count as
        finite.
    """
    leaves = _leaves(arrays)
    on_host = (
        map(parities.is_parity, like.values()) if like else [parities.are_on_host(leaves.values())]
    )
    if any(on_host):
        return parities.by_name(leaves, check_finite=like is not None)
    return {name: (as_text(sums), sums[2]) for name, sums in sums_by_name(arrays).items()}


def _leaves(arrays: PyTree) -> dict[str, Any]:
    flat = jax.tree_util.tree_flatten_with_path(arrays)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def sums_by_name(arrays: PyTree) -> dict[str, Sums]:
    """The sums of every array of a tree by its path; all hosts that hold parts must call it."""
    leaves = _leaves(arrays)
    sums = _on_devices({name: leaf for name, leaf in leaves.items() if _is_split(leaf)})
    rest = {name: leaf for name, leaf in leaves.items() if name not in sums}
    small = jax.device_get({name: leaf for name, leaf in rest.items() if leaf.size < _SMALL})
    for name, leaf in rest.items():
        sums[name] = _by_numpy(small[name]) if name in small else _whole(leaf)
    return {name: _as_numbers(sums[name]) for name in leaves}


def as_text(sums: Sums) -> str:
    """Both sums as 16 hexadecimal digits."""
    return f"{sums[0]:08x}{sums[1]:08x}"


def _as_numbers(sums: Any) -> Sums:
    bits, mixed, is_finite = jax.device_get(sums)
    return int(bits), int(mixed), bool(is_finite)


def _is_split(leaf: Any) -> bool:
    """Whether an array is one to be read where it lies, on several devices."""
    if not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
        return False
    is_here = leaf.is_fully_addressable or leaf.is_fully_replicated
    return leaf.sharding.num_devices > 1 and (leaf.size >= _SMALL or not is_here)


def _on_devices(leaves: dict[str, jax.Array]) -> dict[str, tuple]:
    if not leaves:
        return {}
    shardings = [leaf.sharding for leaf in leaves.values()]
    program = _program(shardings[0].mesh, tuple(sharding.spec for sharding in shardings))
    return dict(zip(leaves, zip(*program(list(leaves.values())), strict=True), strict=True))


@functools.cache
def _program(mesh: Mesh, specs: tuple[PartitionSpec, ...]):
    """One program for all arrays: many small ones with an exchange each could wait for ever."""

    def on_one_device(blocks):
        sums = [_part(block, spec, mesh) for block, spec in zip(blocks, specs, strict=True)]
        bits, mixed, is_finite = (jnp.stack(column) for column in zip(*sums, strict=True))
        bits, mixed = jax.lax.psum((bits, mixed), mesh.axis_names)
        return bits, mixed, jax.lax.pmin(is_finite.astype(jnp.int32), mesh.axis_names)

    replicated = PartitionSpec()
    mapped = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(list(specs),), out_specs=replicated, check_vma=False
    )
    return jax.jit(mapped)


def _part(block: jax.Array, spec: PartitionSpec, mesh: Mesh):
    """The sums of one device's block; 0 if another device counts the same one."""
    spec = (*spec, *(None,) * (block.ndim - len(spec)))
    used, starts = [], []
    for names, size in zip(spec, block.shape, strict=True):
        names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
        used += names
        starts.append(jax.lax.axis_index(names).astype(jnp.uint32) * size if names else 0)
    counts = jnp.ones((), bool)
    for name in mesh.axis_names:
        if name not in used:
            counts &= jax.lax.axis_index(name) == 0
    bits, mixed, is_finite = _sums(block, starts)
    return jnp.where(counts, bits, 0), jnp.where(counts, mixed, 0), is_finite


@jax.jit
def _whole(leaf):
    return _sums(leaf, [0] * leaf.ndim)


def _by_numpy(leaf: np.ndarray) -> Sums:
    with np.errstate(over="ignore"):
        leaf = np.ascontiguousarray(leaf)
        bits = leaf.view(_UNSIGNED[leaf.dtype.itemsize]).astype(np.uint32)
        places = np.zeros(bits.shape, np.uint32)
        for axis, size in enumerate(bits.shape):
            step = np.arange(size, dtype=np.uint32)
            shape = [-1 if axis == other else 1 for other in range(bits.ndim)]
            places = places * np.uint32(_FACTOR) + step.reshape(shape)
        mixed = _mixed(bits, places * np.uint32(_SPREAD), np.uint32)
    is_finite = bool(np.isfinite(leaf).all())
    return bits.sum(dtype=np.uint32), mixed.sum(dtype=np.uint32), is_finite


def _mixed(bits, places, number=jnp.uint32):
    """Bits mixed with places, where a place is a number that few others have, times _SPREAD."""
    mixed = (bits ^ places) * number(2_246_822_519)
    return mixed ^ (mixed >> number(15))


def _sums(block, starts: list):
    """The sums of a block of an array that begins at these places along its axes.

    Its rows (all axes but the last) are taken some at a time, and added to vectors: XLA for CPUs
    adds integers into one number without vector instructions, ten times slower.
    """
    if block.size == 0:
        return jnp.uint32(0), jnp.uint32(0), jnp.bool_(True)
    if block.dtype == jnp.bool_:
        block = block.astype(jnp.uint8)
    if block.ndim == 0:
        block, starts = block[None], [0]
    width, count = block.shape[-1], math.prod(block.shape[:-1])
    rows = block.reshape(count, width)
    columns = (jnp.arange(width, dtype=jnp.uint32) + starts[-1]) * jnp.uint32(_SPREAD)
    largest = _largest_finite(block.dtype)

    def row_terms(first, values):
        """[n, width] of both sums' terms, and of bits without a sign, from row `first` on."""
        number = first + jnp.arange(values.shape[0], dtype=jnp.uint32)
        places, factor = jnp.zeros_like(number), _FACTOR
        for start, size in zip(starts[-2::-1], block.shape[-2::-1], strict=True):
            places += (number % size + start) * jnp.uint32(factor % 2**32)
            number, factor = number // size, factor * _FACTOR
        bits = jax.lax.bitcast_convert_type(values, _UNSIGNED[values.dtype.itemsize])
        bits, places = bits.astype(jnp.uint32), places * jnp.uint32(_SPREAD)
        mixed = _mixed(bits, places[:, None] + columns[None])
        return bits, mixed, bits & jnp.uint32(2 ** (8 * values.dtype.itemsize - 1) - 1)

    at_once = max(1, min(count, _AT_ONCE // max(width, 1)))
    zeros = jnp.zeros((at_once, width), jnp.uint32)

    def add(index, totals):
        first = index * at_once
        part = row_terms(
            first.astype(jnp.uint32), jax.lax.dynamic_slice_in_dim(rows, first, at_once)
        )
        return totals[0] + part[0], totals[1] + part[1], jnp.maximum(totals[2], part[2])

    parts = [row_terms(jnp.uint32(count - count % at_once), rows[count - count % at_once :])]
    parts += [jax.lax.fori_loop(0, count // at_once, add, (zeros, zeros, zeros))]
    bits, mixed = (sum(jnp.sum(part[i], dtype=jnp.uint32) for part in parts) for i in (0, 1))
    is_finite = [(part[2] <= largest).all() for part in parts]
    return bits, mixed, is_finite[0] & is_finite[1]


def _largest_finite(dtype: jnp.dtype) -> jax.Array:
    """The bits of the largest number of a dtype: those of infinity and NaN are larger."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.uint32(2**32 - 1)
    largest = np.array(jnp.finfo(dtype).max, dtype)
    return jnp.uint32(largest.view(_UNSIGNED[dtype.itemsize]))
