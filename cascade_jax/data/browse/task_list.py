"""The list of a module's tasks as a JSON file beside it, read without TensorFlow and seqio.

`make task-list` writes tasks/all.json. It holds the hash of every file of the package, and is not
used where one of them has changed: then the modules are imported, which takes seconds.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade_jax import json_file
from cascade_jax.data import presence, slices
from cascade_jax.data.browse import tasks as browse


@dataclass(frozen=True)
class Location:
    """What says whether the rows of a `sources.TfdsOrJsonlSource` are here; see there."""

    name: str
    splits: dict[str, str]
    is_in_tfds: bool
    tfds_name: str
    tfds_splits: dict[str, str]


@dataclass(frozen=True)
class ListedTask:
    """`TaskFacts` that do not depend on the machine."""

    name: str
    suite: str
    kind: str
    metrics: list[str]
    source: str
    splits: list[str]
    manual: str
    data: str | None  # None where `location` says it
    location: Location | None

    def facts(self, data_dir: Path | None) -> browse.TaskFacts:
        """With what is on this machine."""
        data = self.data or self._data(self.location, data_dir)
        lists = tuple(self.metrics), self.source, tuple(self.splits)
        return browse.TaskFacts(self.name, self.suite, self.kind, *lists, data, self.manual)

    def _data(self, location: Location, data_dir: Path | None) -> str:
        parts = {split: slices.parse_slice(text) for split, text in location.splits.items()}
        folders = presence.default_tfds_folders()

        def has_split(split: str) -> bool:
            if data_dir is not None:
                return presence.has_rows(data_dir, location.name, split, parts)
            split = location.tfds_splits[split]
            return location.is_in_tfds and presence.is_prepared(folders, location.tfds_name, split)

        return browse.data_of(
            self.splits, has_split, data_dir, location.is_in_tfds, bool(self.manual)
        )


@dataclass(frozen=True)
class TaskList:
    """The tasks that a module registers."""

    files: dict[str, str]  # of the package, with the hash of each
    tasks: list[ListedTask]


def path_of(module: str) -> Path | None:
    """The file of a module's list; None for a module that does not exist."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).with_suffix(".json") if spec and spec.origin else None


def hashes(folder: Path) -> dict[str, str]:
    """By path in a package's folder, the hash of each file that may change its tasks."""
    paths = sorted(path for end in ("py", "toml") for path in folder.rglob(f"*.{end}"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in paths
    }


def read(module: str, data_dir: Path | None) -> list[browse.TaskFacts] | None:
    """Facts of the tasks that a module registers; None where there is no list, or an old one."""
    path = path_of(module)
    if path is None or not path.is_file():
        return None
    listed = json_file.from_values(json_file.read_object(path), TaskList, str(path))
    if listed.files != hashes(path.parent):
        return None
    return [task.facts(data_dir) for task in listed.tasks]


def to_text(listed: TaskList) -> str:
    """As a file, with a line for each file and task."""
    values = json_file.to_values(listed)
    files = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(digest)}" for name, digest in values["files"].items()
    )
    tasks = ",\n".join(map(json.dumps, values["tasks"]))
    return f'{{"files": {{\n{files}\n}}, "tasks": [\n{tasks}\n]}}\n'


def list_registered(names: Sequence[str], folder: Path) -> TaskList:
    """The list of tasks that are registered, for the package in a folder."""
    import seqio

    from cascade_jax.data import sources

    tasks = []
    for name in sorted(names):
        task = seqio.TaskRegistry.get(name)
        facts, source, location = browse.facts_of(task), task.source, None
        if isinstance(source, sources.TfdsOrJsonlSource):
            location = Location(**source.location())
        tasks.append(
            ListedTask(
                name,
                facts.suite,
                facts.kind,
                list(facts.metrics),
                facts.source,
                list(facts.splits),
                facts.manual,
                None if location else facts.data,
                location,
            )
        )
    return TaskList(hashes(folder), tasks)
