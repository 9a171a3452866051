"""Checkpoints: train state, data-iterator state and config, saved together by Orbax.

A checkpoint is one folder `<run>/checkpoints/<step>`. Orbax writes it under a temporary name in the
background and renames it when it is whole. A copy of it may still break off: `completeness.py`
tells which are whole, and the others are passed over. Digests of all arrays are saved beside them
and compared when they are read.
"""

import contextlib
import math
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from cascade_jax import checks, json_file, json_text, metrics
from cascade_jax.names import check_choice, listed
from cascade_jax.parallel import hosts
from cascade_jax.runs import checkpoint_errors, completeness, digests
from cascade_jax.runs.completeness import DIGESTS, CheckpointError
from cascade_jax.runs.data_position import (
    DataPositionHandler,
    DataPositionRestore,
    DataPositionSave,
)
from cascade_jax.runs.state import TrainState

# The checkpoint that counts as best has the highest of these. Losses of different variants can't be
# compared (a masked loss falls when fewer tokens are kept); next-token accuracy can.
BEST_METRIC = metrics.STUDENT_ACCURACY
CHOICES = ("best", "last")


class CheckpointStore:
    """The checkpoints of one run, in the sub-folder `checkpoints` of its folder.

    It keeps the newest `keep_last`, and the `keep_best` best by BEST_METRIC of the held-out split.
    Those that are not whole are moved to the folder `incomplete_checkpoints`. If it is `read_only`
    nothing is written or moved.

    Raises:
      CheckpointError: there are checkpoints, and none is whole.
    """

    def __init__(
        self,
        run_folder: str | Path,
        keep_last: int = 2,
        keep_best: int = 1,
        read_only: bool = False,
    ):
        self.folder = Path(run_folder).absolute() / "checkpoints"
        if not read_only:
            _set_incomplete_aside(self.folder)
        policies = [checkpoint_managers.LatestN(keep_last)]
        if keep_best:
            # LatestN alone decides on checkpoints without metrics.
            best = {"n": keep_best, "keep_checkpoints_without_metrics": False}
            policies.append(checkpoint_managers.BestN(get_metric_fn=_best_metric, **best))
        writing = dict(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,  # what a killed run left half-written
        )
        with checkpoint_errors.reading(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    best_fn=_best_metric,  # also makes Orbax write the metrics beside the state
                    **({"read_only": True, "create": False} if read_only else writing),
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "data": DataPositionHandler(),
                    "config": ocp.JsonCheckpointHandler(),
                    DIGESTS: ocp.JsonCheckpointHandler(),
                },
            )

    def last_step(self) -> int | None:
        """The newest whole checkpoint, None if there is none."""
        return completeness.first_whole(self.folder, completeness.steps_in(self.folder)[::-1])

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
            **{
                "state": ocp.args.StandardSave(state),
                "data": DataPositionSave(iterator_state),
                "config": ocp.args.JsonSave(config),
                DIGESTS: ocp.args.JsonSave(_digests_of(state)),
            }
        )
        with checkpoint_errors.writing(self.folder):
            # Where it can't make a folder Orbax waits for ten minutes.
            probe = self.folder / f".probe_{jax.process_index()}"
            probe.touch()
            probe.unlink()
            self._manager.save(step, args=items, metrics=held_out, force=True)

    def wait(self) -> None:
        """Waits until everything that was started is on disk; raises as `save`."""
        with checkpoint_errors.writing(self.folder):
            self._manager.wait_until_finished()

    def restore(
        self, step: int, abstract: TrainState, hosts_read_alike: bool = False
    ) -> tuple[TrainState, bytes]:
        """Reads a checkpoint into the shardings of `abstract`.

        Args:
          step: of a whole checkpoint.
          abstract: from `state.abstract_state`, on any mesh.
          hosts_read_alike: whether the data position of one host is good for another, and so for
            another number of hosts.

        Raises:
          CheckpointError: if shapes differ (which parameter, both shapes), a part is missing,
            can't be read, is not what was saved, or is a parameter that is not finite.
        """
        data = DataPositionRestore(hosts_read_alike)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=data)
        with checkpoint_errors.reading(self.folder, step):
            self._check_shapes(step, abstract)
            restored = self._manager.restore(step, args=items)
        _check_arrays(self.folder, step, restored["state"])
        return restored["state"], restored["data"]

    def _check_shapes(self, step: int, abstract: TrainState) -> None:
        stored, file = self._manager.item_metadata(step)["state"], self.folder / str(step)
        if stored is None:
            raise CheckpointError(f"checkpoint {file} holds no train state")
        _check_shapes(file, stored["params"], abstract.params)

    def close(self) -> None:
        """Waits as `wait` does and lets go of the folder; raises as `save`."""
        with checkpoint_errors.writing(self.folder):
            self._manager.close()


def _set_incomplete_aside(folder: Path) -> None:
    """Moves checkpoints that are not whole out of the way of those that will be written again."""
    steps = completeness.steps_in(folder)
    lacks = {step: completeness.missing_part(folder / str(step)) for step in steps}
    if steps and None not in lacks.values():
        completeness.first_whole(folder, steps[::-1])  # raises
    aside = folder.parent / "incomplete_checkpoints"
    for step in steps:
        if lacks[step] is not None and hosts.is_first():
            with checkpoint_errors.writing(folder):
                aside.mkdir(exist_ok=True)
                place = aside / f"{step}_{len(list(aside.iterdir()))}"
                (folder / str(step)).rename(place)
            hosts.print_once(
                f"checkpoint {folder / str(step)} is not whole ({lacks[step]}): passed over, and "
                f"moved to {place}"
            )
    hosts.barrier("the checkpoints that are whole")


def _digests_of(arrays: PyTree) -> dict[str, str]:
    return {name: text for name, (text, _) in digests.by_name(arrays).items()}


def _check_arrays(folder: Path, step: int, arrays: PyTree) -> None:
    """Refuses arrays that are not those that were saved, and parameters that are not finite.

    `arrays` is a TrainState or {"params": …}. Older checkpoints have no digests to compare.
    """
    checkpoint, saved = folder / str(step), {}
    if (checkpoint / DIGESTS).exists():
        with checkpoint_errors.reading(folder, step):
            saved = completeness.read_object(checkpoint, f"{DIGESTS}/metadata")
    own = digests.by_name(arrays, like=saved)
    names = [name for name in own if saved and saved.get(name) != own[name][0]]
    if names:
        raise CheckpointError(
            f"checkpoint {checkpoint} is damaged, these arrays are not what was saved: "
            f"{listed(names)}; {checkpoint_errors.way_out(folder, step)}"
        )
    names = [name for name in own if name.startswith("params/") and not own[name][1]]
    if names:
        raise CheckpointError(
            f"checkpoint {checkpoint} holds NaN or infinite numbers in {listed(names)}; "
            f"{checkpoint_errors.way_out(folder, step)}"
        )


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
            DIGESTS: ocp.JsonCheckpointHandler(),
        },
    )
    items = {
        "state": ocp.args.PyTreeSave({"params": params}),
        "config": ocp.args.JsonSave(config),
        DIGESTS: ocp.args.JsonSave(_digests_of({"params": params})),
    }
    with checkpoint_errors.writing(folder), contextlib.closing(manager):
        manager.save(0, args=ocp.args.Composite(**items))


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
        with checkpoint_errors.reading(path.parents[1], step):
            stored = handler.metadata(path)["params"]
            _check_shapes(path.parent, stored, abstract)


def load_parameters(run_folder: str | Path, step: int, abstract: PyTree) -> PyTree:
    """Parameters alone, for a teacher or for decoding.

    Args:
      run_folder, step: a training run's folder and a complete checkpoint of it.
      abstract: from `state.abstract_parameters`; says where each parameter goes.

    Raises:
      CheckpointError: if it does not fit the model, can't be read, is not what was saved, or is
        not finite.
    """
    check_fits(run_folder, step, abstract)
    item = {"params": abstract}
    places = ocp.checkpoint_utils.construct_restore_args(item)
    restore = ocp.args.PyTreeRestore(item=item, restore_args=places, partial_restore=True)
    path = _state_folder(run_folder, step)
    folder = path.parents[1]
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        with checkpoint_errors.reading(folder, step):
            params = handler.restore(path, args=restore)["params"]
    _check_arrays(folder, step, {"params": params})
    return params


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
    steps = completeness.steps_in(folder)[::-1]
    if choice == "best":
        steps.sort(key=lambda step: _score(folder / str(step)), reverse=True)
    step = completeness.first_whole(folder, steps)
    if step is None:
        raise CheckpointError(f"{run_folder} holds no complete checkpoint; train that run first")
    return step


def _score(checkpoint: Path) -> float:
    """BEST_METRIC of a checkpoint; less than all others for one that was not measured."""
    try:
        score = _best_metric(completeness.read_object(checkpoint, "metrics/metrics"))
    except CheckpointError:
        return -math.inf
    return score if checks.is_number(score) else -math.inf


def has_checkpoint(run_folder: str | Path) -> bool:
    """Whether a run has a checkpoint, be it whole or not."""
    return bool(completeness.steps_in(Path(run_folder) / "checkpoints"))


def is_finished(run_folder: str | Path, steps: int) -> bool:
    """Whether a run has a whole checkpoint of its last step or a later one."""
    folder = Path(run_folder) / "checkpoints"
    last = [step for step in completeness.steps_in(folder) if step >= steps]
    return any(completeness.missing_part(folder / str(step)) is None for step in last)


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
    folder = Path(run_folder) / "checkpoints"
    with checkpoint_errors.reading(folder, step):
        metadata = completeness.read_object(folder / str(step), completeness.METADATA)
        return int(metadata["commit_timestamp_nsecs"])


def _best_metric(figures: dict[str, float]) -> float:
    return figures.get(BEST_METRIC, 0.0)  # missing where no held-out token counted


def _by_name(tree) -> dict[str, tuple]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in flat}


def config_of(run_folder: str | Path) -> dict:
    """The config that a run was started with (its `config.json`).

    Raises:
      CheckpointError: if the folder is not a run's, or the file is damaged.
    """
    file = Path(run_folder) / "config.json"
    if not file.exists():
        raise CheckpointError(f"{run_folder} is not the folder of a run: it has no config.json")
    try:
        config = json_file.read_object(file, allow_nan=True)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    needed = {"model": dict, "steps": int, "vocabulary_fingerprint": str}
    if config.get("lora"):
        needed |= {"lora": dict, "start": dict, "base_folder": str, "base_saved": dict}
    for key, kind in needed.items():
        value = config.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = {dict: "an object", int: "an integer", str: "a text"}
            raise CheckpointError(
                f"{file}: {key!r} is {json_text.shown(value)}; must be {names[kind]}. The file was "
                "changed or damaged: put it back as `cascade-jax train` or `import` wrote it"
            )
    return config
