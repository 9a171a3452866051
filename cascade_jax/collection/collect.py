"""Decoding a split with both models into records tables, one per student."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cascade_jax import checks, records
from cascade_jax.collection import answers as answers_lib
from cascade_jax.collection import kept_answers, measuring, next_tokens
from cascade_jax.collection import live_policy as policy_lib
from cascade_jax.collection import probes as probes_lib
from cascade_jax.collection import samples as samples_lib
from cascade_jax.collection.answers import Answers
from cascade_jax.collection.kept_answers import ModelColumns
from cascade_jax.collection.measuring import AnswerQuality
from cascade_jax.collection.questions import DECODINGS, Questions, decoding_by_task
from cascade_jax.collection.samples import SampleConfig
from cascade_jax.data import pipeline
from cascade_jax.inference import generate
from cascade_jax.models import families, flops
from cascade_jax.names import check_choice
from cascade_jax.parallel import hosts
from cascade_jax.records import schema
from cascade_jax.runs import checkpoints, identity
from cascade_jax.runs.saved_model import CascadeRuns, SavedModel
from cascade_jax.runs.watchdog import Watch
from cascade_jax.task_metrics import corpus

Figures = Mapping[str, Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Which models answer which split.

    Attributes:
      cascade: the runs, the data and the mesh; each student gets a records table of its own.
      split: which split of every task.
      limit: the most examples of a task; None for all.
      decoding: "greedy"; "rank_classification": where rows have options, the likeliest of
        them is the answer, and tasks without options are decoded greedily; "teacher_forced": each
        token of a target is a row, answered by the likeliest token after the target's before it.
      top_k: so many of the largest log-probs of each of the student's tokens are kept, with their
        ids; 0 for none. Some deferral scores need 10.
      embeddings: whether the student's mean-pooled hidden state of each input is kept, which
        learned routers can use. The inputs are read once more for it. (With "teacher_forced": the
        hidden state that each token is predicted from.)
      samples: how many more answers to each example are drawn at random, how, and by which models.
      probes: what is measured of the student's answers for scores that need more than log-probs,
        such as `probes.SelfCertainty`; for most of them input and answer are read once more.
      policy: a certificate file of `cascade-jax calibrate` for single tokens: its student's table
        then also has what both models write together (columns cascade_*); "" for none.
      hang_seconds: a collection without progress for so long is ended; None to wait for ever.
    """

    cascade: CascadeRuns
    split: str = "validation"
    limit: int | None = None
    decoding: str = schema.GREEDY
    top_k: int = 10
    embeddings: bool = False
    samples: SampleConfig = SampleConfig()
    probes: Sequence[probes_lib.Probe] = ()
    policy: str = ""
    hang_seconds: float | None = 1800.0

    def __post_init__(self):
        check_choice("decoding", self.decoding, DECODINGS)
        checks.whole_number("top_k", self.top_k, 0)
        if self.policy and self.decoding != schema.GREEDY:
            raise ValueError(f"a policy needs decoding {schema.GREEDY!r}, got {self.decoding!r}")
        if self.samples.count and self.decoding == schema.TEACHER_FORCED:
            raise ValueError(
                f"samples are whole answers, and with decoding {self.decoding!r} there are none; "
                f"must be {schema.GREEDY!r} or {schema.RANK!r}"
            )
        for probe in self.probes:
            is_probe = isinstance(probe, probes_lib.Probe)
            checks.require(is_probe, "probes", probe, "a list such as [@probes.SelfCertainty()]")
        if self.probes and self.decoding == schema.TEACHER_FORCED:
            raise ValueError(f"probes are measured of answers, and {self.decoding!r} writes none")
        checks.positive("hang_seconds", self.hang_seconds, optional=True)

    @property
    def data(self) -> pipeline.DataConfig:
        """Mixture, lengths and vocabulary."""
        return self.cascade.data

    @property
    def output_dir(self) -> str:
        """Where the tables go: `<experiment_dir>/records/<split>`."""
        return str(Path(self.cascade.experiment_dir) / "records" / self.split)


def read_examples(config: CollectConfig, mixture: pipeline.OpenMixture) -> list[pipeline.Example]:
    """What models are asked: the examples of all tasks that have the split."""
    examples = []
    for task in mixture.tasks_with(config.split):
        examples += pipeline.decode_examples(config.data, task, config.split, config.limit)
    return examples


def collect(config: CollectConfig, read: Callable = read_examples) -> list[Path]:
    """Writes a records table for every student; the teacher answers once for all of them.

    A table that is already there for the same checkpoints and examples is kept, and what another
    student's table of the split has of the same teacher is taken from there. Of many hosts, each
    answers its part of every batch, all measure, and the first one writes. Returns the files.

    Args:
      config: what is asked.
      read: as `read_examples`, for one who asks several models the same one after the other.

    Raises:
      ValueError: for runs on another vocabulary, checkpoints that do not fit, an unknown split, a
        policy of other models, hosts that have different configs, code, data or checkpoints.
      ImportError: a metric of a task needs an extra that is not installed.
      hosts.Stopped: asked to; the tables that are complete stay.
    """
    hosts.assert_equal_across_hosts("configs", identity.config_identity(config))
    hosts.assert_equal_across_hosts("versions of the code", identity.code_identity())
    cascades, mixture, mesh = config.cascade.open()
    students, teacher = [models[0] for models in cascades], cascades[0][-1]
    for student in students:
        generate.check_top_k(config.top_k, student.config.vocab_size)
        config.samples.check_vocabulary(student.config.vocab_size)
        drawn = config.samples.count * config.samples.are_drawn_by(schema.PAIR[0])
        probes_lib.check(config.probes, student.config, config.top_k, drawn)
    policy = policy_lib.load(config.policy, students, teacher, mixture.fingerprint, config.data)

    mixture.check_files(config.split)
    decoding = decoding_by_task(config.decoding, mixture, config.data, config.split)
    facts = {
        "data_fingerprints": mixture.data_fingerprints(config.split),
        schema.CORPUS_METRICS: _corpus_metrics(config, mixture),
        schema.DECODING: decoding,
    }
    tables = [_Table(config, student, teacher, facts, policy) for student in students]
    states = {table.student.name: [table.metadata, table.is_up_to_date] for table in tables}
    hosts.assert_equal_across_hosts("data, checkpoints or tables", states)
    for table in tables:
        if table.is_up_to_date:
            hosts.print_once(f"{table.student.name}: {table.file} is up to date")
    missing = [table for table in tables if not table.is_up_to_date]
    if missing:
        kept_file = kept_answers.find(Path(config.output_dir), missing[0].metadata)
        hosts.assert_equal_across_hosts("tables", {"with answers of the teacher": str(kept_file)})
        done: list[str] = []  # names of students

        def kept():
            return f"complete: {', '.join(done)}" if done else "no table was completed"

        with Watch(
            "collect", config.hang_seconds, config.output_dir, kept, "the other tables"
        ) as watch:
            questions = Questions(
                read(config, mixture), mixture, config.data, mesh, decoding, watch.before_batch
            )
            _write_tables(config, missing, teacher, questions, watch, done, kept_file)
    return [table.file for table in tables]


def _write_tables(
    config: CollectConfig,
    tables: Sequence["_Table"],
    teacher: SavedModel,
    questions: Questions,
    watch: Watch,
    done: list[str],
    kept_file: Path | None,
) -> None:
    """Asks all models and writes the tables; adds to `done` which are."""
    examples, what = questions.examples, "examples"
    if config.decoding == schema.RANK:
        ranked = sum(how == schema.RANK for how in questions.decoding.values())
        count = len(questions.decoding)
        hosts.print_once(f"{schema.RANK}: {ranked} of {count} tasks, the others greedily")
    if config.decoding == schema.TEACHER_FORCED:
        examples, what = next_tokens.examples(questions), "target tokens"
    else:
        measuring.print_unread_words(questions)
    teacher_side = None
    if kept_file is not None:
        ids = [example.example_id for example in examples]
        teacher_side = kept_answers.read_teacher(kept_file, ids)
    if teacher_side is None:
        teacher_side = _answer(config, teacher, questions, tables[0].metadata, is_student=False)
    else:
        hosts.print_once(f"{teacher.name}: answers are taken from {kept_file}")
    for table in tables:
        student_side = _answer(config, table.student, questions, table.metadata, is_student=True)
        watch.progress(f"the table of {table.student.name}")
        figures = _figures(student_side.figures, teacher_side.figures)
        rows = _example_columns(config, examples, student_side.metrics)
        rows |= {**student_side.columns, **teacher_side.columns}
        rows |= table.policy.columns(table.student, teacher, questions)
        if hosts.is_first():
            records.write(table.file, rows, {**table.metadata, schema.FIGURES: figures})
        hosts.barrier("a table", hosts.WORK_SECONDS)
        watch.progress("the next model")
        done.append(table.student.name)
        hosts.print_once(f"{table.student.name}: {len(examples)} {what} in {table.file}")


def _corpus_metrics(config: CollectConfig, mixture: pipeline.OpenMixture) -> dict[str, dict]:
    """By task, its corpus metric described. Next tokens are not measured by the tasks' metrics."""
    if config.decoding == schema.TEACHER_FORCED:
        return {}
    measuring.check_task_metrics_installed(mixture, config.split)
    by_task = measuring.corpus_metrics(mixture, config.split)
    return {task: corpus.describe(metric) for task, metric in by_task.items()}


def _answer(
    config: CollectConfig,
    saved: SavedModel,
    questions: Questions,
    metadata: Mapping,
    is_student: bool,
) -> ModelColumns:
    """What a model answers, and how good that is; its parameters are freed on return."""
    model, role = saved.load(questions.mesh), schema.PAIR[not is_student]
    extras = (config.top_k, config.embeddings) if is_student else ()
    if config.decoding == schema.TEACHER_FORCED:
        answers = next_tokens.answer(model, questions, *extras)
        quality = next_tokens.measure(answers, questions)
    else:
        answers = answers_lib.answer(model, questions, *extras)
        quality = measuring.measure(answers.texts, questions)
    samples = None
    if config.samples.are_drawn_by(role):
        samples = samples_lib.draw(model, questions, config.samples)
    columns = _model_columns(role, metadata, answers, quality, samples)
    if is_student:
        measured = probes_lib.measure(model, questions, answers, config.probes, samples)
        columns |= {f"{role}_{name}": values for name, values in measured.items()}
    figures = {
        task: {name: value if math.isfinite(value) else None for name, value in by_metric.items()}
        for task, by_metric in quality.figures.items()
    }
    return ModelColumns(columns, quality.metrics, figures)


def _figures(student: Figures, teacher: Figures) -> dict:
    """By task and metric, the value of both models; None for one that is not defined."""

    def both(task: str, name: str) -> dict[str, float | None]:
        pair = [figures[task].get(name) for figures in (student, teacher)]
        return dict(zip(schema.PAIR, pair, strict=True))

    return {
        task: {name: both(task, name) for name in dict.fromkeys([*by_metric, *teacher[task]])}
        for task, by_metric in student.items()
    }


class _Table:
    """The records table of a student: its file, its metadata, and whether it is complete."""

    def __init__(
        self,
        config: CollectConfig,
        student: SavedModel,
        teacher: SavedModel,
        facts: Mapping,
        policy: policy_lib.LivePolicy,
    ):
        self.student, self.policy = student, policy
        self.file = config.cascade.records_file(student.name, config.split)
        self.metadata = _metadata(config, student, teacher, facts) | policy.metadata(student)
        self.is_up_to_date = _is_up_to_date(self.file, self.metadata)


def _is_up_to_date(file: Path, metadata: dict) -> bool:
    try:
        if not file.exists():
            return False
        # The figures are only known once all is decoded.
        before = dict(records.read(file).metadata)
        return before.pop(schema.FIGURES, None) is not None and before == metadata
    except records.RecordsError:  # of another schema version, say: it is made anew
        return False


def _metadata(
    config: CollectConfig, student: SavedModel, teacher: SavedModel, facts: Mapping
) -> dict:
    metadata = {
        "schema_version": records.SCHEMA_VERSION,
        schema.MODELS: list(schema.PAIR),
        "name": student.name,
        "mixture": config.data.mixture,
        "split": config.split,
        "limit": config.limit,
        "input_length": config.data.input_length,
        "target_length": config.data.target_length,
        "loss": checkpoints.config_of(student.folder)["loss"],
        schema.TOP_K: config.top_k,
        "embeddings": config.embeddings,
        **config.samples.metadata,
        **facts,
    }
    if config.probes:
        metadata[schema.PROBES] = [repr(probe) for probe in config.probes]
    for probe in config.probes:
        if isinstance(probe, probes_lib.States):
            layers = probe.state_layers(families.answer_layers(student.config))
            metadata[schema.STATE_LAYERS] = list(layers)
    for role, model in zip(schema.PAIR, (student, teacher), strict=True):
        shapes = families.parameter_shapes(model.config)
        metadata |= {
            f"{role}_parameters": flops.parameter_count(shapes),
            f"{role}_flops_per_token": flops.flops_per_token(shapes),
            f"{role}_checkpoint": f"{model.folder}/checkpoints/{model.step}",
            f"{role}_saved": model.saved,  # a run that was trained anew has the same path and step
        }
    return metadata


def _example_columns(
    config: CollectConfig, examples: Sequence[pipeline.Example], metrics: Sequence[str]
) -> dict:
    """The columns of the table that are about no model."""
    count = len(examples)
    return {
        "mixture": [config.data.mixture] * count,
        "task": [example.task for example in examples],
        "split": [config.split] * count,
        "example_id": [example.example_id for example in examples],
        "inputs": [example.inputs_text for example in examples],
        "target": [example.target_text for example in examples],
        "metric": metrics,
    }


def _model_columns(
    role: str,
    metadata: Mapping,
    answers: Answers,
    measured: AnswerQuality,
    samples: samples_lib.Samples | None,
) -> dict:
    """The columns of a model: those of COLUMNS that its answers, measures or samples hold."""
    columns = {}
    for name, field in schema.fields(schema.PAIR).items():
        if field.owner != role:
            continue
        kind = _FIELDS.get(field.column.name, field.column.name)
        parts = (part for part in (answers, measured, samples) if hasattr(part, kind))
        values = getattr(next(parts, None), kind, None)
        if kind == "flops_per_token":
            values = [float(metadata[name])] * len(answers.texts)
        if values is not None and (kind != "statistics" or metadata[schema.CORPUS_METRICS]):
            columns[name] = values
    return columns


# Fields of `Answers` that have other names than their columns.
_FIELDS = {"answer": "texts", "embedding": "embeddings"}
