"""Readers of a run's folder, and of what commands keep beside it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.container_mutations import change_zip
from tests.fuzz.json_mutations import JSON, JSONL, change_bytes, change_json, change_text
from tests.fuzz.model_readers import check_parameters, t5_config
from tests.fuzz.reader import Reader, command, other_folder, write_json, write_lines

_MIXTURE = "demo_last_v1"
_DATA = {"mixture": _MIXTURE, "input_length": 12, "target_length": 8, "batch_size": 4}


@functools.cache
def _mesh() -> Any:
    import jax

    from cascade_jax.parallel.mesh import MeshConfig

    return MeshConfig(data=1).build(jax.devices()[:1])


@functools.cache
def _experiment_run(lora: bool = False) -> Any:
    from cascade_jax.data import pipeline
    from cascade_jax.losses import variants
    from cascade_jax.models.lora import Lora
    from cascade_jax.runs import start
    from cascade_jax.training.experiment import TrainRun
    from cascade_jax.training.optimizers import Adafactor

    more = {"lora": Lora(rank=2), "start": start.FromRun("xent")} if lora else {}
    return TrainRun(
        name="adapted" if lora else "xent",
        model=t5_config(),
        data=pipeline.DataConfig(**_DATA),
        loss=variants.Xent(),
        optimizer=Adafactor(learning_rate=1e-3),
        steps=4,
        **more,
    )


@functools.cache
def _programs(lora: bool = False) -> Any:
    from cascade_jax.training.programs import Programs

    return Programs(_experiment_run(lora), _mesh())


@functools.cache
def _batches() -> Any:
    import tasks.demo  # noqa: F401  (registers its tasks)
    from cascade_jax.data import pipeline
    from cascade_jax.parallel import rules

    return pipeline.train_batches(pipeline.DataConfig(**_DATA), rules.batch_sharding(_mesh()))


def _make_run(folder: Path, lora: bool = False) -> None:
    """A run at its end, with two checkpoints of equal parameters, as `train` leaves it."""
    import jax

    from cascade_jax import metrics
    from cascade_jax.runs import checkpoints, parameters, run_folder

    run, programs = _experiment_run(lora), _programs(lora)
    identity = {"vocabulary_fingerprint": "byte-259", "data_fingerprints": {}}
    identity |= {"teacher_saved": None, "teacher_cache_fingerprint": None}
    if lora:
        _make_run(folder)
        identity |= parameters.base_identity(run.name, run.start, folder)
    config = run_folder.describe(run) | identity
    place = folder / run.name
    run_folder.claim(place, config)
    store = checkpoints.CheckpointStore(place)
    state = programs.initialize(jax.random.key(0))
    for step, accuracy in ((2, 0.5), (4, 0.25)):
        figures = {metrics.STUDENT_ACCURACY: accuracy, "loss": 1.0 / step}
        state = state.replace(step=state.step * 0 + step)
        store.save(step, state, _batches().get_state(), config, figures)
    store.close()
    write_lines(
        place / "metrics.jsonl", [{"step": s, "split": "train", "loss": 0.5} for s in (2, 4)]
    )


def _restore(folder: Path) -> Any:
    """As `cascade-jax train` goes on."""
    from cascade_jax.runs import checkpoints

    store = checkpoints.CheckpointStore(folder / "xent")
    try:
        step = store.last_step()
        if step is None:
            raise checkpoints.CheckpointError(f"{folder / 'xent'} holds no checkpoint")
        state, position = store.restore(step, _programs().abstract_state)
    finally:
        store.close()
    try:
        _batches().set_state(position)
    except ValueError as error:
        raise checkpoints.CheckpointError(f"checkpoint {step} of {folder}: {error}") from error
    # Both checkpoints hold these; a newest one that is not whole is passed over.
    return state.params, state.opt_state, next(_batches())


def _load(folder: Path) -> Any:
    """As a teacher, or for `collect`."""
    from cascade_jax.models import families
    from cascade_jax.runs import checkpoints, parameters, run_folder, saved_model

    run = _experiment_run()
    run_folder.check_same_vocabulary("student", "byte-259", folder / "xent")
    checkpoints.check_finished("student", folder / "xent")
    module = families.build(run.model)
    options = (folder / "xent", "best", _mesh(), "byte-259")
    params = parameters.load_teacher("student", module, *options)
    model = saved_model.SavedModel(str(folder), "xent", "best")
    model.check(_mesh())
    assert model.identity
    return params


def _go_on(folder: Path) -> None:
    """What a start compares with the config.json that is there."""
    from cascade_jax.runs import run_folder

    run = _experiment_run()
    identity = {"vocabulary_fingerprint": "byte-259", "data_fingerprints": {}}
    identity |= {"teacher_saved": None, "teacher_cache_fingerprint": None}
    run_folder.check(folder / "xent", run_folder.describe(run) | identity)


def _export(folder: Path) -> None:
    with other_folder(folder) as written:
        command("export", "--to", "hf", "--run", folder / "xent", "--out", written / "out")


def _load_adapted(folder: Path) -> None:
    check_parameters(folder / "adapted")


# ---------------------------------------------------------------- logs, locks, positions


def _logs(folder: Path) -> None:
    rows = [
        {"step": s, "split": "train", "loss": 0.5, "productive_seconds": 1.5} for s in (1, 2, 3)
    ]
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "starts.jsonl", [{"time": 1e9, "step": 0}, {"time": 1e9 + 9, "step": 2}])
    write_lines(folder / "skipped.jsonl", [{"step": 1}, {"step": 3}])


def _report(folder: Path) -> None:
    from cascade_jax.training import reporting, skipping

    reporter = reporting.Reporter(folder, "run", 2, 6)
    try:
        skipping.SkippedSteps(folder, 2, True).add([4])
        reporter.train(3, 1, {"target_tokens": 8.0, "loss": 0.5})
    finally:
        reporter.close()


def _lock(folder: Path) -> None:
    owner = {"host": "another", "process": 7, "started": "12", "token": "0f", "beats": 3}
    write_json(folder / "lock.json", owner)


def _take_lock(folder: Path) -> None:
    from cascade_jax.runs import folder_lock

    folder_lock.WAIT_SECONDS = 0.4
    with folder_lock.FolderLock(folder) as lock:
        lock.check()


def _position(folder: Path) -> None:
    (folder / "position").write_bytes(_batches().get_state())


def _go_to(folder: Path) -> Any:
    _batches().set_state((folder / "position").read_bytes())
    return [next(_batches()) for _ in range(2)]


def _gin_file(folder: Path) -> None:
    from tests.support import tiny_demo

    text = tiny_demo.gin_text('BATCH_SIZE = 8\nWARMUP_STEPS = 1\nONLY = ["teacher"]\n')
    (folder / "tiny.gin").write_text(text)


def _gin(module: str) -> Callable[[Path], None]:
    """A command's config, built and not run."""

    def read(folder: Path) -> None:
        import gin

        from cascade_jax.cli import commands

        name = f"--gin.OUTPUT_DIR='{folder}/runs'"
        real = commands.module_of(module)
        run, check = real.run, getattr(real, "check", None)
        real.run = lambda config: None
        if check is not None:
            del real.check
        try:
            command(module, f"--gin_file={folder}/tiny.gin", name)
        finally:
            real.run = run
            if check is not None:
                real.check = check
            gin.clear_config(clear_constants=True)

    return read


def readers() -> list[Reader]:
    """All of them."""
    every = {"xent/checkpoints/**/*": (change_bytes, change_json)}
    json_files = {
        "xent/checkpoints/*/_CHECKPOINT_METADATA": JSON,
        "xent/checkpoints/*/metrics/*": JSON,
        "xent/checkpoints/*/state/_METADATA": JSON,
        "xent/checkpoints/*/state/_sharding": JSON,
    }
    config = {"xent/config.json": JSON}
    lora = functools.partial(_make_run, lora=True)
    adapted = {"adapted/config.json": JSON, "adapted/checkpoints/**/_METADATA": JSON}
    return [
        Reader("checkpoint.restore", _make_run, _restore, every | json_files, 1.5, True),
        Reader("checkpoint.load", _make_run, _load, every | json_files, 1.5, True),
        Reader("run.config", _make_run, _load, config, 1.5),
        Reader("run.go_on", _make_run, _go_on, config, 1),
        Reader("run.export", _make_run, _export, config | json_files, 0.7),
        Reader("run.lora", lora, _load_adapted, adapted | config, 0.7),
        Reader("logs", _logs, _report, {"*.jsonl": JSONL}, 2),
        Reader("lock", _lock, _take_lock, {"lock.json": JSON}, 0.5, names_a_file=False),
        Reader("position", _position, _go_to, {"position": (change_zip,)}, 0.5, True, False),
        Reader("gin.train", _gin_file, _gin("train"), {"*.gin": (change_text,)}, 2),
        Reader("gin.collect", _gin_file, _gin("collect"), {"*.gin": (change_text,)}, 0.5),
    ]
