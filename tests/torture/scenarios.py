"""What the kill torture runs and kills: tiny commands, their folders, and what must come out."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

STEPS, EVERY = 12, 3
_CLOCK = ("seconds", "goodput", "per_second", "utilisation")  # in names of figures that vary


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command on a folder of its own that already holds `teacher` and `student`.

    Attributes:
      run: does the command, given the folder.
      result: what is compared, given the folder: bitwise, and where nothing depends on time.
      made: what the command makes in the folder; deleted before it begins anew.
    """

    run: Callable[[Path], None]
    result: Callable[[Path], dict]
    made: str


def settings() -> dict:
    """Configs that the scenarios share; imports what they need."""
    import tasks.demo  # noqa: F401
    from cascade_jax.data import pipeline
    from cascade_jax.models.config import DecoderConfig
    from cascade_jax.parallel.mesh import MeshConfig
    from cascade_jax.runs.saved_model import CascadeRuns
    from tests.support import fakes

    data = pipeline.DataConfig("demo_last_v1", 12, 6, batch_size=8, cache_rows=0)
    small = fakes.t5_config(8, vocab_size=384, num_heads=2, mlp_dim=8, dropout_rate=0.1)
    return {
        "data": data,
        "packed": dataclasses.replace(data, architecture="prefix_lm", pack=True),
        "student": small,
        "teacher": dataclasses.replace(small, embed_dim=16, dropout_rate=0.0),
        "decoder": DecoderConfig(384, 8, 2, 2, 2, 4, 12, dropout_rate=0.1),
        "mesh": MeshConfig(data=1),
        "cascade": lambda folder: CascadeRuns(
            str(folder), ["student"], ["teacher"], data, mesh=MeshConfig(data=1)
        ),
    }


def prepare(folder: Path) -> None:
    """Makes the runs that scenarios read, of random parameters, and a teacher cache."""
    from cascade_jax.data import pipeline
    from cascade_jax.models import families
    from cascade_jax.runs import checkpoints, run_folder

    shared = settings()
    fingerprint = pipeline.open_mixture(shared["data"]).fingerprint
    for seed, name in enumerate(("student", "teacher")):
        params = families.initialize(families.build(shared[name]), jax.random.key(seed))
        source = {"from": "torture"}
        config = run_folder.write_imported(folder / name, shared[name], fingerprint, source)
        checkpoints.save_parameters(folder / name, params, config)
    _cache_teacher(folder)


def _train(**changes) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from cascade_jax.losses import variants
        from cascade_jax.models.lora import Lora
        from cascade_jax.runs.start import FromRun
        from cascade_jax.training import experiment, train
        from cascade_jax.training.optimizers import Adafactor

        shared, options = settings(), dict(changes)
        fields = {
            "model": shared["student"],
            "data": shared["data"],
            "loss": variants.CATDist(),
            "teacher": shared["teacher"],
            "teacher_run": "teacher",
            "optimizer": Adafactor(0.05, warmup_steps=2),
        }
        if options.pop("packed", False):
            fields |= {"model": shared["decoder"], "data": shared["packed"]}
            fields |= {"loss": variants.Xent(), "teacher": None, "teacher_run": None}
        if options.pop("lora", False):
            fields |= {"start": FromRun("student"), "lora": Lora(rank=2)}
            optimizer = Adafactor(0.05, warmup_steps=2, multiply_by_parameter_scale=False)
            fields |= {"optimizer": optimizer}
        if options.pop("cached", False):
            fields |= {"teacher_cache": str(folder / "cache")}
        every = {"checkpoint_every": EVERY, "eval_every": EVERY, "log_every": 1, "eval_batches": 1}
        trained = experiment.TrainRun("run", **fields, steps=STEPS, **every, **options)
        config = experiment.TrainConfig([trained], str(folder), shared["mesh"])
        train.check(config)
        train.train(config)

    return run


def _trained(folder: Path) -> dict:
    """The last checkpoint's arrays, figures of every step, and TensorBoard's, each step once."""
    from cascade_jax.runs import checkpoints
    from tests.support import saved

    run = folder / "run"
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    figures = [
        {key: value for key, value in line.items() if not any(word in key for word in _CLOCK)}
        for line in lines
    ]
    drawn = [
        (step, sorted(tag for tag in tags if not any(word in tag for word in _CLOCK)))
        for step, tags in events(run / "tensorboard")
    ]
    arrays = saved.arrays(run / "checkpoints" / str(STEPS))
    # A run killed after its last save may keep an older checkpoint more: it is not chosen.
    best = checkpoints.chosen_step(run, "best")
    return arrays | {"metrics.jsonl": figures, "TensorBoard": drawn, "best": best}


def events(folder: Path) -> list[tuple[int, list[str]]]:
    """(step, tags) of all summaries of a folder of event files, in the order of the files."""
    from tensorboardX.proto import event_pb2

    summaries = []
    for file in sorted(folder.iterdir()):
        data, begin = file.read_bytes(), 0
        while begin < len(data):
            length = int.from_bytes(data[begin : begin + 8], "little")
            event = event_pb2.Event.FromString(data[begin + 12 : begin + 12 + length])
            if event.HasField("summary"):
                summaries.append((event.step, [value.tag for value in event.summary.value]))
            begin += 12 + length + 4
    return sorted(summaries)


def _collect(folder: Path) -> None:
    from cascade_jax.collection import collect, samples

    drawn = samples.SampleConfig(count=2, temperature=0.8, models=("student", "teacher"))
    cascade = settings()["cascade"](folder)
    collect.collect(collect.CollectConfig(cascade, limit=24, top_k=4, samples=drawn))


def _records(folder: Path) -> dict:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "records" / "validation" / "student.parquet")
    clocks = [name for name in table.column_names if "seconds" in name]
    return {"table": table.drop(clocks).to_pydict(), "metadata": table.schema.metadata}


def _calibrate(folder: Path) -> None:
    from cascade_jax.calibration import calibrate, config, token_pool

    live = token_pool.LiveSource(settings()["cascade"](folder), limit=40, metrics=["chrf"])
    sizes = {"first_size": 8, "second_size": 12, "grid_size": 6, "search": "grid"}
    promise = {"alphas": (0.5, 0.7), "delta": 0.4, "baselines": False}
    calibrate.calibrate(config.CalibrateConfig(live, **sizes, **promise))


def _calibration(folder: Path) -> dict:
    files = sorted((folder / "calibration" / "student").rglob("*.json"))
    return {file.name: file.read_text() for file in files}


def _cache_teacher(folder: Path, name: str = "cache") -> None:
    from cascade_jax.teacher_cache import make

    cascade = settings()["cascade"](folder)
    config = make.CacheConfig(
        str(folder / name), cascade, top_k=4, eval_batches=1, batch_size=512, shard_rows=2048
    )
    make.check(config)
    make.make(config)


def _cache(folder: Path) -> dict:
    files = {file.name: file for file in (folder / "cache").iterdir() if file.suffix != ".lock"}
    held = {name: file.read_bytes() for name, file in files.items() if file.suffix != ".npz"}
    for name, file in files.items():
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                held |= {f"{name}/{key}": arrays[key] for key in arrays}
    return held


SCENARIOS = {
    "train_live": Scenario(_train(), _trained, "run"),
    "train_cache": Scenario(_train(cached=True), _trained, "run"),
    "train_lora": Scenario(_train(lora=True), _trained, "run"),
    "train_microbatches": Scenario(_train(microbatches=2), _trained, "run"),
    "train_packed": Scenario(_train(packed=True), _trained, "run"),
    "collect": Scenario(_collect, _records, "records"),
    "calibrate": Scenario(_calibrate, _calibration, "calibration"),
    "cache_teacher": Scenario(_cache_teacher, _cache, "cache"),
}


def begin_anew(folder: Path, prepared: Path, scenario: Scenario) -> None:
    """The folder as it is before the command's first start."""
    shutil.rmtree(folder / scenario.made, ignore_errors=True)
    for source in prepared.iterdir():
        if source.name != scenario.made and not (folder / source.name).exists():
            shutil.copytree(source, folder / source.name)
