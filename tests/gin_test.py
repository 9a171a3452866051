"""Every gin file parses and builds; what gin would silently ignore is refused."""

import dataclasses
import shlex
from pathlib import Path

import gin
import numpy as np
import pytest

from cascade_jax.cli import (
    calibrate,
    collect,
    evaluate,
    gin_config,
    train,
    vocab,
)
from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.scores.answer_tokens import AnswerTokens
from cascade_jax.losses import schedules

ROOT = Path(__file__).parents[1]
GIN_FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "gin").rglob("*.gin")
    if path.parent.name != "t5x"  # for T5X's own commands; tests/interop/ has their tests
)
FIGURES = [name for name in GIN_FILES if name.startswith("gin/figures/figure_")]
EXPERIMENTS = [name for name in GIN_FILES if name.startswith("gin/experiments/")]
BUDGET_XSUM = "gin/experiments/budget_xsum.gin"
DEMO = "--gin_file=gin/experiments/demo.gin"


@pytest.fixture(autouse=True)
def clean_gin(monkeypatch):
    monkeypatch.chdir(ROOT)
    yield
    gin.clear_config(clear_constants=True)


def test_the_gin_folder_holds_no_python():
    assert not list((ROOT / "gin").rglob("*.py"))
    assert GIN_FILES


def given(file: str) -> list[str]:
    """Arguments that an experiment leaves to the user."""
    asks = any(name in file for name in ("local", "wmt22", "smollm2"))
    return ["--gin.DATA_DIR='/data'"] if asks else []


@pytest.mark.parametrize("command", [train, collect, evaluate, calibrate])
@pytest.mark.parametrize("file", EXPERIMENTS)
def test_every_experiment_builds_every_command(file, command):
    if (file, command) == (
        BUDGET_XSUM,
        train,
    ):  # imported models are not stated
        with pytest.raises(gin_config.UsageError, match="gin macro LOSS has no value"):
            gin_config.parse(command.CONFIG, [f"--gin_file={file}"])
        return
    config = gin_config.parse(command.CONFIG, [f"--gin_file={file}", *given(file)])
    assert type(config).__name__ == command.CONFIG.rpartition(".")[2]
    assert dataclasses.is_dataclass(config)


@pytest.mark.parametrize("file", sorted(set(GIN_FILES) - set(EXPERIMENTS)))
def test_every_other_gin_file_parses_and_its_macros_build(file):
    """Model, pair, loss and mesh files are parts: what they bind is built by itself."""
    gin.clear_config(clear_constants=True)
    for folder in gin_config.search_paths():
        gin.add_config_file_search_path(str(folder))
    gin.parse_config_file(file)
    parts = file.split("/")[1]
    if parts in ("runs", "figures"):
        return  # whole only inside an experiment or a figure, where all are built
    macros = [scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"]
    assert macros
    values = {name: gin.query_parameter(f"{name}/gin.macro.value") for name in macros}
    required = {f"%{name}" for name, value in values.items() if "gin.REQUIRED" in repr(value)}
    for built in values.values():
        if isinstance(built, gin.config.ConfigurableReference):
            bound = gin.config._CONFIG.get(("", built.configurable.selector), {})
            if not required & set(map(repr, bound.values())):  # else the user says it
                assert built.scoped_configurable_fn() is not None


def header_command(file: str) -> list[str]:
    """The arguments of the command in a gin file's header."""
    header = (ROOT / file).read_text().partition("from __gin__")[0]
    text = header.replace("#", " ").replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "cascade-jax " in line)
    return shlex.split(command)[1:]


TABLE_1 = {  # of the CAT paper: student's and teacher's steps, learning rate, batch, dropout
    "superglue": ((10_000, 5e-5, 64, 0.1), (5_000, 1e-5, 512, 0.1)),
    "wmt22": ((4_000, 5e-5, 32, 0.1), (1_000, 1e-5, 1024, 0.1)),
    "flan2021": ((10_000, 1e-3, 64, 0.1), (60_000, 3e-5, 128, 0.05)),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_experiments_of_the_paper_have_the_values_of_its_table(name):
    file = f"gin/experiments/{name}.gin"
    runs = gin_config.parse(train.CONFIG, [f"--gin_file={file}", *given(file)]).runs
    student, teacher = TABLE_1[name]
    assert [run.name for run in runs] == ["teacher", "xent", "dist", "cat_xent", "cat_dist"]
    for run in runs:
        rate, size = run.optimizer.learning_rate, run.data.batch_size
        expected = teacher if run.name == "teacher" else student
        assert (run.steps, rate, size, run.model.dropout_rate) == expected
        assert run.start.run == f"runs/{'mt5' if name == 'wmt22' else 't5_1_1'}_" + (
            "large" if run.name == "teacher" else "small"
        )


def test_c4_is_pre_training_of_t5_base_under_large_and_its_tokens_are_rows():
    argv = ["--gin_file=gin/experiments/c4.gin"]
    teacher, *students = gin_config.parse(train.CONFIG, argv).runs
    sizes = [(run.model.embed_dim, run.model.num_encoder_layers) for run in (teacher, *students)]
    assert sizes == [(1024, 24)] + [(768, 12)] * 4
    for run in (teacher, *students):
        assert run.start is None and run.data.mixture == "cascade_c4_span_corruption_v1"
        rates = [float(run.optimizer.learning_rate_schedule()(step)) for step in (9_999, 39_999)]
        np.testing.assert_allclose(rates, [0.01, 0.005], rtol=1e-3)
    collected, drawn = (
        gin_config.parse(command.CONFIG, [f"--gin_file={file}"])
        for command, file in ((collect, argv[0][11:]), (evaluate, "gin/figures/figure_13.gin"))
    )
    assert collected.decoding == "teacher_forced"
    files = [f"{collected.output_dir}/{name}.parquet" for name in collected.cascade.students]
    assert list(map(str, drawn.records_files)) == files


def test_the_budget_on_xsum_is_the_papers_protocol():
    config = gin_config.parse(calibrate.CONFIG, [f"--gin_file={BUDGET_XSUM}"])
    live, sizes = config.live, (config.first_size, config.second_size, config.test_size)
    assert (sizes, config.repeats, config.delta) == ((200, 200, 100), 5, 0.1)
    assert max(config.alphas) == 0.2 and sum(sizes) == 500 <= live.limit
    data = live.cascade.data
    assert (data.mixture, data.target_length) == ("cascade_xsum_short_v1", 20)
    assert list(live.metrics) == ["rouge1", "rouge2", "rougeL"]
    assert (live.cascade.students, live.cascade.teachers) == (["t5_small_xsum"], ["t5_large_xsum"])
    assert (config.search, config.procedure) == ("bayesian", "pareto_testing")
    assert config.output_dir == "runs/budget_xsum/calibration/t5_small_xsum"


@pytest.mark.parametrize("file", FIGURES)
def test_every_figure_builds(file, tmp_path):
    argv = [f"--gin_file={file}"]
    if file.endswith("figure_5.gin"):  # reads its router at once
        argv.append(f"--gin.ROUTER_FILE='{_router(tmp_path)}'")
    config = gin_config.parse(evaluate.CONFIG, argv)
    assert [Path(path).stem for path in config.records_files] == list(config.names)
    assert config.output_dir == f"runs/figures/{Path(file).stem}"


def _router(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    answers = AnswerTokens.from_padded(-rng.random((40, 3)), np.full(40, 3))
    quality = rng.integers(0, 2, 40).astype(float)
    fitted = routers.LogisticRouter().fit(answers, quality, 1 - quality, split="calibration")
    fitted.save(folder / "router.npz")
    return folder / "router.npz"


def test_the_deferral_rules_of_figure_6_are_those_of_the_paper():
    config = gin_config.parse(evaluate.CONFIG, ["--gin_file=gin/figures/figure_6.gin"])
    assert {config.score, *config.scores} == set(scores.STANDARD)


def test_the_groups_of_flan_are_its_tasks_by_metric():
    flan2021 = pytest.importorskip("tasks.flan2021")
    config = gin_config.parse(evaluate.CONFIG, ["--gin_file=gin/figures/figure_2b.gin"])
    for kind, names in (("accuracy", flan2021.CLASSIFICATION), ("BLEU", flan2021.GENERATION)):
        assert list(config.groups[kind]) == [flan2021.TASKS[name] for name in names]


RUN_FILES = ["gin/runs/student.gin", "gin/runs/lora.gin", "gin/runs/evaluate.gin"]
RUN_FILES += ["gin/figures/figure_2a.gin", "gin/figures/figure_6.gin", "gin/figures/figure_13.gin"]


@pytest.mark.parametrize("file", RUN_FILES)
def test_the_command_in_a_run_files_header_builds(file):
    name, *argv = header_command(file)
    command = {"train": train, "evaluate": evaluate}[name]
    assert dataclasses.is_dataclass(gin_config.parse(command.CONFIG, argv))


@pytest.mark.parametrize("loss", [f for f in GIN_FILES if f.startswith("gin/losses/")])
def test_every_loss_file_fits_the_student_run(loss):
    argv = header_command("gin/runs/student.gin")[1:] + [f"--gin_file={loss}"]
    (run,) = gin_config.parse(train.CONFIG, argv).runs
    assert type(run.loss).__name__.lower() == Path(loss).stem.replace("_", "")


def error(argv, command=train):
    with pytest.raises(gin_config.UsageError) as caught:
        gin_config.parse(command.CONFIG, argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_macro_is_refused_with_the_nearest():
    message = error([DEMO, "--gin.STUDENT_STEP=5"])
    assert "unknown gin macro 'STUDENT_STEP'; did you mean 'STUDENT_STEPS'?" in message


def write(folder: Path, text: str) -> str:
    file = folder / "x.gin"
    file.write_text('include "gin/experiments/demo.gin"\n' + text)
    return f"--gin_file={file}"


def test_a_misspelt_macro_in_a_file_is_refused(tmp_path):
    message = error([write(tmp_path, "large/r_layers = 8\n")])
    assert message.startswith(f"{tmp_path}/x.gin:2: gin macro 'large/r_layers' is set but nothing")
    message = error([write(tmp_path, "BATCH_SIZ = 8\n")])
    said = "gin macro 'BATCH_SIZ' is set but nothing reads it; did you mean 'BATCH_SIZE'?"
    assert message == f"{tmp_path}/x.gin:2: {said}"


def test_a_binding_in_an_unused_scope_is_refused(tmp_path):
    text = "from __gin__ import dynamic_registration\nfrom cascade_jax.training import experiment\n"
    message = error([write(tmp_path, text + "cat_dits/experiment.TrainRun.seed = 1\n")])
    said = "x.gin:4: gin binding cat_dits/experiment.TrainRun.seed is set but nothing reads it"
    assert said in message
    assert "cat_dist" in message


def test_a_misspelt_parameter_is_refused(tmp_path):
    assert "stepps" in error([DEMO, "--gin.experiment.TrainRun.stepps=1"])


def test_a_required_macro_without_a_value_is_named():
    message = error(["--gin_file=gin/runs/four_losses.gin"])
    assert "gin macro" in message and "has no value; give it: --gin." in message


def test_a_string_without_quotes_is_answered_with_how_to_quote():
    said = "--gin.OUTPUT_DIR=runs/x: gin can not read this; write --gin.OUTPUT_DIR=\"'runs/x'\""
    assert error([DEMO, "--gin.OUTPUT_DIR=runs/x"]) == said


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("SEED=1\nSTUDENT_STEPS=3", "--gin.SEED=1 STUDENT_STEPS=3: holds 2 bindings; give each"),
        (
            "STUDENT_STEPS=%STUDENT_STEP",
            "STUDENT_STEPS is %STUDENT_STEP, and no macro",
        ),
        ("small/config.T5Config.embed_dimm=4", "named 'embed_dimm'; did you mean 'embed_dim'?"),
        ("STUDENT-STEPS=5", "unknown gin macro 'STUDENT-STEPS'; did you mean 'STUDENT_STEPS'?"),
        ("=5", "--gin.=5: write --gin.MACRO=VALUE"),
        ("SEED=%SEED", "the macros or references of the gin files read each other"),
    ],
)
def test_a_binding_that_can_not_be_is_named_by_its_flag(binding, said):
    assert said in error([DEMO, f"--gin.{binding}"])


def test_a_file_of_windows_is_read(tmp_path):
    flag = write(tmp_path, "SEED = 5\nSTUDENT_STEPS = 700\n")
    path = Path(flag.partition("=")[2])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    runs = {run.name: run for run in gin_config.parse(train.CONFIG, [flag]).runs}
    assert runs["xent"].data.seed == 5 and runs["xent"].steps == 700


def test_a_file_that_is_not_there_or_includes_itself(tmp_path):
    flag = write(tmp_path, 'include "gin/nothing.gin"\n')
    assert "no gin file gin/nothing.gin (included by " in error([flag])
    flag = write(tmp_path, f'include "{tmp_path}/x.gin"\n')
    assert "x.gin includes itself" in error([flag])


def test_a_class_that_a_module_lacks_is_named_with_the_nearest_one():
    argv = [DEMO, "--gin.SCORES=[@scores.Sum(), @scores.Quantil()]"]
    message = error(argv, evaluate)
    assert "cascade_jax.deferral.scores has no Quantil; did you mean 'Quantile'?" in message


def test_a_missing_gin_file_is_named():
    assert "gin/experiments/none.gin" in error(["--gin_file=gin/experiments/none.gin"])


def test_unknown_flags_and_stray_arguments_are_refused():
    assert "there is no flag --steps" in error([DEMO, "--steps=5"])
    assert "argument 'stray' is not a flag" in error([DEMO, "stray"])
    assert "give at least one --gin_file" in error(["--gin.STEPS=5"])


def test_a_file_that_configures_another_command_says_so():
    message = error(["--gin_file=gin/meshes/data_parallel.gin"])
    assert message.startswith(
        "the gin files bind nothing of cascade_jax.training.experiment.TrainConfig"
    )


def test_macros_and_parameters_from_the_command_line_win():
    changed = "--gin.experiment.TrainRun.log_every=3"
    argv = [DEMO, "--gin.STUDENT_STEPS=700", changed, "--gin.SEED=5"]
    config = gin_config.parse(train.CONFIG, argv)
    runs = {run.name: run for run in config.runs}
    assert runs["cat_dist"].steps == 700 and runs["teacher"].steps != 700
    assert runs["xent"].log_every == 3 and runs["xent"].data.seed == 5


def test_the_head_and_its_chunks_reach_every_run():
    runs = gin_config.parse(train.CONFIG, [DEMO]).runs
    assert {(run.head, run.chunk_tokens) for run in runs} == {("fused", None)}
    runs = gin_config.parse(
        train.CONFIG, [DEMO, "--gin.HEAD='plain'", "--gin.CHUNK_TOKENS=96"]
    ).runs
    assert len(runs) == 5
    assert {(run.head, run.chunk_tokens) for run in runs} == {("plain", 96)}


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head is 'plian'; must be one of fused, plain"):
        gin_config.parse(train.CONFIG, [DEMO, "--gin.HEAD='plian'"])


SCHEDULE = """\
from __gin__ import dynamic_registration
from cascade_jax.losses import schedules
from cascade_jax.losses import variants

schedules.PiecewiseLinear.steps = [0, 500]
schedules.PiecewiseLinear.values = [1, 0.5]
"""


@pytest.mark.parametrize(
    "binding, scheduled",
    [
        ("variants.CATDist.label_weight = @schedules.PiecewiseLinear()", {"cat_dist"}),
        ("LABEL_WEIGHT = @schedules.PiecewiseLinear()", {"dist", "cat_dist"}),
    ],
)
def test_a_schedule_builds_where_it_is_bound(tmp_path, binding, scheduled):
    runs = gin_config.parse(train.CONFIG, [write(tmp_path, SCHEDULE + binding)]).runs
    weights = {run.name: getattr(run.loss, "label_weight", None) for run in runs}
    expected = schedules.PiecewiseLinear(steps=(0, 500), values=(1.0, 0.5))
    assert {name for name, weight in weights.items() if weight == expected} == scheduled


def test_a_schedule_with_a_value_out_of_range_is_refused(tmp_path):
    text = SCHEDULE.replace("0.5]", "1.5]")
    text += "variants.CATDist.label_weight = @schedules.PiecewiseLinear()\n"
    with pytest.raises(ValueError, match=r"label_weight .*1\.5.* is not in \[0\.0, 1\.0\]"):
        gin_config.parse(train.CONFIG, [write(tmp_path, text)])


def test_vocab_is_configured_by_an_experiment():
    file = "gin/experiments/local_multitask.gin"
    config = gin_config.parse(vocab.CONFIG, [f"--gin_file={file}", *given(file)])
    assert config.vocab_size > 0
