"""Digests of arrays: one number however an array is split; any change of one element is seen."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.runs import digests
from cascade_jax.teacher_cache import facts

SPECS = {
    "a": PartitionSpec("x", "y"),
    "b": {"c": PartitionSpec(), "d": PartitionSpec(None, ("y", "x"))},
    "step": PartitionSpec(),
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(16, 12)).astype(np.float32),
        "b": {
            "c": rng.normal(size=(3, 5, 7)).astype(jnp.bfloat16),
            "d": rng.integers(-9, 9, (5, 24, 6), np.int32),
        },
        "step": np.int32(7),
    }


def by_hand(array: np.ndarray) -> tuple[int, int]:
    """Both sums in Python's integers, an element at a time."""
    bits = array.reshape(-1).view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    total = mixed_total = 0
    for place, element in zip(np.ndindex(array.shape), map(int, bits), strict=True):
        number = 0
        for step in place:
            number = number * 1_000_003 + step
        mixed = ((element ^ (number * 2_654_435_761 % 2**32)) * 2_246_822_519) % 2**32
        total, mixed_total = total + element, mixed_total + (mixed ^ (mixed >> 15))
    return total % 2**32, mixed_total % 2**32


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_the_sums_are_those_of_the_elements_however_they_are_split(arrays, monkeypatch, small):
    monkeypatch.setattr(digests, "_SMALL", small)
    monkeypatch.setattr(digests, "_AT_ONCE", 40)  # several rounds of several rows, and a rest
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    split = jax.tree.map(
        lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), arrays, SPECS
    )
    expected = {
        "a": (*by_hand(arrays["a"]), True),
        "b/c": (*by_hand(arrays["b"]["c"]), True),
        "b/d": (*by_hand(arrays["b"]["d"]), True),
        "step": (*by_hand(np.asarray(arrays["step"])), True),
    }
    assert digests.sums_by_name(arrays) == digests.sums_by_name(split) == expected


def test_every_flip_and_exchange_is_seen(arrays):
    before = digests.sums_by_name(arrays)["a"]
    for bit in range(32):
        flipped = arrays["a"].copy()
        flipped.view(np.uint32)[3, 5] ^= np.uint32(1 << bit)
        assert digests.sums_by_name({"a": flipped})["a"][:2] != before[:2]
    exchanged = arrays["a"].copy()
    exchanged[[2, 9]] = exchanged[[9, 2]]
    bits, mixed, _ = digests.sums_by_name({"a": exchanged})["a"]
    assert bits == before[0] and mixed != before[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(arrays, value):
    arrays["a"][15, 11] = value
    sums = digests.sums_by_name(arrays)
    assert [name for name in sums if not sums[name][2]] == ["a"]


def test_the_digest_of_a_teacher_is_that_of_older_caches(arrays):
    text = [
        [name, array.shape, str(array.dtype), *by_hand(array)]
        for name, array in (
            ("a", arrays["a"]),
            ("b/c", arrays["b"]["c"]),
            ("b/d", arrays["b"]["d"]),
        )
    ]
    del arrays["step"]
    assert facts.digest(arrays) == hashlib.sha256(repr(text).encode()).hexdigest()[:16]
