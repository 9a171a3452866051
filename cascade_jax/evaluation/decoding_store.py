"""Every evaluated threshold on disk, so that a run that was stopped decodes nothing twice."""

import dataclasses
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cascade_jax import files
from cascade_jax.evaluation.calibration_pool import Evaluation

_VERSION = 1
_FACTS = "facts"
_DAMAGE = (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class DecodingStore:
    """A folder of evaluations, one npz file each.

    Attributes:
      folder: made when something is written.
      facts: JSON values of everything that an evaluation depends on besides the thresholds:
        fingerprints of both checkpoints and of the examples, lengths, uncertainty, metrics.
    """

    folder: Path
    facts: Mapping[str, Any]

    def path(self, key: Mapping[str, Any]) -> Path:
        """The file of an evaluation; another checkpoint or data gives another one."""
        digest = hashlib.sha256(self._text(key).encode()).hexdigest()[:24]
        return self.folder / f"{digest}.npz"

    def _text(self, key: Mapping[str, Any]) -> str:
        return json.dumps({"version": _VERSION, **self.facts, **key}, sort_keys=True)

    def read(self, key: Mapping[str, Any]) -> Evaluation | None:
        """An evaluation that is there; None if it is not, or is damaged (which is printed)."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            if str(found.pop(_FACTS)) != self._text(key):
                raise ValueError("it is of something else")
            return Evaluation.from_columns(found)
        except _DAMAGE as error:
            print(f"{path} is damaged ({_short(error)}) and made anew", flush=True)
            return None

    def write(self, key: Mapping[str, Any], evaluation: Evaluation) -> None:
        """Writes an evaluation, whole or not at all."""
        with files.replacing(self.path(key)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **{_FACTS: self._text(key)}, **evaluation.columns())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
