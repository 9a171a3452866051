"""Decoding a split with both models into records tables, one per student."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Float, Int

from cascade_jax.data import pipeline
from cascade_jax.evaluation import quality, records
from cascade_jax.inference import generate
from cascade_jax.models import flops, pair, t5
from cascade_jax.models.config import T5Config
from cascade_jax.parallel import rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.training import checkpoints, run_folder, state


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Which models answer which split.

    Attributes:
      experiment_dir: the output folder of `cascade-jax train`.
      students: names of runs in it (or folders of runs), each with a records table of its own.
      student: config of the students.
      teacher: config of the teacher.
      teacher_run: name or folder of the teacher's run.
      data: mixture, lengths, vocabulary; its batch_size is the rows decoded at once.
      split: which split of every task.
      limit: at most so many examples of a task; None for all.
      checkpoint: "best" or "last" of every run.
      mesh: the device mesh.
    """

    experiment_dir: str
    students: Sequence[str]
    student: T5Config
    teacher: T5Config
    teacher_run: str
    data: pipeline.DataConfig
    split: str = "validation"
    limit: int | None = None
    checkpoint: str = "best"
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        folder = self.experiment_dir
        if not folder or not isinstance(folder, str):
            raise ValueError(f"experiment_dir is {folder!r}; must be the path of a folder")
        pair.ModelPair(student=self.student, teacher=self.teacher)
        if self.checkpoint not in checkpoints.CHOICES:
            raise ValueError(f"checkpoint {self.checkpoint!r} is not in {checkpoints.CHOICES}")
        if not self.students:
            raise ValueError("students is empty; name at least one run")

    @property
    def output_dir(self) -> str:
        """Where the tables go: `<experiment_dir>/records/<split>`."""
        return str(Path(self.experiment_dir) / "records" / self.split)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one model answered to n examples; lists hold the end of sequence too."""

    tokens: list[Int[np.ndarray, " _"]]
    log_probs: list[Float[np.ndarray, " _"]]
    entropies: list[Float[np.ndarray, " _"]]
    texts: list[str]
    metrics: list[str]  # name of the quality of each example
    quality: Float[np.ndarray, " n"]  # in [0, 1]


def collect(config: CollectConfig) -> list[Path]:
    """Writes a records table for every student; the teacher answers once for all of them.

    A table that is already there for the same checkpoints and examples is kept.

    Returns:
      The files.

    Raises:
      ValueError: for runs on another vocabulary, checkpoints that do not fit, an unknown split.
    """
    mesh = config.mesh.build()
    rules.check_batch_size("batch_size", config.data.batch_size, mesh)
    mixture = pipeline.open_mixture(config.data)
    teacher = _Model(config, "teacher", config.teacher, config.teacher_run)
    students = [_Model(config, name, config.student, name) for name in config.students]
    for model in (teacher, *students):
        run_folder.check_same_vocabulary(model.name, mixture.fingerprint, model.folder)
        model.check(mesh)

    data_fingerprints = mixture.data_fingerprints(config.split)
    files, missing = [], []
    for student in students:
        file = Path(config.output_dir) / f"{student.name}.parquet"
        metadata = _metadata(config, student, teacher, data_fingerprints)
        files.append(file)
        if _is_up_to_date(file, metadata):
            print(f"{student.name}: {file} is up to date")
        else:
            missing.append((student, file, metadata))
    if not missing:
        return files

    examples = []
    for task in mixture.tasks_with(config.split):
        examples += pipeline.decode_examples(config.data, task, config.split, config.limit)
    teacher_answers = answer(teacher, examples, mixture, config.data, mesh)
    for student, file, metadata in missing:
        student_answers = answer(student, examples, mixture, config.data, mesh)
        rows = _rows(config, examples, student_answers, teacher_answers, metadata)
        records.write(file, rows, metadata)
        print(f"{student.name}: {len(examples)} examples in {file}")
    return files


def _is_up_to_date(file: Path, metadata: dict) -> bool:
    try:
        return file.exists() and records.read(file).metadata == metadata
    except records.RecordsError:  # of another schema version, say: it is made anew
        return False


class _Model:
    """A model of the experiment with the checkpoint it answers from."""

    def __init__(self, config: CollectConfig, name: str, model: T5Config, run: str):
        self.name = Path(name).name
        self.config = model
        self.folder = run_folder.resolve(Path(config.experiment_dir), run)
        self.step = checkpoints.chosen_step(self.folder, config.checkpoint)
        self.saved = checkpoints.saved_at(self.folder, self.step)

    def check(self, mesh: Mesh) -> None:
        """Refuses a checkpoint that is not this model's, before anything is decoded."""
        abstract = state.abstract_parameters(t5.T5(self.config), mesh)
        checkpoints.check_fits(self.folder, self.step, abstract)
        run_folder.check_same_model(self.name, self.config, self.folder)

    def load(self, mesh: Mesh):
        abstract = state.abstract_parameters(t5.T5(self.config), mesh)
        return checkpoints.load_parameters(self.folder, self.step, abstract)


def answer(
    model: _Model,
    examples: Sequence[pipeline.Example],
    mixture: pipeline.OpenMixture,
    data: pipeline.DataConfig,
    mesh: Mesh,
) -> Answers:
    """Greedy answers of one model to all examples, with their quality."""
    params = model.load(mesh)
    generate_fn = generate.make_generate_fn(t5.T5(model.config), data.target_length, mixture.eos_id)
    groups = pipeline.batch_inputs(examples, data.batch_size, rules.batch_sharding(mesh))
    bar = tqdm.tqdm(total=len(examples), desc=f"{model.name} answers", unit="example")
    tokens, log_probs, entropies = [], [], []
    for group, inputs in groups:
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules.RULES):
            made = jax.device_get(generate_fn(params, inputs))
        for row, length in enumerate(made.lengths[: len(group)]):
            tokens.append(made.tokens[row, :length])
            log_probs.append(made.log_probs[row, :length])
            entropies.append(made.entropies[row, :length])
        bar.update(len(group))
    bar.close()
    texts = [mixture.vocabulary.decode(row.tolist()) for row in tokens]
    return Answers(tokens, log_probs, entropies, texts, *_quality(mixture, examples, texts))


def _quality(mixture, examples, texts) -> tuple[list[str], Float[np.ndarray, " n"]]:
    """Each example's metric by name, and its value in [0, 1]."""
    names = [""] * len(examples)
    values = np.zeros(len(examples))
    for name in sorted({example.task for example in examples}):
        rows = [row for row, example in enumerate(examples) if example.task == name]
        predictions = [pipeline.answer_for_metric(mixture, examples[r], texts[r]) for r in rows]
        targets = [examples[row].target for row in rows]
        metric_fns = mixture.tasks[name].metric_fns
        metric, found = quality.per_example_quality(metric_fns, targets, predictions)
        for row, value in zip(rows, found, strict=True):
            names[row], values[row] = metric, value
    return names, values


def _metadata(config: CollectConfig, student: _Model, teacher: _Model, data_fingerprints) -> dict:
    shapes = [t5.parameter_shapes(model.config) for model in (student, teacher)]
    return {
        "schema_version": records.SCHEMA_VERSION,
        "name": student.name,
        "mixture": config.data.mixture,
        "split": config.split,
        "limit": config.limit,
        "decoding": "greedy",
        "student_parameters": flops.parameter_count(shapes[0]),
        "teacher_parameters": flops.parameter_count(shapes[1]),
        "student_flops_per_token": flops.flops_per_token(shapes[0]),
        "teacher_flops_per_token": flops.flops_per_token(shapes[1]),
        "student_checkpoint": f"{student.folder}/checkpoints/{student.step}",
        "teacher_checkpoint": f"{teacher.folder}/checkpoints/{teacher.step}",
        "input_length": config.data.input_length,
        "target_length": config.data.target_length,
        "loss": checkpoints.config_of(student.folder)["loss"],
        "data_fingerprints": data_fingerprints,
        # A run that was trained anew has the same path and step.
        "student_saved": student.saved,
        "teacher_saved": teacher.saved,
    }


def _rows(config, examples, student: Answers, teacher: Answers, metadata) -> dict:
    count = len(examples)
    columns = {
        "mixture": [config.data.mixture] * count,
        "task": [example.task for example in examples],
        "split": [config.split] * count,
        "example_id": [example.example_id for example in examples],
        "inputs": [example.inputs_text for example in examples],
        "target": [example.target_text for example in examples],
        "metric": student.metrics,
    }
    for model, answers in (("student", student), ("teacher", teacher)):
        columns |= {
            f"{model}_answer": answers.texts,
            f"{model}_tokens": answers.tokens,
            f"{model}_log_probs": answers.log_probs,
            f"{model}_entropies": answers.entropies,
            f"{model}_quality": answers.quality,
            f"{model}_flops_per_token": [float(metadata[f"{model}_flops_per_token"])] * count,
        }
    return columns
