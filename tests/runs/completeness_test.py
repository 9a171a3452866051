"""Checkpoints of which a part is missing are passed over; damaged ones are refused by array."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks.demo  # noqa: F401
from cascade_jax.models import families
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.runs import checkpoints, completeness
from cascade_jax.runs import state as state_lib
from tests.support import fakes

MODEL = fakes.t5_config(vocab_size=384)


def write(folder: Path, step: int = 0, **changes) -> None:
    """A run folder with a checkpoint of that step; `changes` of parameters by path."""
    params = fakes.initialize(families.build(MODEL), step)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    for index, value in changes.get("logits", {}).items():
        params["decoder"]["logits_dense"]["kernel"] = kernel.at[index].set(value)
    config = {"model": {"type": "T5Config"}, "steps": step, "vocabulary_fingerprint": "a"}
    checkpoints.save_parameters(folder / str(step), params, config)
    (folder / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
    made = folder / str(step) / "checkpoints" / "0"
    made.rename(folder / "run" / "checkpoints" / str(step))
    (folder / "run" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write(folder, 3)
    write(folder, 5)
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def load(run: Path, step: int):
    mesh = MeshConfig(data=1).build(jax.devices()[:1])
    abstract = state_lib.abstract_parameters(families.build(MODEL), mesh)
    return jax.device_get(checkpoints.load_parameters(run, step, abstract))


def files(checkpoint: Path) -> list[str]:
    return sorted(str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file())


@pytest.mark.medium
@pytest.mark.parametrize("how", ["gone", "cut", "empty"])
def test_whatever_file_is_missing_or_cut_the_checkpoint_is_not_whole_or_loads_all_the_same(
    run, how
):
    checkpoint, expected, passed_over = run / "checkpoints" / "5", load(run, 5), 0
    for name in files(checkpoint):
        file = checkpoint / name
        before = file.read_bytes()
        file.unlink() if how == "gone" else os.truncate(
            file, 0 if how == "empty" else len(before) // 2
        )
        lack = completeness.missing_part(checkpoint)
        if lack is None:
            for mine, theirs in zip(*map(jax.tree.leaves, (load(run, 5), expected)), strict=True):
                np.testing.assert_array_equal(mine, theirs)
        else:
            passed_over += 1
            assert checkpoints.chosen_step(run, "last") == checkpoints.chosen_step(run, "best") == 3
        file.write_bytes(before)
    assert passed_over >= 6 and completeness.missing_part(checkpoint) is None


def test_what_is_passed_over_is_said_once(run, capsys):
    (run / "checkpoints" / "5" / "_CHECKPOINT_METADATA").unlink()
    assert checkpoints.chosen_step(run, "last") == 3
    assert checkpoints.chosen_step(run, "last") == 3
    assert capsys.readouterr().out == (
        f"checkpoint {run}/checkpoints/5 is not whole (_CHECKPOINT_METADATA is missing): passed "
        "over for step 3\n"
    )


def test_without_a_whole_checkpoint_the_newest_is_named(run):
    for step in (3, 5):
        shutil.rmtree(run / "checkpoints" / str(step) / "state")
    with pytest.raises(
        checkpoints.CheckpointError, match=r"checkpoints/5 is not whole \(state is "
    ):
        checkpoints.chosen_step(run, "last")
    assert checkpoints.has_checkpoint(run)


def test_every_flipped_bit_of_an_array_is_refused(run):
    """Imported checkpoints are not compressed: a flip is another number, nothing else sees it."""
    data = max((run / "checkpoints/5/state").rglob("d/*"), key=lambda file: file.stat().st_size)
    before, refused = data.read_bytes(), 0
    expected = load(run, 5)
    for place in range(7, len(before), len(before) // 12):
        flipped = bytearray(before)
        flipped[place] ^= 1 << (place % 8)
        data.write_bytes(flipped)
        try:
            params = load(run, 5)
        except checkpoints.CheckpointError as error:
            refused += 1
            assert f"checkpoint {run}/checkpoints/5 " in str(error) and "\n" not in str(error)
            assert "takes step 3" in str(error)
            assert "params/" in str(error) or "can't be read" in str(error)
        else:  # a part of the file that holds no array
            jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert refused >= 6


def test_parameters_that_are_not_finite_are_refused_by_name(tmp_path):
    write(tmp_path, 2, logits={(0, 3): jnp.nan})
    said = (
        r"checkpoints/2 holds NaN or infinite numbers in params/decoder/logits_dense/kernel; copy"
    )
    with pytest.raises(checkpoints.CheckpointError, match=said):
        load(tmp_path / "run", 2)


def test_a_checkpoint_without_digests_loads(run):
    checkpoint = run / "checkpoints" / "5"
    expected = load(run, 5)
    shutil.rmtree(checkpoint / "digests")
    file = checkpoint / "_CHECKPOINT_METADATA"
    facts = json.loads(file.read_text())
    del facts["item_handlers"]["digests"]
    file.write_text(json.dumps(facts))
    assert completeness.missing_part(checkpoint) is None
    jax.tree.map(np.testing.assert_array_equal, load(run, 5), expected)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "not JSON"),
        ("[]", r"is \[\]; must be an object"),
        ("[" * 5000, "nested too deeply"),
        ("{}", "'model' is null; must be an object"),
        ('{"model": {}, "steps": true}', "'steps' is true; must be an integer"),
        ('{"model": {}, "steps": 1}', "'vocabulary_fingerprint' is null; must be a text"),
        ('{"model": {}, "steps": 1, "vocabulary_fingerprint": "a", "lora": {"rank": 1}}',
         "'start' is null; must be an object"),
    ],
)  # fmt: skip
def test_a_damaged_config_is_named(run, text, said):
    (run / "config.json").write_text(text)
    with pytest.raises(checkpoints.CheckpointError, match=f"{run}/config.json: .*{said}"):
        checkpoints.config_of(run)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": "b"}', "nan", "\udcff"])
def test_a_measure_that_can_not_be_read_never_makes_the_best(run, text):
    folder = run / "checkpoints"
    for step, figures in ((3, '{"student_token_accuracy": 0.5}'), (5, text)):
        (folder / str(step) / "metrics").mkdir()
        file = folder / str(step) / "metrics" / "metrics"
        file.write_bytes(figures.encode(errors="surrogateescape"))
    assert checkpoints.chosen_step(run, "best") == 3


def test_the_data_position_of_every_process_must_be_there(tmp_path):
    (tmp_path / "data").mkdir()
    for process in (0, 1):
        (tmp_path / "data" / f"process_{process}_of_2").write_text("{}")
    completeness._check_item(tmp_path, "data", is_sealed=False)
    (tmp_path / "data" / "process_1_of_2").unlink()
    with pytest.raises(completeness.NotWholeError, match="data/process_1_of_2 is missing"):
        completeness._check_item(tmp_path, "data", is_sealed=False)
