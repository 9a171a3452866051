"""`cascade-jax fit-router`: a records file in, a router out, and what is printed."""

import re

import gin
import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.cli import evaluate, fit_router, gin_config, main
from cascade_jax.deferral import routers, scores
from cascade_jax.evaluation.evaluate import EvaluateConfig
from cascade_jax.evaluation.evaluate import evaluate as evaluate_records
from cascade_jax.evaluation.fit_router import FitRouterConfig
from cascade_jax.evaluation.fit_router import fit_router as fit
from cascade_jax.report.terminal import format_router
from tests.benchmarks import scores as made


@pytest.fixture(autouse=True)
def in_root(monkeypatch, repository):
    monkeypatch.chdir(repository)
    yield
    gin.clear_config(clear_constants=True)


def write(
    path, n=400, seed=1, split="validation", quality=None, columns=None, **metadata
) -> records.Records:
    """A records file of made answers, with more columns by name."""
    answers, student, teacher = made.spiky(n, seed)
    lists = np.split(answers.log_probs, answers.offsets[1:-1])
    rows = {name: ["x"] * n for name in ("target", "student_answer", "teacher_answer")} | {
        "inputs": [f"x {i}" for i in range(n)],
        "mixture": ["made"] * n,
        "task": ["made"] * n,
        "split": [split] * n,
        "example_id": list(answers.example_ids),
        "metric": ["exact_match"] * n,
        "student_tokens": [[3] * len(row) for row in lists],
        "student_log_probs": [row.tolist() for row in lists],
        "student_entropies": [(-row).tolist() for row in lists],
        "student_quality": student if quality is None else quality,
        "teacher_quality": teacher,
        "student_flops_per_token": np.full(n, 10.0),
        "teacher_flops_per_token": np.full(n, 80.0),
    }
    rows |= {f"teacher_{kind}": [[]] * n for kind in ("tokens", "log_probs", "entropies")}
    metadata = {"name": "cat", "mixture": "made", "split": split, **metadata}
    records.write(path, {**rows, **(columns or {})}, metadata)
    return records.read(path)


def arguments(records_file, router_file, *more) -> list[str]:
    """Of the command, without its name."""
    return [
        "--gin_file=gin/runs/fit_router.gin",
        f"--gin.RECORDS='{records_file}'",
        f"--gin.ROUTER_FILE='{router_file}'",
        *more,
    ]


def test_the_command_fits_prints_and_saves(tmp_path, capsys):
    table, path = write(tmp_path / "a.parquet"), tmp_path / "router.npz"
    assert main.main(["fit-router", *arguments(tmp_path / "a.parquet", path)]) == 0
    printed = capsys.readouterr().out
    assert "cat, made, split 'validation': 400 examples, small model 0.6" in printed
    rows = dict(re.findall(r"^(\w[\w .()-]*?)  +(\d\.\d{3}  \d\.\d{3})$", printed, re.M))
    assert set(rows) == {
        "logistic router (5-fold)", "deferring at random", "entropy",
        *(score.name for score in scores.available(table.student)),
    }  # fmt: skip
    area = {name: float(values.split()[0]) for name, values in rows.items()}
    assert area["logistic router (5-fold)"] > area["average"] + 0.08
    assert area["average"] == pytest.approx(area["deferring at random"], abs=0.03)
    assert max(area, key=area.get) == "logistic router (5-fold)"
    assert f"saved to {path}" in printed
    router = routers.load(path)
    assert (router.split, router.num_examples) == ("validation", 400)
    assert router.settings.startswith("LogisticRouter(target='teacher_gain'")
    again = routers.LogisticRouter().fit(
        table.student, table.student_quality, table.teacher_quality, "validation"
    )
    np.testing.assert_array_equal(router(table.student), again(table.student))


@pytest.mark.parametrize("score", scores.ALL, ids=lambda score: score.name)
def test_every_score_is_bound_by_its_name(score):
    argv = [
        "--gin_file=gin/runs/evaluate.gin",
        "--gin.RECORDS='b'",
        "--gin.REPORT_DIR='c'",
        f"--gin.SCORE=@scores.{type(score).__name__}()",
    ]
    usual = type(score)()
    for name, value in vars(score).items():
        if value != getattr(usual, name):
            argv.append(f"--gin.scores.{type(score).__name__}.{name}={value!r}")
    assert gin_config.parse(evaluate.CONFIG, argv).score == score


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["--gin.ROUTER=@routers.EdgeRouter()"], routers.EdgeRouter()),
        (
            [
                "--gin.ROUTER=@routers.MlpRouter()",
                "--gin.routers.MlpRouter.lengths=True",
                "--gin.routers.MlpRouter.quantiles=[0.0, 0.5]",
                "--gin.routers.MlpRouter.target='student_wrong'",
            ],
            routers.MlpRouter("student_wrong", quantiles=(0.0, 0.5), lengths=True),
        ),
    ],
)
def test_another_router_and_its_settings(inputs, expected):
    config = gin_config.parse(fit_router.CONFIG, arguments("a.parquet", "r.npz", *inputs))
    assert config.router == expected


def test_a_saved_router_is_bound_as_the_score_of_evaluate(tmp_path):
    write(tmp_path / "a.parquet")
    config = FitRouterConfig(tmp_path / "a.parquet", tmp_path / "r.npz")
    router = fit(config).router
    argv = [
        "--gin_file=gin/runs/evaluate.gin",
        "--gin.RECORDS='b'",
        "--gin.REPORT_DIR='c'",
        "--gin.SCORE=@routers.Saved()",
        f"--gin.routers.Saved.path='{tmp_path}/r.npz'",
    ]
    config: EvaluateConfig = gin_config.parse(evaluate.CONFIG, argv)
    judged = made.spiky(50, seed=9)[0]
    np.testing.assert_array_equal(config.score(judged), router(judged))


def test_evaluation_refuses_a_router_on_the_examples_it_has_learned_from(tmp_path):
    write(tmp_path / "a.parquet")
    config = FitRouterConfig(tmp_path / "a.parquet", tmp_path / "r.npz")
    fit(config)
    router = routers.Saved(str(tmp_path / "r.npz"))
    for settings in ({"score": router}, {"scores": [router]}):
        with pytest.raises(ValueError, match="fitted on"):
            evaluate_records(
                EvaluateConfig(tmp_path / "a.parquet", tmp_path / "report", **settings)
            )
    assert not (tmp_path / "report").exists()


def with_states(path, n=400, seed=1, layers=(1, 4), saved="2026-01-01", **more):
    """A records file with states, the first number of whose second layer tells the quality."""
    _, student, _ = made.spiky(n, seed)
    states = np.random.default_rng(seed).normal(size=(n, 2, 3)).astype(np.float32)
    states[:, 1, 0] += 6 * student
    columns = {f"student_{name}_state": states.reshape(n, -1) for name in ("input", "answer")}
    stated = {"state_layers": list(layers), "student_saved": saved}
    return write(path, n, seed, columns=columns, **stated, **more)


def test_a_router_on_states_is_fitted_saved_and_evaluated(tmp_path, capsys):
    with_states(tmp_path / "a.parquet")
    bound = ["--gin.ROUTER=@routers.StateRouter()", "--gin.routers.StateRouter.state='input'"]
    argv = arguments(tmp_path / "a.parquet", tmp_path / "r.npz", *bound)
    assert main.main(["fit-router", *argv]) == 0
    printed = capsys.readouterr().out
    assert "\nreads: state after layer 4 (input), of the layers 1, 4\n" in printed
    assert "input state router (5-fold)" in printed
    with_states(tmp_path / "b.parquet", seed=2, split="dev")
    judged = tmp_path / "b.parquet", tmp_path / "report"
    score = routers.Saved(str(tmp_path / "r.npz"))
    panel = evaluate_records(EvaluateConfig(*judged, scores=[score], bootstrap_samples=9)).pooled
    assert panel.scores["cat"]["input state router"].ranking.auroc > 0.99
    for changes, message in (
        ({"layers": (1, 5)}, "fitted on the state after layer 4, the records have the state after"),
        ({"saved": "2026-02-02"}, "those of the records are of the model of '2026-02-02'"),
    ):
        with_states(judged[0], seed=2, split="dev", **changes)
        with pytest.raises(ValueError, match=message):
            evaluate_records(EvaluateConfig(*judged, score=score))


def test_records_without_states_name_the_setting(tmp_path, capsys):
    write(tmp_path / "a.parquet", n=20)
    bound = "--gin.ROUTER=@routers.StateNetworkRouter()"
    assert main.main(["fit-router", *arguments(tmp_path / "a.parquet", "r.npz", bound)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cascade-jax fit-router: the router needs the column student_answer_st")
    assert error.endswith("with PROBES = [@probes.States()] adds it\n")


def test_a_test_split_is_refused(tmp_path, capsys):
    write(tmp_path / "a.parquet", split="test")
    path = tmp_path / "router.npz"
    assert main.main(["fit-router", *arguments(tmp_path / "a.parquet", path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cascade-jax fit-router: a router is never fitted on a test split")
    assert error.count("\n") == 1 and not path.exists()


def test_graded_quality_has_no_auroc(tmp_path):
    quality = np.random.default_rng(0).uniform(size=100)
    write(tmp_path / "a.parquet", n=100, quality=quality)
    config = FitRouterConfig(tmp_path / "a.parquet", tmp_path / "r.npz", folds=2)
    run = fit(config)
    assert np.all(np.isnan(list(run.aurocs.values())))
    assert re.search(r"^logistic router \(2-fold\) +0\.\d{3} +–$", format_router(run), re.M)


def test_settings_that_are_not_allowed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="records_file is ''; must be the path of a file"):
        FitRouterConfig("", "r.npz")
    with pytest.raises(ValueError, match="folds is 1; must be an integer of at least 2"):
        FitRouterConfig("a.parquet", "r.npz", folds=1)
    with pytest.raises(FileNotFoundError, match="none.parquet: no such records file"):
        fit(FitRouterConfig(tmp_path / "none.parquet", "r.npz"))
