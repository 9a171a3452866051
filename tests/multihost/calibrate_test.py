"""Two processes of four devices calibrate as one process of eight does, and collect its policy."""

import json
import shutil
import signal
from pathlib import Path

import gin
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax.cli import collect, gin_main
from cascade_jax.cli.main import main
from cascade_jax.data import pipeline
from cascade_jax.models import families
from cascade_jax.parallel import hosts
from cascade_jax.training import checkpoints, run_folder
from tests.multihost import processes

SETTINGS = [
    f"--gin.{name}={value}"
    for name, value in {
        "CALIBRATED": "'xent'",
        "CALIBRATION_LIMIT": 40,
        "BASELINES": False,
        "COLLECT_LIMIT": 12,
        "DECODE_BATCH_SIZE": 8,
        "LIVE_METRICS": ["chrf"],
        "ALPHAS": [0.5, 0.9],
        "DELTA": 0.2,
        "FIRST_SIZE": 16,
        "SECOND_SIZE": 16,
        "ITERATIONS": 5,
        "GRID_SIZE": 20,
    }.items()
]
pytestmark = pytest.mark.usefixtures("in_the_clone")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, repository):
    """The gin file of a folder with two models whose parameters are random."""
    file = processes.write_gin(tmp_path_factory.mktemp("pair"), "out", 6, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        config = gin_main.parse(collect.CONFIG, [f"--gin_file={file}"])
        gin.clear_config(clear_constants=True)
    fingerprint = pipeline.open_mixture(config.data).fingerprint
    for seed, (name, model) in enumerate((("xent", config.student), ("teacher", config.teacher))):
        params = families.initialize(families.build(model), jax.random.key(seed))
        print(jax.tree.map(np.shape, params))
        # Some tokens shall be likelier than others.
        params["decoder"]["decoder_norm"]["scale"] *= 12.0
        folder = file.parent / "out" / name
        written = run_folder.write_imported(folder, model, fingerprint, {"from": "test"})
        checkpoints.save_parameters(folder, params, written)
    return file


def of_one_and_two(pair: Path, log: Path, *argv: str) -> tuple[Path, Path, list[str]]:
    """The folders that one and that two processes calibrate, and what the two print."""
    folder = pair.parent / "out" / "calibration"
    shutil.rmtree(folder, ignore_errors=True)
    argv = [*SETTINGS, *argv]
    assert main(["calibrate", f"--gin_file={pair}", *argv]) == 0
    shutil.move(folder, log.parent / "one")
    texts = processes.Command(pair, log, 2, argv, "calibrate").finish()
    return log.parent / "one" / "xent", folder / "xent", texts


def numbers(value) -> tuple[list[float], str]:
    """All numbers of a JSON value, and the value without them."""
    found = []

    def without(text):
        found.append(float(text))
        return 0

    rest = json.dumps(json.loads(value, parse_float=without, parse_int=without))
    return found, rest


def test_two(pair, tmp_path):
    one, two, texts = of_one_and_two(pair, tmp_path / "log")
    print(texts[0])
    names = [sorted(str(f.relative_to(x)) for f in x.rglob("*.*")) for x in (one, two)]
    print(names)
    for name in ("budget.json", "certificate_0.5.json", "certificate_0.9.json"):
        a, b = ((x / name).read_text() for x in (one, two))
        print(name, a == b)
