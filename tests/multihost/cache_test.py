"""Two processes of four devices make the teacher cache that one process of eight does."""

import json

import numpy as np
import pytest

from cascade_jax.teacher_cache import identity, shards
from cascade_jax.teacher_cache.format import Holding
from tests.support import processes

SETTINGS = ["--gin.CACHE_TOP_K=4", "--gin.CACHE_SHARD_ROWS=256", "--gin.CACHE_BATCH_SIZE=64"]


def facts(folder) -> tuple[dict, Holding, np.ndarray]:
    """Totals, what is held, and all keys in order."""
    fingerprint = json.loads((folder / "fingerprint.json").read_text())
    indexes = [np.load(file)["keys"] for file in folder.glob("*.index.npz")]
    keys = sorted({row.tobytes() for index in indexes for row in index})
    totals = json.loads((folder / "complete.json").read_text())["splits"]
    return totals, Holding(**fingerprint["holding"]), keys


def digest(folder) -> str:
    return identity.digest(identity.read_fingerprint(folder))


@pytest.mark.slow
def test_a_cache_of_two_processes(tmp_path):
    file = processes.write_gin(tmp_path, "out", 2, 2)
    text = file.read_text().replace("teacher/experiment.TrainRun.model = %STUDENT\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("large/")]
    large = [line.replace("small/", "large/") for line in lines if line.startswith("small/")]
    file.write_text("\n".join([*lines, *large]) + "\n")
    processes.Command(file, tmp_path / "train.log").finish()
    for count in (1, 2):
        folder = f"--gin.TEACHER_CACHE='{tmp_path}/cache_{count}'"
        texts = processes.Command(
            file, tmp_path / "log", count, [folder, *SETTINGS], name="cache-teacher"
        ).finish()
        assert ["target tokens; the teacher is right" in text for text in texts] == (
            [True, False][:count]
        )
    caches = [tmp_path / f"cache_{count}" for count in (1, 2)]
    one, two = map(facts, caches)
    assert one[1:] == two[1:]
    assert one[0]["train"]["tokens"] > 100 and len(one[2]) > 100
    for split, total in one[0].items():
        # A row that occurs twice counts twice where two shards hold it.
        assert two[0][split]["tokens"] == pytest.approx(total["tokens"], rel=0.1)
    readers = [shards.CacheReader(made, one[1], digest(made), "") for made in caches]
    for mine, theirs in zip(*(reader.find(one[2]) for reader in readers), strict=True):
        np.testing.assert_array_equal(mine.label_is_best, theirs.label_is_best)
        np.testing.assert_allclose(mine.log_probs, theirs.log_probs, atol=1e-5)
        np.testing.assert_allclose(mine.log_tail, theirs.log_tail, atol=1e-5)
    # The student of two processes reads what one has made.
    argv = ["--gin.ONLY='cat_dist'", f"--gin.TEACHER_CACHE='{tmp_path}/cache_1'"]
    losses = []
    for count in (1, 2):
        output = tmp_path / f"train_{count}"
        argv_of = [*argv, f"--gin.OUTPUT_DIR='{output}'"]
        (output / "teacher").parent.mkdir()
        (output / "teacher").symlink_to(tmp_path / "out" / "teacher")
        processes.Command(file, tmp_path / "student.log", count, argv_of).finish()
        lines = (output / "cat_dist" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
