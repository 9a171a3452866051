"""The identity of a teacher cache: which teacher, which data; compared with those of a run."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cascade_jax.data import example_keys, features, pipeline
from cascade_jax.losses import variants
from cascade_jax.models import families
from cascade_jax.parallel import hosts
from cascade_jax.runs import checkpoints, parameters, run_folder
from cascade_jax.teacher_cache.format import Holding
from cascade_jax.teacher_cache.shards import (
    FINGERPRINT,
    TeacherCacheError,
    read_complete,
    read_json,
)

if TYPE_CHECKING:  # see data/mixtures.py
    import seqio

FORMAT = 1  # of the files
# A teacher's outputs do not depend on these.
_IGNORED_MODEL_FIELDS = ("dropout_rate", "remat", "scan_layers", "query_chunk")
_SAMPLE = 8  # examples of each task that must be the same at the start
_NOT_COMPARED = ("teacher.folder", "teacher.parameters", "version")


class CacheUser(Protocol):
    """What is needed of a run that reads a teacher cache; a TrainRun has it, see there."""

    name: str
    data: pipeline.DataConfig
    loss: variants.Loss
    teacher: families.ModelConfig
    teacher_run: str
    teacher_checkpoint: str
    teacher_cache: str
    eval_split: str | None
    eval_batches: int


@dataclasses.dataclass(frozen=True)
class _Teacher:
    folder: str
    model: dict[str, Any]
    step: int | None
    saved_at: int | str | None
    parameters: str | None = None


@dataclasses.dataclass(frozen=True)
class _Data:
    mixture: str
    input_length: int
    target_length: int
    architecture: str
    vocabulary: str
    rows: dict[str, Any]
    examples: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Fingerprint:
    """The fields of fingerprint.json.

    Attributes:
      format, version: of the files, and of cascade_jax that wrote them.
      holding: what is kept of a token.
      teacher, data: see `teacher_identity` and `data_identity`.
      eval_rows: rows of the held-out split.
      batch_size, shard_rows: how the rows were divided.
      limit: rows of each task of the training split; None for all.
      pack: whether examples shared rows, which changes how they were divided.
    """

    format: int
    version: str
    holding: Holding
    teacher: _Teacher
    data: _Data
    eval_rows: int
    batch_size: int
    shard_rows: int
    limit: int | None = None
    pack: bool | None = None


def read_fingerprint(folder: Path) -> dict[str, Any] | None:
    """fingerprint.json; None if it is not there.

    Raises:
      TeacherCacheError: the file, and what is wrong with it.
    """
    return read_json(folder, FINGERPRINT, _Fingerprint)


def command(folder: str | Path, top_k: int | None = None) -> str:
    """How a cache is made, for messages."""
    more = f" --gin.CACHE_TOP_K={top_k}" if top_k is not None else ""
    return (
        "`cascade-jax cache-teacher` with the gin files and flags of this run"
        f" and --gin.TEACHER_CACHE=\"'{folder}'\"{more}"
    )


def making_flags(there: Mapping[str, Any]) -> str:
    """The flags that a cache was begun with, for messages."""
    holding = there["holding"]
    return (
        f"--gin.CACHE_TOP_K={holding['top_k']} --gin.CACHE_DTYPE=\"'{holding['dtype']}'\""
        f" --gin.CACHE_LABEL_LOG_PROBS={holding['label_log_probs']}"
        f" --gin.CACHE_BATCH_SIZE={there['batch_size']}"
        f" --gin.CACHE_SHARD_ROWS={there['shard_rows']} --gin.CACHE_LIMIT={there.get('limit')}"
        + " --gin.PACK=True"
        * bool(there.get("pack"))
    )


def teacher_identity(config: families.ModelConfig, folder: Path, choice: str) -> dict[str, Any]:
    """A teacher's model and checkpoint; step and time are None where its run is not there."""
    saved_at = parameters.saved_at(folder, choice)
    step = None if saved_at is None else checkpoints.chosen_step(folder, choice)
    model = run_folder.describe(config)
    kept = {key: value for key, value in model.items() if key not in _IGNORED_MODEL_FIELDS}
    return {"folder": str(folder.absolute()), "model": kept, "step": step, "saved_at": saved_at}


def data_identity(
    data: pipeline.DataConfig, mixture: pipeline.OpenMixture, splits: Sequence[str]
) -> dict[str, Any]:
    """The examples that a run reads of these splits, the first of which is trained on.

    Raises:
      ValueError: a task makes its examples anew each time around, so that none can be kept.
    """
    first = {}
    for name, task in mixture.tasks_with(splits[0]).items():
        first[name] = _first(task, data, splits[0], seed=0)
        takes_seed = features.parameters_of(task.preprocessors) & {"seed", "seeds"}
        if takes_seed or _first(task, data, splits[0], seed=1) != first[name]:
            raise TeacherCacheError(
                f"task {name!r} of mixture {mixture.name!r} makes other examples of its rows each "
                "time around, by a random seed; no cache can hold them. Train with the teacher "
                "itself (no TEACHER_CACHE), or leave the task out"
            )
    fields = ("mixture", "input_length", "target_length", "architecture")
    return {
        **{field: getattr(data, field) for field in fields},
        "vocabulary": mixture.fingerprint,
        "rows": {split: mixture.data_fingerprints(split) for split in splits},
        "examples": first,
    }


def _first(task: "seqio.Task", data: pipeline.DataConfig, split: str, seed: int) -> str:
    """A hash of a task's first examples: that of another prompt is another."""
    trim = features.sequence_length(data.input_length, data.target_length)
    rows = task.get_dataset(trim, split=split, shuffle=False, seed=seed, try_in_mem_cache=False)
    rows = features.converter(architecture=data.architecture)(rows.take(_SAMPLE), trim)
    examples_hash = hashlib.sha256()
    for batch in rows.batch(_SAMPLE).as_numpy_iterator():
        for example in example_keys.examples_of(batch, data.architecture):
            examples_hash.update(example.key)
    return examples_hash.hexdigest()[:16]


def digest(fingerprint: Mapping[str, Any]) -> str:
    """A short hash of what is compared."""
    text = json.dumps(_compared(fingerprint), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _compared(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON, as what was read from a file has gone.
    facts = hosts.flat(json.loads(json.dumps(fingerprint)))
    return {key: value for key, value in facts.items() if key not in _NOT_COMPARED}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs, as text: `teacher.step is 400 there and 500 here`."""
    theirs, ours = _compared(there), _compared(here)
    return [
        f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]


def check_run(run: CacheUser, output_dir: Path, mixture: pipeline.OpenMixture) -> dict[str, Any]:
    """The fingerprint of the cache of a run.

    It must be of the run's teacher and data, and hold enough for its loss.

    Raises:
      TeacherCacheError: says what is wrong and how to make the right one.
    """
    folder = Path(run.teacher_cache)
    label = f"run {run.name!r}: teacher cache {folder}"
    there = read_fingerprint(folder)
    if there is None:
        raise TeacherCacheError(f"{label} is not there; make it: {command(folder)}")
    teacher_folder = run_folder.resolve(output_dir, run.teacher_run)
    splits = ["train", *{run.eval_split} - {None, "train"}]
    here = {
        "format": FORMAT,
        "teacher": teacher_identity(run.teacher, teacher_folder, run.teacher_checkpoint),
        "data": data_identity(run.data, mixture, splits),
    }
    compared = {key: there[key] for key in here if key in there}
    if here["teacher"]["saved_at"] is None:  # its run is elsewhere; the cache knows which it was
        here["teacher"] |= {key: there["teacher"][key] for key in ("step", "saved_at")}
    missing = sorted(set(splits) - set(compared.get("data", {}).get("rows", splits)))
    if missing:
        raise TeacherCacheError(
            f"{label} holds nothing of split {missing[0]!r}; make one that does: {command(folder)}"
        )
    if "data" in compared:  # splits that this run does not read
        rows = {split: compared["data"]["rows"][split] for split in splits}
        compared["data"] = compared["data"] | {"rows": rows}
    different = differences(compared, here)
    if different:
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise TeacherCacheError(
            f"{label} is that of another run: {'; '.join(different[:3])}{more}. Name this run's "
            "TEACHER_CACHE, or make it in another folder: " + command(f"{folder}_2")
        )
    _check_holds(run, label, there)
    if (limit := there.get("limit")) is not None:
        raise TeacherCacheError(
            f"{label} is a part, made with CACHE_LIMIT: it holds the first {limit} rows of "
            f"each task, and training reads all; make the whole: {command(f'{folder}_whole')} "
            "--gin.CACHE_LIMIT=None"
        )
    if read_complete(folder) is None:
        raise TeacherCacheError(
            f"{label} is not finished; finish it: {command(folder)} {making_flags(there)}"
        )
    return there


def _check_holds(run: CacheUser, label: str, there: Mapping[str, Any]) -> None:
    folder = Path(run.teacher_cache)
    lacking = Holding(**there["holding"]).lacks(run.loss.teacher_need)
    if lacking is not None:
        raise TeacherCacheError(
            f"{label} holds only whether the teacher is right, and {type(run.loss).__name__} needs "
            f"{lacking}; make one that holds it: {command(f'{folder}_top_64', 64)}"
        )
    rows = run.eval_batches * run.data.batch_size
    if run.eval_split is not None and there["eval_rows"] < rows:
        raise TeacherCacheError(
            f"{label} holds {there['eval_rows']} rows of split {run.eval_split!r}, and this run "
            f"evaluates on {rows} (eval_batches {run.eval_batches} * batch_size "
            f"{run.data.batch_size}); make one with as many: {command(f'{folder}_2')}"
        )


def text_of(mixture: pipeline.OpenMixture, example: example_keys.PlacedExample) -> str:
    """An example in words, for messages: the beginnings of its input and target."""
    shown = []
    for name, ids in (("inputs", example.inputs), ("targets", example.targets)):
        text = mixture.vocabulary.decode(list(itertools.islice(map(int, ids), 60)))
        shown.append(f"{name} {text[:80]!r}")
    return " and ".join(shown)
