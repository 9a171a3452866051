"""Parameters of a run, out of its checkpoints; of a LoRA run with its adapters merged.

A LoRA run saves its adapters alone. Its config.json says of what base: `start` and `lora` as
configured, `base_folder` as a place to look at too, and `base_saved`, which of the base's
checkpoints it was. The base may itself be a LoRA run.
"""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from cascade_jax import checks
from cascade_jax.models import families
from cascade_jax.models.lora import Lora
from cascade_jax.parallel import rules
from cascade_jax.runs import checkpoints, run_folder
from cascade_jax.runs import start as start_lib
from cascade_jax.runs import state as state_lib


def check(
    name: str,
    folder: Path,
    step: int,
    model: families.ModelConfig,
    mesh: Mesh,
    table: str | rules.Table = rules.DEFAULT,
) -> None:
    """Refuses a checkpoint that does not fit the model, or whose base does not; reads no array.

    Args:
      name: of who wants to read it, for messages.
      folder, step: the run's folder and a complete checkpoint in it.
      model: what the checkpoint should hold.
      mesh, table: where the parameters go and how they are split, see `parallel/rules.py`.

    Raises:
      ValueError: says what differs, or that a LoRA run's base is gone or was trained anew.
    """
    config, lora = _described(folder)
    if lora is not None:  # another model may lack the targets
        run_folder.check_same_model(name, model, folder)
    abstract = state_lib.abstract_parameters(families.build(model), mesh, lora, table)
    checkpoints.check_fits(folder, step, abstract)
    run_folder.check_same_model(name, model, folder)
    if lora is not None:
        start = start_lib.described(config)
        base, base_step = _base(folder, config), config["base_saved"]["step"]
        check(name, base, base_step, start.source(model), mesh, table)


def load(
    folder: Path,
    step: int,
    model: families.ModelConfig,
    mesh: Mesh,
    table: str | rules.Table = rules.DEFAULT,
) -> PyTree:
    """All parameters of a run's model, on the mesh; arguments as in `check`.

    Raises:
      ValueError: the checkpoint does not fit, or a LoRA run's base is gone or was trained anew.
    """
    config, lora = _described(folder)
    module = families.build(model)
    abstract = state_lib.abstract_parameters(module, mesh, lora, table)
    if lora is None:
        return checkpoints.load_parameters(folder, step, abstract)
    place, base_step = _base(folder, config), config["base_saved"]["step"]
    base = _first(start_lib.described(config), place, base_step, model, mesh, table)
    adapters = checkpoints.load_parameters(folder, step, abstract)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, base)
    return jax.jit(lora.merge, donate_argnums=0, out_shardings=shardings)(base, adapters)


def first_parameters(
    start: start_lib.Start,
    name: str,
    model: families.ModelConfig,
    output_dir: Path,
    mesh: Mesh,
    fingerprint: str,
    table: str | rules.Table = rules.DEFAULT,
    is_base: bool = False,
) -> PyTree:
    """The parameters that a run starts from, on the mesh.

    Args:
      start: where they are.
      name, model: of the run.
      output_dir: where runs are by name.
      mesh, table: as in `check`.
      fingerprint: of the run's vocabulary.
      is_base: of a LoRA run, which reads them again whenever it is read, so that the other run must
        be at its end.

    Raises:
      ValueError: the other run has another vocabulary or model, is not there, or not at its end.
    """
    folder = run_folder.resolve(output_dir, start.run)
    if not checkpoints.has_checkpoint(folder):
        raise checkpoints.CheckpointError(
            f"run {name!r} starts from {folder}, which has no checkpoint; train or import it first"
        )
    run_folder.check_same_vocabulary(name, fingerprint, folder)
    if is_base:
        checkpoints.check_finished(name, folder, "its base")
    step = checkpoints.chosen_step(folder, start.checkpoint)
    check(name, folder, step, start.source(model), mesh, table)
    return _first(start, folder, step, model, mesh, table)


def load_teacher(
    name: str,
    teacher: families.Model,
    folder: Path,
    choice: str,
    mesh: Mesh,
    fingerprint: str,
    table: str | rules.Table = rules.DEFAULT,
) -> PyTree:
    """The parameters of a teacher, which are never updated, in the dtype that it computes in.

    Args:
      name: of the run that needs it, for messages.
      teacher, folder: its module and its run's folder.
      choice: "best" or "last" of its checkpoints.
      mesh, table: as in `check`.
      fingerprint: of the vocabulary of the data.

    Raises:
      ValueError: it is not there, not at its end, or another model or vocabulary.
    """
    if not checkpoints.has_checkpoint(folder):
        raise checkpoints.CheckpointError(
            f"run {name!r} needs its teacher in {folder}, which is not trained yet; train it first"
        )
    run_folder.check_same_vocabulary(name, fingerprint, folder)
    checkpoints.check_finished(name, folder)
    step = checkpoints.chosen_step(folder, choice)
    check(name, folder, step, teacher.config, mesh, table)
    loaded = load(folder, step, teacher.config, mesh, table)
    return state_lib.in_compute_dtype(teacher, loaded)


def saved_at(folder: Path, choice: str) -> int | None:
    """When the chosen checkpoint was completed; None for a run that is still to be trained."""
    if not checkpoints.has_checkpoint(folder):
        return None
    return checkpoints.saved_at(folder, checkpoints.chosen_step(folder, choice))


def base_identity(name: str, start: start_lib.Start, output_dir: Path) -> dict[str, Any]:
    """What the config.json of a LoRA run says of its base, besides `start`.

    Raises:
      ValueError: the run has begun, and its base is gone or was trained anew.
    """
    own, folder = output_dir / name, run_folder.resolve(output_dir, start.run)
    if (own / "config.json").exists():
        before = checkpoints.config_of(own)
        if "base_saved" in before and before["start"]["run"] == start.run:
            _base(own, before)
    which = None
    if checkpoints.has_checkpoint(folder):
        step = checkpoints.chosen_step(folder, start.checkpoint)
        which = {"step": step, "at": checkpoints.saved_at(folder, step)}
    return {"base_folder": str(folder.absolute()), "base_saved": which}


def _described(folder: Path) -> tuple[dict, Lora | None]:
    """A run's config and its adapters, if it has some; checks what is read of their base, too."""
    config = checkpoints.config_of(folder)
    fields = dict(config.get("lora") or {})
    if not fields:
        return config, None
    try:
        lora = Lora(**{key: fields[key] for key in fields if key != "type"})
        start_lib.described(config)
        for key in ("step", "at"):
            checks.whole_number(f"base_saved.{key}", config["base_saved"][key], 0, most=2**63)
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoints.CheckpointError(
            f"{folder}/config.json: what a LoRA run starts from can't be read "
            f"({type(error).__name__}: {error}); put the file back as it was"
        ) from error
    return config, lora


def _first(start, folder: Path, step: int, model, mesh: Mesh, table) -> PyTree:
    params = start.fit(load(folder, step, start.source(model), mesh, table), model)
    abstract = state_lib.abstract_parameters(families.build(model), mesh, table=table)
    return jax.tree.map(lambda leaf, place: jax.device_put(leaf, place.sharding), params, abstract)


def _base(folder: Path, config: dict) -> Path:
    """The folder of a LoRA run's base: beside it by its name, or where it was."""
    named = run_folder.resolve(folder.absolute().parent, config["start"]["run"])
    places = list(dict.fromkeys([named.absolute(), Path(config["base_folder"])]))
    there = [place for place in places if checkpoints.has_checkpoint(place)]
    for place in there:
        if _is_saved(place, config["base_saved"]["step"], config["base_saved"]["at"]):
            return place
    looked = " or ".join(map(str, there or places))
    if there:
        step = config["base_saved"]["step"]
        raise checkpoints.CheckpointError(
            f"{folder} holds LoRA adapters only, and their base is not that of {looked} any more: "
            f"its checkpoint of step {step} is gone or was written anew. Put back the run that the "
            f"adapters were trained on, or delete {folder} and train them again"
        )
    raise checkpoints.CheckpointError(
        f"{folder} holds LoRA adapters only, and their base is gone: no run in {looked}. Put it "
        "back, with the checkpoint that the adapters were trained on"
    )


def _is_saved(folder: Path, step: int, at: int) -> bool:
    try:
        return checkpoints.saved_at(folder, step) == at
    except checkpoints.CheckpointError:
        return False
