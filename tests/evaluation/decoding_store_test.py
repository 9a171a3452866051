"""What is stored is read back; damage and other facts are noticed."""

import numpy as np
import pytest

from cascade_jax.evaluation.calibration_pool import Evaluation
from cascade_jax.evaluation.decoding_store import DecodingStore

KEY = {"uncertainty": "log_prob", "thresholds": [(0.5).hex()]}


def evaluation(n=5, seed=0):
    rng = np.random.default_rng(seed)
    return Evaluation(
        cost=rng.random(n),
        quality={"rouge1": rng.random(n), "chrf": rng.random(n)},
        is_deferred=rng.random((n, 3)) < 0.5,
        lengths=rng.integers(1, 4, n),
    )


def test_what_is_written_is_read(tmp_path):
    store, written = DecodingStore(tmp_path / "x", {"model": 1}), evaluation()
    assert store.read(KEY) is None
    store.write(KEY, written)
    columns = store.read(KEY).columns()
    assert columns.keys() == written.columns().keys()
    for name, values in written.columns().items():
        np.testing.assert_array_equal(columns[name], values)
    assert [path.suffix for path in (tmp_path / "x").iterdir()] == [".npz"]  # nothing half written


def test_other_facts_or_thresholds_are_other_evaluations(tmp_path):
    store = DecodingStore(tmp_path, {"model": 1})
    store.write(KEY, evaluation())
    assert DecodingStore(tmp_path, {"model": 2}).read(KEY) is None
    assert store.read(KEY | {"thresholds": [(0.25).hex()]}) is None
    assert store.read(KEY | {"uncertainty": "entropy"}) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "another"])
def test_a_damaged_file_is_said_and_not_used(tmp_path, capsys, damage):
    store = DecodingStore(tmp_path, {"model": 1})
    store.write(KEY, evaluation(400))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "another":
        other = DecodingStore(tmp_path, {"model": 2})
        other.write(KEY, evaluation(seed=1))
        data = other.path(KEY).read_bytes()
    if damage == "flipped":
        data[len(data) // 3] ^= 255
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"no npz"}.get(damage, data))
    assert store.read(KEY) is None
    assert f"{path} is damaged (" in capsys.readouterr().out
    store.write(KEY, evaluation(400))
    assert store.read(KEY) is not None
