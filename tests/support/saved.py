"""What lies in the folder of a run's checkpoints, read without our code."""

from pathlib import Path

import numpy as np
import tensorstore


def steps(checkpoints: Path) -> list[int]:
    """Steps whose checkpoint has its final name."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())


def half_written(checkpoints: Path) -> list[str]:
    """Names of temporary folders, which a save has begun."""
    if not checkpoints.is_dir():
        return []
    return [path.name for path in checkpoints.iterdir() if "tmp" in path.name]


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by name."""
    base = f"file://{checkpoint}/state/"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = [key.decode() for key in store.list().result()]
    read = {}
    for name in sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")):
        kvstore = {"driver": "ocdbt", "base": base, "path": name + "/"}
        array = tensorstore.open({"driver": "zarr", "kvstore": kvstore}).result()
        read[name] = array.read().result()
    return read


def assert_same(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Two checkpoints' arrays are bitwise equal, as the same program must make them."""
    assert ours.keys() == expected.keys() and ours
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def assert_close_end(run: Path, other: Path, step: int) -> None:
    """Two runs of different programs ended with the same state, up to float32's rounding."""
    ours, expected = (arrays(folder / "checkpoints" / str(step)) for folder in (run, other))
    assert ours.keys() == expected.keys() and ours
    for name, array in expected.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def assert_same_end(run: Path, other: Path, step: int) -> None:
    """Two runs' checkpoints of a step hold bitwise the same state."""
    assert_same(*(arrays(folder / "checkpoints" / str(step)) for folder in (run, other)))
