"""What a run reports, after starts that were killed and with files that were damaged."""

import contextlib
import json
from pathlib import Path

import pytest

from cascade_jax import metrics
from cascade_jax.training import reporting, skipping
from tests.torture.scenarios import events


def report(folder: Path, first: int, last: int) -> None:
    """A start that reports the steps after `first` up to `last`."""
    with contextlib.closing(reporting.Reporter(folder, "run", first, 9)) as reporter:
        for step in range(first + 1, last + 1):
            reporter.train(step, 1, {metrics.TARGET_TOKENS: 8.0, metrics.LOSS: 1.0 / step})


def steps_of(folder: Path) -> tuple[list[int], list[int]]:
    """The steps in metrics.jsonl and in TensorBoard."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    drawn = [step for step, _ in events(folder / "tensorboard")]
    return [json.loads(line)["step"] for line in lines], drawn


@pytest.mark.parametrize("resumed_from", [0, 2, 4])
def test_every_step_stands_once_however_often_it_was_run(tmp_path, resumed_from):
    report(tmp_path, 0, 4)
    report(tmp_path, resumed_from, 5)
    report(tmp_path, 3, 6)
    assert steps_of(tmp_path) == ([*range(1, 7)], [*range(1, 7)])


def test_a_record_that_was_being_written_is_dropped(tmp_path):
    report(tmp_path, 0, 4)
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    report(tmp_path, 3, 5)
    assert steps_of(tmp_path)[1] == [1, 2, 3, 4, 5]


BAD = [b"", b"{", b"\xff\xff", b"[1]", b"null", b'{"step": "3"}', b'{"step": true}', b"[" * 9999,
       b'{"step": 3', b'{"step": -1}', b'{"loss": 2}']  # fmt: skip


def test_lines_that_can_not_be_read_are_dropped_and_said(tmp_path, capsys):
    report(tmp_path, 0, 3)
    file = tmp_path / "metrics.jsonl"
    one, two, three = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([one, *BAD, two, three, b""]))
    report(tmp_path, 3, 4)
    assert steps_of(tmp_path)[0] == [1, 2, 3, 4]
    (said,) = capsys.readouterr().out.splitlines()
    numbers = ", ".join(map(str, range(2, 2 + len(BAD))))
    assert said == f"{file}: dropped what can't be read as a JSON object: line {numbers}"


def test_the_line_that_a_killed_run_was_writing_is_dropped_without_a_word(tmp_path, capsys):
    report(tmp_path, 0, 3)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    report(tmp_path, 2, 4)
    assert steps_of(tmp_path)[0] == [1, 2, 3, 4] and not capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]\n", '{"time": "x", "step": 0}\n', '{"time": NaN}\n'])
def test_damaged_starts_and_skipped_steps_do_not_end_a_run(tmp_path, text):
    for name in ("starts.jsonl", "skipped.jsonl"):
        (tmp_path / name).write_text(text)
    report(tmp_path, 0, 2)
    skipped = skipping.SkippedSteps(tmp_path, 2, writes=True)
    assert skipped.steps in ([], [0])
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.0 <= last[metrics.GOODPUT] <= 1.0
