"""A user's own tasks, from a folder of JSONL to a report, through the commands and nothing else."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import gin
import pyarrow.parquet as pq
import pytest
import sacrebleu

from cascade_jax import metrics, records
from cascade_jax.cli.main import main
from tests.support import fakes, tiny_demo

pytestmark = pytest.mark.medium

STUDENTS = ("xent", "cat_dist")
STEPS = 6

# What a user writes in a folder of their own: tasks by seqio alone but for the JSONL source.
TASKS = """
import seqio
from cascade_jax.data.sources import TfdsOrJsonlSource
from cascade_jax.task_metrics.quality import accuracy, token_f1
from cascade_jax.task_metrics.translation import Bleu, Chrf

FEATURES = {
    name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")
}


def to_text(row):
    return {"inputs": "say " + row["question"], "targets": row["answer"]}


def with_options(row):
    return to_text(row) | {"options": ["red", "blue", "green"]}


COLOUR, ECHO = ("colour", with_options, [accuracy]), ("echo", to_text, [token_f1, Bleu(), Chrf()])
for name, text_fn, metrics in (COLOUR, ECHO):
    seqio.TaskRegistry.add(
        f"own_{name}_v1",
        source=TfdsOrJsonlSource(
            f"own/{name}",
            {"question": str, "answer": str},
            {"train": "train", "validation": "dev"},
            is_in_tfds=False,
        ),
        preprocessors=[
            seqio.map_over_dataset(text_fn),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=FEATURES,
        metric_fns=metrics,
    )
seqio.MixtureRegistry.add("own_mixture_v1", ["own_colour_v1", "own_echo_v1"], default_rate=1.0)
"""
GIN = tiny_demo.gin_text(
    """\
MIXTURE = "own_mixture_v1"
ONLY = ["teacher", "xent", "cat_dist"]
NAMES = ["xent", "cat_dist"]
VOCABULARY = "out/vocabulary.model"
VOCAB_SIZE = 290
DATA_DIR = "data"
COLLECT_SPLIT = "validation"
OUTPUT_DIR = "out"
BATCH_SIZE = 8
DECODE_BATCH_SIZE = 16
TEACHER_STEPS = {steps}
STUDENT_STEPS = {steps}
WARMUP_STEPS = 1
CHECKPOINT_EVERY = 2
EVAL_BATCHES = 1
BOOTSTRAP_SAMPLES = 20
experiment.TrainRun.log_every = 2
experiment.TrainRun.keep_last = 1
experiment.TrainRun.keep_best = 1

training.VocabConfig.mixture = %MIXTURE
training.VocabConfig.output_path = %VOCABULARY
training.VocabConfig.vocab_size = %VOCAB_SIZE
training.VocabConfig.data_dir = %DATA_DIR
""",
    "from cascade_jax.data.vocabulary import training",
    "from cascade_jax.training import experiment",
    "import {module}",
    large=tiny_demo.LARGE | dict(mlp_dim=16),
)
MODULE = "cascade_jax_end_to_end_user_tasks"
COLOURS = ("red", "blue", "green")


def write_data(folder: Path) -> None:
    for split, rows in (("train", 60), ("dev", 9)):
        colours = [
            {"question": f"colour {i}", "answer": COLOURS[i % 3], "unused": i} for i in range(rows)
        ]
        echoes = [
            {"question": f"echo {COLOURS[i % 3]} {i}", "answer": f"{COLOURS[i % 3]} {i}"}
            for i in range(rows - 2)
        ]
        fakes.write_jsonl(folder, "own__colour", split, colours)
        fakes.write_jsonl(folder, "own__echo", split, echoes)


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """The user's folder, which is also the current one, with everything they wrote."""
    folder = tmp_path_factory.mktemp("user")
    (folder / f"{MODULE}.py").write_text(TASKS)
    (folder / "own.gin").write_text(GIN.format(module=MODULE, steps=STEPS))
    write_data(folder / "data")
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    sys.path[:] = path
    gin.clear_config(clear_constants=True)


@pytest.fixture(scope="module")
def run(user):
    """Runs a command as the user does."""

    def run(command: str, *argv: str) -> None:
        assert main([command, "--gin_file=own.gin", *argv]) == 0

    return run


@pytest.fixture(scope="module")
def out(user, run):
    """The output folder after vocab, train and collect."""
    for command in ("vocab", "train", "collect"):
        run(command)
    return user / "out"


@pytest.fixture(scope="module")
def report(out, run):
    """The report folder, written where no checkpoint is within reach."""
    hidden = out.with_name("hidden")
    hidden.mkdir()
    for name in ("teacher", *STUDENTS):
        shutil.move(out / name, hidden / name)
    run("evaluate")
    for name in ("teacher", *STUDENTS):
        shutil.move(hidden / name, out / name)
    return out / "report"


def lines(run_folder: Path, split: str) -> list[dict]:
    parsed = map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in parsed if line["split"] == split]


def test_the_vocabulary_is_of_the_asked_size(out):
    pieces = (out / "vocabulary.vocab").read_text(encoding="utf-8").splitlines()
    assert len(pieces) == 290


@pytest.mark.parametrize("folder", ["teacher", "cat_dist", "records/validation", "report"])
def test_both_configs_lie_beside_what_they_made(out, report, folder):
    arguments = (out / folder / "config.gin").read_text()
    assert "STUDENT_STEPS = 6" in arguments and "own_mixture_v1" in arguments
    used = (out / folder / "operative_config.gin").read_text()
    root = {"report": "EvaluateConfig", "records/validation": "CollectConfig"}.get(
        folder, "TrainConfig"
    )
    assert re.search(rf"^[\w.]*{root}\.", used, re.MULTILINE)


@pytest.mark.parametrize("name", ("teacher", *STUDENTS))
def test_every_figure_is_there_and_finite(out, name):
    reference = {
        metrics.LOSS,
        metrics.CROSS_ENTROPY,
        metrics.PERPLEXITY,
        metrics.STUDENT_ACCURACY,
        metrics.ENTROPY_WRONG,
        metrics.KEPT,
        metrics.GRADIENT_NORM,
        metrics.LEARNING_RATE,
        metrics.TARGET_TOKENS,
        metrics.TOKENS_PER_SECOND,
    }
    reference |= {
        metrics.STEP_SECONDS,
        metrics.DATA_WAIT_SECONDS,
        metrics.EVALUATION_SECONDS,
        metrics.CHECKPOINT_SECONDS,
        metrics.PRODUCTIVE_SECONDS,
        metrics.GOODPUT,
        metrics.MODEL_FLOPS_PER_SECOND,
    }
    teacher = {
        metrics.TEACHER_ACCURACY,
        metrics.RIGHT_BOTH,
        metrics.RIGHT_STUDENT_ONLY,
        metrics.RIGHT_TEACHER_ONLY,
    }
    reference |= set() if name == "teacher" else teacher
    # Training measures the KL only where the loss needs the teacher's distribution.
    reference |= {metrics.TEACHER_KL} if name == "cat_dist" else set()
    trained = lines(out / name, "train")
    assert [line["step"] for line in trained] == [2, 4, 6]
    for line in trained:
        # No token may be right in so short a run, and has no entropy then.
        assert line.keys() - {metrics.ENTROPY_RIGHT} == reference | {"step", "split"}
        assert all(math.isfinite(line[key]) for key in reference)
        by_whom = sum(line.get(key, 0.0) for key in teacher - {metrics.TEACHER_ACCURACY})
        expected = by_whom if name.startswith("cat_") else 1.0
        assert line[metrics.KEPT] == pytest.approx(expected, abs=1e-6)
    held_out = lines(out / name, "validation")
    assert [line["step"] for line in held_out] == [2, 4, 6]
    assert all((metrics.TEACHER_KL in line) == (name != "teacher") for line in held_out)
    assert all(math.isfinite(line[metrics.LOSS]) for line in held_out)


def test_tensorboard_holds_the_figures_of_the_text_file(out):
    from tensorflow.python.summary.summary_iterator import summary_iterator

    (file,) = (out / "cat_dist" / "tensorboard").iterdir()
    actual = {}
    for event in summary_iterator(str(file)):
        for value in event.summary.value:
            actual[value.tag, event.step] = value.simple_value
    expected = {
        (f"{split}/{key}", line["step"]): value
        for split in ("train", "validation")
        for line in lines(out / "cat_dist", split)
        for key, value in line.items()
        if key not in ("step", "split")
    }
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ("teacher", *STUDENTS))
def test_the_last_and_the_best_checkpoint_stay(out, name):
    accuracy = {
        line["step"]: line[metrics.STUDENT_ACCURACY] for line in lines(out / name, "validation")
    }
    kept = {int(path.name) for path in (out / name / "checkpoints").iterdir()}
    best = {step for step, value in accuracy.items() if value == max(accuracy.values())}
    assert kept & best
    assert kept in [{STEPS, step} for step in best]


def test_records_hold_both_models_and_one_teacher(out):
    rows = 9 + 7
    first = None
    for name in STUDENTS:
        file = out / "records" / "validation" / f"{name}.parquet"
        table = pq.read_table(file)
        assert set(records.SCHEMA.names) <= set(table.column_names) and table.num_rows == rows
        read = records.read(file)
        assert read.name == name and read.metadata["schema_version"] == records.SCHEMA_VERSION
        assert read.metadata["split"] == "validation"
        assert read.metadata["student_parameters"] < read.metadata["teacher_parameters"]
        teacher = table.select([c for c in table.column_names if c.startswith("teacher_")])
        first = first or teacher
        assert teacher.equals(first)
    table = table.to_pylist()
    assert {row["task"]: row["metric"] for row in table} == {
        "own_colour_v1": "accuracy",
        "own_echo_v1": "token_f1",
    }
    assert table[0]["inputs"] == "say colour 0" and table[0]["target"] == "red"


def test_records_hold_counts_and_figures_of_corpus_metrics(out):
    """Figures by sacrebleu, from the answers in the table."""
    for name in STUDENTS:
        read = records.read(out / "records" / "validation" / f"{name}.parquet")
        echoes = [r for r in pq.read_table(read.source).to_pylist() if r["task"] == "own_echo_v1"]
        figures, actual = read.metadata["figures"]["own_echo_v1"], read.statistics("own_echo_v1")
        assert set(figures) == {"token_f1", "bleu", "corpus_chrf"}
        for model, counts in (("student", actual.student), ("teacher", actual.teacher)):
            texts = [r[f"{model}_answer"] for r in echoes], [[r["target"] for r in echoes]]
            bleu, chrf = sacrebleu.corpus_bleu(*texts).score, sacrebleu.corpus_chrf(*texts).score
            assert actual.metric.score(counts.sum(axis=0)) == pytest.approx(bleu / 100, abs=1e-9)
            assert figures["bleu"][model] == pytest.approx(bleu / 100, abs=1e-9)
            assert figures["corpus_chrf"][model] == pytest.approx(chrf / 100, abs=1e-9)
        assert read.statistics("own_colour_v1") is None


def test_the_report_needs_no_model_and_nothing_outside(out, report):
    for picture in ("curve", "decomposition", "tasks"):
        assert (report / f"{picture}.png").read_bytes().startswith(b"\x89PNG\r\n")
    figures = json.loads((report / "metrics.json").read_text())
    assert set(figures["pooled"]["cascades"]) == set(STUDENTS)
    assert set(figures["tasks"]) == {"own_colour_v1", "own_echo_v1"}
    page = (report / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in STUDENTS)
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(
        r"url\(([^)]+)\)", page
    )
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"<(script|link|iframe)\b[^>]*(src|href)|@import", page)


def test_the_area_of_the_report_is_that_of_the_records(out, report):
    """End points of a curve are the models' own mean qualities, read without our code."""
    figures = json.loads((report / "metrics.json").read_text())["pooled"]["cascades"]
    for name in STUDENTS:
        rows = pq.read_table(out / "records" / "validation" / f"{name}.parquet").to_pylist()
        quality = figures[name]["curve"]["quality"]
        for end, model in ((0, "student"), (-1, "teacher")):
            mean = sum(row[f"{model}_quality"] for row in rows) / len(rows)
            assert quality[end] == pytest.approx(mean, abs=1e-12)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_commands_again_do_nothing_new(out, report, run, capfd):
    before = contents(out)
    capfd.readouterr()
    run("vocab")
    assert "exists already with 290 ids, nothing to do" in capfd.readouterr().out
    run("train")
    said = capfd.readouterr().out
    for name in ("teacher", *STUDENTS):
        assert f"{name}: already trained to step {STEPS}, nothing to do" in said
    run("collect")
    said = capfd.readouterr().out
    assert all(f"{name}: " in said and "is up to date" in said for name in STUDENTS)
    run("evaluate")
    table = capfd.readouterr().out.splitlines()
    rows = [line.split()[0] for line in table if line.startswith(STUDENTS) and "minus" not in line]
    assert rows == list(STUDENTS)
    assert table[0].startswith("own_mixture_v1: 16 examples")
    after = contents(out)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []


def test_rank_classification_answers_with_options(out, run, user, capfd):
    """The same checkpoints, the other way to answer."""
    file = out / "records" / "validation" / "xent.parquet"
    ranks = "--gin.DECODING='rank_classification'"
    greedy = records.read(file)
    shutil.move(out / "records", out / "greedy_records")
    try:
        capfd.readouterr()
        run("collect", ranks)
        assert "rank_classification: 1 of 2 tasks, the others greedily" in capfd.readouterr().out
        ranked = records.read(file)
        run("collect", ranks)
        assert f"xent: {file.relative_to(user)} is up to date" in capfd.readouterr().out
        run("evaluate", ranks, "--gin.evaluate.EvaluateConfig.output_dir='ranked'")
    finally:
        shutil.rmtree(out / "records")
        shutil.move(out / "greedy_records", out / "records")
    assert "rank classification</td>" in (user / "ranked/report.html").read_text(encoding="utf-8")
    is_colour = ranked.task == "own_colour_v1"
    assert set(greedy.student_answer[is_colour]) - set(COLOURS)  # six steps teach nothing
    for answer in (ranked.student_answer, ranked.teacher_answer):
        assert set(answer[is_colour]) <= set(COLOURS)
    right = ranked.student_answer[is_colour] == ranked.target[is_colour]
    assert ranked.student_quality[is_colour].tolist() == right.tolist()
    written = (table.student_answer[~is_colour].tolist() for table in (greedy, ranked))
    assert next(written) == next(written)


def test_teacher_forced_tokens_are_rows(out, run, user, capfd):
    """All scores, a report and a router work on target tokens as they do on answers."""
    file = out / "records" / "validation" / "cat_dist.parquet"
    forced = "--gin.DECODING='teacher_forced'"
    shutil.move(out / "records", out / "greedy_records")
    try:
        capfd.readouterr()
        run("collect", forced, "--gin.COLLECT_LIMIT=5", "--gin.EMBEDDINGS=True")
        said = capfd.readouterr().out
        actual = records.read(file)
        assert f"cat_dist: {len(actual)} target tokens in" in said
        options = ["--gin.SCORES='available'", "--gin.evaluate.EvaluateConfig.output_dir='forced'"]
        run("evaluate", forced, *options)
        router = ["fit-router", "--gin_file=gin/runs/fit_router.gin", f"--gin.RECORDS='{file}'"]
        assert main([*router, "--gin.ROUTER_FILE='router.npz'"]) == 0
    finally:
        shutil.rmtree(out / "records")
        shutil.move(out / "greedy_records", out / "records")
    assert "teacher forced</td>" in (user / "forced/report.html").read_text(encoding="utf-8")
    panel = json.loads((user / "forced/metrics.json").read_text())["pooled"]
    assert panel["metric"] == "next_token_accuracy"
    places = [int(name.rpartition("/")[2]) for name in actual.example_id]
    starts = [row for row, place in enumerate(places) if place == 0]
    assert len(starts) == 10  # five examples of each of two tasks
    lengths = [end - start for start, end in zip(starts, [*starts[1:], len(places)], strict=True)]
    assert places == [place for length in lengths for place in range(length)]
    assert set(actual.target[[row - 1 for row in starts]]) == {"</s>"}
    assert actual.student_embedding.shape == (len(actual), 8)
    for answer, quality in (
        (actual.student_answer, actual.student_quality),
        (actual.teacher_answer, actual.teacher_quality),
    ):
        assert quality.tolist() == (answer == actual.target).tolist()


def test_packed_rows_train(out, run, user):
    """Several examples share a row: more target tokens a step. (Resuming: data/pipeline_test.)"""
    argv = [
        "--gin.OUTPUT_DIR='packed'",
        "--gin.ONLY='teacher'",
        "--gin.pipeline.DataConfig.pack=True",
        "--gin.INPUT_LENGTH=64",
        "--gin.TARGET_LENGTH=32",
    ]
    run("train", *argv)
    packed = lines(user / "packed" / "teacher", "train")
    assert [line["step"] for line in packed] == [2, 4, 6]
    assert all(math.isfinite(line[metrics.LOSS]) for line in packed)
    alone = lines(out / "teacher", "train")
    assert packed[0][metrics.TARGET_TOKENS] > 1.5 * alone[0][metrics.TARGET_TOKENS]


def test_a_vocabulary_larger_than_the_model_is_refused(out, user, capfd):
    capfd.readouterr()
    sizes = [f"--gin.{size}/config.T5Config.vocab_size=64" for size in ("small", "large")]
    argv = ["train", "--gin_file=own.gin", "--gin.OUTPUT_DIR='refused'", *sizes]
    assert main(argv) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "vocab_size 64 is smaller than the vocabulary of mixture 'own_mixture_v1'" in line
    assert "at least 290" in line
    assert not (user / "refused").exists()
