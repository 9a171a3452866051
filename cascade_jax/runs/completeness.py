"""Which checkpoints are whole: a copy that broke off or a file that was deleted leaves others.

Sizes are compared and small files are read, but no array.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorstore

from cascade_jax import files, json_text
from cascade_jax.parallel import hosts

METADATA, DIGESTS = "_CHECKPOINT_METADATA", "digests"
_MANIFEST = "manifest.ocdbt"
# How tensorstore writes where an OCDBT database holds something: kind:folder:file:offset:length.
_PLACE = re.compile(r"\w+:[^:]*:[^:]*:\d+:\d+")
_PROCESS = re.compile(r"process_\d+_of_(\d{1,6})")  # a file of data positions
_said: set[Path] = set()


class CheckpointError(ValueError):
    """A checkpoint is missing, does not fit, or could not be read or written."""


class NotWholeError(CheckpointError):
    """A part of a checkpoint is missing."""


def steps_in(folder: Path) -> list[int]:
    """Steps with a checkpoint, whole or not, in order; one being written has another name."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def first_whole(folder: Path, steps: list[int]) -> int | None:
    """The first of some steps whose checkpoint is whole; a line names those that are passed over.

    Raises:
      NotWholeError: there are steps and none is whole.
    """
    lacks = []
    for step in steps:
        lack = missing_part(folder / str(step))
        if lack is None:
            for checkpoint, why in lacks:
                if checkpoint not in _said:
                    _said.add(checkpoint)
                    hosts.print_once(
                        f"checkpoint {checkpoint} is not whole ({why}): passed over for step {step}"
                    )
            return step
        lacks.append((folder / str(step), lack))
    if lacks:
        checkpoint, why = lacks[0]
        others = f", nor are {len(lacks) - 1} others" * (len(lacks) > 1)
        raise NotWholeError(
            f"checkpoint {checkpoint} is not whole ({why}){others}: copy {folder.parent} anew, or "
            "delete it and train that run again"
        )
    return None


def missing_part(checkpoint: Path) -> str | None:
    """What a checkpoint lacks, such as "state/_METADATA is missing"; None if it is whole."""
    try:
        facts = read_object(checkpoint, METADATA)
        items = facts.get("item_handlers")
        if not isinstance(items, dict) or not isinstance(facts.get("commit_timestamp_nsecs"), int):
            return f"{METADATA} does not say that it was completed"
        for item in items:
            _check_item(checkpoint, item, is_sealed=DIGESTS in items)
    except NotWholeError as error:
        return str(error)
    return None


def read_object(checkpoint: Path, name: str) -> dict[str, Any]:
    """A JSON object out of a checkpoint's file; raises NotWholeError if it is missing or cut."""
    try:
        value = json_text.parse((checkpoint / name).read_bytes(), allow_nan=True)
    except (FileNotFoundError, NotADirectoryError):
        raise NotWholeError(f"{name} is missing") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NotWholeError(f"{name} is cut off or damaged")
    return value


def _check_item(checkpoint: Path, item: str, is_sealed: bool) -> None:
    folder = checkpoint / item
    if not folder.is_dir() or not any(folder.iterdir()):
        raise NotWholeError(f"{item} is missing")
    if item == "state":
        _check_state(checkpoint)
    elif item == "data":
        present = {path.name for path in folder.iterdir()}
        for count in {int(match[1]) for match in map(_PROCESS.fullmatch, present) if match}:
            for process in range(count):
                if (name := f"process_{process}_of_{count}") not in present:
                    raise NotWholeError(f"{item}/{name} is missing")
        for file in folder.glob("process_*"):
            if is_sealed and not files.is_sealed(file.read_bytes()):
                raise NotWholeError(f"{item}/{file.name} is cut off")
    else:
        read_object(checkpoint, f"{item}/{'metrics' if item == 'metrics' else 'metadata'}")


def _check_state(checkpoint: Path) -> None:
    """Compares the files' sizes with what the database of the arrays holds in them."""
    if not read_object(checkpoint, "state/_METADATA").get("use_ocdbt", True):
        return
    folder = checkpoint / "state"
    for file in (folder / "_sharding", *folder.glob("array_metadatas/*")):
        if file.exists():
            read_object(checkpoint, str(file.relative_to(checkpoint)))
    size = _size(folder, _MANIFEST)
    with (folder / _MANIFEST).open("rb") as manifest:
        if max(16, int.from_bytes(manifest.read(12)[4:], "little")) > size:
            raise NotWholeError(f"state/{_MANIFEST} is cut off")
    base = tensorstore.KvStore.open({"driver": "file", "path": f"{folder}/"}).result()
    try:
        nodes = [tensorstore.ocdbt.dump(base).result()["versions"][-1]]
        while nodes:
            for place in _places(nodes.pop()):
                kind, inner, file, offset, length = place.split(":")
                end, size = int(offset) + int(length), _size(folder, f"{inner}{file}")
                if size < end:
                    raise NotWholeError(f"state/{inner}{file} is cut off after {size} bytes")
                if kind == "btreenode":
                    nodes.append(tensorstore.ocdbt.dump(base, place).result())
    except NotWholeError:
        raise
    except ValueError:
        return  # no file is missing, but one is damaged: the error at reading says which


def _places(node: Any) -> Iterator[str]:
    """All places that a node of the database names, wherever they stand in it."""
    if isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _places(inner)
    elif isinstance(node, str) and _PLACE.fullmatch(node):
        yield node


def _size(folder: Path, name: str) -> int:
    try:
        return (folder / name).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise NotWholeError(f"{folder.name}/{name} is missing") from None
