"""Parities: one digest however an array is split; flips, exchanges and cleared parts change it."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cascade_jax.runs import digests, parities

SPECS = {"a": PartitionSpec("x", "y"), "b": PartitionSpec(None, ("y", "x")), "c": PartitionSpec()}


@pytest.fixture
def arrays(monkeypatch):
    monkeypatch.setattr(parities, "_ROWS", 4)  # several blocks, and a rest
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(size=(800, 60)).astype(np.float32),
        "b": rng.normal(size=(48, 24, 7)).astype(jnp.bfloat16),
        "c": rng.integers(-9, 9, (5, 3), np.int32),
        "d": np.int32(7),
        "e": np.zeros((0, 4), np.float32),
    }


def by_hand(array: np.ndarray) -> str:
    """The same words in Python's integers."""
    data, hashed = np.asarray(array).tobytes(), hashlib.sha256()
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    rows = [words[i : i + 509] for i in range(0, len(data) // 4072 * 509, 509)]
    for first in range(0, len(rows), 4):
        total = [0] * 509
        for row in rows[first : first + 4]:
            total = [a ^ b for a, b in zip(total, row, strict=True)]
        hashed.update(b"".join(word.to_bytes(8, "little") for word in total))
    hashed.update(data[len(rows) * 4072 :])
    return "parity:" + hashed.hexdigest()[:32]


def test_it_is_that_of_the_bytes_however_they_are_split(arrays):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    split = {
        name: jax.device_put(array, NamedSharding(mesh, SPECS.get(name, PartitionSpec())))
        for name, array in arrays.items()
    }
    expected = {name: (by_hand(array), True) for name, array in arrays.items()}
    assert digests.by_name(arrays) == digests.by_name(split) == expected
    assert digests.by_name(split, like={"a": "parity:"}) == expected


def test_flips_exchanges_and_cleared_parts_are_seen(arrays):
    def digest(array):
        return digests.by_name({"a": array})["a"][0]

    rng = np.random.default_rng(1)
    before = digest(arrays["a"])
    for count in [1] * 40 + [2] * 40:
        changed = arrays["a"].copy()
        for place in rng.choice(changed.size, count, replace=False):
            changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << 31)  # of the sign
        assert digest(changed) != before
    exchanged = arrays["a"].copy()
    exchanged[[2, 9]] = exchanged[[9, 2]]
    cleared = arrays["a"].copy()
    cleared.reshape(-1)[:1024] = 0
    moved = np.roll(arrays["a"].reshape(-1), 1024).reshape(arrays["a"].shape)
    columns = arrays["a"][:, ::-1].copy()
    assert before not in map(digest, (exchanged, cleared, moved, columns))


@pytest.mark.parametrize("name, place", [("a", 47_999), ("a", 0), ("b", 8_063), ("b", 1)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told_at_reading(arrays, name, place, value):
    arrays[name].reshape(-1)[place] = value
    read = digests.by_name(arrays, like={})
    assert [each for each in read if not read[each][1]] == [name]


def test_sums_of_earlier_checkpoints_are_compared_with_sums(arrays):
    sums = digests.sums_by_name(arrays)
    saved = {name: digests.as_text(sums[name]) for name in sums}
    own = digests.by_name(arrays, like=saved)
    assert {name: own[name][0] for name in own} == saved
