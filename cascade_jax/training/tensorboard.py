"""TensorBoard's event files of a run, in which every step stands once, however often it was run."""

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

from cascade_jax import files


class TensorBoard:
    """An event file that is written at once and by this thread.

    tensorboardX's own writer has a thread that keeps events for up to two minutes: a killed run
    would lose them, and a full disk would show as a traceback of that thread.

    Events after `first_step` are dropped from the files of earlier starts, since these steps run
    again. A TensorBoard that has read them is told to forget them.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(folder.glob("*.tfevents.*"))
        for file in earlier:
            _drop_events_after(file, first_step)
        suffix = f".{os.getpid()}.{len(earlier)}"  # another file, even within the same second
        self._file = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        if earlier:
            log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(step=first_step + 1, session_log=log)

    def _add(self, **content) -> None:
        self._file.write_event(event_pb2.Event(wall_time=time.time(), **content))
        self._file.flush()

    def scalars(self, step: int, figures: dict[str, float]) -> None:
        """Adds figures of a step."""
        values = [summary_pb2.Summary.Value(tag=k, simple_value=v) for k, v in figures.items()]
        self._add(step=step, summary=summary_pb2.Summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # what could not be written has been raised by `_add`
            self._file.close()


def _drop_events_after(file: Path, step: int) -> None:
    """Rewrites a file without the events after a step, and without a record that is cut off."""
    data = file.read_bytes()
    kept = [record for record in _records(data) if _is_kept(record, step)]
    if sum(map(len, kept)) < len(data):
        with files.replacing(file) as temporary:
            temporary.write_bytes(b"".join(kept))


def _records(data: bytes) -> Iterator[bytes]:
    """The whole records of a TFRecord file: length, its checksum, content, its checksum."""
    begin = 0
    while begin + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, begin)
        end = begin + 12 + length + 4
        if end > len(data):
            break
        yield data[begin:end]
        begin = end


def _is_kept(record: bytes, step: int) -> bool:
    try:
        event = event_pb2.Event.FromString(record[12:-4])
    except DecodeError:
        return False
    return event.HasField("file_version") or event.step <= step
