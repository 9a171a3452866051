"""Two processes of four devices collect the records that one process of eight does."""

import shutil
import signal
import time
from pathlib import Path

import gin
import pyarrow.parquet as pq
import pytest

from cascade_jax.cli.main import main
from cascade_jax.collection.collect import CollectConfig
from cascade_jax.data import pipeline
from cascade_jax.parallel import hosts
from cascade_jax.runs.saved_model import CascadeRuns
from tests.support import fakes, processes

LIMIT = ["--gin.COLLECT_LIMIT=12", "--gin.DECODE_BATCH_SIZE=8"]  # the second batch is half full


@pytest.fixture(scope="module")
def trained(tmp_path_factory, repository):
    """A folder with a large and a small model, the command's gin file and its data's flags."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"sentence": f"row {i} of many", "label": i % 2, "idx": i} for i in range(40)]
    for split in ("train", "validation"):
        fakes.write_jsonl(folder / "data", "glue__cola", split, rows)
    file = processes.write_gin(folder, "out", 6, 3)  # train_test.py has compiled this
    first = "import dynamic_registration\n"
    file.write_text(file.read_text().replace(first, first + "import tasks.local_multitask\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        only = "--gin.ONLY=['teacher', 'xent']"
        assert main(["train", f"--gin_file={file}", only]) == 0
        gin.clear_config(clear_constants=True)
    return file


pytestmark = pytest.mark.usefixtures("in_the_clone")


def same_records(trained: Path, log: Path, *argv: str) -> None:
    folder = trained.parent / "out" / "records"
    shutil.rmtree(folder, ignore_errors=True)
    assert main(["collect", f"--gin_file={trained}", *argv]) == 0
    (file,) = folder.rglob("*.parquet")
    one = pq.read_table(file)
    file.unlink()
    texts = processes.Command(trained, log, 2, argv, "collect").finish()
    # One writer: only process 0 says so, and only it draws a progress bar.
    assert [str(file) in text for text in texts] == [True, False]
    assert ["example/s" in text for text in texts] == [True, False]
    two, clocks = pq.read_table(file), ["student_seconds", "teacher_seconds"]
    assert one.num_rows >= 12
    for column in set(one.column_names) - set(clocks):
        assert two[column].equals(one[column]), column
    assert two.drop(clocks).equals(one.drop(clocks), check_metadata=True)


@pytest.mark.slow
def test_records_of_two_processes(trained, tmp_path):
    samples = ["--gin.SAMPLES=3", "--gin.SAMPLE_TOP_P=0.9"]
    samples += ["--gin.SAMPLE_MODELS=['student', 'teacher']"]
    names = ("SelfCertainty", "PreviousAttention", "SelfAttention", "Relevance", "States")
    named = [f"@probes.{name}()" for name in (*names, "SampleStates", "SurfaceForms")]
    probes = f"--gin.PROBES=[{', '.join(named)}]"
    same_records(trained, tmp_path / "log", *LIMIT, *samples, probes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "decoding, mesh",
    [
        ("rank_classification", (8, 1, 1)),
        ("teacher_forced", (8, 1, 1)),
        ("greedy", (2, 2, 2)),
    ],
)
def test_records_of_other_decodings_and_meshes(trained, tmp_path, decoding, mesh):
    sizes = zip(("data", "fsdp", "tensor"), mesh, strict=True)
    same_records(
        trained,
        tmp_path / "log",
        *LIMIT,
        *[f"--gin.mesh.MeshConfig.{axis}={size}" for axis, size in sizes],
        "--gin.MIXTURE='local_cola_v1'",
        "--gin.COLLECT_SPLIT='validation'",
        f"--gin.DATA_DIR='{trained.parent}/data'",
        "--gin.VOCABULARY='byte'",
        f"--gin.DECODING={decoding!r}",
        "--gin.EMBEDDINGS=True",
    )


def test_a_hang_of_no_seconds_is_refused():
    data = pipeline.DataConfig("any_v1", 16, 8, batch_size=8)
    cascade = CascadeRuns("out", ["a"], ["teacher"], data)
    with pytest.raises(
        ValueError,
        match=r"^hang_seconds is 0\.0; must be a number above 0, or None",
    ):
        CollectConfig(cascade, hang_seconds=0.0)


@pytest.fixture
def collecting(trained, tmp_path):
    """Two processes in the middle of collecting; eight seconds without progress are a hang."""
    shutil.rmtree(trained.parent / "out" / "records", ignore_errors=True)
    argv = ["--gin.DECODE_BATCH_SIZE=8", "--gin.HANG_SECONDS=8.0"]
    argv += ["--gin.MIXTURE='demo_mixture_v1'"]
    command = processes.Command(trained, tmp_path / "log", 2, argv, "collect")
    try:
        command.when(lambda: processes.answers_given(command))
        yield command
    finally:
        command.kill()


@pytest.mark.slow
def test_sigterm_on_one_host_stops_both(collecting):
    collecting.send(1, signal.SIGTERM)
    begin = time.monotonic()
    assert collecting.wait(60) == [hosts.STOPPED_STATUS] * 2, "\n".join(collecting.texts())
    assert time.monotonic() - begin < 30
    said = "cascade-jax collect: asked to stop; no table was completed. The same command goes on"
    assert collecting.last_lines() == [f"{said} with the other tables"] * 2


@pytest.mark.slow
def test_a_killed_process_ends_the_other(collecting):
    collecting.send(1, signal.SIGKILL)
    assert collecting.wait(60) == [hosts.LOST_STATUS, -signal.SIGKILL]
    assert "another host" in collecting.last_lines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_host_that_hangs_ends_the_other(collecting, victim):
    status, line = processes.stopped_in_hang(collecting, victim, 25)
    assert status == hosts.LOST_STATUS, collecting.texts()[1 - victim]
    assert line.startswith("cascade-jax collect: no progress for ")
    assert "this or another host hangs" in line and "no table was completed" in line
