"""Errors of reading and writing checkpoints: one line each, whatever library raises them."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import jax

from cascade_jax import files
from cascade_jax.runs import completeness
from cascade_jax.runs.completeness import CheckpointError


@contextlib.contextmanager
def reading(folder: Path, step: int | None = None) -> Iterator[None]:
    """Turns any error of reading a checkpoint (None: of all) into a CheckpointError of one line.

    Those of Orbax, TensorStore and its drivers are of many kinds.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError):  # of this machine or of another host
        raise
    except completeness.NotWholeError as error:
        raise CheckpointError(
            f"checkpoint {folder / str(step)} is not whole ({error}); {way_out(folder, step)}"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:
        if step is None and isinstance(error, OSError):
            raise  # a folder that can't be made, say
        if step is None:
            raise CheckpointError(
                f"the checkpoints in {folder} can't be read ({_without_internals(error)}); copy "
                f"{folder.parent} anew, or delete it and train that run again"
            ) from error
        raise CheckpointError(
            f"checkpoint {folder / str(step)} can't be read ({_without_internals(error)}); "
            f"{way_out(folder, step)}"
        ) from error


def way_out(folder: Path, step: int) -> str:
    """What to do about a checkpoint that can't be used."""
    others = [other for other in completeness.steps_in(folder) if other != step]
    others = [other for other in others if completeness.missing_part(folder / str(other)) is None]
    if others:
        return (
            "copy it anew, or delete that folder and start the same command again, which then "
            f"takes step {others[-1]}"
        )
    return f"copy it anew, or delete {folder.parent} and train that run again"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns any error of writing a checkpoint to this folder into a CheckpointError."""
    try:
        yield
    except Exception as error:
        steps = completeness.steps_in(folder)
        newest = f"step {steps[-1]} is complete and stays" if steps else "there is none before it"
        reason = _without_internals(error)
        remedy = files.remedy(error) or "remove the cause"
        raise CheckpointError(
            f"could not write a checkpoint to {folder}: {reason}. {newest}; {remedy} and start the "
            "same command again"
        ) from error


def _without_internals(error: Exception) -> str:
    """An error's text on one line, without TensorStore's details."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r" \[(tensorstore_spec|source locations)=.*", "", text)
