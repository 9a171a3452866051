"""What breaks outside the program ends in one line, and the last checkpoint stays usable."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from cascade_jax.cli.main import main
from cascade_jax.data import pipeline
from cascade_jax.losses.variants import Xent
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs.folder_lock import FolderLock
from cascade_jax.training import experiment, step_loop
from cascade_jax.training import step as step_lib
from cascade_jax.training.optimizers import Adafactor
from cascade_jax.training.run import train_one
from tests.support import fakes, pair, saved
from tests.support.pair import EVERY, STEPS

pytestmark = [pytest.mark.medium, pytest.mark.usefixtures("in_the_clone")]


@pytest.fixture
def copy(trained_pair, tmp_path):
    """A copy of a run with checkpoints 2, 4 and 6, and the command that goes on with it."""
    shutil.copytree(trained_pair / "teacher", tmp_path / "out" / "teacher")
    return tmp_path / "out" / "teacher", write_gin(tmp_path)


def write_gin(folder: Path) -> Path:
    """A gin file whose one run goes to `<folder>/out/teacher`."""
    file, more = folder / "out.gin", f'ONLY = "teacher"\nOUTPUT_DIR = "{folder}/out"\n'
    pair.write_gin(file, more)
    return file


@pytest.fixture
def refused(capfd):
    def refused(*argv: str) -> str:
        capfd.readouterr()
        assert main(["train", *argv]) == 2
        *before, line = capfd.readouterr().err.splitlines()
        assert all("%|" in text or "step/s" in text for text in before if text), before
        return line.removeprefix("cascade-jax train: ")

    return refused


# All files and all kinds of damage are in tests/runs/completeness_test.py.
@pytest.mark.parametrize(
    "what",
    [
        "arrays",
        pytest.param("data", marks=pytest.mark.slow),
        pytest.param("gone", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_that_is_cut_off_is_moved_aside(copy, trained_pair, what, capfd):
    run, file = copy
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    last = run / "checkpoints" / str(STEPS - EVERY)
    if what == "arrays":
        for part in last.glob("state/**/d/*"):
            os.truncate(part, part.stat().st_size // 2)
    elif what == "data":
        state = next(last.glob("data/process_*"))
        os.truncate(state, state.stat().st_size // 2)
    else:
        shutil.rmtree(last / "state")
    assert main(["train", f"--gin_file={file}"]) == 0
    saved.assert_same_end(run, trained_pair / "teacher", STEPS)
    aside = run / "incomplete_checkpoints" / f"{STEPS - EVERY}_0"
    lines = capfd.readouterr().out.splitlines()
    (line,) = [line for line in lines if "is not whole" in line]
    assert line.startswith(f"checkpoint {last} is not whole (") and LACKS[what] in line
    assert line.endswith(f": passed over, and moved to {aside}")
    assert f"teacher: resuming from step {STEPS - 2 * EVERY} of {STEPS}" in lines
    assert aside.is_dir()


def test_export_passes_over_what_is_cut_off_and_ends_in_one_line_without_another(
    copy, tmp_path, capfd
):
    run, _ = copy
    argv = ["export", "--to", "t5x", "--run", str(run), "--checkpoint", "last", "--out"]
    for step in (6, 4, 2):
        for part in (run / f"checkpoints/{step}/state").rglob("d/*"):
            os.truncate(part, part.stat().st_size // 2)
        capfd.readouterr()
        status = main([*argv, str(tmp_path / f"without_{step}")])
        out, err = capfd.readouterr()
        if step > 2:
            assert status == 0 and f"step {step - 2} of {run}" in out
            said = f"checkpoint {run}/checkpoints/{step} is not whole (state/"
            assert said in out and f"passed over for step {step - 2}" in out
        else:
            (line,) = err.splitlines()
            assert status == 2 and f"{run}/checkpoints/6 is not whole (state/" in line


@pytest.mark.parametrize("which", [[], [2, 4, 6]])
def test_without_a_whole_checkpoint_nothing_begins_anew(copy, refused, which):
    run, file = copy
    for step in which or [6]:
        (run / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").unlink()
    for step in [] if which else [2, 4]:
        shutil.rmtree(run / "checkpoints" / str(step))
    line = refused(f"--gin_file={file}")
    assert line.startswith(f"checkpoint {run}/checkpoints/6 is not whole (_CHECKPOINT_METADATA is")
    assert (run / "checkpoints" / "6").is_dir()


def test_a_finished_run_is_left_as_it_is(copy, capfd):
    """So it may lie on a medium that can only be read."""
    run, file = copy

    def state():
        return {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}

    before = state()
    assert main(["train", f"--gin_file={file}", "--gin.LOG_EVERY=3"]) == 0
    assert f"teacher: already trained to step {STEPS}, nothing to do" in capfd.readouterr().out
    assert state() == before


def test_a_state_that_is_not_what_was_saved(copy, refused, monkeypatch):
    """A flip in a compressed array mostly can't be decompressed; here digests differ."""
    run, file = copy
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    digests = run / "checkpoints" / str(STEPS - EVERY) / "digests" / "metadata"
    saved_digests = json.loads(digests.read_text())
    names = [next(name for name in saved_digests if name.startswith(p)) for p in ("opt_", "params")]
    digests.write_text(json.dumps(saved_digests | dict.fromkeys(names, "0123456789abcdef")))
    line = refused(f"--gin_file={file}")
    assert f"/{STEPS - EVERY} is damaged, these arrays are not what was saved: " in line
    assert all(name in line for name in names) and f"takes step {STEPS - 2 * EVERY}" in line


LACKS = {
    "arrays": " is cut off after ",
    "data": "data/process_0_of_1 is cut off",
    "gone": "state is missing",
}


# As root, gives up the right to write where the mode forbids it: `capset` without any rights.
WITHOUT_RIGHTS = """
import ctypes, struct, sys
header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
assert ctypes.CDLL(None).capset(header, none) == 0
from cascade_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capset is Linux's")
@pytest.mark.parametrize("which", [".", pytest.param("checkpoints", marks=pytest.mark.slow)])
def test_a_folder_that_is_read_only(copy, repository, which):
    run, file = copy
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    (run / which).chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS, "train", f"--gin_file={file}"],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    (run / which).chmod(0o755)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("cascade-jax train: ") and "ermission denied" in line
    assert str(run) in line
    assert main(["train", f"--gin_file={file}"]) == 0


def test_a_folder_that_another_run_writes_to(copy, refused):
    run, file = copy
    shutil.rmtree(run / "checkpoints" / str(STEPS))  # a finished run is only read
    with FolderLock(run):
        line = refused(f"--gin_file={file}")
    assert f"run folder {run} is being written to by process {os.getpid()} on " in line


def test_a_data_file_that_is_cut_in_half(refused, tmp_path):
    rows = [{"sentence": f"row {i} of many", "label": i % 2, "idx": i} for i in range(40)]
    for split in ("train", "validation"):
        data = fakes.write_jsonl(tmp_path / "data", "glue__cola", split, rows)
    data = data.with_name("train.jsonl")
    file = write_gin(tmp_path)
    first = "import dynamic_registration\n"
    file.write_text(file.read_text().replace(first, first + "import tasks.local_multitask\n"))
    argv = [
        f"--gin_file={file}",
        "--gin.MIXTURE='local_cola_v1'",
        f"--gin.DATA_DIR='{tmp_path}/data'",
        "--gin.VOCABULARY='byte'",
    ]
    assert main(["train", *argv]) == 0
    run = tmp_path / "out" / "teacher"
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    # Not the run's data any more, and for a run of its own not data at all.
    assert "data_fingerprints.train.local_cola_v1 was 'file-" in refused(*argv)
    line = refused(*argv, f"--gin.OUTPUT_DIR='{tmp_path}/other'")
    assert f"{data}:" in line and "not JSON" in line
    data.write_bytes(whole)
    assert main(["train", *argv]) == 0


def train_run(mixture: str, **more) -> experiment.TrainRun:
    return experiment.TrainRun(
        model=fakes.t5_config(vocab_size=384),
        data=pipeline.DataConfig(mixture, 12, 8, batch_size=8, cache_rows=0),
        loss=Xent(),
        optimizer=Adafactor(0.1),
        eval_split=None,
        **{"name": "run", "steps": 6, "log_every": 1, "checkpoint_every": 2} | more,
    )


@pytest.fixture
def records(tmp_path):
    """A TFRecord file and a task that reads it."""
    file, name = tmp_path / "rows.tfrecord", f"faults_{tmp_path.name}_v1".replace("-", "_")
    with tf.io.TFRecordWriter(str(file)) as writer:
        for i in range(64):
            text = tf.train.BytesList(value=[f"row {i}".encode()])
            feature = tf.train.Feature(bytes_list=text)
            both = tf.train.Features(feature={"inputs": feature, "targets": feature})
            writer.write(tf.train.Example(features=both).SerializeToString())
    text = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
    seqio.TaskRegistry.add(
        name,
        source=seqio.TFExampleDataSource(
            {"train": str(file)},
            {key: tf.io.FixedLenFeature([], tf.string) for key in ("inputs", "targets")},
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={"inputs": text, "targets": text},
    )
    yield file, name
    seqio.TaskRegistry.remove(name)


def test_a_record_with_a_flipped_bit(records, tmp_path):
    file, name = records
    mesh = MeshConfig().build()
    whole = file.read_bytes()
    train_one(train_run(name, steps=2), tmp_path, mesh)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match="can't be read: .*corrupted record") as raised:
        train_one(train_run(name, steps=2), tmp_path / "other", mesh)
    assert name in str(raised.value)
    assert saved.steps(tmp_path / "run" / "checkpoints") == [2]


def poison(monkeypatch, bad_steps):
    """Makes the loss of these steps not finite, through the batch's weights."""
    make = step_lib.make_train_step

    def make_poisoned(*args):
        train_step = make(*args)

        @functools.wraps(train_step)  # with its attribute `jitted`
        def step(state, frozen, batch, key):
            if int(state.step) + 1 in bad_steps:
                batch = batch.replace(weights=batch.weights * np.float32(np.nan))
            return train_step(state, frozen, batch, key)

        return step

    monkeypatch.setattr(step_lib, "make_train_step", make_poisoned)


def test_bad_batches_are_skipped_up_to_a_number(records, tmp_path, monkeypatch, capfd):
    mesh = MeshConfig().build()
    _, name = records
    with monkeypatch.context() as patch:
        poison(patch, {3, 6})
        run = train_run(name, skip_bad_batches=2, log_every=4)
        state = train_one(run, tmp_path, mesh)
        assert "loss or gradient not finite in step 3: skipped (1 of at most 2)" in (
            capfd.readouterr().out
        )
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
        skipped = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
        assert list(map(json.loads, skipped)) == [{"step": 3}, {"step": 6}]
        lines = (tmp_path / "run" / "metrics.jsonl").read_text()
        assert "NaN" not in lines
        run = train_run(name, skip_bad_batches=1)
        with pytest.raises(
            step_loop.NonFiniteLossError, match="in 2 steps .3, 6.*is 1; the checkpoint"
        ):
            train_one(run, tmp_path / "other", mesh)
        # More may be left out by the next start.
        later = train_one(train_run(name, skip_bad_batches=2), tmp_path / "other", mesh)
        for mine, theirs in zip(*map(jax.tree.leaves, (later, state)), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow  # two runs more, of a guard that the test above compiles
def test_without_bad_batches_the_guard_changes_nothing_but_how_xla_rounds(records, tmp_path):
    mesh, (_, name) = MeshConfig().build(), records
    guarded = train_one(train_run(name, skip_bad_batches=1), tmp_path / "a", mesh)
    plain = train_one(train_run(name), tmp_path / "b", mesh)
    for mine, theirs in zip(*map(jax.tree.leaves, (guarded.params, plain.params)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_profile_of_some_steps(records, tmp_path):
    _, name = records
    run = train_run(name, profile_steps=(2, 3))
    train_one(run, tmp_path, MeshConfig().build())
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    "setting, said",
    [
        ({"skip_bad_batches": 0}, "skip_bad_batches is 0; must be an integer of at least 1"),
        ({"hang_seconds": 0}, "hang_seconds is 0; must be a number above 0"),
        ({"profile_steps": (3, 2)}, r"profile_steps is \(3, 2\); must be \(first, last\)"),
        ({"profile_steps": 3}, r"profile_steps is 3; must be \(first, last\)"),
        ({"steps": 10**12}, "steps is 1000000000000; must be an integer of at least 1 and at most"),
        ({"steps": True}, "steps is True; must be an integer"),
        ({"steps": float("nan")}, "steps is nan; must be an integer"),
        ({"microbatches": -1}, "microbatches is -1; must be"),
        ({"chunk_tokens": 10**12}, "chunk_tokens is 1000000000000; must be"),
        ({"keep_best": -1}, "keep_best is -1; must be an integer of at least 0"),
        ({"keep_last": True}, "keep_last is True; must be"),
        ({"hang_seconds": 1e30}, r"hang_seconds is 1e\+30; must be .* at most 1e\+09"),
        ({"seed": 0.5}, "seed is 0.5; must be an integer from -2147483647 to 2147483647"),
        ({"name": "a" * 201}, "one folder name of 1 to 200 .* without spaces at its ends"),
        *(
            ({"name": name}, "run name is .*; must be one folder name")
            for name in ("", ".", "..", "a/b", "a\\b", "a\nb", " a", "records", "report", None, 5)
        ),
    ],
)
def test_settings_that_are_not_allowed(setting, said):
    with pytest.raises(ValueError, match=said):
        train_run("any", **setting)
