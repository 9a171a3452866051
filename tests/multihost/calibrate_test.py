"""Two processes of four devices calibrate as one process of eight does, and collect its policy."""

import json
import re
import shutil
import signal
from pathlib import Path

import gin
import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax.cli import gin_config, train
from cascade_jax.cli.main import main
from cascade_jax.data import pipeline
from cascade_jax.models import families
from cascade_jax.parallel import hosts
from cascade_jax.runs import checkpoints, run_folder
from tests.support import fakes, processes

LIKELY = [1, *range(100, 110)]  # the end, and "a" to "j"
SETTINGS = {
    "CALIBRATED": "'xent'",
    "CALIBRATION_LIMIT": 40,
    "COLLECT_LIMIT": 12,  # the second batch is half full
    "DECODE_BATCH_SIZE": 8,
    "TARGET_LENGTH": 3,
    "LIVE_METRICS": ["chrf"],
    "ALPHAS": [0.5, 0.7],
    "DELTA": 0.4,
    "FIRST_SIZE": 8,
    "SECOND_SIZE": 12,
    "SEARCH": "'grid'",
    "GRID_SIZE": 6,
    "BASELINES": False,
}
pytestmark = pytest.mark.usefixtures("in_the_clone")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, repository):
    """The gin file of a folder with two models, whose parameters are random."""
    file = processes.write_gin(tmp_path_factory.mktemp("pair"), "out", 6, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        config = gin_config.parse(train.CONFIG, [f"--gin_file={file}", "--gin.ONLY='xent'"])
        gin.clear_config(clear_constants=True)
    (run,) = config.selected()
    fingerprint = pipeline.open_mixture(run.data).fingerprint
    for seed, (name, model) in enumerate((("xent", run.model), ("teacher", run.teacher))):
        params = fakes.initialize(families.build(model), seed)
        logits = params["decoder"]["logits_dense"]
        logits["kernel"] = logits["kernel"].at[:, np.array(LIKELY)].multiply(4.0)
        folder = file.parent / "out" / name
        written = run_folder.write_imported(folder, model, fingerprint, {"from": "test"})
        checkpoints.save_parameters(folder, params, written)
    return file


def copied(pair: Path, folder: Path) -> Path:
    """A folder with the pair's runs alone."""
    for run in ("teacher", "xent"):
        shutil.copytree(pair.parent / "out" / run, folder / run)
    return folder


def arguments(folder: Path, settings: dict) -> list[str]:
    inputs = SETTINGS | {"OUTPUT_DIR": f"'{folder}'"} | settings
    return [f"--gin.{macro}={value}" for macro, value in inputs.items()]


def alone(pair: Path, folder: Path, name: str = "calibrate", **settings) -> None:
    """A command in this process, which has eight devices."""
    assert main([name, f"--gin_file={pair}", *arguments(folder, settings)]) == 0


def together(pair: Path, folder: Path, name: str = "calibrate", **settings) -> processes.Command:
    log = folder.with_name(f"{folder.name}.log")
    return processes.Command(pair, log, 2, arguments(folder, settings), name)


def numbers(text: str) -> tuple[list[float], str]:
    """All numbers of a JSON text, and the text without them."""
    result: list[float] = []

    def taken(number: str) -> int:
        result.append(float(number))
        return 0

    return result, json.dumps(json.loads(text, parse_float=taken, parse_int=taken))


def text_of(file: Path) -> str:
    """Its text without the experiment's folder, and without the digest of all that."""
    text = file.read_text().replace(str(file.parents[2]), "")
    return re.sub(r'"digest": "\w+"', '"digest": ""', text)


def same_results(one: Path, two: Path) -> None:
    """Equal certificates and budget.json, up to rounding."""
    names = [sorted(file.name for file in folder.glob("*.*")) for folder in (one, two)]
    assert names[0] == names[1]
    for name in ("budget.json", "certificate_0.5.json", "certificate_0.7.json"):
        mine, theirs = (numbers(text_of(folder / name)) for folder in (one, two))
        assert mine[1] == theirs[1], name
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5, err_msg=name)


def decoded(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """By file, but for the part of its name that chance gave it, its arrays."""
    result = {}
    for file in sorted((folder / "decodings").iterdir()):
        with np.load(file) as arrays:
            arrays = {name: arrays[name] for name in arrays.files if name != "digest"}
        result[file.stem.rpartition("_")[0]] = arrays
    return result


def same_decodings(one: Path, two: Path) -> None:
    mine, theirs = decoded(one), decoded(two)
    assert mine.keys() == theirs.keys()
    for name, arrays in mine.items():
        assert arrays.pop("facts") == theirs[name].pop("facts")
        for column, values in arrays.items():
            np.testing.assert_allclose(values, theirs[name][column], rtol=1e-5, err_msg=column)


def calibrated_alike(pair: Path, tmp_path: Path, **settings) -> tuple[Path, list[str]]:
    """One and two processes calibrate; the folder of the two, and what they print."""
    one, two = (copied(pair, tmp_path / name) for name in ("one", "two"))
    command = together(pair, two, **settings)
    alone(pair, one, **settings)
    texts = command.finish()
    results = one / "calibration" / "xent", two / "calibration" / "xent"
    same_results(*results)
    same_decodings(*results)
    return two, texts


@pytest.mark.slow
def test_two_processes_calibrate_as_one_does(pair, tmp_path):
    folder, texts = calibrated_alike(pair, tmp_path)
    results = folder / "calibration" / "xent"
    # One writer: only process 0 says what there is, and only it draws progress bars.
    assert [str(results / "certificate_0.5.json") in text for text in texts] == [True, False]
    for unit in ("repeat/s", "certificate/s"):
        assert [unit in text for text in texts] == [True, False], unit
    # There was something to differ in.
    columns = [arrays for arrays in decoded(results).values()]
    costs, qualities = (
        np.concatenate([arrays[name] for arrays in columns]) for name in ("cost", "quality_chrf")
    )
    assert len(set(costs)) > 3 and 0 < np.mean(qualities > 0) < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh, settings",
    [
        ((8, 1, 1), {"BASELINES": True, "NUM_BLOCKS": 2, "SEARCH": "'bayesian'", "ITERATIONS": 5}),
        ((2, 2, 2), {"UNCERTAINTY": "'entropy'", "REPEATS": 2}),
    ],
)
def test_other_meshes_and_searches(pair, tmp_path, mesh, settings):
    sizes = zip(("data", "fsdp", "tensor"), mesh, strict=True)
    calibrated_alike(
        pair, tmp_path, **settings, **{f"mesh.MeshConfig.{axis}": size for axis, size in sizes}
    )


def records(folder: Path) -> pq.ParquetFile:
    table = pq.read_table(folder / "records" / "test" / "xent.parquet")
    return table.drop(["student_seconds", "teacher_seconds"])


@pytest.mark.slow
def test_records_with_a_policy_and_a_calibration_of_them(pair, tmp_path):
    one, two = (copied(pair, tmp_path / name) for name in ("one", "two"))
    alone(pair, one)
    policy = one / "calibration" / "xent" / "certificate_0.5.json"
    assert json.loads(policy.read_text())["thresholds"] is not None
    settings = {"POLICY": f"'{policy}'"}
    command = together(pair, two, "collect", **settings)
    alone(pair, one, "collect", **settings)
    texts = command.finish()
    assert ["xent and teacher answer" in text for text in texts] == [True, False]
    mine, theirs = records(one), records(two)
    for column in mine.column_names:
        assert theirs[column].equals(mine[column]), column
    deferred = [flag for row in mine["cascade_is_deferred"].to_pylist() for flag in row]
    assert 0 < sum(deferred) < len(deferred)
    # Whole answers need no model; one process writes.
    settings = {"LEVEL": "'answer'", "CALIBRATION_SPLIT": "'test'", "FIRST_SIZE": 4}
    settings |= {"SECOND_SIZE": 6, "DELTA": 0.5}
    command = together(pair, two, **settings)
    alone(pair, one, **settings)
    command.finish()
    folders = [folder / "calibration" / "xent_answers" for folder in (one, two)]
    same_results(*folders)


@pytest.mark.slow
def test_sigterm_on_one_host_stops_both_and_the_same_command_goes_on(pair, tmp_path):
    one, two = (copied(pair, tmp_path / name) for name in ("one", "two"))
    settings = {"REPEATS": 3, "GRID_SIZE": 20}
    command = together(pair, two, **settings)
    results = two / "calibration" / "xent"
    command.when(lambda: [*(results / "decodings").glob("*.npz")])
    command.send(1, signal.SIGTERM)
    assert command.wait(60) == [hosts.STOPPED_STATUS] * 2, "\n".join(command.texts())
    said = "cascade-jax calibrate: asked to stop; what is decoded is kept. The same command goes on"
    assert command.last_lines() == [f"{said} with the rest"] * 2
    assert decoded(results) and not (results / "budget.json").exists()
    command = together(pair, two, **settings)
    alone(pair, one, **settings)
    command.finish()
    same_results(one / "calibration" / "xent", results)
    counts = [
        sum(len(arrays["rows"]) for arrays in decoded(folder).values())
        for folder in (one / "calibration" / "xent", results)
    ]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_a_host_that_hangs_ends_the_other(pair, tmp_path):
    folder = copied(pair, tmp_path / "two")
    command = together(pair, folder, REPEATS=3, GRID_SIZE=20, HANG_SECONDS=8.0)
    try:
        # The first batch may compile, and so take longer.
        command.when(lambda: len([*folder.glob("calibration/xent/decodings/*.npz")]) > 1)
        status, line = processes.stopped_in_hang(command, 1, 25)
    finally:
        command.kill()
    assert status == hosts.LOST_STATUS, command.texts()[0]
    assert line.startswith("cascade-jax calibrate: no progress for ")
    assert "this or another host hangs" in line and "what is decoded is kept" in line


@pytest.mark.slow
def test_one_host_writes_and_hosts_that_do_not_share_its_folder_are_refused(
    pair, tmp_path, repository
):
    roots = [tmp_path / name for name in ("a", "b")]
    for root in roots:
        copied(pair, root / "runs")
        for name in ("cascade_jax", "tasks", "gin"):
            (root / name).symlink_to(repository / name)
    argv = arguments(Path("runs"), {})
    processes.Command(pair, tmp_path / "log", 2, argv, "calibrate", roots).finish()
    results = [root / "runs" / "calibration" for root in roots]
    assert (results[0] / "xent" / "budget.png").exists() and not results[1].exists()
    command = processes.Command(pair, tmp_path / "log", 2, argv, "calibrate", roots)
    assert command.wait() == [2, 2], "\n".join(command.texts())
    place = "runs/calibration/xent/decodings, which must be one folder for all of them"
    for line in command.last_lines():
        assert f"the hosts have different decoded answers in {place}: on host 1 of 2" in line
        assert "files is 0, on host 0 it is" in line
