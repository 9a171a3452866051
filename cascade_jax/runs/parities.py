"""Digests of arrays that lie in the memory of hosts, many times as fast as a hash of all bytes.

The bytes of an array, in C order, are cut into rows of 509 words of 64 bits. The exclusive or of
128 rows at a time, and the bytes of the last row that is not full, are hashed. Every flipped bit
changes the digest, two only if they are not a multiple of 4,072 bytes apart within the same half
MB; so do exchanged elements and rows of an array, and parts that are cleared or moved, for 509 is
a prime number. NumPy reads each byte once, and nothing is compiled, which for the sums of
`digests.py` takes a CPU longer than the sums.
"""

import hashlib
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cascade_jax.parallel import hosts

_ROW, _ROWS = 509, 128
_PREFIX = "parity:"

Leaf = jax.Array | np.ndarray | np.generic


def are_on_host(leaves: Iterable[Leaf]) -> bool:
    """Whether NumPy can read all of these arrays without a copy."""
    shardings = {leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array)}
    return all(device.platform == "cpu" for each in shardings for device in each.device_set)


def is_parity(text: object) -> bool:
    """Whether a digest of a checkpoint is one of this module."""
    return isinstance(text, str) and text.startswith(_PREFIX)


def by_name(leaves: Mapping[str, Leaf], check_finite: bool) -> dict[str, tuple[str, bool]]:
    """The digest of every array, and whether all of its numbers are finite, if that is checked.

    It is the same however an array is split. All hosts that hold parts of an array must call it.
    """
    parities, is_finite = {}, {}
    for name, leaf in leaves.items():
        numbers = _numbers(leaf)
        parities[name], is_finite[name] = _parities(numbers, check_finite)
    parts = [name for name in leaves if not getattr(leaves[name], "is_fully_addressable", True)]
    if parts:
        own = np.concatenate([parities[name] for name in parts])
        strange = np.array([not is_finite[name] for name in parts])
        every, strange = hosts.to_host((own[None], strange[None]))
        ends = np.cumsum([parities[name].size for name in parts])[:-1]
        whole = np.split(np.bitwise_xor.reduce(every, axis=0), ends)
        parities |= zip(parts, whole, strict=True)
        is_finite |= zip(parts, ~strange.any(axis=0), strict=True)
    return {name: (_text(parities[name]), bool(is_finite[name])) for name in leaves}


def _text(parities: np.ndarray) -> str:
    return _PREFIX + hashlib.sha256(parities).hexdigest()[:32]


def _numbers(leaf: Leaf) -> np.ndarray:
    """A whole array, with zeros for what other hosts hold."""
    if not isinstance(leaf, jax.Array):
        return np.ascontiguousarray(leaf)
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    if shards and shards[0].data.shape == leaf.shape:
        return np.ascontiguousarray(shards[0].data)
    numbers = np.zeros(leaf.shape, leaf.dtype)
    for shard in shards:
        numbers[shard.index] = shard.data
    return numbers


def _parities(numbers: np.ndarray, check_finite: bool) -> tuple[np.ndarray, bool]:
    """The bytes to be hashed; whether all numbers are finite, as far as that is checked."""
    data = numbers.reshape(-1).view(np.uint8)
    full = data.size - data.size % (_ROW * 8)
    rows = data[:full].view(np.uint64).reshape(-1, _ROW)
    parts, is_finite = [], True
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS]
        parts.append(np.bitwise_xor.reduce(part, axis=0).view(np.uint8))
        # Now, while they are in the core's cache.
        is_finite = is_finite and not (
            check_finite and _has_strange(part.reshape(-1).view(numbers.dtype))
        )
    rest = data[full:]
    is_finite = is_finite and not (check_finite and _has_strange(rest.view(numbers.dtype)))
    return np.concatenate([*parts, rest]) if parts else rest, is_finite


def _has_strange(numbers: np.ndarray) -> bool:
    """Whether there is NaN or an infinite number."""
    if not jnp.issubdtype(numbers.dtype, jnp.floating):
        return False
    if numbers.itemsize != 2:
        return not np.isfinite(numbers).all()
    # NumPy takes bfloat16 numbers one at a time, but not their bits.
    infinite = np.array(np.inf, numbers.dtype).view(np.uint16)
    return bool(((numbers.view(np.uint16) & np.uint16(0x7FFF)) >= infinite).any())
