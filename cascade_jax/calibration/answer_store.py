"""Keeps decoded answers on disk and in memory, so that none is decoded twice."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cascade_jax import array_file
from cascade_jax.calibration.pool import CascadeAnswers
from cascade_jax.parallel import hosts

_VERSION = 3
_FACTS, _ROWS = "facts", "rows"
_SUM = "sum"  # of a file without a digest, as versions before wrote it
_MOST_RATIO = 1100  # no compressed file unpacks to more times its size
# Of each column: kinds of dtype, and the number of axes after that of the answers.
_COLUMNS = {
    "cost": ("f", 0), "holds_from": ("f", 1), "holds_below": ("f", 1), "flops": ("fiu", 0),
    "is_deferred": ("b", 1), "lengths": ("iu", 0), "score": ("f", 0),
}  # fmt: skip


class AnswerStore:
    """Answers to the examples of a pool, each with the thresholds at which it holds.

    They lie in a folder of npz files, one for each time that some were added. Files of other models
    or data may lie beside them, and other commands may add theirs meanwhile. Of many hosts all read
    the files and keep the same, and the first one writes.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], size: int):
        """Reads all files; a damaged one is reported and renamed.

        Args:
          folder: made when something is added.
          facts: JSON values of everything that an answer depends on besides the thresholds:
            fingerprints of both checkpoints and of the examples, lengths, uncertainty, metrics.
          size: examples of the pool.

        Raises:
          OSError: a file that can not be read.
          hosts.HostsError: hosts that have read different answers.
        """
        self._folder, self._size = Path(folder), size
        self._facts = json.dumps({"version": _VERSION, **facts}, sort_keys=True)
        self._digest = hashlib.sha256(self._facts.encode()).hexdigest()[:24]
        self._rows: list[Int[np.ndarray, " A"]] = []
        self._parts: list[CascadeAnswers] = []
        paths = sorted(self._folder.glob(f"{self._digest}_*.npz"))
        self._count, damaged = len(paths), []
        for path in paths:
            content = path.read_bytes()
            try:
                rows, answers = self._read(content, path.name)
                self._rows.append(rows)
                self._parts.append(answers)
            except (ValueError, TypeError) as error:
                why = " ".join(str(error).split()).removeprefix(f"{path.name}: ")[:150]
                hosts.print_once(f"{path} is damaged ({why}): its answers are decoded anew")
                damaged.append(path)
        # No host writes before all have read the same answers.
        read = {"files": self._count, "answers": sum(map(len, self._rows)), "damaged": len(damaged)}
        read["digest"] = digest(*self._rows, *(a for p in self._parts for a in _arrays(p)))
        place = f"{self._folder}, which must be one folder for all of them"
        hosts.assert_equal_across_hosts(f"decoded answers in {place}", read)
        for path in damaged if hosts.is_first() else ():
            path.rename(path.with_suffix(".damaged"))

    def _read(self, content: bytes, source: str) -> tuple[Int[np.ndarray, " A"], CascadeAnswers]:
        columns = array_file.read(content, source, _MOST_RATIO * len(content))
        for name in (_FACTS, _SUM) if _SUM in columns else (_FACTS,):
            array_file.checked(columns, name, "U", (), source)
        if str(columns.pop(_FACTS)) != self._facts:
            raise ValueError("its answers are of other models or data")
        rows = array_file.checked(columns, _ROWS, "iu", (None,), source)
        checksum, _ = columns.pop(_SUM, None), columns.pop(_ROWS)
        for name in columns:
            kinds, axes = _COLUMNS.get(name, ("f", 0))
            array_file.checked(columns, name, kinds, (len(rows), *[None] * axes), source)
        answers = CascadeAnswers.from_columns(columns)
        if checksum is not None and str(checksum) != _sum(rows, answers):
            raise ValueError("its content is not what was written")
        if np.any((rows < 0) | (rows >= self._size)):
            raise ValueError("rows beyond the examples")
        return rows, answers

    def add(self, rows: Int[np.ndarray, " A"], answers: CascadeAnswers) -> None:
        """Keeps answers to the examples `rows`: on disk all of them or none."""
        if hosts.is_first():
            # A name of its own: another command may add to the same folder.
            name = f"{self._digest}_{self._count:06}_{secrets.token_hex(4)}.npz"
            columns = {_FACTS: self._facts, _ROWS: rows, **answers.columns()}
            array_file.write(self._folder / name, columns, compressed=True)
        self._count += 1
        self._rows.append(rows)
        self._parts.append(answers)

    def find(
        self, thresholds: Float[np.ndarray, "R K"], rows: Int[np.ndarray, " R"]
    ) -> Int[np.ndarray, " R"]:
        """Indices, for `take`, of each example's answer at its thresholds; -1 if none is known.

        If there are several it is the first: with rounding two answers may hold in overlapping
        ranges, and the same call must always give the same answer. The rows are all different.
        """
        indices = np.full(len(rows), -1)
        if not self._parts:
            return indices
        known, answers = self._all()
        own = np.full((self._size, thresholds.shape[1]), np.nan)  # at NaN no answer holds
        own[rows] = thresholds
        place = np.zeros(self._size, int)
        place[rows] = np.arange(len(rows))
        holds = np.flatnonzero(answers.holds_at(own[known]))[::-1]  # the last to be put stays
        indices[place[known[holds]]] = holds
        return indices

    def take(self, which: Int[np.ndarray, " R"]) -> CascadeAnswers:
        """The answers of `find`'s indices."""
        return self._all()[1].take(which)

    def _all(self) -> tuple[Int[np.ndarray, " A"], CascadeAnswers]:
        if len(self._parts) > 1:
            columns = [part.columns() for part in self._parts]
            joined = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
            self._parts = [CascadeAnswers.from_columns(joined)]
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0], self._parts[0]


def digest(*arrays: np.ndarray) -> str:
    """Hash of arrays, to compare between hosts."""
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()[:16]


def _arrays(answers: CascadeAnswers) -> list[np.ndarray]:
    return [array for _, array in sorted(answers.columns().items())]


def _sum(rows: Int[np.ndarray, " A"], answers: CascadeAnswers) -> str:
    names = json.dumps(sorted(answers.columns()))
    return digest(np.frombuffer(names.encode(), np.uint8), rows, *_arrays(answers))
