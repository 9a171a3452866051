"""What a user gets wrong ends in one line that says what, where and what is allowed, status 2.

Everything here goes through the command line. The same refusals by themselves, and finer cases,
are tested where they are raised: gin names in gin_test.py, JSONL values in data/sources_test.py,
sizes in models/config_test.py, meshes in parallel/parallel_test.py, records in
records/table_test.py and evaluation/evaluate_test.py. A run that is killed
while saving is in training/resume_test.py.
"""

import functools
import gc
import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from cascade_jax.cli.main import main
from cascade_jax.runs import checkpoints
from cascade_jax.training import step as step_lib
from cascade_jax.training import train as training
from tests.support import fakes, pair, saved
from tests.support.pair import output

MACROS = """\
DECODE_BATCH_SIZE = 8
COLLECT_SPLIT = "validation"
COLLECT_LIMIT = 8
BOOTSTRAP_SAMPLES = 5
evaluate.EvaluateConfig.names = ["xent"]
"""
IMPORT = "from cascade_jax.evaluation import evaluate"
LOCAL = "--gin_file=gin/experiments/local_multitask.gin"


pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("in_the_clone")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """`--gin_file` of the demo with everything small."""
    return pair.write_gin(tmp_path_factory.mktemp("gin") / "tiny.gin", MACROS, IMPORT)


@pytest.fixture(scope="module")
def finished(tiny, trained_pair, tmp_path_factory, repository):
    """An output folder with a trained teacher and student and their records."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    shutil.copytree(trained_pair, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        assert main(["collect", tiny, output(folder)]) == 0
    return folder


@pytest.fixture
def refused(capfd):
    """Runs a command that must fail; gives its one line. Progress bars may stand before it."""

    def run(command: str, *argv: str) -> str:
        capfd.readouterr()
        assert main([command, *argv]) == 2
        *before, line = capfd.readouterr().err.splitlines()
        assert all(" | " in text or "%|" in text for text in before if text), before
        start = f"cascade-jax {command}: "
        assert line.startswith(start)
        return line.removeprefix(start)

    return run


def steps(folder: Path) -> list[int]:
    """Complete checkpoints of a run."""
    return saved.steps(folder / "checkpoints")


def same_end(folder: Path, other: Path) -> None:
    """Two runs ended with bitwise the same state."""
    saved.assert_same_end(folder, other, 6)


def test_gin_names(refused, tiny, tmp_path):
    """Each in full in gin_test.py; here: the line and the status."""
    line = refused("train", tiny, "--gin.STUDENT_STEP=5")
    assert "unknown gin macro 'STUDENT_STEP'; did you mean 'STUDENT_STEPS'?" in line
    misspelt = "cat_dits/experiment.TrainRun.seed = 1\n"
    experiment = "from cascade_jax.training import experiment"
    file = pair.write_gin(tmp_path / "scope.gin", misspelt, experiment)
    line = refused("train", file)
    assert "gin binding cat_dits/experiment.TrainRun.seed is set but nothing reads it" in line
    line = refused("vocab", LOCAL)
    assert "gin macro DATA_DIR has no value; give it: --gin.DATA_DIR=VALUE" in line


@pytest.mark.parametrize(
    "binding, said",
    [
        ("STUDENT_STEPS=1e1", "decay_steps is 10.0; must be an integer of at least 1, or None"),
        ("experiment.TrainRun.log_every=2.5", "log_every is 2.5; must be an integer of at least 1"),
        ("STUDENT_LEARNING_RATE='x'", "learning_rate is 'x'; must be a number above 0"),
        ("OUTPUT_DIR=5", "output_dir is 5; must be the path of a folder"),
        ("ONLY='xnt'", "no run named ['xnt']; the runs are ['teacher', 'xent', 'dist',"),
    ],
)
def test_values_of_another_type_or_range(refused, tiny, binding, said):
    assert said in refused("train", tiny, f"--gin.{binding}")


def test_programming_errors_keep_their_traceback(tiny, tmp_path, monkeypatch):
    def broken(config):
        raise TypeError("a bug")

    monkeypatch.setattr(training, "train", broken)
    with pytest.raises(TypeError, match="a bug"):
        main(["train", tiny, output(tmp_path)])


def test_an_unknown_mixture_gets_the_nearest_names(refused, tiny, tmp_path):
    line = refused("train", tiny, output(tmp_path / "out"), "--gin.MIXTURE='demo_lost_v1'")
    assert "unknown mixture or task 'demo_lost_v1'" in line
    assert "the nearest are demo_last_v1" in line
    assert not (tmp_path / "out").exists()


def vocab(folder: Path, output_path: Path) -> list[str]:
    """Arguments of `vocab` on one task of a data folder."""
    return [
        LOCAL,
        f"--gin.DATA_DIR='{folder}'",
        "--gin.MIXTURE='local_cola_v1'",
        f"--gin.VOCABULARY='{output_path}'",
        "--gin.VOCAB_SIZE=286",
    ]


def test_a_missing_data_folder_task_or_split(refused, tmp_path):
    argv = vocab(tmp_path / "data", tmp_path / "v.model")
    line = refused("vocab", *argv)
    assert f"data folder '{tmp_path}/data' does not exist; give a folder that holds <task>" in line
    fakes.write_jsonl(tmp_path / "data", "glue__col", "train", [{}])
    line = refused("vocab", *argv)
    assert "has no task folder 'glue__cola'; it has 1; nearest: glue__col" in line
    fakes.write_jsonl(tmp_path / "data", "glue__cola", "dev", [{}])
    assert "glue__cola' has no split 'train'; it has ['dev']" in refused("vocab", *argv)
    assert not (tmp_path / "v.model").exists()


def test_a_split_that_no_task_has(refused, tiny, finished):
    line = refused("collect", tiny, output(finished), "--gin.COLLECT_SPLIT='dev'")
    assert "no task of 'demo_last_v1' has a split 'dev'" in line
    assert "there are ['test', 'train', 'validation']" in line
    assert not (finished / "records" / "dev").exists()


ROWS = [{"sentence": f"row {i} of many", "label": i % 2, "idx": i} for i in range(40)]


@pytest.mark.parametrize(
    "bad, said",
    [
        (
            '{"sentence": "no end',
            ":41: not JSON (Unterminated string starting at column 14)",
        ),
        ('{"label": 1}', ":41: lacks field 'sentence'; the line has ['label']"),
        ('{"sentence": "a", "label": 7}', ":41: field 'label' is 7, must be an integer from -1 to"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(refused, tmp_path, bad, said):
    file = fakes.write_jsonl(tmp_path / "data", "glue__cola", "train", ROWS)
    file.write_text(file.read_text() + bad + "\n")
    line = refused("vocab", *vocab(tmp_path / "data", tmp_path / "v.model"))
    assert line.startswith(f"{file}{said}")


def test_vocabularies_of_two_sizes(refused, tiny):
    line = refused("train", tiny, "--gin.large/config.T5Config.vocab_size=400")
    assert "student.vocab_size = 384, teacher.vocab_size = 400" in line


def test_a_teacher_of_another_vocabulary_of_the_same_size(refused, tiny, tmp_path, finished):
    """The config's sizes agree; only the fingerprints tell. The run's folder is not taken."""
    fakes.write_jsonl(tmp_path / "data", "glue__cola", "train", ROWS)
    assert main(["vocab", *vocab(tmp_path / "data", tmp_path / "v.model")]) == 0
    argv = [tiny, output(finished), "--gin.ONLY='dist'", f"--gin.VOCABULARY='{tmp_path}/v.model'"]
    line = refused("train", *argv)
    assert "run 'dist': vocabularies differ" in line
    assert "has sentencepiece-" in line and "was trained with byte-259" in line
    assert not (finished / "dist" / "config.json").exists()
    line = refused("collect", tiny, output(finished), argv[-1])
    assert "vocabularies differ" in line


def test_a_mesh_that_does_not_divide(refused, tiny, finished):
    line = refused("train", tiny, "--gin.mesh.MeshConfig.data=3")
    assert "mesh (data=3, fsdp=1, tensor=1) does not divide the 8 devices there are" in line
    line = refused("train", tiny, "--gin.BATCH_SIZE=12")
    assert "run 'teacher': batch_size 12 does not divide by the 8 shards" in line
    assert "allowed are multiples of 8" in line
    line = refused("collect", tiny, output(finished), "--gin.DECODE_BATCH_SIZE=12")
    assert "batch_size 12 does not divide by the 8 shards" in line


def test_a_folder_of_another_config_is_left_as_it_is(refused, tiny, finished):
    before = (finished / "teacher" / "config.gin").read_text()
    line = refused("train", tiny, output(finished), "--gin.SEED=3")
    assert f"run folder {finished}/teacher holds another config" in line
    assert "seed was 0 and is now 3" in line and "Choose another output folder" in line
    assert (finished / "teacher" / "config.gin").read_text() == before


def test_a_run_that_is_not_there(refused, tiny, tmp_path):
    line = refused("train", tiny, output(tmp_path), "--gin.ONLY='xent'")
    assert f"run 'xent' needs its teacher in {tmp_path}/teacher, which is not trained" in line
    line = refused("collect", tiny, output(tmp_path))
    assert f"{tmp_path}/teacher holds no complete checkpoint; train that run first" in line


def test_a_checkpoint_of_other_shapes(refused, tiny, finished, tmp_path):
    wider = "--gin.large/config.T5Config.embed_dim=24"
    line = refused("train", tiny, output(finished), "--gin.ONLY='dist'", wider)
    assert f"checkpoint {finished}/teacher/checkpoints/" in line
    assert "parameter decoder/decoder_norm/scale: the checkpoint has shape (16,)" in line
    assert "the model has shape (24,)" in line
    assert not (finished / "dist" / "config.json").exists()

    wider = "--gin.small/config.T5Config.mlp_dim=24"
    said = "parameter decoder/layers_0/mlp/wi_0/kernel: the checkpoint has shape (8, 8), the model "
    shutil.rmtree(finished / "records")
    assert main(["collect", tiny, output(finished), wider]) == 0  # has the run's own config.json

    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "xent" / "config.json").unlink()
    argv = [tiny, output(tmp_path / "copy"), "--gin.ONLY='xent'", wider]
    assert said + "has shape (8, 24)" in refused("train", *argv)
    assert not (tmp_path / "copy" / "xent" / "config.json").exists()


@pytest.mark.parametrize(
    "poisoned_step, said",
    [
        (3, "loss is nan somewhere in steps 3 to 4"),
        # The loss of step 4 is that of the parameters before its update: still good.
        pytest.param(
            4, "norm of the parameters is nan somewhere in steps 4 to 4", marks=pytest.mark.slow
        ),
    ],
)
def test_a_loss_that_is_not_finite(
    refused, tiny, finished, tmp_path, monkeypatch, poisoned_step, said
):
    make = step_lib.make_train_step

    def make_poisoned(*args):
        train_step = make(*args)

        @functools.wraps(train_step)  # with its attribute `jitted`
        def step(state, *rest):
            state, result = train_step(state, *rest)
            if int(state.step) == poisoned_step:
                state = state.replace(params=jax.tree.map(lambda p: p * np.nan, state.params))
            return state, result

        return step

    folder = tmp_path / "teacher"
    argv = [tiny, output(tmp_path), "--gin.ONLY='teacher'"]
    with monkeypatch.context() as patch:
        patch.setattr(step_lib, "make_train_step", make_poisoned)
        line = refused("train", *argv)
    assert f"run 'teacher': {said}; the checkpoint of step 2 stays" in line
    assert "Lower the learning rate" in line
    assert steps(folder) == [2]
    figures = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(
        [value for row in figures for value in row.values() if value != row["split"]]
    ).all()

    # The checkpoint that stayed is whole: the same command goes on from it to the same end.
    assert main(["train", *argv]) == 0
    same_end(folder, finished / "teacher")


def changed_copy(file: Path, to: Path, rows: int | None = None, **metadata) -> Path:
    """A records file with fewer rows or other metadata, written without our code."""
    table = pq.read_table(file)
    meta = json.loads(table.schema.metadata[b"cascade_jax"]) | metadata
    table = table.slice(0, rows).replace_schema_metadata({"cascade_jax": json.dumps(meta)})
    pq.write_table(table, to)
    return to


def test_records_that_do_not_belong_side_by_side(refused, finished, tmp_path):
    file = finished / "records" / "validation" / "xent.parquet"
    old = changed_copy(file, tmp_path / "old.parquet", schema_version=0)
    fewer = changed_copy(file, tmp_path / "fewer.parquet", rows=5)

    def evaluate(other):
        return [
            "--gin_file=gin/runs/evaluate.gin",
            f"--gin.RECORDS={{'a': '{file}', 'b': '{other}'}}",
            f"--gin.REPORT_DIR='{tmp_path}/report'",
        ]

    line = refused("evaluate", *evaluate(old))
    assert f"{old}: records schema version 0, this program reads versions 1 and 2" in line
    line = refused("evaluate", *evaluate(fewer))
    assert f"'b' ({fewer}) can not be compared with 'a' ({file})" in line
    assert (
        "different examples, 3 of 8 missing and 0 more: missing 'demo_last_v1/validation/5', '"
        in line
    )
    assert not (tmp_path / "report").exists()


def test_collect_writes_records_of_an_older_schema_anew(tiny, finished, capfd):
    """The line above says to collect again; doing so must help."""
    file = finished / "records" / "validation" / "xent.parquet"
    before = pq.read_table(file)
    changed_copy(file, file, schema_version=0)
    assert main(["collect", tiny, output(finished)]) == 0
    after, clock = pq.read_table(file), ["student_seconds", "teacher_seconds"]
    assert after.drop(clock).equals(before.drop(clock), check_metadata=True)
    capfd.readouterr()
    there = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert main(["collect", tiny, output(finished)]) == 0
    assert "is up to date" in capfd.readouterr().out
    # Nothing is written: it may lie on a read-only medium.
    assert there == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


# What Orbax leaves behind when it gives up half-way.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_is_full_while_saving(refused, tiny, finished, tmp_path, monkeypatch):
    """From the second save on, the system refuses to write more than 8 kB into any file."""
    saves = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = checkpoints.CheckpointStore.save

    def save_on_a_full_disk(self, step, *args):
        saves.append(step)
        if len(saves) == 2:
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        save(self, step, *args)

    argv = [tiny, output(tmp_path), "--gin.ONLY='teacher'"]
    monkeypatch.setattr(checkpoints.CheckpointStore, "save", save_on_a_full_disk)
    try:
        line = refused("train", *argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        monkeypatch.undo()
        gc.collect()  # those warnings come now, not in another test
    folder = tmp_path / "teacher"
    assert f"could not write a checkpoint to {folder}/checkpoints: " in line
    assert "File too large" in line
    assert "step 2 is complete and stays; raise the limit of a file's size (ulimit -f)" in line
    assert steps(folder) == [2]

    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["train", *argv]) == 0
    same_end(folder, finished / "teacher")
    assert not [path for path in (folder / "checkpoints").iterdir() if "tmp" in path.name]
