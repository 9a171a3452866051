"""Examples and tokens a second of the input pipeline alone, beside what a training step takes.

    python tests/benchmarks/pipeline.py --data_dir=../shared/data

Ten tasks of a data folder in one mixture, at input 512 and target 128, on a SentencePiece
vocabulary that is trained on their text first. The step is that of the students of
gin/experiments/local_multitask.gin with their teacher, on batches that lie ready. Tokens are those
that are not padding, of inputs and targets together, in both cases.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "host_platform_device_count" not in flag]
    os.environ["XLA_FLAGS"] = " ".join([*flags, "--xla_force_host_platform_device_count=1"])
    os.environ.pop("NPROC", None)  # XLA's threads: one a core

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import seqio  # noqa: E402

import tasks.all  # noqa: E402, F401  (registers the tasks)
from cascade_jax.cli import gin_config  # noqa: E402
from cascade_jax.data import pipeline, sources, token_cache  # noqa: E402
from cascade_jax.data.vocabulary import load, training  # noqa: E402
from cascade_jax.models import families  # noqa: E402
from cascade_jax.parallel import rules  # noqa: E402
from cascade_jax.runs import state  # noqa: E402
from cascade_jax.training import experiment, step  # noqa: E402
from tests.benchmarks.loss_head import table  # noqa: E402

MIXTURE = "benchmark_ten_tasks"
TASKS = (
    "cascade_superglue_boolq_v1",
    "cascade_superglue_multirc_v1",
    "cascade_superglue_rte_v1",
    "cascade_flan2021_ag_news_subset_v1",
    "cascade_flan2021_common_gen_v1",
    "cascade_flan2021_cosmos_qa_v1",
    "cascade_flan2021_natural_questions_v1",
    "cascade_flan2021_squad_v1_v1",
    "cascade_wmt22_ru_en_v1",
    "cascade_xsum_xsum_v1",
)
VOCAB_SIZE = 32_000
WANTED = 5  # times the tokens that the step takes
EXPERIMENT = "gin/experiments/local_multitask.gin"
STEPS = 20


def add_mixture() -> None:
    """Registers the ten tasks in proportion to their rows."""

    def rate(task: seqio.Task) -> float:
        return float(task.num_input_examples("train"))

    seqio.MixtureRegistry.add(MIXTURE, list(TASKS), default_rate=rate)


def train_vocabulary(mixture: str, size: int, folder: Path) -> str:
    """A vocabulary of so many ids, or as many as the text gives."""
    prefix = str(folder / mixture)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            training.train_sentencepiece(mixture, prefix, size)
        except ValueError as error:
            most = str(error).rpartition("at most ")[2]
            if not most.isdigit():
                raise
            training.train_sentencepiece(mixture, prefix, int(most))
    return f"{prefix}.model"


######################################## The pipeline ########################################


def tokens_of(batch: dict[str, np.ndarray]) -> int:
    """Tokens of a batch that are not padding."""
    names = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(np.count_nonzero(batch[name]) for name in names)


def examples_of(batch: dict[str, np.ndarray]) -> int:
    """Examples of a batch, packed or not."""
    segments = batch.get("decoder_segment_ids")
    return len(batch["decoder_target_tokens"]) if segments is None else segments.max(axis=1).sum()


def pipeline_row(config: pipeline.DataConfig, name: str, seconds: float) -> dict:
    """Opens the pipeline, and takes batches for so many seconds after a few to warm up."""
    start = time.perf_counter()
    batches = pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
    next(batches)
    opened = time.perf_counter() - start
    for _ in range(10):
        next(batches)
    tokens = examples = 0
    start = time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        batch = next(batches)
        tokens += tokens_of(batch)
        examples += examples_of(batch)
    return {
        "name": name + (", packed" if config.pack else ""),
        "opened": opened,
        "examples": examples / taken,
        "tokens": tokens / taken,
    }


def pipeline_rows(data_dir: str, vocabulary_path: str, folder: Path, seconds: float) -> list[dict]:
    """Packed and not: without the cache, and with it, first filling it and then from its files."""
    rows = []
    for pack in (False, True):
        config = pipeline.DataConfig(
            MIXTURE, 512, 128, 32, vocabulary=vocabulary_path, data_dir=data_dir, pack=pack,
            cache_rows=0,
        )  # fmt: skip
        rows.append(pipeline_row(config, "pipeline, no cache", seconds))
        kept = {"cache_rows": 50_000, "cache_dir": str(folder / f"cache_{pack}")}
        for name in ("pipeline, cache being filled", "pipeline, cache from files"):
            token_cache._in_memory.clear()
            config = dataclasses.replace(config, **kept)
            rows.append(pipeline_row(config, name, seconds))
    return rows


########################################## The step ##########################################


def step_row(run: experiment.TrainRun, mesh: jax.sharding.Mesh) -> dict:
    """Times the updates of one run, its teacher having parameters as they are initialised."""
    batches = pipeline.train_batches(run.data, rules.batch_sharding(mesh))
    ready = [next(batches) for _ in range(STEPS)]
    student, optimizer = families.build(run.model), run.optimizer.build()
    abstract = state.abstract_state(student, optimizer, mesh)
    current = state.initialize(student, optimizer, jax.random.key(0), abstract)
    teacher = teacher_params = None
    if run.teacher is not None:
        teacher = families.build(run.teacher)
        shapes = state.abstract_state(teacher, optimizer, mesh)
        teacher_params = state.initialize(teacher, optimizer, jax.random.key(1), shapes).params
    loss_fn = step.make_loss_fn(student, teacher, run.loss, head=run.head, mesh=mesh)
    schedule = run.optimizer.learning_rate_schedule()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    update = step.make_train_step(loss_fn, optimizer, schedule, shardings, mesh, run.microbatches)
    key = jax.random.key(2)
    for batch in ready[:3]:
        current, _ = update(current, teacher_params, batch, key)
    jax.block_until_ready(current)
    start = time.perf_counter()
    for batch in ready:
        current, _ = update(current, teacher_params, batch, key)
    jax.block_until_ready(current)
    taken = time.perf_counter() - start
    tokens = sum(int((b.inputs > 0).sum() + (b.targets > 0).sum()) for b in ready)
    examples = STEPS * run.data.batch_size
    return {"name": f"step, {run.name}", "examples": examples / taken, "tokens": tokens / taken}


def step_rows(data_dir: str, folder: Path) -> list[dict]:
    """The steps of the experiment's students, as its gin file says."""
    path = train_vocabulary("local_multitask_v1", 4096, folder)
    config = gin_config.parse(
        "cascade_jax.training.experiment.TrainConfig",
        [
            f"--gin_file={ROOT / EXPERIMENT}",
            f"--gin.DATA_DIR={data_dir!r}",
            f"--gin.VOCABULARY={path!r}",
            f"--gin.OUTPUT_DIR={str(folder)!r}",
        ],
    )
    mesh = config.mesh.build()
    return [step_row(run, mesh) for run in config.runs if run.name != "teacher"]


########################################## The table ##########################################

COLUMNS: dict[str, Callable[[dict], str]] = {
    "what": lambda row: row["name"],
    "first batch after": lambda row: f"{row['opened']:.1f} s" if "opened" in row else "",
    "examples/s": lambda row: f"{row['examples']:,.0f}",
    "tokens/s": lambda row: f"{row['tokens']:,.0f}",
}


def main(argv: list[str] | None = None) -> int:
    """Prints the table; the status is 1 if the pipeline is too slow."""
    default = os.environ.get("CASCADE_JAX_TEST_DATA", str(ROOT.parent / "shared/data"))
    flags = argparse.ArgumentParser(description="Times the input pipeline.")
    flags.add_argument("--data_dir", default=default, help="folder of <task>/<split>.jsonl files")
    flags.add_argument("--seconds", type=float, default=8.0, help="of each timing of the pipeline")
    args = flags.parse_args(argv)
    if not Path(args.data_dir).is_dir():
        flags.error(f"data folder {args.data_dir!r} does not exist; give --data_dir")
    logging.getLogger("absl").setLevel(logging.ERROR)
    sources.set_data_dir(args.data_dir)
    add_mixture()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = train_vocabulary(MIXTURE, VOCAB_SIZE, folder)
        size = load.load_vocabulary(path).vocab_size
        taken = step_rows(args.data_dir, folder)
        arguments = pipeline_rows(args.data_dir, path, folder, args.seconds)
    print(f"{len(TASKS)} tasks, vocabulary of {size}, input 512, target 128, batches of 32\n")
    print(table([*arguments, *taken], COLUMNS))
    slowest = min(row["tokens"] for row in arguments)
    fastest = max(row["tokens"] for row in taken)
    print(
        f"\nthe slowest pipeline gives {slowest / fastest:.1f} times the tokens of the fastest "
        f"step; {WANTED} are wanted"
    )
    return int(slowest < WANTED * fastest)


if __name__ == "__main__":
    sys.exit(main())
