"""Decoding a split with both models into records tables, one per student."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from jax.sharding import Mesh

from cascade_jax import records
from cascade_jax.collection import answers as answers_lib
from cascade_jax.collection import live_policy as policy_lib
from cascade_jax.collection import next_tokens
from cascade_jax.collection.answers import Answers, Measured, Questions
from cascade_jax.data import pipeline
from cascade_jax.models import families, flops, pair
from cascade_jax.names import did_you_mean
from cascade_jax.parallel import hosts, rules
from cascade_jax.parallel.mesh import MeshConfig
from cascade_jax.records.schema import (
    CORPUS_METRICS,
    DECODING,
    FIGURES,
    GREEDY,
    RANK,
    TEACHER_FORCED,
    TOP_K,
)
from cascade_jax.runs import checkpoints, identity, run_folder
from cascade_jax.runs.saved_model import SavedModel
from cascade_jax.runs.watch import Watch
from cascade_jax.runs.watchdog import check_hang_seconds
from cascade_jax.task_metrics import corpus


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
      decoding: "greedy"; "rank_classification": where rows bring their options, the likeliest of
        them is the answer, and tasks without options are decoded greedily; "teacher_forced": each
        token of a target is a row, answered by the likeliest token after the target's before it.
      top_k: so many of the largest log-probs of each of the student's tokens are kept, with their
        ids; 0 for none. Some deferral scores need 10.
      embeddings: whether the student's mean-pooled hidden state of each input is kept, which
        learned routers can use. The inputs are read once more for it. (With "teacher_forced": the
        hidden state that each token is predicted from.)
      policy: a certificate file of `cascade-jax calibrate` for single tokens: its student's table
        then also has what both models write together (columns cascade_*); "" for none.
      hang_seconds: a collection without progress for so long is ended; None to wait for ever.
    """

    experiment_dir: str
    students: Sequence[str]
    student: families.ModelConfig
    teacher: families.ModelConfig
    teacher_run: str
    data: pipeline.DataConfig
    split: str = "validation"
    limit: int | None = None
    checkpoint: str = "best"
    mesh: MeshConfig = MeshConfig()
    decoding: str = GREEDY
    top_k: int = 10
    embeddings: bool = False
    policy: str = ""
    hang_seconds: float | None = 1800.0

    def __post_init__(self):
        folder = self.experiment_dir
        if not folder or not isinstance(folder, str):
            raise ValueError(f"experiment_dir is {folder!r}; must be the path of a folder")
        pair.ModelPair(student=self.student, teacher=self.teacher)
        if self.checkpoint not in checkpoints.CHOICES:
            raise ValueError(f"checkpoint {self.checkpoint!r} is not in {checkpoints.CHOICES}")
        if self.decoding not in answers_lib.DECODINGS:
            hint = did_you_mean(self.decoding, answers_lib.DECODINGS)
            raise ValueError(f"decoding {self.decoding!r} is not in {answers_lib.DECODINGS}{hint}")
        vocab_size = self.student.vocab_size
        if type(self.top_k) is not int or not 0 <= self.top_k <= vocab_size:
            raise ValueError(
                f"top_k is {self.top_k!r}; must be 0 (none) to {vocab_size}, the vocabulary of the "
                "student"
            )
        if self.policy and self.decoding != GREEDY:
            raise ValueError(f"a policy needs decoding {GREEDY!r}, got {self.decoding!r}")
        check_hang_seconds(self.hang_seconds)
        if not self.students:
            raise ValueError("students is empty; name at least one run")

    @property
    def output_dir(self) -> str:
        """Where the tables go: `<experiment_dir>/records/<split>`."""
        return str(Path(self.experiment_dir) / "records" / self.split)


def collect(config: CollectConfig) -> list[Path]:
    """Writes a records table for every student; the teacher answers once for all of them.

    A table that is already there for the same checkpoints and examples is kept. Of many hosts, each
    answers its part of every batch, all measure, and the first one writes.

    Returns:
      The files.

    Raises:
      ValueError: for runs on another vocabulary, checkpoints that do not fit, an unknown split, a
        policy of other models, hosts that have different configs, code, data or checkpoints.
      ImportError: a metric of a task needs an extra that is not installed.
      hosts.Stopped: asked to; the tables that are complete stay.
    """
    hosts.assert_equal_across_hosts("configs", identity.of_config(config))
    hosts.assert_equal_across_hosts("versions of the code", identity.of_code())
    mesh = config.mesh.build()
    rules.check_batch_size("batch_size", config.data.batch_size, mesh)
    mixture = pipeline.open_mixture(config.data)
    where, choice = config.experiment_dir, config.checkpoint
    teacher = SavedModel(where, "teacher", config.teacher, config.teacher_run, choice)
    students = [SavedModel(where, name, config.student, name, choice) for name in config.students]
    for model in (teacher, *students):
        run_folder.check_same_vocabulary(model.name, mixture.fingerprint, model.folder)
        model.check(mesh)
    policy = policy_lib.load(config.policy, students, teacher, mixture.fingerprint, config.data)

    facts = {
        "data_fingerprints": mixture.data_fingerprints(config.split),
        CORPUS_METRICS: _corpus_metrics(config, mixture),
        DECODING: answers_lib.decoding_of(config.decoding, mixture, config.data, config.split),
    }
    tables = [_Table(config, student, teacher, facts, policy) for student in students]
    found = {table.student.name: [table.metadata, table.is_up_to_date] for table in tables}
    hosts.assert_equal_across_hosts("data, checkpoints or tables", found)
    for table in tables:
        if table.is_up_to_date:
            hosts.print_once(f"{table.student.name}: {table.file} is up to date")
    missing = [table for table in tables if not table.is_up_to_date]
    if missing:
        done: list[str] = []  # names of students

        def kept():
            return f"complete: {', '.join(done)}" if done else "no table was completed"

        with Watch(
            "collect", config.hang_seconds, config.output_dir, kept, "the other tables"
        ) as watch:
            _make(config, missing, teacher, mixture, mesh, watch, done)
    return [table.file for table in tables]


def _make(config: CollectConfig, tables, teacher, mixture, mesh: Mesh, watch: Watch, done) -> None:
    """Asks all models and writes the tables; adds to `done` which are."""
    how = tables[0].metadata[DECODING]
    examples = []
    for task in mixture.tasks_with(config.split):
        examples += pipeline.decode_examples(config.data, task, config.split, config.limit)
    if config.decoding == RANK:
        ranked = sum(of_task == config.decoding for of_task in how.values())
        hosts.print_once(f"{config.decoding}: {ranked} of {len(how)} tasks, the others greedily")
    questions = Questions(examples, mixture, config.data, mesh, how, watch.before_batch)
    if config.decoding == TEACHER_FORCED:
        by, examples = next_tokens, next_tokens.examples(questions)
    else:
        by = answers_lib
    of_teacher = _answers_of(by, teacher, questions)
    for table in tables:
        of_student = _answers_of(by, table.student, questions, config.top_k, config.embeddings)
        watch.progress(f"the table of {table.student.name}")
        figures = _figures(of_student[1], of_teacher[1])
        rows = _rows(config, examples, of_student, of_teacher, table.metadata)
        rows |= table.policy.columns(table.student, teacher, questions)
        if hosts.is_first():
            records.write(table.file, rows, {**table.metadata, FIGURES: figures})
        hosts.barrier("a table", hosts.WORK_SECONDS)
        watch.progress("the next model")
        done.append(table.student.name)
        what = "target tokens" if config.decoding == TEACHER_FORCED else "examples"
        hosts.print_once(f"{table.student.name}: {len(examples)} {what} in {table.file}")


def _corpus_metrics(config: CollectConfig, mixture: pipeline.OpenMixture) -> dict[str, dict]:
    """By task, its corpus metric described. Next tokens are not measured by the tasks' metrics."""
    if config.decoding == TEACHER_FORCED:
        return {}
    answers_lib.check_installed(mixture, config.split)
    found = answers_lib.corpus_metrics(mixture, config.split)
    return {task: corpus.describe(metric) for task, metric in found.items()}


def _answers_of(
    by: ModuleType,
    model: SavedModel,
    questions: Questions,
    top_k: int = 0,
    embeddings: bool = False,
) -> tuple[Answers, Measured]:
    """What a model answers, and how good that is; its parameters are gone by then.

    `by` is the module that asks and measures: answers.py or next_tokens.py.
    """
    module, params = families.build(model.config), model.load(questions.mesh)
    found = by.answer(model.name, module, params, questions, top_k, embeddings)
    return found, by.measure(found, questions)


def _figures(student: Measured, teacher: Measured) -> dict:
    """By task and metric, the value of both models; None for one that is not defined."""

    def value(measured: Measured, task: str, name: str) -> float | None:
        found = measured.figures[task].get(name, math.nan)
        return found if math.isfinite(found) else None

    return {
        task: {
            name: {"student": value(student, task, name), "teacher": value(teacher, task, name)}
            for name in dict.fromkeys([*of_task, *teacher.figures[task]])
        }
        for task, of_task in student.figures.items()
    }


class _Table:
    """The records table of a student: where it is, what it must be of, and whether it is there."""

    def __init__(
        self,
        config: CollectConfig,
        student: SavedModel,
        teacher: SavedModel,
        facts: Mapping,
        policy: policy_lib.LivePolicy,
    ):
        self.student, self.policy = student, policy
        self.file = Path(config.output_dir) / f"{student.name}.parquet"
        self.metadata = _metadata(config, student, teacher, facts) | policy.metadata(student)
        self.is_up_to_date = _is_up_to_date(self.file, self.metadata)


def _is_up_to_date(file: Path, metadata: dict) -> bool:
    try:
        if not file.exists():
            return False
        # The figures are only known once all is decoded.
        found = dict(records.read(file).metadata)
        return found.pop(FIGURES, None) is not None and found == metadata
    except records.RecordsError:  # of another schema version, say: it is made anew
        return False


def _metadata(
    config: CollectConfig, student: SavedModel, teacher: SavedModel, facts: Mapping
) -> dict:
    shapes = [families.parameter_shapes(model.config) for model in (student, teacher)]
    return {
        "schema_version": records.SCHEMA_VERSION,
        "name": student.name,
        "mixture": config.data.mixture,
        "split": config.split,
        "limit": config.limit,
        "student_parameters": flops.parameter_count(shapes[0]),
        "teacher_parameters": flops.parameter_count(shapes[1]),
        "student_flops_per_token": flops.flops_per_token(shapes[0]),
        "teacher_flops_per_token": flops.flops_per_token(shapes[1]),
        "student_checkpoint": f"{student.folder}/checkpoints/{student.step}",
        "teacher_checkpoint": f"{teacher.folder}/checkpoints/{teacher.step}",
        "input_length": config.data.input_length,
        "target_length": config.data.target_length,
        "loss": checkpoints.config_of(student.folder)["loss"],
        TOP_K: config.top_k,
        "embeddings": config.embeddings,
        **facts,
        # A run that was trained anew has the same path and step.
        "student_saved": student.saved,
        "teacher_saved": teacher.saved,
    }


def _rows(config, examples, student, teacher, metadata) -> dict:
    """The columns of the table; student and teacher are pairs of answers and their measures."""
    count = len(examples)
    columns = {
        "mixture": [config.data.mixture] * count,
        "task": [example.task for example in examples],
        "split": [config.split] * count,
        "example_id": [example.example_id for example in examples],
        "inputs": [example.inputs_text for example in examples],
        "target": [example.target_text for example in examples],
        "metric": student[1].metrics,
    }
    for model, (answers, measured) in (("student", student), ("teacher", teacher)):
        columns |= {
            f"{model}_answer": answers.texts,
            f"{model}_tokens": answers.tokens,
            f"{model}_log_probs": answers.log_probs,
            f"{model}_entropies": answers.entropies,
            f"{model}_quality": measured.quality,
            f"{model}_flops_per_token": [float(metadata[f"{model}_flops_per_token"])] * count,
            f"{model}_pieces": answers.pieces,
            f"{model}_input_tokens": answers.input_tokens,
            f"{model}_flops": answers.flops,
            f"{model}_seconds": answers.seconds,
        }
        if metadata[CORPUS_METRICS]:
            columns[f"{model}_statistics"] = measured.statistics
    answers = student[0]
    if answers.top_ids is not None:
        columns["student_top_log_probs"] = [of_row.ravel() for of_row in answers.top_log_probs]
        columns["student_top_ids"] = [of_row.ravel() for of_row in answers.top_ids]
    if answers.embeddings is not None:
        columns["student_embedding"] = answers.embeddings
    return columns
