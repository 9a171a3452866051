"""What pre-routers save, on the cost axis: brute force over every threshold, resamples by hand."""

import dataclasses
import functools

import gin
import numpy as np
import pytest

from cascade_jax import records
from cascade_jax.calibration.answer_pool import RecordsSource
from cascade_jax.cli import evaluate as evaluate_command
from cascade_jax.cli import gin_config, main
from cascade_jax.deferral import routers, scores
from cascade_jax.deferral.scores.base import saved_flops
from cascade_jax.evaluation import bootstrap, curves, equal_cost, panels, policy_points
from cascade_jax.evaluation.costs import Flops, Latency, Parameters
from cascade_jax.evaluation.evaluate import load
from tests.support import certificates, evaluated
from tests.support.evaluated import N


@dataclasses.dataclass(frozen=True)
class Early(scores.Average):
    """Answers of three tokens are deferred first, and before they are written."""

    name = "early"
    spent: float = 20.0

    def __call__(self, answers):
        return super().__call__(answers) + 100.0 * (answers.lengths == 3)

    def early_flops(self, answers):
        return np.where(answers.lengths == 3, self.spent, np.nan)


EARLY = Early()


def write(path, seed=0, **changes):
    rng = np.random.default_rng(seed + 5)
    columns = {
        "student_flops": rng.uniform(50.0, 150.0, N),
        "teacher_flops": rng.uniform(500.0, 1500.0, N),
        "student_seconds": np.full(N, 0.1),
        "teacher_seconds": np.full(N, 0.5),
        **changes,
    }
    columns = {name: values for name, values in columns.items() if values is not None}
    return evaluated.write(path, "xent", seed, columns)


evaluate = functools.partial(evaluated.evaluate, score=EARLY)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("early") / "a.parquet")


def spent_by(table, deferred):
    """FLOPs of each example, however many of them are deferred."""
    is_early = np.diff(table.student_offsets) == 3
    small = np.where(deferred & is_early, 20.0, table.student_flops)
    return small + deferred * table.teacher_flops


@pytest.mark.parametrize("cost", [Flops(), Parameters()], ids=repr)
def test_every_point_of_the_curve_costs_what_is_run(file, cost):
    table = records.read(file)
    score = EARLY(table.student)
    curve = evaluate([file], cost).pooled.curves["xent"]
    order = np.argsort(-score)
    for k in range(N + 1):
        deferred = np.isin(np.arange(N), order[:k])
        expected = spent_by(table, deferred)
        if cost == Parameters():
            small = (expected - deferred * table.teacher_flops) / table.student_flops
            expected = 2e6 * small + deferred * 1e7
        assert curve.cost[k] == pytest.approx(np.mean(expected), rel=1e-12), k
    for task, panel in evaluate([file], cost).tasks.items():
        rows = np.flatnonzero(table.task == task)
        everything = np.isin(np.arange(N), rows)
        if cost == Flops():
            expected = spent_by(table, everything)[rows].mean()
            assert panel.curves["xent"].cost[-1] == pytest.approx(expected)


def test_beside_other_scores_and_in_resamples(file):
    """By the average the whole small answer is paid; intervals by hand, from the same draws."""
    result, table = evaluate([file], samples=30, several=(scores.Average(),)), records.read(file)
    by_score = result.scores["xent"]
    average = by_score["average"].curve
    assert average.cost[-1] == pytest.approx(np.mean(table.student_flops + table.teacher_flops))
    assert by_score["early"].curve.cost[-1] == pytest.approx(
        spent_by(table, np.ones(N, bool)).mean()
    )
    rng, areas, values = np.random.default_rng(0), [], EARLY(table.student)
    saved = saved_flops(EARLY, table.student, table.student_flops)
    for _ in range(30):
        rows = rng.integers(N, size=N, dtype=np.int32)
        taken = table.take(rows)
        curve = curves.deferral_curve(
            values[rows], taken.student_quality, taken.teacher_quality,
            taken.student_flops, taken.teacher_flops - saved[rows],
        )  # fmt: skip
        ends = taken.student_flops.mean(), taken.teacher_flops.mean()
        areas.append(float(equal_cost.area(curve.quality, curve.cost, *ends)))
    own = by_score["early"].own_cost
    assert (own.area.low, own.area.high) == pytest.approx(bootstrap.interval(np.array(areas)))
    # The main score's resamples, at costs, are those of the same curves.
    at = [estimate.value for estimate in result.pooled.summaries["xent"].quality_at_cost]
    full = by_score["early"].curve
    points = result.pooled.references.costs
    assert at == pytest.approx([curves.quality_at_cost(full, c) for c in points])


def test_deferring_all_for_less_leaves_the_rest_of_the_area_at_the_last_quality():
    quality, cost = np.array([0.0, 1.0]), np.array([1.0, 2.5])
    assert equal_cost.area(quality, cost, 1.0, 2.0) == pytest.approx((0.75 + 0.5) / 2)
    assert equal_cost.area(quality, np.array([1.0, 3.0]), 1.0, 2.0) == 0.5


def test_more_saved_than_the_large_model_costs_is_cut_and_said(tmp_path):
    """A curve's costs never fall; who reads it learns that they are upper bounds."""
    cheap = np.where(np.arange(N) % 6 == 2, 1.0, 900.0)
    file = write(tmp_path / "a.parquet", teacher_flops=cheap, student_flops=np.full(N, 100.0))
    result = evaluate([file])
    curve = result.pooled.curves["xent"]
    assert np.all(np.diff(curve.cost) >= 0)
    saved = np.minimum(80.0 * (np.arange(N) % 3 == 2), cheap)
    assert curve.cost[-1] == pytest.approx(np.mean(100.0 + cheap - saved))
    (note,) = result.cost_notes
    assert note.startswith("By the score 'early', 10 examples sent to the large model at once cost")


def test_what_is_not_known_is_said(tmp_path, file):
    """Costs are then those without the saving, too high rather than too low."""
    for cost, why in ((Latency(), "the seconds that scores take"), (Parameters(), "student_flops")):
        read = file if cost == Latency() else write(
            tmp_path / "a.parquet", student_flops=None, teacher_flops=None
        )  # fmt: skip
        result = evaluate([read], cost)
        (note,) = result.cost_notes
        assert why in note
        table = records.read(read)
        plain = np.sum([np.mean(part) for part in cost(table)])
        assert result.pooled.curves["xent"].cost[-1] == pytest.approx(plain)


@pytest.mark.parametrize(("spent", "shown"), [(-1.0, "-1.0"), (np.inf, "inf")])
def test_flops_that_can_not_be(file, spent, shown):
    table = records.read(file)
    message = f"early_flops of 'early' for example .* is {shown}; must be finite and 0 or more"
    with pytest.raises(ValueError, match=message):
        saved_flops(Early(spent), table.student, table.student_flops)


def test_a_policy_and_a_calibration_count_it(file, tmp_path):
    path, read = certificates.write(tmp_path, 0.6, score="early"), load([file])
    (table,) = read.values()
    deferred = EARLY(table.student) > 0.6
    settings = panels.Settings(score=EARLY, cost=Flops(), bootstrap_samples=1)
    cascades, *_ = panels.score_all(read, settings)
    point = policy_points.points(path, read, cascades, EARLY, Flops())["xent"]
    expected = spent_by(table, deferred)
    assert point.cost == pytest.approx(expected.mean()) == point.flops
    answers = RecordsSource(file, score=EARLY).open().evaluate((0.6,), np.arange(N))
    np.testing.assert_allclose(answers.flops, expected)


def test_the_commands_fit_and_evaluate_one(tmp_path, repository, monkeypatch, capsys):
    """From records with states to a curve that pays for no small answer of what is sent at once."""
    monkeypatch.chdir(repository)
    files = []
    for seed, split in ((0, "validation"), (1, "dev")):
        rng = np.random.default_rng(seed)
        states = rng.normal(size=(N, 2)).astype(np.float32)
        is_hard = rng.random(N) < 0.5
        states[:, 0] += 8 * is_hard
        log_probs = [[-2.0 if hard else -0.1] * 2 for hard in is_hard]
        columns = {
            "split": [split] * N, "example_id": [f"{split}/{i}" for i in range(N)],
            "student_log_probs": log_probs, "student_tokens": [[1, 1]] * N,
            "student_entropies": log_probs, "student_quality": 1.0 - is_hard,
            "student_input_state": states, "student_input_state_flops": np.full((N, 1), 30.0),
        }  # fmt: skip
        columns["student_entropies"] = [[0.5, 0.5]] * N
        files.append(tmp_path / f"{split}.parquet")
        changes = {"state_layers": [3], "split": split}
        flops = {"student_flops": np.full(N, 100.0), "teacher_flops": np.full(N, 1000.0)}
        evaluated.write(files[-1], "xent", seed, {**columns, **flops}, changes)
    argv = [f"--gin.RECORDS='{files[0]}'", f"--gin.ROUTER_FILE='{tmp_path}/p.npz'"]
    argv += ["--gin_file=gin/runs/fit_router.gin", "--gin.ROUTER=@routers.PreRouter()"]
    argv.append("--gin.routers.PreRouter.score=@scores.Entropy()")
    try:
        assert main.main(["fit-router", *argv]) == 2
        assert "from examples of one class: {'easy': 0, 'normal'" in capsys.readouterr().err
        assert main.main(["fit-router", *argv[:-1]]) == 0
        bound = [f"--gin.RECORDS='{files[1]}'", f"--gin.REPORT_DIR='{tmp_path}/report'"]
        bound += ["--gin_file=gin/runs/evaluate.gin", "--gin.SCORE=@routers.PreRouted()"]
        bound.append(f"--gin.routers.PreRouted.path='{tmp_path}/p.npz'")
        config = gin_config.parse(evaluate_command.CONFIG, bound)
    finally:
        gin.clear_config(clear_constants=True)
    assert config.score == routers.PreRouted(f"{tmp_path}/p.npz")
    result = evaluate([str(files[1])], score=config.score)
    count = int(np.sum(records.read(files[1]).student_quality == 0))
    curve = result.pooled.curves["xent"]
    assert curve.cost[count] == pytest.approx(
        (30.0 * count + 100.0 * (N - count)) / N + 1000 * count / N
    )
    assert result.cost_notes == ()
