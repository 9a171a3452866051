"""The position in the data as an item of checkpoints: each process's bytes, and their CRC-32."""

import dataclasses

import jax
import orbax.checkpoint as ocp

from cascade_jax import files
from cascade_jax.runs.completeness import CheckpointError


class DataPositionHandler(ocp.CheckpointHandler):
    """Each process saves its own bytes; it reads those, or any others if all are equivalent."""

    def _file(self, directory) -> str:
        return directory / f"process_{jax.process_index()}_of_{jax.process_count()}"

    def save(self, directory, args):
        self._file(directory).write_bytes(files.sealed(args.state))

    def restore(self, directory, args=None):
        file = self._file(directory)
        if not file.exists():
            others = sorted(path.name for path in directory.glob("process_*"))
            if not others or args is None or not args.is_same_for_all:
                raise CheckpointError(
                    f"{directory} holds no data-iterator state for {file.name}; it has {others}. "
                    "Resume with the number of processes that wrote it"
                )
            file = directory / others[0]
        return files.unsealed(file.read_bytes(), str(file))


@ocp.args.register_with_handler(DataPositionHandler, for_save=True)
@dataclasses.dataclass
class DataPositionSave(ocp.args.CheckpointArgs):
    """What `DataPositionHandler` saves."""

    state: bytes


@ocp.args.register_with_handler(DataPositionHandler, for_restore=True)
@dataclasses.dataclass
class DataPositionRestore(ocp.args.CheckpointArgs):
    """How `DataPositionHandler` restores."""

    is_same_for_all: bool = False
