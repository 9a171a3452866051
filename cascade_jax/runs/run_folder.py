"""The folder of a run: its config.json, and checks that it belongs to the run at hand."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_jax import checks, files
from cascade_jax.data.vocabulary import chat_template
from cascade_jax.models import families
from cascade_jax.models.config import ADDED_LATER
from cascade_jax.names import check_choice
from cascade_jax.runs import checkpoints

# Settings that may change between two starts of one run: they change neither its parameters, but
# for rounding and the steps that are still to come, nor which of its checkpoints is the best.
# (Which checkpoint the base is stands under base_saved.)
_IGNORED_WHEN_COMPARING = (
    *("log_every", "eval_every", "keep_last", "base_folder"),
    *("hang_seconds", "profile_steps", "rules", "teacher_rules", "skip_bad_batches"),
    "teacher_cache",  # a place; its fingerprint is compared
)
# Places; fingerprints of what is there are compared.
_DATA_PLACES = ("data_dir", "vocabulary", "cache_dir")
# A model is the same one under these.
_IGNORED_MODEL_FIELDS = ("dropout_rate", "dtype", "remat", "scan_layers", "query_chunk")
_IMPORTED = "imported"
_LISTED = 12  # differences in a message


def describe(value: Any) -> Any:
    """A config as JSON values: a dataclass becomes a dictionary with its class name as "type".

    A field that was added later is left out at its default, so that a config is described as it
    always was: the descriptions and digests of older runs and caches are compared with it.
    """
    if dataclasses.is_dataclass(value):
        fields = {
            f.name: describe(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata == ADDED_LATER and getattr(value, f.name) == f.default)
        }
        return {"type": type(value).__name__} | fields
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return value


def model_of(config: Mapping[str, Any]) -> families.ModelConfig:
    """The model's config out of a run's config.json: the inverse of `describe`.

    Raises:
      ValueError: a model that this version has no class or field for.
    """
    families_by_name = {kind.__name__: kind for kind in families.FAMILIES}
    check_choice("the model's type", config["model"].get("type"), families_by_name)
    # The classes of a config's own values stand beside it.
    classes = vars(sys.modules[families_by_name[config["model"]["type"]].__module__])

    def built(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = {key: built(item) for key, item in value.items() if key != "type"}
        kind = classes[value["type"]]
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{value['type']!r} is no config")
        return kind(**fields)

    try:
        return built(config["model"])
    except (KeyError, TypeError) as error:  # a class or a field that is unknown or missing
        raise ValueError(f"the model can't be built as this version has it: {error}") from error


def model_in(folder: str | Path) -> families.ModelConfig:
    """The config of a run's model, by its config.json; raises ValueError that names the file."""
    config = checkpoints.config_of(folder)
    try:
        return model_of(config)
    except ValueError as error:
        raise ValueError(f"{folder}/config.json: {error}") from error


def write_imported(
    folder: Path, model: families.ModelConfig, fingerprint: str, source: Mapping[str, Any]
) -> dict:
    """Writes and returns the config.json of a folder whose model comes from elsewhere.

    Args:
      folder: the run's folder.
      model: config of the model, which counts as trained to its end.
      fingerprint: of its vocabulary.
      source: JSON values that say where the model comes from.
    """
    config = {
        "type": "Imported",
        _IMPORTED: dict(source),
        "model": describe(model),
        "vocabulary_fingerprint": fingerprint,
        "steps": 0,  # its checkpoint is its last
        "loss": None,
    }
    claim(folder, config)
    return config


def check(folder: Path, config: dict[str, Any]) -> None:
    """Checks that the run's folder, if there is one, holds the same run; writes nothing.

    Args:
      folder: the run's folder.
      config: of the run by `describe`, with the identities of what it reads: vocabulary, data,
        teacher checkpoint.

    Raises:
      ValueError: if the folder holds another config; names each difference.
    """
    file = folder / "config.json"
    if file.exists():
        before = checkpoints.config_of(folder)
        other = "another output folder or run name"
        if _IMPORTED in before:
            raise ValueError(f"run folder {folder} holds an imported model; choose {other}")
        differences = _differences(_fixed(before), _fixed(config))
        if differences:
            more = f"; and {len(differences) - _LISTED} more" * (len(differences) > _LISTED)
            raise ValueError(
                f"run folder {folder} holds another config: {'; '.join(differences[:_LISTED])}"
                f"{more}. Choose {other}, or delete the folder"
            )


def claim(folder: Path, config: dict) -> None:
    """Makes the run's folder and writes its config.json, see `check`."""
    files.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _fixed(config: dict) -> dict:
    data = config.get("data")
    data = _without(data, _DATA_PLACES) if isinstance(data, dict) else data
    return _without(config, _IGNORED_WHEN_COMPARING) | {"data": data}


def _without(fields: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in ignored}


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        differences = []
        for key in sorted(before.keys() | now.keys()):
            inner = f"{name}.{key}" if name else key
            differences += _differences(before.get(key), now.get(key), inner)
        return differences
    if before == now:
        return []
    return [f"{name} was {checks.shown(before)} and is now {checks.shown(now)}"]


def resolve(output_dir: Path, run: str) -> Path:
    """The folder of a run named by its name in `output_dir` or by its path."""
    return Path(run) if "/" in run else output_dir / run


def check_same_model(name: str, model: families.ModelConfig, folder: Path) -> None:
    """Raises ValueError if a run trained another model; dropout, dtype and layout may differ."""
    both = checkpoints.config_of(folder)["model"], describe(model)
    differences = _differences(*(_without(fields, _IGNORED_MODEL_FIELDS) for fields in both))
    if differences:
        raise ValueError(
            f"{name!r}: {folder} was trained with another model: {'; '.join(differences)}"
        )


def check_same_vocabulary(name: str, fingerprint: str, folder: Path) -> None:
    """Raises ValueError if a run (a teacher, or what a run starts from) had another vocabulary.

    An imported model goes with and without its chat template, a trained one only as it was trained.
    """
    config = checkpoints.config_of(folder)
    theirs = config["vocabulary_fingerprint"]
    if theirs != fingerprint:
        same_ids = chat_template.ids_part(theirs) == chat_template.ids_part(fingerprint)
        if not (same_ids and _IMPORTED in config):
            chats = "; the same ids, but not the same chat template: see chat_template" * same_ids
            raise ValueError(
                f"run {name!r}: vocabularies differ: its data has {fingerprint}, the run in "
                f"{folder} was trained with {theirs}{chats}"
            )
    if chat_template.is_marked(fingerprint):
        families.check_reads_chats(model_in(folder))
