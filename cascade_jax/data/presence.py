"""Whether rows of a task are on this machine; downloads nothing and imports no TensorFlow."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cascade_jax import json_file
from cascade_jax.data import slices
from cascade_jax.data.jsonl import count_rows, jsonl_path


def has_rows(
    data_dir: Path, name: str, split: str, splits: Mapping[str, slices.SplitSlice]
) -> bool:
    """Whether a data folder has a row of a split.

    Args:
      data_dir: the data folder.
      name: of the source's folder in it.
      split: one of `splits`.
      splits: the part of a file that each split of the task is.
    """
    try:
        size = count_rows(jsonl_path(data_dir, name, splits[split].split))
        return bool(len(slices.rows_of(split, splits, size)))
    except (FileNotFoundError, ValueError):  # no file, or no row of it is left
        return False


def is_prepared(folders: Iterable[str | os.PathLike], tfds_name: str, tfds_split: str) -> bool:
    """Whether TFDS has prepared a split.

    Args:
      folders: in which TFDS looks.
      tfds_name: of the builder, with a version or a pattern of one.
      tfds_split: a split of it, or a slice of one.
    """
    name, _, version = tfds_name.partition(":")
    # A name without a config means the builder's first one, if it has any.
    patterns = (f"{name}/{version}", *([] if "/" in name else [f"{name}/*/{version}"]))
    for folder in folders:
        for pattern in patterns:
            for info in Path(folder).glob(f"{pattern}/dataset_info.json"):
                if tfds_split.partition("[")[0] in _splits_in(info):
                    return True
    return False


def _splits_in(info: Path) -> list[str]:
    """The splits of a prepared data set, by its dataset_info.json; none if that is damaged."""
    try:
        return [split["name"] for split in json_file.read_values(info)["splits"]]
    except (ValueError, KeyError, TypeError):
        return []


def default_tfds_folders() -> list[Path]:
    """The folder in which TFDS looks by itself."""
    default = os.path.join("~", "tensorflow_datasets")
    return [Path(os.environ.get("TFDS_DATA_DIR", default)).expanduser()]
