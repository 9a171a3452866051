"""Every answer that was decoded, on disk and at hand, so that none is decoded twice."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import files
from cascade_jax.evaluation.calibration_pool import Evaluation
from cascade_jax.parallel import hosts

_VERSION = 2
_FACTS, _ROWS = "facts", "rows"
_DAMAGE = (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


class AnswerStore:
    """Answers to the examples of a pool, each with the thresholds at which it holds.

    They lie in a folder of numbered npz files, one for each time that some were added. Files of
    other models or data may lie beside them. Of many hosts all read the files and keep the same,
    and the first one writes.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], size: int):
        """Reads what is there; a damaged file is named, and its number used again.

        Args:
          folder: made when something is added.
          facts: JSON values of everything that an answer depends on besides the thresholds:
            fingerprints of both checkpoints and of the examples, lengths, uncertainty, metrics.
          size: examples of the pool.

        Raises:
          hosts.HostsError: hosts that have read different answers.
        """
        self._folder, self._size = Path(folder), size
        self._facts = json.dumps({"version": _VERSION, **facts}, sort_keys=True)
        self._digest = hashlib.sha256(self._facts.encode()).hexdigest()[:24]
        self._rows: list[Int[np.ndarray, " A"]] = []
        self._parts: list[Evaluation] = []
        self._damaged: list[Path] = []
        self._count = 0  # files that are there
        while (path := self._path(self._count)).exists():
            self._count += 1
            try:
                self._keep(*self._read(path))
            except _DAMAGE as error:
                hosts.say(f"{path} is damaged ({_short(error)}) and made anew")
                self._damaged.append(path)
        self._agree()

    def _agree(self) -> None:
        """Lets no host write before all have read, and the same."""
        held = [array for part in self._parts for _, array in sorted(part.columns().items())]
        facts = {"files": self._count, "answers": sum(map(len, self._rows))}
        facts |= {"damaged": len(self._damaged), "digest": digest(*self._rows, *held)}
        place = f"{self._folder}, which must be one folder for all of them"
        hosts.agree(f"decoded answers in {place}", facts)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._digest}_{number:06}.npz"

    def _read(self, path: Path) -> tuple[Int[np.ndarray, " A"], Evaluation]:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        if str(columns.pop(_FACTS)) != self._facts:
            raise ValueError("it is of something else")
        rows = columns.pop(_ROWS)
        found = Evaluation.from_columns(columns)
        if len(rows) != len(found.cost) or not np.all((rows >= 0) & (rows < self._size)):
            raise ValueError("rows that are not there")
        if self._parts and columns.keys() != self._parts[0].columns().keys():
            raise ValueError("other columns")
        return rows, found

    def _keep(self, rows: Int[np.ndarray, " A"], answers: Evaluation) -> None:
        self._rows.append(rows)
        self._parts.append(answers)

    def add(self, rows: Int[np.ndarray, " A"], answers: Evaluation) -> None:
        """Keeps answers to the examples `rows`: on disk all of them or none."""
        if self._damaged:
            path = self._damaged.pop(0)
        else:
            path, self._count = self._path(self._count), self._count + 1
        if hosts.is_first():
            columns = {_FACTS: self._facts, _ROWS: rows, **answers.columns()}
            with files.replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **columns)
        self._keep(rows, answers)

    def find(
        self, thresholds: Float[np.ndarray, "R K"], rows: Int[np.ndarray, " R"]
    ) -> Int[np.ndarray, " R"]:
        """Which answer each example has at its thresholds, for `take`; -1 if none is known.

        Args:
          thresholds: of each example.
          rows: examples, all different.
        """
        found = np.full(len(rows), -1)
        if not self._parts:
            return found
        known, answers = self._all()
        wanted = np.full((self._size, thresholds.shape[1]), np.nan)  # at NaN no answer holds
        wanted[rows] = thresholds
        place = np.zeros(self._size, int)
        place[rows] = np.arange(len(rows))
        holds = np.flatnonzero(answers.holds_at(wanted[known]))
        found[place[known[holds]]] = holds
        return found

    def take(self, which: Int[np.ndarray, " R"]) -> Evaluation:
        """Answers that `find` has found."""
        return self._all()[1].take(which)

    def _all(self) -> tuple[Int[np.ndarray, " A"], Evaluation]:
        if len(self._parts) > 1:
            columns = [part.columns() for part in self._parts]
            joined = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
            self._parts = [Evaluation.from_columns(joined)]
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0], self._parts[0]


def digest(*arrays: np.ndarray) -> str:
    """Of arrays' bytes, to compare between hosts."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
