"""Checkpoints: train state, data-iterator state and config, saved together by Orbax.

A checkpoint is one folder `<run>/checkpoints/<step>`. Orbax writes it under a temporary name in the
background and renames it when it is whole, so what has a number for a name is complete.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from cascade_jax import metrics
from cascade_jax.names import check_choice
from cascade_jax.runs.state import TrainState

# The checkpoint that counts as best has the highest of these. Losses of different variants can't be
# compared (a masked loss falls when fewer tokens are kept); next-token accuracy can.
BEST_METRIC = metrics.STUDENT_ACCURACY
CHOICES = ("best", "last")


class CheckpointError(ValueError):
    """A checkpoint is missing, does not fit, or could not be written."""


class _IteratorStateHandler(ocp.CheckpointHandler):
    """Each process saves its own bytes; it reads those, or any others if all are equivalent."""

    def _file(self, directory) -> str:
        return directory / f"process_{jax.process_index()}_of_{jax.process_count()}"

    def save(self, directory, args):
        self._file(directory).write_bytes(args.state)

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
        return file.read_bytes()


@ocp.args.register_with_handler(_IteratorStateHandler, for_save=True)
@dataclasses.dataclass
class _IteratorStateSave(ocp.args.CheckpointArgs):
    state: bytes


@ocp.args.register_with_handler(_IteratorStateHandler, for_restore=True)
@dataclasses.dataclass
class _IteratorStateRestore(ocp.args.CheckpointArgs):
    is_same_for_all: bool = False


class CheckpointStore:
    """The checkpoints of one run, in the sub-folder `checkpoints` of its folder.

    It keeps the newest `keep_last`, and the `keep_best` best by BEST_METRIC of the held-out split.
    """

    def __init__(self, run_folder: str | Path, keep_last: int = 2, keep_best: int = 1):
        self.folder = Path(run_folder).absolute() / "checkpoints"
        policies = [checkpoint_managers.LatestN(keep_last)]
        if keep_best:
            # LatestN alone decides on checkpoints without metrics.
            best = {"n": keep_best, "keep_checkpoints_without_metrics": False}
            policies.append(checkpoint_managers.BestN(get_metric_fn=_best_metric, **best))
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=_best_metric,  # also makes Orbax write the metrics beside the state
                cleanup_tmp_directories=True,  # what a killed run left half-written
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": _IteratorStateHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def last_step(self) -> int | None:
        """The newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        iterator_state: bytes,
        config: dict,
        held_out: dict[str, float] | None,
    ) -> None:
        """Starts saving in the background; the arrays are copied before it returns.

        Raises:
          CheckpointError: if this or the save before it can't be written (disk full, say). Older
            checkpoints stay as they are.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=_IteratorStateSave(iterator_state),
            config=ocp.args.JsonSave(config),
        )
        with _write_errors(self.folder):
            # Where it can't make a folder Orbax waits for ten minutes.
            probe = self.folder / f".probe_{jax.process_index()}"
            probe.touch()
            probe.unlink()
            self._manager.save(step, args=items, metrics=held_out, force=True)

    def wait(self) -> None:
        """Waits until everything that was started is on disk; raises as `save`."""
        with _write_errors(self.folder):
            self._manager.wait_until_finished()

    def restore(
        self, step: int, abstract: TrainState, hosts_read_alike: bool = False
    ) -> tuple[TrainState, bytes]:
        """Reads a checkpoint into the shardings of `abstract`.

        Args:
          step: of a complete checkpoint.
          abstract: from `state.abstract_state`, on any mesh.
          hosts_read_alike: whether the data position of one host is good for another, and so for
            another number of hosts.

        Raises:
          CheckpointError: if shapes differ (which parameter, both shapes), a part is missing or
            can't be read.
        """
        data = _IteratorStateRestore(hosts_read_alike)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=data)
        try:
            self._check_shapes(step, abstract)
            restored = self._manager.restore(step, args=items)
        except CheckpointError:
            raise
        except Exception as error:
            raise self._read_error(step, error) from error
        return restored["state"], restored["data"]

    def _read_error(self, step: int, error: Exception) -> CheckpointError:
        """The error for a complete checkpoint that can't be read, e.g. truncated."""
        older = [other for other in _complete_steps(self.folder) if other < step]
        way = (
            f"delete that folder and start the same command again: it goes on from step {older[-1]}"
            if older
            else "delete the run's folder to begin anew"
        )
        reason = _without_internals(error)
        return CheckpointError(
            f"checkpoint {self.folder / str(step)} can't be read ({reason}); {way}"
        )

    def _check_shapes(self, step: int, abstract: TrainState) -> None:
        stored, file = self._manager.item_metadata(step)["state"], self.folder / str(step)
        if stored is None:
            raise CheckpointError(f"checkpoint {file} holds no train state")
        _check_shapes(file, stored["params"], abstract.params)

    def close(self) -> None:
        """Waits as `wait` does and lets go of the folder; raises as `save`."""
        with _write_errors(self.folder):
            self._manager.close()


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Turns any error of writing a checkpoint to this folder into a CheckpointError."""
    try:
        yield
    except Exception as error:
        steps = _complete_steps(folder)
        newest = f"step {steps[-1]} is complete and stays" if steps else "there is none before it"
        reason = _without_internals(error)
        is_denied = "denied" in reason or "Read-only" in reason
        remedy = "make it writable" if is_denied else "free some space"
        raise CheckpointError(
            f"could not write a checkpoint to {folder}: {reason}. {newest}; {remedy} and start the "
            "same command again"
        ) from error


def _without_internals(error: Exception) -> str:
    """An error's text on one line, without TensorStore's details."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r" \[(tensorstore_spec|source locations)=.*", "", text)


def save_parameters(run_folder: str | Path, params: PyTree, config: dict) -> None:
    """Writes float32 parameters that come from elsewhere as the checkpoint of step 0.

    Raises:
      CheckpointError: if it can't be written (disk full, say).
    """
    folder = Path(run_folder).absolute() / "checkpoints"
    manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={
            # Written as they are: compressing copies arrays, as many at a time as there are.
            "state": ocp.PyTreeCheckpointHandler(use_compression=False),
            "config": ocp.JsonCheckpointHandler(),
        },
    )
    state, config = ocp.args.PyTreeSave({"params": params}), ocp.args.JsonSave(config)
    with _write_errors(folder), contextlib.closing(manager):
        manager.save(0, args=ocp.args.Composite(state=state, config=config))


def _check_shapes(where: Path, stored: PyTree, expected: PyTree) -> None:
    """Refuses a checkpoint whose parameters have other names or shapes than those of the model."""
    stored, expected = _by_name(stored), _by_name(expected)
    for name in sorted(expected.keys() | stored.keys()):
        if stored.get(name) != expected.get(name):
            has = f"shape {stored[name]}" if name in stored else "no such parameter"
            needs = f"shape {expected[name]}" if name in expected else "none of that name"
            raise CheckpointError(
                f"checkpoint {where} does not fit the model: parameter {name}: the checkpoint has "
                f"{has}, the model has {needs}"
            )


def check_fits(run_folder: str | Path, step: int, abstract: PyTree) -> None:
    """Refuses a checkpoint whose parameters have other names or shapes; reads no array.

    Raises:
      CheckpointError: naming the first parameter that differs, with both shapes.
    """
    path = _state_folder(run_folder, step)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        stored = handler.metadata(path)["params"]
    _check_shapes(path.parent, stored, abstract)


def load_parameters(run_folder: str | Path, step: int, abstract: PyTree) -> PyTree:
    """Parameters alone, for a teacher or for decoding.

    Args:
      run_folder, step: a training run's folder and a complete checkpoint of it.
      abstract: from `state.abstract_parameters`; says where each parameter goes.

    Raises:
      CheckpointError: if it does not fit the model.
    """
    check_fits(run_folder, step, abstract)
    item = {"params": abstract}
    places = ocp.checkpoint_utils.construct_restore_args(item)
    restore = ocp.args.PyTreeRestore(item=item, restore_args=places, partial_restore=True)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.restore(_state_folder(run_folder, step), args=restore)["params"]


def _state_folder(run_folder: str | Path, step: int) -> Path:
    return Path(run_folder).absolute() / "checkpoints" / str(step) / "state"


def chosen_step(run_folder: str | Path, choice: str) -> int:
    """The step of a run's "best" or "last" checkpoint.

    The best one is that by BEST_METRIC on the held-out split; the last if nothing was measured.

    Raises:
      CheckpointError: if there is no complete checkpoint.
      ValueError: for another choice.
    """
    check_choice("checkpoint", choice, CHOICES)
    folder = Path(run_folder) / "checkpoints"
    steps = _complete_steps(folder)
    if not steps:
        raise CheckpointError(f"{run_folder} holds no complete checkpoint; train that run first")
    scored = []
    for step in steps:
        file = folder / str(step) / "metrics" / "metrics"
        if file.exists():
            scored.append((_best_metric(json.loads(file.read_text())), step))
    return max(scored)[1] if scored and choice == "best" else max(steps)


def has_checkpoint(run_folder: str | Path) -> bool:
    """Whether a run has a complete checkpoint."""
    return bool(_complete_steps(Path(run_folder) / "checkpoints"))


def check_finished(name: str, run_folder: str | Path, what: str = "its teacher") -> None:
    """Refuses to read a run that has not been trained to its last step.

    Args:
      name: of the run that wants to read it.
      run_folder: the folder of the run that is read.
      what: what that run is for the other one, for the message.

    Raises:
      CheckpointError: naming both steps.
    """
    last, steps = chosen_step(run_folder, "last"), config_of(run_folder)["steps"]
    if last < steps:
        raise CheckpointError(
            f"run {name!r}: {what} in {run_folder} is at step {last} of {steps}; train it to the "
            "end first"
        )


def saved_at(run_folder: str | Path, step: int) -> int:
    """When a checkpoint was completed, in nanoseconds since 1970: tells one from its successor."""
    file = Path(run_folder) / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
    return json.loads(file.read_text())["commit_timestamp_nsecs"]


def _complete_steps(folder: Path) -> list[int]:
    """Steps with a whole checkpoint; one that is being written has another name."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _best_metric(figures: dict[str, float]) -> float:
    return figures.get(BEST_METRIC, 0.0)  # missing where no held-out token counted


def _by_name(tree) -> dict[str, tuple]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in flat}


def config_of(run_folder: str | Path) -> dict:
    """The config that a run was started with (its `config.json`).

    Raises:
      CheckpointError: if the folder is not a run's.
    """
    file = Path(run_folder) / "config.json"
    if not file.exists():
        raise CheckpointError(f"{run_folder} is not the folder of a run: it has no config.json")
    return json.loads(file.read_text())
