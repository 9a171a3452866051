"""What of a study is done, what somebody is at work on, and how long the rest takes."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from cascade_jax import json_file
from cascade_jax.study.design import StudyConfig, StudyRun

FOLDER = "study"  # in the output folder; each run has a folder of its name in it
_DONE, _FAILED = "done.json", "failed.json"


@dataclasses.dataclass(frozen=True)
class Done:
    """The fields of done.json.

    Attributes:
      seconds: by part of the work ("train", "collect", ...), its wall time; a part that was
        interrupted counts from the last start on.
      steps: of the training.
      host: where it ended.
    """

    seconds: dict[str, float]
    steps: int
    host: str

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


@dataclasses.dataclass(frozen=True)
class Failed:
    """The one field of failed.json: why a run can not be finished."""

    reason: str


def folder_of(config: StudyConfig, run: StudyRun) -> Path:
    """Where it stands how far a run is, and the lock of who works on it."""
    return Path(config.output_dir) / FOLDER / run.name


def done(config: StudyConfig, run: StudyRun) -> Done | None:
    """When a run is finished, how long it took; else None.

    Raises:
      ValueError: done.json can not be read; names it.
    """
    return _read(folder_of(config, run) / _DONE, Done)


def failure(config: StudyConfig, run: StudyRun) -> Failed | None:
    """Why a run can not be finished; None if nothing is known against it."""
    return _read(folder_of(config, run) / _FAILED, Failed)


def _read(file: Path, kind: type):
    if not file.exists():
        return None
    return json_file.from_values(json_file.read_object(file), kind, str(file))


def write(config: StudyConfig, run: StudyRun, result: Done | Failed) -> None:
    """Notes that a run is finished, or why it can not be."""
    name = _DONE if isinstance(result, Done) else _FAILED
    json_file.write(folder_of(config, run) / name, result)


def seconds_left(runs: Sequence[StudyRun], finished: Mapping[str, Done]) -> float | None:
    """Seconds that one machine takes for what is not finished; None before the first is.

    A run takes the median of the finished ones of its size and loss, else of its size, else of all,
    with as many steps if there are any.
    """
    known = [(run, finished[run.name].total) for run in runs if run.name in finished]
    if not known:
        return None

    def expected(run: StudyRun) -> float:
        def kinds(run: StudyRun) -> tuple:
            size, steps = run.size.name, run.train_run.steps
            return (size, run.loss.name), (size, steps), size, None

        by_kind = [
            [total for other, total in known if kinds(other)[i] == kind]
            for i, kind in enumerate(kinds(run))
        ]
        return statistics.median(next(seconds for seconds in by_kind if seconds))

    return sum(expected(run) for run in runs if run.name not in finished)


def summary(config: StudyConfig, runs: Sequence[StudyRun]) -> str:
    """One line: how many runs are finished, and about how long the others take."""
    finished = {run.name: record for run in runs if (record := done(config, run)) is not None}
    left = seconds_left(runs, finished)
    text = f"{len(finished)} of {len(runs)} runs are finished"
    if len(finished) == len(runs) or left is None:
        return text
    return f"{text}; the others take one machine about {_in_words(left)}"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
