"""Slices of a split in TFDS's notation, "train[-200:]", for the rows of local files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TRAIN = "train"

_SLICE = re.compile(r"(?P<split>[^\[\]:+%]+)(?:\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\])?")


@dataclass(frozen=True)
class SplitSlice:
    """Part of a split.

    Unlike in TFDS, numbers beyond the end of a split are allowed, as in Python: a local file may be
    smaller than the TFDS data set.

    Example: of 250 rows, "train[-600:-100]" is the first 150.

    Attributes:
      split: of the source.
      start, stop: as in Python.
    """

    split: str
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        if self.start is None and self.stop is None:
            return self.split
        start, stop = ("" if end is None else str(end) for end in (self.start, self.stop))
        return f"{self.split}[{start}:{stop}]"

    def rows(self, size: int) -> range:
        """Numbers of its rows among all `size` rows of the split."""
        return range(size)[self.start : self.stop]


def parse_slice(text: str) -> SplitSlice:
    """The slice that a text such as "train", "train[:100]" or "train[-200:]" names.

    Raises:
      ValueError: another form, such as TFDS's "train[:10%]" and "train+test".
    """
    match = _SLICE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"slice is {text!r}; must be a split, or part of one such as 'train[:1000]', "
            "'train[-200:]' or 'train[-600:-500]'"
        )
    start, stop = (int(end) if end else None for end in match.group("start", "stop"))
    return SplitSlice(match["split"], start, stop)


def rows_of(split: str, splits: Mapping[str, SplitSlice], size: int) -> Sequence[int]:
    """Numbers of the rows of a task's split, among all `size` rows of the file it comes from.

    Rows of the same file that another split holds out are never in "train". FLAN's slices are
    disjoint at their intended sizes, but in a small file they may overlap.

    Example: of 250 rows, with "train[:200]" for "train" and "train[-100:]" for "validation", the
    first 150 are left for "train".

    Args:
      split: of the task.
      splits: slice of every split of the task.
      size: rows of the file.

    Raises:
      ValueError: no row is left.
    """
    mine = splits[split]
    rows: Sequence[int] = mine.rows(size)
    others = [s for name, s in splits.items() if name != TRAIN and s.split == mine.split]
    if split == TRAIN and others:
        held_out = {row for other in others for row in other.rows(size)}
        rows = [row for row in rows if row not in held_out]
    if not rows:
        without = f" without {', '.join(map(str, others))}" if split == TRAIN and others else ""
        raise ValueError(f"has {size} rows, of which none is in {mine}{without}")
    return rows


def as_ranges(rows: Sequence[int]) -> str:
    """Ascending numbers as ranges: [0, 1, 2, 5] -> "0:3,5:6"."""
    starts = [row for i, row in enumerate(rows) if i == 0 or rows[i - 1] != row - 1]
    stops = [row + 1 for i, row in enumerate(rows) if i == len(rows) - 1 or rows[i + 1] != row + 1]
    return ",".join(f"{start}:{stop}" for start, stop in zip(starts, stops, strict=True))
